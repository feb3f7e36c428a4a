"""What a run publishes follows from its ranks, and its costs from the arrays that a step holds."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.baselines import scored
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.model import composed_params
from seqrec.params import ParamSpec
from seqrec.run import results as run_results
from seqrec.run.baselines import CHEAP
from seqrec.run.building import build_model
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig, make_task
from seqrec.training import OptimizerConfig, init_state, make_optimizer

HISTORIES = [[1 + (user + step) % 7 for step in range(4 + user % 2)] for user in range(10)]


@pytest.fixture(scope="module")
def built():
    """A task, its untrained model and the state before the first step."""
    store = store_from_sequences(HISTORIES)
    config = TrainingConfig(data=DataConfig("store", max_length=4, batch_size=4))
    task = make_task(config.data, store, seed=0)
    encoder = transformer(TransformerConfig(d_model=8, n_blocks=1), n_items=task.n_items, max_length=task.max_length)
    model = build_model(encoder, config, task)
    return task, model, init_state(model, make_optimizer(OptimizerConfig(), model.specs, n_steps=10), seed=0)


@pytest.fixture(scope="module")
def tested(built):
    task, model, state = built
    params = composed_params(model, state.params)
    return run_results.test(task, model, params, valid_ranks=None, baselines=CHEAP)


def test_the_test_figures_are_means_over_the_ranks(tested):
    ranks, results = tested.ranks, tested.results
    assert results.keys() == {"test", "valid", "baselines", "comparisons", "protocol"}
    assert results["test"]["n_users"] == len(HISTORIES) == len(ranks.rank)
    assert results["test"]["mrr"] == pytest.approx(np.mean(1 / ranks.rank), rel=1e-6)
    assert results["test"]["recall@5"] == pytest.approx(np.mean(ranks.rank <= 5), rel=1e-6)


def test_the_protocol_says_of_which_data_and_candidates_the_figures_are(built, tested):
    task, results = built[0], tested[1]
    assert results["protocol"] == run_results.protocol(task)
    assert results["protocol"]["data_hash"] == task.store.content_hash
    assert results["protocol"]["split"] == task.split.description
    assert results["protocol"]["split_hash"] == task.split.content_hash
    candidates = [run_results.protocol(task._replace(mask_seen=masked))["candidates"] for masked in (True, False)]
    assert candidates == ["all 7 items less the user's whole history", "all 7 items"]
    assert not results["protocol"]["time_aware"]


def test_the_table_shows_the_model_beside_the_baselines(tested, capsys):
    results = tested[1]
    run_results.print_test(results, name="Mine")
    printed = capsys.readouterr().out
    assert f"{len(HISTORIES)} users; mean over users [95% interval]; {results['protocol']['candidates']}" in printed
    first_cells = [re.split(r"\s{2,}", line)[0] for line in printed.splitlines()]
    assert first_cells[first_cells.index("baseline") + 1 :][: len(CHEAP)] == list(CHEAP)
    assert "Mine is above by" in printed
    assert "time-aware" not in printed
    run_results.print_test({**results, "protocol": {**results["protocol"], "time_aware": True}}, name="Mine")
    assert "time-aware: the model read the time of the predicted event" in capsys.readouterr().out


def test_baselines_that_are_left_out_for_one_reason_are_named_on_one_line(tested, capsys):
    reasons = {"STAN": "no times", "VS-SkNN": "no times", "EASE": "too many items"}
    run_results.print_test({**tested.results, "baselines_left_out": reasons}, name="Mine")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert lines == ["left out    STAN, VS-SkNN: no times", "left out    EASE: too many items"]


def test_a_baseline_that_cannot_be_fitted_is_named_and_the_others_are_tested(built, monkeypatch):
    task, model, state = built
    monkeypatch.setattr(scored, "_LARGEST_EASE", 6)
    params = composed_params(model, state.params)
    outcome = run_results.test(task, model, params, valid_ranks=None, baselines=("popularity", "EASE"))
    assert outcome.results["baselines"].keys() == outcome.baselines.keys() == {"popularity"}
    assert "EASE on 7 items needs" in outcome.results["baselines_left_out"]["EASE"]


def test_a_sample_of_test_users_is_in_the_protocol_and_on_the_table(built, tested, capsys):
    sample = "a sample of 3 of 10 users, by a hash of their keys"
    record = run_results.protocol(built[0]._replace(samples={"test": sample, "validation": sample}))
    assert (record["test_users"], record["validation_users"]) == (sample, sample)
    assert "test_users" not in tested[1]["protocol"]
    run_results.print_test({**tested[1], "protocol": record}, name="Mine")
    assert f"{sample}, so not comparable" in capsys.readouterr().out


def test_ranks_that_validation_has_kept_are_published_without_ranking_again(built, tested, monkeypatch):
    task, model, state = built
    params = composed_params(model, state.params)
    kept = evaluate(make_eval_step(model), params, task.valid).rank
    evaluated = []
    monkeypatch.setattr(
        run_results, "evaluate", lambda step, params, queries, **report: (evaluated.append(queries), tested[0])[1]
    )
    results = run_results.test(task, model, params, valid_ranks=kept, baselines=CHEAP[:1]).results
    assert evaluated == [task.test]
    assert results["valid"] == tested[1]["valid"]


def test_costs_count_the_arrays_of_a_state(built):
    _, model, state = built
    specs = jax.tree.leaves(model.specs, is_leaf=lambda part: isinstance(part, ParamSpec))
    n_parameters = sum(np.prod(spec.shape) for spec in specs)
    costs = run_results.costs(model, state, steps_per_epoch=3)
    assert costs["n_parameters"] == n_parameters
    assert costs["steps_per_epoch"] == 3
    # Weights, their averages and two moments in float32, and three counters of steps.
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))
    assert costs["state_bytes"] == 4 * 4 * n_parameters + 3 * 4
