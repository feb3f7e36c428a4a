"""A training run from its config to its published figures, and a trained run opened again."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from seqrec import phases, runs, runtime
from seqrec.averaged import read_best
from seqrec.checkpoint import Progress, has_checkpoint, open_checkpoints, restore
from seqrec.data.buckets import original, working_copy
from seqrec.evaluation import Validate, make_validate
from seqrec.files import JsonObject
from seqrec.loop import FitConfig, fit
from seqrec.model import Model, composed_params
from seqrec.params import Params, count_params, hash_of
from seqrec.row_updates import caught_up
from seqrec.run.baselines import POPULARITIES
from seqrec.run.config import RunConfig, TrainingConfig
from seqrec.run.data import Task, open_data, open_task
from seqrec.run.fusion import check_takes_tables, fit_tables, open_with_tables
from seqrec.run.members import member_directories, open_ensemble
from seqrec.run.resolving import resolve
from seqrec.run.results import costs, publish, test, write_test
from seqrec.run.start_from import TaskAndModel, start_from, start_record
from seqrec.run.trained import keep_item_keys
from seqrec.run.training import make_training, updates_rows
from seqrec.runtime import log
from seqrec.sharding import MeshConfig, abstract_params
from seqrec.stopping import epochs_of
from seqrec.tracking.exporter import METRICS, Follower, following
from seqrec.tracking.tracker import check_installed
from seqrec.training import TrainState, TrainStep
from seqrec.types import InputError


@runtime_checkable
class ScriptConfig(Protocol):
    """The config of a training script: the shared part, and more for its encoder."""

    @property
    def training(self) -> TrainingConfig:
        """What every script takes."""


Build = Callable[[Any, Task], Model]
"""`build(config, task)` -> the model that a script's config describes, for the task's catalogue."""


@runtime_checkable
class Main(Protocol):
    """Runs a script's experiment."""

    def __call__(self, config: Any, *, events: Any = None, given: Collection[str] = ()) -> JsonObject:
        """Trains, tests, and leaves everything in the run's directory; returns what `metrics.json` holds.

        `events` is a frame in place of the data path; a recipe leaves the fields `given` as they are.
        """


@runtime_checkable
class Script(Protocol):
    """A module that trains."""

    __file__: str | None

    @property
    def Config(self) -> type:
        """The config of its command line."""

    @property
    def build(self) -> Build:
        """Makes its model."""

    @property
    def main(self) -> Main:
        """Runs its experiment."""


class TrainingResult(NamedTuple):
    """A model after training: the state of the epoch that validation chose, to evaluate, and how it came about."""

    state: TrainState
    progress: Progress
    reason: str
    """Why training stopped."""
    valid_ranks: np.ndarray | None
    """Ranks of the validation queries in that epoch, if this start of the run has validated it."""


@contextlib.contextmanager
def open_run(config: Any, run: RunConfig, *, experiment: str, dataset: str, is_shared: bool = False) -> Iterator[Path]:
    """The directory of a new run, or of the one that `run.resume` continues.

    Only one process goes on with a run at a time, unless it `is_shared`, as a search of several processes is.
    Inside, Ctrl-C and SIGTERM end with the command that resumes, and input that cannot be used leaves no directory.
    """
    if run.resume and run.output is None:
        raise InputError("--resume needs --output with the directory of the run to continue")

    def new_directory() -> str:
        return str(runtime.new_run_directory(f"{experiment}-{dataset}"))

    output = run.output or Path(runtime.on_first(new_directory))
    # The first process reads and writes the run for all, but for checkpoints; of a bucket the others need no more.
    fetch = "" if runtime.is_first() else ("store/", "checkpoints/")
    with working_copy(output, follow=True, fetch=fetch, part=runtime.part()) as directory:
        runtime.on_first(
            lambda: str(runs.prepare_run_directory(directory, config, experiment=experiment, resume=run.resume))
        )
        log.info("run         %s", original(directory))
        with contextlib.nullcontext() if is_shared else runtime.lock_run(directory):
            try:
                with runtime.interruptible():
                    yield directory
            except InputError:
                if runtime.is_first() and not run.resume:
                    runs.discard_unstarted(directory)
                raise
            except runtime.Interrupted as stop:
                if not runtime.is_first():
                    raise
                message = f"{stop}; go on with\n  {runs.resume_command(directory)}"
                raise runtime.Interrupted(message, stop.signal_number) from None


def run_experiment(
    config: ScriptConfig, build: Build, *, name: str, events: Any = None, given: Collection[str] = ()
) -> JsonObject:
    """Trains the model that `build(config, task)` makes, tests it, and returns what `metrics.json` holds.

    Everything is left in the run's directory. `events` is a pandas, Polars or Arrow frame in place of the data path.
    Where the config asks for a recipe, the fields `given` keep their values, as do those that differ from their
    defaults.
    """
    training = config.training
    for tracker in training.track:
        check_installed(tracker)
    runtime.start(training.mesh, training.processes)
    with open_run(config, training.run, experiment=name.lower(), dataset=training.data.dataset) as run:
        data = open_data(run, training.data, engagement=training.engagement, events=events)
        config = resolve(run, config, data, given=given)
        training = config.training
        task = open_task(run, training.data, seed=training.run.seed, engagement=training.engagement, data=data)
        runtime.on_first(functools.partial(keep_item_keys, run, task))
        runtime.check_interrupt()
        with phases.progress("building the model"):
            model = _built(run, config, build, task)
        check_takes_tables(model, task, training.fuse)
        runtime.check_interrupt()
        per_epoch = task.train.steps_per_epoch
        n_steps = training.fit.n_steps(per_epoch)
        init, make_step = make_training(model, training, n_steps=n_steps)
        if updates_rows(model, training):
            log.info("updates     only the rows of the item table that a step reads; see --item-updates")
        state = _first_state(run, config, build, task, model, init)
        with following(run, training.track) as follower:
            trained = train(run, task, model, state, make_step(), training.fit, follower)
            best_step = trained.progress.best[0]
            facts = {
                "best_epoch": epochs_of(best_step, per_epoch),
                "best_step": best_step,
                "train_seconds": trained.progress.train_seconds,
                "stopped": trained.reason,
                "cost": costs(model, trained.state, steps_per_epoch=per_epoch),
                "n_roll_backs": len(trained.progress.skipped),
                **runtime.on_first(functools.partial(start_record, run)),
            }
            extended = fit_tables(run, task, model, composed_params(model, trained.state.averaged), training.fuse)
            return publish(
                run,
                task,
                extended.model,
                extended.params,
                {**facts, **({"fusion": extended.record} if extended.record else {})},
                name=name,
                baselines=training.baselines,
                valid_ranks=None if extended.model is not model else trained.valid_ranks,
            )


def _first_state(
    run: Path, config: ScriptConfig, build: Build, task: Task, model: Model, init: Callable[[], TrainState]
) -> TrainState:
    """The state before the first step: random weights, or those of the run or bundle that the config names.

    What these weights are worth on the new data, before any training, is left in the run's directory `runs.START`.
    """
    with phases.progress("initialising the weights"):
        state = init()
    source = config.training.start.start_from
    if source is None or runtime.on_first(functools.partial(has_checkpoint, run / "checkpoints")):
        return state
    with working_copy(source, read_only=True) as earlier:

        def reopen() -> TaskAndModel:
            ours, theirs = runtime.on_first(lambda: runs.experiment_of(run)), runs.experiment_of(earlier)
            if ours != theirs:
                raise InputError(f"it holds a model {theirs}, not {ours}")
            return TaskAndModel(*_opened(earlier, runs.read_config(type(config), earlier), build))

        state = start_from(earlier, run, config, task, model, state, reopen=reopen)
    tested = test(task, model, composed_params(model, state.averaged), valid_ranks=None, baselines=POPULARITIES)
    log.info("start-from  test NDCG@10 %.4f before training", tested.results["test"]["ndcg@10"])
    if runtime.is_first():
        write_test(run / runs.START, task, tested)
    return state


def _opened(run: Path, config: Any, build: Build) -> tuple[Task, Model]:
    """The task and the model of a trained run."""
    training = config.training
    data = replace(training.data, shards="all")  # what is done with a trained run reads all of them
    task = open_task(run, data, seed=training.run.seed, engagement=training.engagement)
    return task, _built(run, config, build, task)


def make_main(build: Build, *, name: str) -> Main:
    """The `main(config)` of a script whose model `build` makes; tables show the model by `name`."""
    return functools.partial(run_experiment, build=build, name=name)


def open_trained(run: Path, scripts: Mapping[str, Script]) -> tuple[Task, Model, Params]:
    """The task of a run, its model, and the composed parameters that validation chose.

    `scripts` has the modules that train, by the names of what they train.
    """
    if member_directories(run):
        return open_ensemble(run, lambda member: open_trained(member, scripts))
    name = runs.experiment_of(run)
    if name not in scripts:
        raise InputError(f"{run} holds a model {name}, which is none of {', '.join(scripts)}; use its own seqrec")
    config: Any = runs.read_config(scripts[name].Config, run)
    training = config.training
    # By however many processes it is read: only in training would each go its own way.
    runtime.start(MeshConfig(), replace(training.processes, n_processes=0))
    task, model = _opened(run, config, scripts[name].build)
    extended = open_with_tables(run, model, composed_params(model, load_best(run, model.specs)), training.fuse)
    return task, extended.model, extended.params


def _built(run: Path, config: Any, build: Build, task: Task) -> Model:
    """The model that `build` makes; what it reads beside the store must be what the run was started with."""
    model = build(config, task)
    if model.constants is not None:
        runtime.on_first(functools.partial(runs.note_data, run, features_hash=hash_of(model.constants)))
    return model


def train(
    run: Path,
    task: Task,
    model: Model,
    state: TrainState,
    train_step: TrainStep,
    config: FitConfig,
    follower: Follower,
) -> TrainingResult:
    """Trains from `state`, or from the run's latest checkpoint if it has one, and returns the best epoch's state.

    `follower` is told of what metrics.jsonl gains.
    """
    batches = task.train
    log.info(
        "model       %s parameters; %s steps an epoch of %d packed rows, %.1f%% of positions filled",
        f"{count_params(model.specs):,}",
        f"{batches.steps_per_epoch:,}",
        batches.n_rows,
        100 * batches.fill_share,
    )
    lines = run / METRICS

    def record(line: JsonObject) -> None:
        runs.append_json_line(lines, line)
        follower.record(line)

    makes_lists = model.decoder is not None and task.n_generated is not None
    validated = _Validated(
        functools.partial(make_validate, model, task.valid, n_generated=task.n_generated),
        None if makes_lists else len(task.valid.of_all.users),
    )

    def rewind(step: int) -> None:
        validated.forget()
        runtime.on_first(functools.partial(runs.keep_json_lines, lines, up_to_step=step))
        follower.rewind()

    with open_checkpoints(run / "checkpoints") as checkpoints:
        state, progress, reason = fit(
            state,
            train_step=train_step,
            batches=batches,
            validate=validated,
            checkpoints=checkpoints,
            record=record,
            rewind=rewind,
            config=config,
            ndcg_of_queries=validated.ndcg_of_queries,
        )
        log.info("stopped     %s", reason)
        with phases.progress("restoring the best weights"):
            state, _ = restore(checkpoints, state, progress.best[0])
    return TrainingResult(caught_up(state), progress, reason, validated.ranks_of(*progress.best))


class _Validated:
    """Validates weights, says how far it is, and keeps the ranks of the best, which are published."""

    def __init__(self, make_validate: Callable[..., Validate], n_queries: int | None):
        """`n_queries` is None where validation judges generated lists, of which no ranks are published."""
        self._latest: list[np.ndarray] = []
        self._ndcg: list[np.ndarray] = []
        self._best: tuple[float, np.ndarray] | None = None
        self._n_queries = n_queries
        self._validate = make_validate(keep=self._latest.append, keep_ndcg=self._ndcg.append)

    def __call__(self, params: Params) -> dict[str, float]:
        self._ndcg.clear()
        with phases.progress("validating", self._n_queries, unit="queries") as phase:
            figures = self._validate(params, report=phase)
        if self._latest:
            ranks = self._latest.pop()
            if self._best is None or figures["ndcg@10"] > self._best[0]:
                self._best = figures["ndcg@10"], ranks
        return figures

    def ndcg_of_queries(self) -> np.ndarray:
        """NDCG@10 of each query in the latest validation."""
        return self._ndcg[-1]

    def forget(self) -> None:
        """Forgets the ranks: of validations that follow, some may be made again."""
        self._best = None

    def ranks_of(self, step: int, ndcg: float) -> np.ndarray | None:
        """The ranks of the validation with this figure, or None if they were not kept."""
        if self._best is not None and self._best[0] == ndcg:
            return self._best[1]
        why = "validation judged generated lists" if self._n_queries is None else "its ranks are of an earlier start"
        log.info("validating  step %d once more for the published figures: %s", step, why)
        return None


def load_best(run: Path, specs: Params) -> Params:
    """The averaged parameters of the epoch that validation chose, in the form of `specs`, to evaluate."""
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run} holds no checkpoints; let its training reach the end of an epoch first")
    best = read_best(run / "checkpoints", abstract_params(specs))
    if best is None:
        raise InputError(
            f"{run} holds no validated checkpoint that can be read; let its training reach the end of an epoch"
        )
    return best[0]
