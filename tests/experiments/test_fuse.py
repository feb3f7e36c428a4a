"""Runs with item-to-item tables, and ensembles of runs: figures, files, a bundle, and what they refuse."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import ensemble
import evaluate_checkpoint
import export
import jax
import numpy as np
import pytest
from bundle.small_bundles import sizes_unchecked
from conftest import train
from scripts import TRAINING

import seqrec
from seqrec.bundle.files import CONFIG
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.export import bundle_run, served_model
from seqrec.files import read_json
from seqrec.metrics import means, metric_sums
from seqrec.neighbours import without_neighbours
from seqrec.params import leaves_by_name
from seqrec.recommendation import make_recommend
from seqrec.run.experiment import open_trained
from seqrec.run.fusion import ARRAYS, FUSION
from seqrec.run.members import open_members
from seqrec.run.trained import read_trained
from seqrec.types import InputError

TABLES = ("markov", "item-kNN", "slim")


@pytest.fixture(scope="module")
def run_with_tables(toy, tmp_path_factory):
    """Directory and figures of a run with tables, and what it printed."""
    run = tmp_path_factory.mktemp("fused") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        results = train(*toy, "--max-epochs", "1", "--baselines", "popularity", "--fuse", *TABLES, "--output", run)
    return run, results, printed.getvalue()


def test_the_figures_are_those_of_the_model_with_tables_and_the_model_alone_stands_beside_it(run_with_tables):
    run, results, printed = run_with_tables
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


def test_a_checkpoint_with_tables_has_the_runs_figures_to_the_last_digit(run_with_tables):
    run, results, _ = run_with_tables
    evaluated = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(run))
    assert "unfused" in evaluated
    assert evaluated == {name: results[name] for name in evaluated}


@pytest.fixture(scope="module")
def bundle(run_with_tables, tmp_path_factory):
    """The bundle of the run."""
    directory = tmp_path_factory.mktemp("bundles") / "bundle"
    with sizes_unchecked():
        bundle_run(run_with_tables[0], TRAINING, directory)
    return directory


def check_answers(run, bundle):
    """The bundle lists for some histories what the run's model lists."""
    loaded = seqrec.load_bundle(bundle)
    task, model, params = open_trained(run, TRAINING)
    recommend, store = make_recommend(model), task.store
    histories = [[1], [3, 4, 5], store.items[store.offsets[1] : store.offsets[2]].tolist()]
    keys = [store.item_keys[np.array(history) - 1].tolist() for history in histories]
    expected = [store.item_keys[np.array(recommend(params, history, 5)) - 1].tolist() for history in histories]
    assert loaded.recommend(keys, 5).items == expected


def test_the_bundle_recommends_what_the_run_recommends(run_with_tables, bundle):
    assert not seqrec.load_bundle(bundle).facts.sessions
    check_answers(run_with_tables[0], bundle)
    with pytest.raises(InputError, match=r"item-to-item tables.*search exactly"):
        seqrec.load_bundle(bundle, search="int8")


def test_a_refresh_knows_the_tables_by_the_bundles_own_record(run_with_tables, bundle):
    _, model, _ = open_trained(run_with_tables[0], TRAINING)
    served = served_model(TRAINING, read_json(bundle / CONFIG), model.n_items)
    shapes, expected = (jax.tree.map(lambda spec: (spec.shape, spec.dtype), each.specs) for each in (served, model))
    assert shapes == expected


def test_training_that_starts_from_a_bundle_leaves_its_tables_behind(run_with_tables, bundle):
    _, model, _ = open_trained(run_with_tables[0], TRAINING)
    alone = without_neighbours(model)
    assert alone is not None
    assert read_trained(bundle).weights.keys() == leaves_by_name(alone.specs).keys()


@pytest.mark.parametrize("damage", ["missing", "cut", "other shape"])
def test_damaged_tables_are_refused_by_name(run_with_tables, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(run_with_tables[0], run)
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


def test_a_run_with_tables_does_not_open_as_one_without(run_with_tables, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_with_tables[0], run)
    (run / FUSION).unlink()
    with pytest.raises(InputError, match=r"fusion.json"):
        open_trained(run, TRAINING)


def test_tables_and_generated_continuations_are_refused_together(toy, tmp_path):
    flags = ("--split", "leave-last-out", "--window-target", "first", "--n-out", "3", "--fuse", "markov")
    with pytest.raises(InputError, match="--fuse generates no continuations"):
        train(*toy, *flags, "--output", tmp_path / "run")


@pytest.fixture(scope="module")
def other_seed(toy, tmp_path_factory):
    """Directory and figures of a run without tables, with labels on later items."""
    run, flags = tmp_path_factory.mktemp("other") / "run", ("--max-epochs", "1", "--baselines", "popularity")
    return run, train(*toy, *flags, "--later-share", "0.1", "--seed", "1", "--output", run)


def joined(*runs, output, fuse=()):
    return ensemble.main(ensemble.Arguments(runs=runs, output=output, fuse=fuse))


@pytest.fixture(scope="module")
def both(run_with_tables, other_seed, tmp_path_factory):
    """An ensemble of both runs and one of the tables, whose members are gone, and its figures."""
    directory = tmp_path_factory.mktemp("ensemble")
    members = [directory / "a", directory / "b"]
    for source, member in zip((run_with_tables, other_seed), members, strict=True):
        shutil.copytree(source[0], member)
    results = joined(*members, output=directory / "both", fuse=("markov",))
    for member in members:
        shutil.rmtree(member)
    return directory / "both", results


def test_an_ensemble_is_a_run_that_opens_with_its_figures_when_its_members_are_gone(run_with_tables, other_seed, both):
    run, results = both
    task, model, params = open_trained(run, TRAINING)
    ranks = evaluate(make_eval_step(model), params, task.test).rank
    assert results["test"]["ndcg@10"] == pytest.approx(means(metric_sums(ranks))["ndcg@10"], rel=1e-6)
    expected = {
        "a": run_with_tables[1]["unfused"]["test"],
        "b": other_seed[1]["test"],
    }  # members leave their tables behind
    assert {name: each["ndcg@10"] for name, each in results["members"].items()} == {
        name: pytest.approx(each["ndcg@10"]) for name, each in expected.items()
    }
    fusion = results["fusion"]
    assert len(fusion["models"]) == 2
    assert fusion["tables"].keys() == {"markov"}
    assert fusion["log_likelihood"] >= fusion["log_likelihood_before"]  # of the first member, which weights can choose


def test_the_bundle_of_an_ensemble_recommends_what_its_run_recommends_and_can_be_made_anew(both, tmp_path):
    run, _ = both
    with sizes_unchecked():
        bundle_run(run, TRAINING, tmp_path / "bundle")
        export.main(export.Arguments(refresh=tmp_path / "bundle"))
    check_answers(run, tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "One model of 2 (sasrec, sasrec), by `experiments/ensemble.py`" in card
    assert "members.1.config.model.d_model = 16" in card
    for source in (run, tmp_path / "bundle"):
        with pytest.raises(InputError, match="is an ensemble, which is not trained itself; start from one of its runs"):
            read_trained(source)


def test_an_ensemble_that_is_stopped_leaves_nothing(other_seed, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqrec.run.ensemble.test", stop)
    with pytest.raises(KeyboardInterrupt):
        joined(other_seed[0], output=tmp_path / "ensemble", fuse=("markov",))
    assert not (tmp_path / "ensemble").exists()


def test_members_of_other_lengths_are_refused_by_what_differs(other_seed):
    task, model, params = open_trained(other_seed[0], TRAINING)
    shorter = task._replace(config=replace(task.config, max_length=6))
    opened = {Path("a"): (task, model, params), Path("b"): (shorter, model, params)}
    with pytest.raises(InputError, match=r"^b has max_length 6, and a 8; name runs that have the same"):
        open_members(list(opened), opened.__getitem__)
