"""Figures from ranks, by hand; and how they are printed and kept."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.evaluation import RankTable
from seqrec.report import figures


def test_figures_are_means_over_users_inside_their_intervals():
    result = figures.figures(np.array([1.0, 3.0, 30.0]), users=np.arange(3))
    assert result["n_users"] == 3
    assert result["recall@5"] == pytest.approx(2 / 3)
    assert result["ndcg@5"] == pytest.approx((1 + 0.5) / 3)
    assert result["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 30) / 3)
    for name, (low, high) in result["intervals"].items():
        assert low <= result[name] <= high


def test_sessions_asked_about_several_times_have_mrr_at_k():
    ranks = np.array([1.0, 3.0, 30.0])
    result = figures.figures(ranks, users=np.array([0, 0, 1]))
    assert (result["n_users"], result["n_queries"]) == (2, 3)
    assert result["mrr@20"] == pytest.approx((1 + 1 / 3) / 3)
    assert "mrr@20" not in figures.figures(ranks, users=np.arange(3))


def test_the_figures_do_not_depend_on_the_order_of_users():
    ranks = np.random.default_rng(0).integers(1, 40, 50).astype(float)
    ours, theirs = (figures.figures(each, users=np.arange(len(ranks))) for each in (ranks, ranks[::-1]))
    assert ours["intervals"] == theirs["intervals"]
    assert ours["mrr"] == pytest.approx(theirs["mrr"], rel=1e-12)


def test_a_table_has_a_line_a_metric_and_columns_in_line():
    result = figures.figures(np.array([1.0, 2.0]), users=np.arange(2))
    lines = figures.format_table(
        {"a model": result, "a baseline of a very long name, longer than figures": result}
    ).split("\n")
    assert [line.split()[0] for line in lines[1:]] == list(result["intervals"])
    assert len({len(line) for line in lines}) == 1
    # The figure in the column of each model; the interval's ends may be the same.
    assert lines[-1].count(f"{result['mrr']:.4f} [") == 2


def test_a_table_says_what_its_figures_are_of():
    column = {"a model": figures.figures(np.array([1.0, 2.0]), users=np.arange(2))}
    assert figures.format_table(column).startswith("test ")
    lines = figures.format_table(column, title="generated lists").split("\n")
    assert lines[0].startswith("generated lists ")
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("titles", "expected"),
    [(None, ["item 10", "item 20"]), (np.array(["Ten", ""], object), ["Ten", "item 20"])],
    ids=["no titles", "a title that is missing"],
)
def test_an_example_shows_titles_or_else_the_items_own_ids(titles, expected):
    store = sequence_store(
        np.array([1, 2, 1]), np.array([0, 3]), item_keys=np.array([10, 20]), user_keys=np.array(["u"]), titles=titles
    )
    text = figures.format_example(store, [1, 2, 1, 2, 1, 2], [2], 0)
    assert text.startswith("user u, latest last")
    read, recommended = text.split("recommended")
    ten, twenty = expected
    assert [line.split(". ")[1] for line in read.splitlines()[1:6]] == [twenty, ten, twenty, ten, twenty]
    assert recommended.strip() == f"1. {twenty}"


def test_kept_ranks_go_by_the_files_own_ids(tmp_path):
    store = sequence_store(
        np.array([1, 2, 1]), np.array([0, 3]), item_keys=np.array([10, 20]), user_keys=np.array(["u"])
    )
    ranks = RankTable(
        user=np.array([0]),
        target=np.array([2]),
        rank=np.array([1.5]),
        n_candidates=np.array([2]),
        history_length=np.array([2]),
    )
    # Three events: one to train on, one to validate, one to test; item 20 was never trained on.
    figures.write_ranks(tmp_path / "ranks.parquet", ranks, store, leave_last_out(store))
    kept = {"user": "u", "item": 20, "rank": 1.5, "n_candidates": 2, "history_length": 2}
    assert pq.read_table(tmp_path / "ranks.parquet").to_pylist() == [kept | {"user_events": 1, "target_events": 0}]


def test_a_mean_over_several_targets_a_user_says_how_many_they_are():
    result = figures.figures(np.array([1.0, 30.0, 30.0]), users=np.array([4, 4, 7]))
    assert result["recall@10"] == pytest.approx(1 / 3)
    assert (result["n_users"], result["n_queries"]) == (2, 3)
