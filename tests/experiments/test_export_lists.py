"""What a run's exported lists say to others: the same as its ranks say to us."""

import shutil

import export_lists
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import toy_histories, train

from seqrec.types import InputError

N_ITEMS = 30


@pytest.fixture(scope="module")
def exported(toy, tmp_path_factory):
    """A run that masks nothing, for repeats are targets there, and its lists of all items."""
    run = tmp_path_factory.mktemp("exported") / "run"
    results = train(*toy, "--max-epochs", "1", "--no-mask-seen", "--output", run)
    return run, results, export_lists.main(export_lists.Arguments(run, k=20))


def test_a_target_stands_in_its_list_where_its_rank_says(exported):
    run, _, _ = exported
    ranks = pq.read_table(run / "ranks.parquet").to_pylist()
    places = {(row["user"], row["item"]): row["rank"] for row in pq.read_table(run / "top_items.parquet").to_pylist()}
    assert len(places) == 20 * len(ranks)
    for row in ranks:
        assert places.get((row["user"], row["item"])) == (row["rank"] if row["rank"] <= 20 else None)


def test_other_evaluators_find_our_figures_in_the_trec_files(exported):
    ir_measures = pytest.importorskip("ir_measures")
    run, results, _ = exported
    qrels = list(ir_measures.read_trec_qrels(str(run / "qrels.trec")))
    lists = list(ir_measures.read_trec_run(str(run / "run.trec")))
    measures = {
        name: ir_measures.parse_measure(theirs) for name, theirs in (("ndcg@10", "nDCG@10"), ("recall@5", "R@5"))
    }
    figures = ir_measures.calc_aggregate(measures.values(), qrels, lists)
    for name, measure in measures.items():
        assert figures[measure] == pytest.approx(results["test"][name], abs=1e-6)


def read_history(user: int) -> list[int]:
    """What a user of the toy data did before the last event."""
    return toy_histories()[user - 1][:-1]


def test_lists_that_hold_every_item_cover_the_catalogue_evenly(exported, capsys):
    run, _, _ = exported
    figures = export_lists.main(export_lists.Arguments(run, k=N_ITEMS))
    lists = figures["lists of 30"]
    assert lists["catalogue coverage"] == 1.0
    assert lists["Gini of exposure"] == pytest.approx(0.0, abs=1e-6)
    # Everything is recommended to everybody, so as much of it is a repeat as the user has had of the catalogue.
    history = {user: set(read_history(user)) for user in pq.read_table(run / "ranks.parquet")["user"].to_pylist()}
    shares = [len(items) / N_ITEMS for items in history.values()]
    assert lists["personal repeat share"] == pytest.approx(np.mean(shares), rel=1e-5)
    assert "catalogue coverage" in capsys.readouterr().out


def test_seen_items_are_on_no_list_of_a_run_that_masks_them(finished, tmp_path):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    figures = export_lists.main(export_lists.Arguments(run, k=5))
    assert figures["lists of 5"]["personal repeat share"] == 0.0
    assert np.isfinite(list(figures["lists of 5"].values())).all()


def test_a_list_cannot_be_longer_than_the_catalogue(finished):
    with pytest.raises(InputError, match="--k 31 is above 30, the number of items; try --k 30"):
        export_lists.main(export_lists.Arguments(finished.directory, k=31))


def test_a_list_holds_at_least_one_item(finished):
    with pytest.raises(ValueError, match="k=0 is below 1; try k=100"):
        export_lists.Arguments(finished.directory, k=0)


def test_lists_of_all_users_or_of_a_file_are_of_whole_histories_and_leave_the_run_alone(exported, tmp_path, capsys):
    run, _, _ = exported
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    options = {"k": 3, "item_vectors": tmp_path / "items", "user_vectors": tmp_path / "users"}
    figures = export_lists.main(export_lists.Arguments(run, users="all", output=tmp_path / "all", **options))
    assert list(figures) == ["lists of 3"]
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["top_items.parquet"]
    rows = pq.read_table(tmp_path / "all" / "top_items.parquet").to_pylist()
    histories = toy_histories()
    assert {row["user"] for row in rows} == set(range(1, len(histories) + 1))  # those too who are not tested
    # The product of both vectors is the score.
    vectors = {}
    for name in ("items", "users"):
        keys = pq.read_table(tmp_path / name / "keys.parquet")["key"].to_pylist()
        vectors[name] = dict(zip(keys, np.load(tmp_path / name / "vectors.npy", allow_pickle=False), strict=True))
    for row in rows:
        product = vectors["users"][row["user"]] @ vectors["items"][row["item"]]
        assert product == pytest.approx(row["score"], rel=1e-4, abs=1e-4)

    (tmp_path / "some.csv").write_text("user\n7\n3\n7\n900\n")
    export_lists.main(export_lists.Arguments(run, users=tmp_path / "some.csv", output=tmp_path / "some", k=3))
    assert "left out    1 of 3 users" in capsys.readouterr().err
    some = pq.read_table(tmp_path / "some" / "top_items.parquet").to_pylist()
    assert {(row["user"], row["rank"], row["item"]) for row in some} == {
        (row["user"], row["rank"], row["item"]) for row in rows if row["user"] in (3, 7)
    }
    (tmp_path / "none.csv").write_text("user\nnobody\n")
    with pytest.raises(InputError, match=r"none of its users, such as 'nobody', is in the data, .* such as '1'"):
        export_lists.main(export_lists.Arguments(run, users=tmp_path / "none.csv", output=tmp_path / "none"))
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_lists_of_other_users_do_not_replace_those_of_the_test(tmp_path):
    with pytest.raises(InputError, match="would replace the test users' lists in the run; give an --output"):
        export_lists.Arguments(tmp_path, users="all")
