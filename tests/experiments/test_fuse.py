"""A run with item-to-item tables: its figures, its files, its bundle, and what it refuses."""

import contextlib
import io
import json
import shutil

import evaluate_checkpoint
import export
import numpy as np
import pytest
from bundle.small_bundles import sizes_unchecked
from conftest import train
from scripts import TRAINING

import seqrec
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.export import refresh
from seqrec.files import read_json
from seqrec.metrics import means, metric_sums
from seqrec.neighbours import without_neighbours
from seqrec.recommendation import make_recommend
from seqrec.run.experiment import open_trained
from seqrec.run.fusion import ARRAYS, FUSION
from seqrec.types import InputError

TABLES = ("markov", "item-kNN", "slim")


@pytest.fixture(scope="module")
def fused(toy, tmp_path_factory):
    """Directory and figures of a run with tables, and what it printed."""
    run = tmp_path_factory.mktemp("fused") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = train(*toy, "--max-epochs", "1", "--baselines", "popularity", "--fuse", *TABLES, "--output", run)
    return run, results, printed.getvalue()


def test_the_figures_are_those_of_the_model_with_tables_and_the_model_alone_stands_beside_it(fused):
    run, results, printed = fused
    task, model, params = open_trained(run, TRAINING)
    for each, figures in ((model, results["test"]), (without_neighbours(model), results["unfused"]["test"])):
        ranks = evaluate(make_eval_step(each), params, task.test).rank
        assert figures["ndcg@10"] == pytest.approx(means(metric_sums(ranks))["ndcg@10"], rel=1e-6)
    difference = results["test"]["ndcg@10"] - results["unfused"]["test"]["ndcg@10"]
    assert results["unfused"]["difference"] == pytest.approx(difference)
    assert difference > 0  # on a circle of items, after one epoch, what follows is best counted
    assert "without tables" in printed
    assert results["fusion"] == read_json(run / FUSION)
    assert results["fusion"]["tables"].keys() == set(TABLES)


def test_a_checkpoint_with_tables_has_the_runs_figures_to_the_last_digit(fused):
    run, results, _ = fused
    found = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(run))
    assert "unfused" in found
    assert found == {name: results[name] for name in found}


def test_the_bundle_recommends_what_the_run_recommends_also_when_refreshed(fused, tmp_path):
    run, _, _ = fused
    with sizes_unchecked():
        facts = export.bundle_run(run, TRAINING, tmp_path / "bundle")
        refresh(tmp_path / "bundle", TRAINING)
        bundle = seqrec.load_bundle(tmp_path / "bundle")
    assert not facts.sessions
    task, model, params = open_trained(run, TRAINING)
    recommend, store = make_recommend(model), task.store
    histories = [[1], [3, 4, 5], store.items[store.offsets[1] : store.offsets[2]].tolist()]
    keys = [store.item_keys[np.array(history) - 1].tolist() for history in histories]
    expected = [store.item_keys[np.array(recommend(params, history, 5)) - 1].tolist() for history in histories]
    assert bundle.recommend(keys, 5).items == expected
    with pytest.raises(InputError, match="item-to-item tables.*search exactly"):
        seqrec.load_bundle(tmp_path / "bundle", search="int8")


@pytest.mark.parametrize("damage", ["missing", "cut", "other shape"])
def test_damaged_tables_are_refused_by_name(fused, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(fused[0], run)
    if damage == "missing":
        (run / ARRAYS).unlink()
    elif damage == "cut":
        (run / ARRAYS).write_bytes((run / ARRAYS).read_bytes()[:-100])
    else:
        record = read_json(run / FUSION)
        record["shapes"]["slim"]["n_latest"] += 1
        (run / FUSION).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"fusion.npz holds no tables of the run .*restore it"):
        open_trained(run, TRAINING)


def test_training_may_start_from_a_run_or_a_bundle_with_tables(fused, toy, tmp_path, capsys):
    run, _, _ = fused
    with sizes_unchecked():
        export.bundle_run(run, TRAINING, tmp_path / "bundle")
    flags = ("--max-epochs", "1", "--baselines", "popularity", "--start-from", tmp_path / "bundle")
    results = train(*toy, *flags, "--output", tmp_path / "next")
    assert "fusion" not in results


def test_tables_and_generated_continuations_are_refused_together(toy, tmp_path):
    flags = ("--split", "leave-last-out", "--window-target", "first", "--n-out", "3", "--fuse", "markov")
    with pytest.raises(InputError, match="--fuse generates no continuations"):
        train(*toy, *flags, "--output", tmp_path / "run")
