"""Replays a log: trains and tests what is left of a backtest, and computes its results from what is done."""

import dataclasses
import gc
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqrec import runs, runtime
from seqrec.backtest.periods import BacktestConfig, Period, make_periods, period_starts
from seqrec.backtest.training import Length, Trainer, make_trainer, warm_params
from seqrec.data.moments import iso_moment
from seqrec.data.sources import Columns
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import open_store
from seqrec.files import JsonObject, make_directory, read_object, replacing, write_json
from seqrec.params import Params, leaves_by_name
from seqrec.report import figures
from seqrec.report.backtest_figures import ARMS, NEVER, WARM, backtest_figures
from seqrec.run.data import DataConfig, Task, open_task, prepare_store
from seqrec.run.experiment import Build
from seqrec.run.recipe import check_no_recipe
from seqrec.types import InputError

BASE = "base"
"""The model that all start from, trained before the first tested period."""


def run_backtest(run: Path, config: Any, build: Build, *, events: Any = None) -> JsonObject:
    """Trains and tests what is left of the backtest in `run`, and returns its results.

    Each finished training and test is kept there, so that a later start goes on after it.

    Raises:
      InputError: the log or the model cannot be replayed.
      runtime.Interrupted: Ctrl-C or SIGTERM came.
    """
    training, backtest = config.training, config.backtest
    check_config(training)
    check_no_recipe(config, "a backtest")
    task, starts = open_log(run, training, backtest, events=events)
    periods = make_periods(task, starts, targets=backtest.targets)
    if all(period.queries is None for period in periods[1:]):
        raise InputError("no user has an event in a tested period and one before it; take longer periods")
    model = build(config, task)
    replay = Replay(run, backtest, make_trainer(task, model, training, periods), periods)
    make_directory(run / "periods")
    replay.train_base()
    for number in range(len(periods)):
        for arm in ARMS:
            replay.finish(number, arm)
    return results(replay)


def check_config(training: Any) -> None:
    """Refuses what a backtest cannot replay."""
    if jax.process_count() > 1:
        raise InputError("a backtest is run by one process; start it on one machine")
    if training.start.start_from is not None:
        raise InputError("a backtest trains its first model from random weights; leave --start-from out")
    if training.data.split != SplitConfig():
        raise InputError("a backtest splits by its periods; leave --split and its flags out, and use --first-period")
    if training.fit.max_steps or training.fit.validate_every_steps:
        raise InputError("a backtest trains in whole epochs; leave --max-steps and --validate-every-steps out")
    if training.data.validate_users or training.data.test_users:
        raise InputError("a backtest asks all users of a period; leave --validate-users and --test-users out")
    if training.track:
        raise InputError("the trainings of a backtest are no runs that a tracker could follow; leave --track out")
    if training.optimizer.item_updates == "sparse":
        raise InputError("a backtest updates all rows of the item table in each step; leave --item-updates out")
    if training.items.item_features or training.items.ids == "frequent":
        raise InputError(
            "codes of item features, and which items are frequent, follow from the first period and would be wrong "
            "for later ones; leave --item-features out, and use --ids table"
        )


def open_log(run: Path, training: Any, backtest: BacktestConfig, *, events: Any = None) -> tuple[Task, list[int]]:
    """The log, read into the run's own store unless it is one, and the starts of the periods with the end of the last.

    The task's split holds out what the first period begins.
    """
    data: DataConfig = training.data
    directory = run / "store"
    if data.dataset == "store":
        if data.data_path is None or events is not None:
            raise InputError("store is read from a directory; give its data path, and no frame")
        directory = data.data_path
    elif not directory.exists():
        prepare_store(directory, (data, training.engagement), keep_times=True, events=events)
    as_of = runs.started_with(run).get("data", {}).get("content_hash")
    starts = period_starts(open_store(directory, as_of=as_of), backtest)
    # From its second period on, the log is the test of this split; what it validates on chooses how seen items count.
    valid_start, test_start = map(iso_moment, starts[:2])
    split = SplitConfig(split="temporal", valid_start=valid_start, test_start=test_start, window_target="first")
    data = dataclasses.replace(data, dataset="store", data_path=directory, columns=Columns(), split=split)
    return open_task(run, data, seed=training.run.seed, engagement=training.engagement), starts


class Replay(NamedTuple):
    """A backtest under way."""

    run: Path
    config: BacktestConfig
    trainer: Trainer
    periods: list[Period]

    def file(self, number: int, name: str, suffix: str) -> Path:
        """Where something of a period is kept."""
        return self.run / "periods" / f"{number:03d}-{name}.{suffix}"

    def train_base(self) -> None:
        """Trains the model that all start from, before the first period."""
        if not self.file(0, BASE, "json").is_file():
            self._train(0, BASE, None)

    def finish(self, number: int, arm: str) -> None:
        """Trains, where it is due, and tests one arm on one period, unless an earlier start has."""
        file = self.file(number, arm, "json")
        if file.is_file():
            return
        runtime.check_interrupt()
        period, of_base = self.periods[number], number == 0 or arm == NEVER
        cost: JsonObject = {}
        if not of_base:
            earlier = BASE if number == 1 else arm
            params = self._params(number - 1, earlier) if arm == WARM else None
            cost = self._train(number, arm, params)
        params = self._params(0, BASE) if of_base else self._params(number, arm)
        # A model that is never refreshed knows no item that is new since.
        known = self.periods[0 if of_base else number].is_known
        result = ""
        if period.queries is not None:
            ranks = self.trainer.test(params, period, is_known=known)
            figures.write_ranks(self.file(number, arm, "parquet"), ranks, self.trainer.task.store, period.split)
            result = f"NDCG@10 {np.mean(np.where(ranks.rank <= 10, 1 / np.log2(1 + ranks.rank), 0)):.4f}"
        write_json(file, {"cost": cost})
        if number > 1 and arm == WARM:
            self.file(number - 1, WARM, "npz").unlink(missing_ok=True)
        if not of_base and arm != WARM:
            self.file(number, arm, "npz").unlink(missing_ok=True)
        took = "   {n_steps:,} steps, {cpu_seconds:.1f} s of CPU".format(**cost) if cost else ""
        runtime.log.info("%s  %-6s %s%s", iso_moment(period.start_us)[:16], arm, result or "no targets", took)

    def _train(self, number: int, name: str, params: Params | None) -> JsonObject:
        """Trains on all before the period, from `params` or from random weights; leaves the weights in a file."""
        trainer, period = self.trainer, self.periods[number]
        training, began = trainer.config, (runtime.seconds(), runtime.cpu_seconds())
        is_warm = params is not None
        active_since = self.periods[number - 1] if is_warm and self.config.refresh_on == "active" else None
        seed = training.run.seed + (number if is_warm else 0)
        batches = trainer.batches(period, seed=seed, active_since=active_since)
        epochs = self.config.refresh_epochs if is_warm else training.fit.max_epochs
        n_steps = epochs * batches.steps_per_epoch
        warmup, rate = min(training.optimizer.warmup_steps, n_steps), training.optimizer.learning_rate
        if params is None:
            params = trainer.first.params
        else:
            warmup, rate = min(warmup, n_steps // 10), self.config.refresh_learning_rate or rate
            params = warm_params(
                params,
                trainer.first.params,
                trainer.task.store,
                period,
                specs=trainer.model.specs,
                known_then=self.periods[number - 1].is_known,
                has_rows_of_its_own=trainer.model.constants is None,
            )
        # Steps of refreshes go on counting, so that dropout is drawn anew on each day.
        first_step = number * 1_000_000 if is_warm else 0
        # An average over the last hundred steps or so would keep a short refresh near its start.
        length = Length(n_steps, warmup, rate)
        trained = trainer.train(params, batches, length, first_step=first_step, is_averaged=not is_warm)
        with replacing(self.file(number, name, "npz")) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **leaves_by_name(trained))
        cost = {
            "n_steps": n_steps,
            "seconds": runtime.seconds() - began[0],
            "cpu_seconds": runtime.cpu_seconds() - began[1],
            "n_new_items": int(np.sum(period.is_known & ~self.periods[max(number - 1, 0)].is_known)),
        }
        if name == BASE:
            write_json(self.file(number, name, "json"), {"cost": cost})
            runtime.log.info("before the first period: %s steps, %.1f s of CPU", f"{n_steps:,}", cost["cpu_seconds"])
        gc.collect()
        return cost

    def _params(self, number: int, name: str) -> Params:
        """The weights that a training left."""
        file = self.file(number, name, "npz")
        try:
            with np.load(file, allow_pickle=False) as saved:
                arrays = dict(saved)
            return jax.tree_util.tree_map_with_path(
                lambda path, _: arrays[jax.tree_util.keystr(path, simple=True, separator=".")],
                self.trainer.first.params,
            )
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{file} cannot be read ({error}); start again in another --output") from error


def results(replay: Replay) -> JsonObject:
    """What backtest.json holds."""
    task, store = replay.trainer.task, replay.trainer.task.store
    periods = []
    for number, period in enumerate(replay.periods):
        costs = {arm: read_object(replay.file(number, arm, "json"), cost=dict)["cost"] for arm in ARMS}
        periods.append(
            {
                "start": iso_moment(period.start_us),
                "stop": iso_moment(period.stop_us),
                "n_targets": 0 if period.queries is None else len(period.queries.users),
                "n_new_targets": period.n_new_targets,
                "n_events_before": int(np.sum(period.split.train_stop - store.offsets[:-1])),
                "n_items_before": int(period.is_known.sum()),
                "costs": costs,
            }
        )
    tables = [
        None if period.queries is None else {arm: replay.file(number, arm, "parquet") for arm in ARMS}
        for number, period in enumerate(replay.periods)
    ]
    started = runs.started_with(replay.run)
    return {
        "experiment": started["experiment"].removeprefix("backtest-"),
        "command": started["command"],
        "backtest": dataclasses.asdict(replay.config),
        "max_epochs": replay.trainer.config.fit.max_epochs,
        "data": {
            "dataset": started["config"]["training"]["data"]["dataset"],
            "content_hash": store.content_hash,
            **{name: getattr(store, name) for name in ("n_users", "n_items", "n_events")},
        },
        "protocol": protocol(task, replay.config),
        "base": read_object(replay.file(0, BASE, "json"), cost=dict)["cost"],
        "periods": periods,
        "versions": runtime.versions(),
        **backtest_figures(periods, tables),
    }


def protocol(task: Task, config: BacktestConfig) -> JsonObject:
    """What the figures mean."""
    return {
        "targets": f"{config.targets} event of a user in a period, of users with an event before it",
        "candidates": "items with an event before the period" + (", less the user's history" if task.mask_seen else ""),
        "new_targets": "items without an event before the period count as misses, for the model that is never "
        "refreshed also those without one before the first period",
        "mask_seen": task.mask_seen,
        "repeated_targets": task.config.repeated_targets if task.mask_seen else "rank",
        "validation": "none: each training takes all its epochs, on all events before the period",
        "max_length": task.max_length,
        "times": task.times,
        "ties": "mean",
        "intervals": "95%, percentile bootstrap over users, whose queries are drawn together",
    }
