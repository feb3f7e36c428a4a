"""What experiment scripts share around their model: data in, a run begun or resumed, findings out."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from seqrec import runs, runtime
from seqrec.baselines.popularity import training_counts
from seqrec.checkpoint import Progress, open_checkpoints, restore, restore_progress
from seqrec.data.behaviour import features_at
from seqrec.data.buckets import original, working_copy
from seqrec.data.engagement import base_rate_losses, log_base_rates
from seqrec.data.features import read_item_features, shuffled_feature
from seqrec.evaluation import (
    RankTable,
    composed,
    evaluate,
    generate_lists,
    head_losses,
    list_ranks,
    make_eval_step,
    make_generate_step,
    make_head_step,
)
from seqrec.files import write_json
from seqrec.heads import with_heads
from seqrec.items import ItemConfig, with_items
from seqrec.loop import FitConfig, fit
from seqrec.losses.config import LossConfig, make_loss
from seqrec.metrics import means, metric_sums
from seqrec.objectives import Question, next_item
from seqrec.params import Params, count_params
from seqrec.repeats import with_repeats
from seqrec.report import figures
from seqrec.report.continuations import continuation_figures
from seqrec.report.learning_curve import plot_learning_curve
from seqrec.retrieval import make_recommend
from seqrec.runtime import log
from seqrec.tasks import Task, open_task
from seqrec.training import TrainState, init_state, make_optimizer, make_train_step
from seqrec.types import Encoder, InputError


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, and what it starts from."""

    output: Path | None = None
    """Directory of the run, which may be s3:// or gs://; by default a new one under runs/."""
    resume: bool = False
    """Go on with the run in --output from its latest checkpoint."""
    seed: int = 0
    """Seed of weights, batches and dropout."""


@contextlib.contextmanager
def open_run(config: Any, run: RunConfig, *, experiment: str) -> Iterator[Path]:
    """The directory of a new run, or of the one that `run.resume` goes on with.

    Inside, Ctrl-C and SIGTERM come to tell how to go on, and input that cannot be read leaves no directory.
    """
    if run.resume and run.output is None:
        raise InputError("--resume needs --output with the directory of the run to go on with")

    def new_directory() -> str:
        return str(runtime.new_run_directory(f"{experiment}-{config.data.dataset}"))

    output = run.output or Path(runtime.on_first(new_directory))
    # The first process reads and writes the run for all; of a bucket the others need the data alone.
    fetch = "" if runtime.is_first() else "store/"
    with working_copy(output, read_only=not runtime.is_first(), follow=True, fetch=fetch) as directory:
        runtime.on_first(lambda: str(runs.open_run(directory, config, experiment=experiment, resume=run.resume)))
        log.info("run         %s", original(directory))
        try:
            with runtime.interruptible():
                yield directory
        except InputError:
            if runtime.is_first():
                runs.discard_unstarted(directory)
            raise
        except runtime.Interrupted as stop:
            if not runtime.is_first():
                raise
            message = f"{stop}; go on with\n  {runs.resume_command(directory)}"
            raise runtime.Interrupted(message, stop.signal_number) from None


class Model(NamedTuple):
    """What a script trains."""

    encoder: Encoder
    loss: Callable[..., Any]
    """`loss(hidden, item_table, targets, *, n_items, weights=None, history=None, key)` -> (sum, count)."""
    objective: Callable[..., Question] = next_item
    """`objective(batch, key=...)`: what is asked about a batch."""
    head_weights: Mapping[str, float] = MappingProxyType({})
    """What each of the encoder's heads adds to the loss, by name."""


def model_of(encoder: Encoder, config: LossConfig, task: Task, objective: Callable[..., Question] = next_item) -> Model:
    """The model that learns by the loss that the config asks for."""
    if config.repeat_mixture:
        if task.config.mask_seen:
            raise InputError(
                "--repeat-mixture foretells items that come back, and those are not ranked; add --no-mask-seen"
            )
        if task.config.split.holds_continuations:
            raise InputError("--repeat-mixture lists no continuations; use window_target=last, or leave it out")
        encoder = with_repeats(encoder)
    engagement = task.config.engagement
    if engagement.heads:
        if objective is not next_item:
            raise InputError(
                "heads need a model that is asked what follows each item; leave skip_head and gap_head at 0"
            )
        assert task.train.engagement is not None
        encoder = with_heads(encoder, log_base_rates(task.train.engagement, task.store, task.split))
    if config.skip_weight:
        if not engagement.skips:
            raise InputError(f"--skip-weight {config.skip_weight:g} weighs skips; name them, as in --skips skipped=1")
        if objective is not next_item:
            raise InputError("--skip-weight needs a model that is asked what follows each item; leave it at 0")
        objective = functools.partial(next_item, unwanted_skips=True)
    return Model(
        encoder, make_loss(config, counts=training_counts(task.store, task.split)), objective, engagement.heads
    )


def items_of(encoder: Encoder, config: ItemConfig, task: Task) -> Encoder:
    """The encoder, whose items are made of what the config asks for."""
    counts = training_counts(task.store, task.split)
    features = [
        shuffled_feature(feature, trained=counts > 0, seed=task.train.seed)
        if feature.name in config.shuffled_features
        else feature
        for feature in read_item_features(config.item_features, task.store, config.feature_files, trained=counts > 0)
    ]
    return with_items(encoder, config, features, counts=counts)


def _built(run: Path, config: Any, build: Callable[[Any, Task], Model], task: Task) -> Model:
    """What `build` makes; what it reads beside the store must be what the run was started with."""
    model = build(config, task)
    if model.encoder.constants is not None:
        digest = hashlib.sha256()
        for path, values in jax.tree_util.tree_leaves_with_path(model.encoder.constants):
            digest.update(f"{jax.tree_util.keystr(path)} {values.dtype.str} {values.shape}\n".encode())
            digest.update(np.ascontiguousarray(values).data)
        runtime.on_first(functools.partial(runs.note_data, run, features_hash=digest.hexdigest()))
    return model


def run_experiment(config: Any, build: Callable[[Any, Task], Model], *, name: str) -> dict[str, Any]:
    """Trains the model that `build(config, task)` makes, tests it, and returns what `metrics.json` holds.

    `config` has the fields data, run, optimizer, fit, mesh and processes, whose configs are those of this package;
    what else it has is for `build`. Everything is left in the run's directory.
    """
    runtime.start(config.mesh, config.processes)
    with open_run(config, config.run, experiment=name.lower()) as run:
        task = open_task(run, config.data, seed=config.run.seed)
        model = _built(run, config, build, task)
        if model.encoder.times != config.data.times:
            raise InputError(f"{name} reads no times, so times={config.data.times} has no use; leave --times out")
        if model.encoder.event_features != tuple(feature.name for feature in task.train.features):
            raise InputError(f"{name} reads items alone, so {task.train.features[0].name!r} has no use; leave it out")
        n_steps = config.fit.max_epochs * task.train.steps_per_epoch
        optimizer = make_optimizer(config.optimizer, model.encoder.specs, n_steps=n_steps)
        train_step = make_train_step(
            model.encoder,
            model.objective,
            model.loss,
            optimizer,
            seed=config.run.seed,
            average_decay=config.optimizer.average_decay,
            accumulation_steps=config.optimizer.accumulation_steps,
            head_weights=model.head_weights,
        )
        state = init_state(model.encoder, optimizer, seed=config.run.seed)
        trained = train(run, task, model.encoder, state, train_step, config.fit)
        return publish(run, task, model.encoder, trained, name=name)


def open_trained(run: Path, experiments: Mapping[str, Any]) -> tuple[Task, Encoder, Params]:
    """The task of a run, its encoder, and the parameters that validation chose.

    `experiments` has the modules that train, by the names of what they train, each with its `Config` and `build`.
    """
    name = runs.experiment_of(run)
    if name not in experiments:
        raise InputError(f"{run} holds a model {name}, which is none of {', '.join(experiments)}; use its own seqrec")
    config = runs.read_config(experiments[name].Config, run)
    # By however many processes it is read: only in training would each go its own way.
    runtime.start(config.mesh, replace(config.processes, n_processes=0))
    task = open_task(run, config.data, seed=config.run.seed)
    encoder = _built(run, config, experiments[name].build, task).encoder
    # The schedule's length does not enter the state; only its form is needed, to read the checkpoint into.
    optimizer = make_optimizer(config.optimizer, encoder.specs, n_steps=1)
    best = load_best(run, init_state(encoder, optimizer, seed=config.run.seed))
    return task, encoder, composed(encoder, best.averaged)


class Trained(NamedTuple):
    """A model after training: the state of the epoch that validation chose, and how it came about."""

    state: TrainState
    progress: Progress
    reason: str
    """Why training stopped."""


def train(
    run: Path,
    task: Task,
    encoder: Encoder,
    state: TrainState,
    train_step: Callable[..., Any],
    config: FitConfig,
) -> Trained:
    """Trains from `state`, or from the run's latest checkpoint if it has one, and returns the best epoch's state."""
    batches = task.train
    log.info(
        "model       %s parameters; %s steps an epoch of %d packed rows, %.1f%% of positions filled",
        f"{count_params(encoder.specs):,}",
        f"{batches.steps_per_epoch:,}",
        batches.n_rows,
        100 * batches.packed.filled,
    )
    lines = run / "metrics.jsonl"

    def rewind(step: int) -> None:
        runtime.on_first(functools.partial(runs.keep_json_lines, lines, up_to_step=step))

    with open_checkpoints(run / "checkpoints") as checkpoints:
        state, progress, reason = fit(
            state,
            train_step=train_step,
            batches=batches,
            validate=_make_validate(task, encoder),
            checkpoints=checkpoints,
            record=functools.partial(runs.append_json_line, lines),
            rewind=rewind,
            config=config,
        )
        state, _ = restore(checkpoints, state, progress.best[0])
    log.info("stopped     %s", reason)
    return Trained(state, progress, reason)


def _make_validate(task: Task, encoder: Encoder) -> Callable[[Params], dict[str, float]]:
    """Figures that choose the epoch: of the held-out item's rank, or of what a model made to generate generates."""
    if encoder.decoder is None:
        eval_step = make_eval_step(encoder)
        return lambda params: means(metric_sums(evaluate(eval_step, composed(encoder, params), task.valid).rank))
    n, truth = task.config.split.n_out, task.valid.continuations(task.config.split.n_out)
    step = make_generate_step(encoder.decoder, n=n)

    def validate(params: Params) -> dict[str, float]:
        lists = generate_lists(step, composed(encoder, params), task.valid, n=n, max_length=encoder.max_length)
        found = list_ranks(lists, truth)
        return means(metric_sums(found.rank, where=found.where))

    return validate


def load_best(run: Path, like: TrainState) -> TrainState:
    """The state of the epoch that validation chose."""
    if not (run / "checkpoints").is_dir():
        raise InputError(f"{run} holds no checkpoints; let its training reach the end of an epoch first")
    with open_checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        latest = checkpoints.latest_step()
        best = 0 if latest is None else restore_progress(checkpoints, latest).best[0]
        if best == 0:
            raise InputError(f"{run} holds no validated checkpoint; let its training reach the end of an epoch first")
        return restore(checkpoints, like, best)[0]


def protocol(task: Task) -> dict[str, Any]:
    """What figures of the task mean, as `metrics.json` has it."""
    config = task.config
    return figures.protocol(
        task.store, task.split, max_length=config.max_length, mask_seen=config.mask_seen, times=config.times
    )


def test(task: Task, encoder: Encoder, params: Params) -> tuple[RankTable, dict[str, Any]]:
    """Ranks of the test items, and `test`, `valid`, `baselines` and `protocol` as `metrics.json` has them.

    Where the target is the first of the last n items, also `continuations`: figures of lists of n items in their place.
    """
    eval_step = make_eval_step(encoder)
    ranks = evaluate(eval_step, params, task.test)
    results = {
        "test": figures.figures(ranks.rank, users=ranks.user),
        "valid": figures.figures(evaluate(eval_step, params, task.valid).rank, users=task.valid.users),
        "baselines": figures.baseline_figures(task.store, task.split, task.test, mask_seen=task.config.mask_seen),
        "protocol": protocol(task),
    }
    if encoder.heads is not None:
        results["heads"] = _test_heads(task, encoder, params)
    if task.config.split.holds_continuations:
        results["continuations"] = continuation_figures(
            encoder, params, task.test, n=task.config.split.n_out, counts=training_counts(task.store, task.split)
        )
    return ranks, results


def _test_heads(task: Task, encoder: Encoder, params: Params) -> dict[str, Any]:
    store, queries = task.store, task.test
    assert queries.engagement is not None
    base_rate = base_rate_losses(queries.engagement, store, task.split, asked=queries.target_positions)
    return figures.head_figures(head_losses(make_head_step(encoder), params, queries), base_rate, users=queries.users)


def print_test(results: dict[str, Any], *, name: str) -> None:
    """The table of test figures, the model beside the baselines."""
    print(f"\n{figures.format_table({name: results['test'], **results['baselines']})}")
    if "heads" in results:
        print(f"\n{figures.format_heads(results['heads'])}")
    if "continuations" in results:
        print(f"\n{figures.format_table(results['continuations'])}")
    protocol = results["protocol"]
    label = "; time-aware: the model saw when each answer came" if protocol["time_aware"] else ""
    asked = f"{results['test']['n_users']:,} users; mean over users"
    if "n_queries" in results["test"]:
        asked += f"' {results['test']['n_queries']:,} targets"
    print(f"{asked} [95% interval]; {protocol['candidates']}{label}")


def costs(encoder: Encoder, state: TrainState, *, steps_per_epoch: int) -> dict[str, int]:
    """What a model takes to train: parameters, bytes of all that a step reads and changes, and steps."""
    return {
        "n_parameters": count_params(encoder.specs),
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "steps_per_epoch": steps_per_epoch,
    }


def publish(run: Path, task: Task, encoder: Encoder, trained: Trained, *, name: str) -> dict[str, Any]:
    """Tests the trained model, leaves figures, ranks and the learning curve in the run, and prints them."""
    params = composed(encoder, trained.state.averaged)
    ranks, results = test(task, encoder, params)
    per_epoch = trained.progress.validations[0][0]
    results["best_epoch"] = trained.progress.best[0] // per_epoch
    results["train_seconds"] = trained.progress.train_seconds
    results["stopped"] = trained.reason
    results["cost"] = costs(encoder, trained.state, steps_per_epoch=per_epoch)
    results["n_roll_backs"] = len(trained.progress.skipped)
    recommend = make_recommend(encoder)
    examples = []
    for query in np.linspace(0, len(task.test.users) - 1, 3, dtype=int):
        user = int(task.test.users[query])
        start, stop = int(task.store.offsets[user]), int(task.test.target_positions[query])
        history = task.store.items[start:stop].tolist()
        options: dict[str, Any] = {"mask_seen": task.config.mask_seen}
        if encoder.times != "none":
            options["times"] = task.store.columns["timestamp_us"][start : stop + 1] // 1_000_000
        if encoder.event_features:
            options["event_features"] = features_at(task.test.features, task.store, np.arange(start, stop))
        best = recommend(params, history, min(10, task.store.n_items), **options)
        examples.append(figures.format_example(task.store, history, best, user))
    if runtime.is_first():
        figures.write_ranks(run / "ranks.parquet", ranks, task.store, task.split)
        plot_learning_curve(run / "metrics.jsonl", run / "learning_curve.png", best_epoch=results["best_epoch"])
        # The last of its files: a run that has it has finished.
        write_json(run / "metrics.json", results)
        print_test(results, name=name)
        for example in examples:
            print("\n" + example)
        print(f"\nrun directory  {original(run)}\nevaluate it    {runs.evaluate_command(run)}")
        print(f"resume it      {runs.resume_command(run)}")
    return results
