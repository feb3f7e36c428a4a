"""What a run publishes: test figures, ranks, a learning curve and examples."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqrec import phases, runs, runtime
from seqrec.baselines.fitted import BaselineName
from seqrec.data.batches import Queries
from seqrec.data.buckets import original
from seqrec.data.engagement import base_rate_losses
from seqrec.data.feature_values import features_at
from seqrec.data.history import History
from seqrec.data.own_shards import gather_keys
from seqrec.evaluation import RankTable, evaluate, make_eval_step, run_queries
from seqrec.files import JsonObject, make_directory, write_json
from seqrec.model import Model
from seqrec.params import Params, count_params
from seqrec.recommendation import make_recommend
from seqrec.report import figures
from seqrec.report.baseline_comparison import (
    compare_with_baselines,
    format_tested,
    format_without_tables,
    verdict_on_baselines,
)
from seqrec.report.continuations import continuation_figures
from seqrec.report.learning_curve import plot_learning_curve
from seqrec.run.baselines import BaselineChoice, baseline_ranks, choose_baselines
from seqrec.run.data import Task
from seqrec.run.fusion import figures_without_tables
from seqrec.side_tasks import labels_of, side_task_losses
from seqrec.stats.bootstrap import N_RESAMPLES
from seqrec.training import TrainState
from seqrec.types import InputError, QueryBatch

BASELINES = "baselines"
"""Directory of a run with the ranks of each baseline that was tested beside the model, in one of its own."""


class Tested(NamedTuple):
    """The test of a model."""

    ranks: RankTable
    results: JsonObject
    """What `metrics.json` has of it."""
    baselines: dict[str, RankTable]
    """Ranks of the same queries by each baseline; in other processes than the first there may be none."""
    users: figures.UserColumns | None = None
    """Of the users of these queries, where this process has opened the shards of some alone."""


def protocol(task: Task) -> JsonObject:
    """What figures of the task mean, as `metrics.json` has it; figures compare only under the same protocol."""
    config, store, split = task.config, task.store, task.split
    return {
        **{f"{part}_users": sample for part, sample in task.samples.items()},
        "split": split.description,
        "split_hash": split.content_hash,
        "data_hash": store.content_hash,
        "candidates": f"all {store.n_items} items" + (" less the user's whole history" if task.mask_seen else ""),
        "mask_seen": task.mask_seen,
        # With seen items masked, targets that were seen before are excluded, or misses.
        "repeated_targets": config.repeated_targets if task.mask_seen else "rank",
        "n_repeated_targets": task.n_repeated_targets,
        "max_length": config.max_length,
        "times": config.times,
        "time_aware": config.times == "query",
        "ties": "mean",
        "fitted_on_validation_items": False,
        "intervals": "95%, percentile bootstrap over users",
    }


def test(
    task: Task,
    model: Model,
    params: Params,
    *,
    valid_ranks: Float[np.ndarray, " queries"] | None,
    baselines: Sequence[BaselineName],
) -> Tested:
    """Ranks of the test items, and `test`, `valid`, `baselines`, `comparisons` and `protocol` of `metrics.json`.

    `valid_ranks` are those of the validation queries, or None to rank them here. A baseline that cannot be fitted is
    named in `baselines_left_out`. Where the target is the first of the last n items, also `continuations`: figures of
    lists of n items in their place.
    """
    eval_step = make_eval_step(model)
    with _progress("testing", task.test) as phase:
        ranks = evaluate(eval_step, params, task.test, report=phase)
    runtime.check_interrupt()
    if valid_ranks is None:
        with _progress("validating", task.valid) as phase:
            valid_ranks = evaluate(eval_step, params, task.valid, report=phase).rank
    runtime.check_interrupt()
    results: JsonObject = {}
    for part, of_part, users in (("test", ranks.rank, ranks.user), ("valid", valid_ranks, task.valid.of_all.users)):
        with phases.progress(f"bootstrap intervals of {part} figures", N_RESAMPLES, unit="resamples") as phase:
            results[part] = figures.figures(of_part, users=users, report=phase)
    tables = _test_baselines(task, baselines, results)
    with phases.progress("comparing with the baselines"):
        results["comparisons"] = runtime.on_first(
            lambda: compare_with_baselines(ranks.rank, {name: t.rank for name, t in tables.items()}, users=ranks.user)
        )
    results |= figures_without_tables(task, model, params, ranks)
    results["protocol"] = protocol(task)
    if "side_tasks" in model.specs:
        results["side_tasks"] = _side_task_figures(task, model, params)
    if task.n_generated is not None:
        results["continuations"] = continuation_figures(
            model, params, task.test, n=task.n_generated, counts=task.counts
        )
    return Tested(ranks, results, tables, users_of_all(task))


def _test_baselines(task: Task, names: Sequence[BaselineName], results: JsonObject) -> dict[str, RankTable]:
    """Adds the figures of each baseline to the results; the first process tests for all."""
    tables: dict[str, RankTable] = {}
    results["baselines"] = {}
    for name in names:
        with _progress(f"baseline {name}", task.test) as phase:

            def tested(name: BaselineName = name, phase: phases.Phase = phase) -> JsonObject:
                try:
                    tables[name] = baseline_ranks(task, name, report=phase)
                except InputError as error:  # too many items, or no times
                    return {"left_out": str(error)}
                return {"figures": figures.figures(tables[name].rank, users=tables[name].user)}

            # Where each process ranks the queries of its own users, all take part.
            outcome = runtime.on_first(tested) if task.test.whole is None else tested()
        if "left_out" in outcome:
            results.setdefault("baselines_left_out", {})[name] = outcome["left_out"]
        else:
            results["baselines"][name] = outcome["figures"]
        runtime.check_interrupt()
    return tables


def _progress(name: str, queries: Queries) -> AbstractContextManager[phases.Phase]:
    return phases.progress(name, len(queries.of_all.users), unit="queries")


def users_of_all(task: Task) -> figures.UserColumns | None:
    """Keys and training events of the users of all test queries, where each process has opened its own shards."""
    queries, store = task.test, task.store
    if queries.whole is None:
        return None
    n_events = (task.split.train_stop - store.offsets[:-1])[queries.users]
    keys = gather_keys(store.user_keys[queries.users], queries.whole.gathered)
    return figures.UserColumns(keys, queries.whole.gathered(n_events))


def query_side_task_losses(model: Model, params: Params, queries: Queries) -> dict[str, Float[np.ndarray, " queries"]]:
    """The loss of each side task at each query's held-out event, in nats; the queries' batches hold the labels."""
    assert queries.fields.engagement is not None
    names = list(queries.fields.engagement.head_sizes)

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, ...]:
        states = model.encoder.encode(params, queries.batch)
        states = states.reshape(-1, states.shape[-1])[queries.last]
        labels = {name: jnp.reshape(each, -1)[queries.last] for name, each in labels_of(queries.batch).items()}
        losses = side_task_losses(params, states, queries.targets, labels)
        return tuple(losses[name] for name in names)

    losses = run_queries(step, params, queries)
    return {name: each.astype(np.float64) for name, each in zip(names, losses, strict=True)}


def _side_task_figures(task: Task, model: Model, params: Params) -> JsonObject:
    store, queries = task.store, task.test
    assert queries.fields.engagement is not None
    base_rate = base_rate_losses(queries.fields.engagement, store, task.split, positions=queries.target_positions)
    losses = query_side_task_losses(model, params, queries)
    return figures.side_task_figures(losses, base_rate, users=queries.users)


def print_test(results: JsonObject, *, name: str) -> None:
    """The tables of test figures, the model's and those of the baselines beside it."""
    print(f"\n{format_tested(results, name=name)}")
    if "unfused" in results:
        print(f"\n{format_without_tables(results, name=name)}")
    left_out: dict[str, list[str]] = {}
    for baseline, reason in results.get("baselines_left_out", {}).items():
        left_out.setdefault(reason, []).append(baseline)
    for reason, baselines in left_out.items():
        print(f"left out    {', '.join(baselines)}: {reason}")
    if "side_tasks" in results:
        print(f"\n{figures.format_side_tasks(results['side_tasks'])}")
    if "continuations" in results:
        print(f"\n{figures.format_table(results['continuations'], title='generated lists')}")
    protocol = results["protocol"]
    label = "; time-aware: the model read the time of the predicted event" if protocol["time_aware"] else ""
    if "test_users" in protocol:
        label += f"; {protocol['test_users']}, so not comparable with figures of all users"
    counted = f"{results['test']['n_users']:,} users; mean over users"
    if "n_queries" in results["test"]:
        counted += f"' {results['test']['n_queries']:,} targets"
    repeated = ""
    if protocol["mask_seen"] and (n := protocol["n_repeated_targets"]):
        repeated = f"; {n:,} targets seen before " + (
            "are left out" if protocol["repeated_targets"] == "exclude" else "count as misses"
        )
    print(f"{counted} [95% interval]; {protocol['candidates']}{repeated}{label}")


def costs(model: Model, state: TrainState, *, steps_per_epoch: int) -> dict[str, int]:
    """What a model takes to train: parameters, bytes of all that a step reads and changes, and steps."""
    return {
        "n_parameters": count_params(model.specs),
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "steps_per_epoch": steps_per_epoch,
    }


def publish(
    run: Path,
    task: Task,
    model: Model,
    params: Params,
    facts: JsonObject,
    *,
    name: str,
    baselines: Sequence[BaselineChoice] = ("auto",),
    valid_ranks: Float[np.ndarray, " queries"] | None = None,
) -> JsonObject:
    """Tests composed parameters, leaves figures, ranks and the learning curve in the run, and prints them.

    `facts` says how the training went, as `metrics.json` has it; returns what that file holds. `valid_ranks` is as in
    `test`, and `baselines` as in `choose_baselines`.
    """
    chosen, left_out = runtime.on_first(lambda: choose_baselines(task, baselines, train_seconds=facts["train_seconds"]))
    tested = test(task, model, params, valid_ranks=valid_ranks, baselines=chosen)
    results = tested.results | facts
    if left_out := left_out | results.get("baselines_left_out", {}):
        results["baselines_left_out"] = left_out
    with phases.progress("recommending to three test users"):
        examples = _examples(task, model, params)
    if runtime.is_first():
        with phases.progress("writing ranks and figures"):
            plot_learning_curve(run / "metrics.jsonl", run / runs.LEARNING_CURVE, best_epoch=results["best_epoch"])
            write_test(run, task, tested._replace(results=results))
        print_test(results, name=name)
        for example in examples:
            print("\n" + example)
        print(f"\nrun directory  {original(run)}\nevaluate it    {runs.evaluate_command(run)}")
        print(f"resume it      {runs.resume_command(run)}")
        print(f"\n{verdict_on_baselines(results['comparisons'], name=name)}")
    return results


def write_test(directory: Path, task: Task, tested: Tested) -> None:
    """Leaves a test in a directory; the figures come last, so that what has them is complete."""
    results = tested.results
    for name, table in tested.baselines.items():
        of_baseline = {"test": results["baselines"][name], "protocol": results["protocol"]}
        write_ranks(
            directory / BASELINES / name.lower().replace(" ", "-"), task, table, of_baseline, users=tested.users
        )
    write_ranks(directory, task, tested.ranks, results, users=tested.users)


def write_ranks(
    directory: Path, task: Task, ranks: RankTable, results: JsonObject, *, users: figures.UserColumns | None = None
) -> None:
    """Leaves ranks and figures in a directory, as compare.py reads them."""
    make_directory(directory)
    figures.write_ranks(directory / "ranks.parquet", ranks, task.store, task.split, counts=task.counts, users=users)
    write_json(directory / "metrics.json", results)


def _examples(task: Task, model: Model, params: Params) -> list[str]:
    """What is recommended to three of the test users, as text; to none where no process has opened all shards."""
    if task.test.whole is not None:
        return []
    recommend, store = make_recommend(model), task.store
    examples = []
    for query in np.linspace(0, len(task.test.users) - 1, 3, dtype=int):
        user = int(task.test.users[query])
        start, stop = int(store.offsets[user]), int(task.test.target_positions[query])
        history = History(store.items[start:stop])
        if model.reads.times != "none":
            history = history._replace(times=store.columns["timestamp_us"][start : stop + 1] // 1_000_000)
        if model.reads.event_features:
            read = features_at(task.test.fields.features, store, np.arange(start, stop))
            history = history._replace(event_features=read)
        best = recommend(params, history, min(10, store.n_items), mask_seen=task.mask_seen)
        examples.append(figures.format_example(store, store.items[start:stop].tolist(), best, user))
    return examples
