"""The training loop: steps, validations, checkpoints, and when to stop."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array

from seqrec import checkpoint, phases, runtime
from seqrec.checkpoint import Progress
from seqrec.config import check_at_least, check_fields, check_share
from seqrec.data.batches import TrainingBatches
from seqrec.data.prefetch import prefetched
from seqrec.files import JsonObject
from seqrec.loss_spikes import Spike, describe_spike, find_spike
from seqrec.params import Params
from seqrec.row_updates import caught_up
from seqrec.sharding import agree_on_highest, on_host, split_rows
from seqrec.stopping import PerQuery, cooldown_line, epochs_of, named, no_gain, none_better, out_of_time, packed
from seqrec.training import StepMetrics, TrainState, TrainStep, with_cooldown
from seqrec.types import Batch, InputError


@dataclass(frozen=True)
class FitConfig:
    """How long to train, when to validate and save, and what to do when the loss diverges."""

    max_epochs: int = 15
    """Largest number of epochs; the learning rate has fallen to 0 at the end of the last, or at max-steps, unless its
    schedule is constant."""
    max_steps: int = 0
    """Largest number of steps, inside an epoch too; 0 means no limit but max-epochs."""
    validate_every_steps: int = 0
    """Steps between two validations, each followed by a checkpoint; 0 validates at the end of each epoch. The last step
    is always validated."""
    patience: int = 5
    """Stop after this many validations in a row without a better NDCG@10. With the schedule plateau, once so many have
    a mean no better than as many before them, the learning rate falls to 0 before training stops."""
    gain_errors: float = 1.0
    """With the schedule plateau: by how many standard errors of the queries' paired difference the mean NDCG@10 over
    the last validations must be above that over those before, to be better. 0: any rise counts."""
    decay_share: float = 0.2
    """With the schedule plateau: steps over which the learning rate falls to 0, as a share of the steps before, and at
    least one epoch where validation has stopped improving. It reaches 0 by max-epochs, max-steps or max-minutes. 0: it
    never falls, and training ends where validation has stopped improving."""
    max_minutes: float = 0.0
    """Stop after the step in which training time, earlier parts of a resumed run included, passes this; the state is
    then validated and saved. 0 means no limit."""
    log_every_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    save_every_steps: int = 2000
    """Steps between two checkpoints; one is also saved after each validation."""
    validate_raw: bool = False
    """Also validate the raw weights; the averaged weights still choose the best epoch."""
    on_spike: Literal["stop", "roll-back"] = "stop"
    """What to do when the loss spikes or becomes NaN or infinite: stop, or return to the last checkpoint and skip the
    batches that led to the spike."""
    spike_deviations: float = 10.0
    """A step's loss is a spike if it is this many running standard deviations above its running mean; 0 reacts to NaN
    and infinity only."""
    max_roll_backs: int = 3
    """Returns to a checkpoint that are allowed; the next spike stops the run."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "max_epochs", "patience", "log_every_steps", "save_every_steps", "max_roll_backs")
        check_at_least(self, 0, "max_steps", "validate_every_steps", "max_minutes", "spike_deviations", "gain_errors")
        check_share(self, "decay_share")

    def n_steps(self, steps_per_epoch: int) -> int:
        """Steps of a run that nothing stops earlier, which the learning rate's schedule goes by.

        >>> FitConfig(max_epochs=3).n_steps(10), FitConfig(max_epochs=3, max_steps=12).n_steps(10)
        (30, 12)
        """
        of_epochs = self.max_epochs * steps_per_epoch
        return min(self.max_steps, of_epochs) if self.max_steps else of_epochs

    def limit(self, steps_per_epoch: int) -> str:
        """In words, what ends such a run."""
        if self.max_steps == self.n_steps(steps_per_epoch):
            return f"reached max_steps={self.max_steps}"
        return f"reached max_epochs={self.max_epochs}"


_COOL_DOWN, _OUT_OF_TIME = 1, 2
"""What processes ask each other for, beside the numbers of signals, to which 2 is added: all heed the highest."""


def fit(
    state: TrainState,
    *,
    train_step: TrainStep,
    batches: TrainingBatches,
    validate: Callable[[Params], dict[str, float]],
    checkpoints: ocp.CheckpointManager,
    record: Callable[[JsonObject], None],
    rewind: Callable[[int], None],
    config: FitConfig,
    ndcg_of_queries: Callable[[], PerQuery | None] = lambda: None,
) -> tuple[TrainState, Progress, str]:
    """Trains from the latest checkpoint, or from `state` if there is none; returns the last state, the progress and
    why training stopped.

    After each epoch, or as often as the config says, and after the last step the averaged weights are validated
    (`validate` returns at least "ndcg@10") and a checkpoint is saved; the best and the latest are kept. `record`
    receives one dict for each interval and each validation. `rewind(step)` is called where training begins and after
    each roll-back: what was recorded of later steps will be recorded again.

    A state with a cooldown has the schedule plateau: the learning rate falls to 0 as its cooldown says or, if
    validation stops improving earlier, from then on and from the best weights. Steps count on when training returns to
    these, so `progress.step` is then ahead of `state.step`, the number of updates of the weights. `ndcg_of_queries()`
    returns the NDCG@10 of each query in the latest validation, from which the noise of its mean follows; None if it is
    not known.

    Raises:
      InputError: the loss is a spike, or the loss or the state has a number that is not finite, and `config` does not
        allow a roll-back; or a checkpoint cannot be written. The last good checkpoint stays.
      runtime.Interrupted: Ctrl-C or SIGTERM came to any of the processes; the state is saved, and all stop at the same
        step.
    """
    progress = Progress(seed=batches.seed)
    # Committed to its devices, as restored arrays are: otherwise the step is compiled twice.
    state = jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, state))
    # A step takes over the memory of its state, so only shapes and layouts are kept to restore into.
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        replace(state, constants=None),
    )
    if (saved := checkpoint.restore_latest(checkpoints, like)) is not None:
        state, progress = replace(saved[0], constants=state.constants), saved[1]
        runtime.log.info("resumed     from the checkpoint of step %d", progress.step)
    elif config.on_spike == "roll-back":
        checkpoint.save(checkpoints, state, progress)
    del saved
    constants = state.constants

    def step_with_constants(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        # A step takes over their memory too, and returns them.
        nonlocal constants
        state, metrics = train_step(state, batch)
        constants = state.constants
        return state, metrics

    training = _Training(step_with_constants, batches, validate, checkpoints, record, config, ndcg_of_queries)
    rewind(progress.step)
    while True:
        try:
            state, progress, reason = _train(training, state, progress)
        except Spike as spike:
            checkpoint.finish(checkpoints)
            # Without the traceback, whose frames would keep the old state in memory.
            state, progress = _roll_back(training, spike.with_traceback(None), progress, like)
            state = replace(state, constants=constants)
            rewind(progress.step)
        else:
            if reason:
                return state, progress, reason
            from_step, n_steps = _next_cooldown(progress, config, batches.steps_per_epoch)
            if from_step != progress.step:
                del state  # two would not fit where one does
                state = replace(checkpoint.restore(checkpoints, like, from_step)[0], constants=constants)
            state = with_cooldown(state, int(on_host(state.step)), n_steps)
            if runtime.is_first():
                record(cooldown_line(progress.step, from_step, batches.steps_per_epoch))
            runtime.log.info(
                "cooldown    after %s: the learning rate falls to 0 over %s steps, from the weights of %s",
                progress.cooldown,
                f"{n_steps:,}",
                named(from_step, batches.steps_per_epoch),
            )


class _Training(NamedTuple):
    """What stays as it is while states and progress go on and back."""

    train_step: TrainStep
    batches: TrainingBatches
    validate: Callable[[Params], dict[str, float]]
    checkpoints: ocp.CheckpointManager
    record: Callable[[JsonObject], None]
    config: FitConfig
    ndcg_of_queries: Callable[[], PerQuery | None]


def _roll_back(training: _Training, spike: Spike, progress: Progress, like: TrainState) -> tuple[TrainState, Progress]:
    """The latest checkpoint, with two batches skipped from now on: that of the spike, and the one before it.

    Raises:
      InputError: the config says to stop, or there is no checkpoint.
    """
    batches, checkpoints, config = training.batches, training.checkpoints, training.config
    finding = describe_spike(spike, batches, progress.position(spike.step))
    n_before = len(progress.skipped)
    if config.on_spike == "stop" or n_before == config.max_roll_backs:
        kept = checkpoints.latest_step()
        tried = f", after {n_before} roll-backs" if n_before else ""
        raise InputError(
            f"{finding}{tried}; "
            + ("no checkpoint was saved before it" if kept is None else f"the checkpoint of step {kept} is kept")
            + "; try a lower --learning-rate or --clip-norm 1"
            + (", or go on with --resume --on-spike roll-back" if config.on_spike == "stop" else "")
        )
    restored = checkpoint.restore_latest(checkpoints, like)
    if restored is None:
        raise InputError(f"{finding}; there is no checkpoint to return to; try a lower --learning-rate")
    state, kept = restored
    steps = range(max(kept.step + 1, spike.step - 1), spike.step + 1)
    skipped = tuple(progress.position(step) for step in steps)
    if runtime.is_first():
        runtime.log.warning(
            "rolled back %s; going on from the checkpoint of step %d without this batch%s",
            finding,
            kept.step,
            " and the one before it" if len(skipped) > 1 else "",
        )
    return state, replace(kept, skipped=(*progress.skipped, skipped))


def _train(training: _Training, state: TrainState, progress: Progress) -> tuple[TrainState, Progress, str]:
    """As `fit`, up to the first spike, or with no reason up to where a cooldown starts, for `progress.cooldown`.

    Raises:
      Spike: nothing was saved after it.
    """
    train_step, batches, validate, checkpoints, record, config, ndcg_of_queries = training
    per_epoch = batches.steps_per_epoch
    full_rate_until, n_steps = _last_steps(state, progress, config.n_steps(per_epoch))
    is_plateau, validate_every = state.cooldown is not None, config.validate_every_steps or per_epoch
    earlier_seconds, started = progress.train_seconds, runtime.seconds()
    interval: list[StepMetrics] = []
    interval_started = started
    latest: JsonObject = {}

    def seconds_so_far() -> float:
        return earlier_seconds + runtime.seconds() - started

    def note(line: JsonObject) -> None:
        if runtime.is_first():
            record(line)

    def flush(step: int) -> None:
        nonlocal interval_started, latest, progress
        if not interval:
            return
        losses, counts, norms = np.array(jax.device_get([(m.loss, m.n_targets, m.gradient_norm) for m in interval])).T
        running = find_spike(
            progress.loss, losses, norms, first_step=step - len(losses) + 1, deviations=config.spike_deviations
        )
        progress = replace(progress, loss=running)
        now = runtime.seconds()
        rate = counts.sum() / (now - interval_started)
        latest = {
            "step": step,
            "epoch": step / per_epoch,
            # An interval without targets has no weights.
            "loss": float(np.average(losses, weights=counts if counts.any() else None)),
            "gradient_norm": float(norms.mean()),
            "events_per_second": round(rate),
            "step_seconds": (now - interval_started) / len(losses),
        }
        note(latest)
        phase.note = f"loss {latest['loss']:.3f}, {rate:,.0f} events/s"
        interval.clear()
        interval_started = now

    def save(step: int, **changes: Any) -> None:
        nonlocal progress
        # The last loss was computed before the last update, so the weights are checked too.
        if not _is_finite(state):
            norm = float(metrics.gradient_norm)
            raise Spike(f"the weights after step {step} are not all finite", step=step, gradient_norm=norm)
        progress = replace(progress, step=step, train_seconds=seconds_so_far(), **changes)
        checkpoint.save(checkpoints, state, progress)

    def validate_and_save(step: int) -> None:
        nonlocal interval_started
        best_before, epoch = progress.best[1], epochs_of(step, per_epoch)
        evaluated = caught_up(state)
        figures = validate(evaluated.averaged)
        latest_ndcg = []
        if at_full_rate(step):
            ndcg = ndcg_of_queries()
            # Where only the mean is known, any rise counts.
            latest_ndcg = [packed(np.array([figures["ndcg@10"]]) if ndcg is None else ndcg)]
        # Before the save: a run that is killed in between drops the line when it goes on, and writes it again.
        raw = {"valid_raw": validate(evaluated.params)} if config.validate_raw else {}
        del evaluated  # a second table, where steps are sparse
        note({"step": step, "epoch": epoch, "valid": figures, **raw})
        validations = (*progress.validations, (step, figures["ndcg@10"]))
        save(step, validations=validations, ndcg=(*progress.ndcg, *latest_ndcg)[-2 * config.patience :])
        if runtime.is_first():
            phase.say(
                (f"epoch {epoch:3d}" if isinstance(epoch, int) else f"step {step:6,}")
                + f"   loss {latest['loss']:.3f}   {latest['events_per_second']:>9,} events/s"
                + f"   validation NDCG@10 {figures['ndcg@10']:.4f}"
                + ("   best so far" if figures["ndcg@10"] > best_before else "")
            )
        interval_started = runtime.seconds()

    def stop_request(step: int) -> int:
        """The highest that any process asks for: a signal's number and `_OUT_OF_TIME`, one of these two, or 0."""
        reason, limit, passed = 0, 60 * config.max_minutes, seconds_so_far()
        if (number := runtime.requested_stop()) is not None:
            reason = _OUT_OF_TIME + number
        elif limit and passed >= limit:
            reason = _OUT_OF_TIME
        elif limit and at_full_rate(step) and passed * (1 + config.decay_share) >= limit:
            reason = _COOL_DOWN
        return agree_on_highest(reason)

    def at_full_rate(step: int) -> bool:
        """Whether a cooldown may yet start after this step."""
        return is_plateau and step < full_rate_until

    def batch_of(step: int) -> Batch:
        return batches.batch(progress.position(step))

    def ends(step: int) -> tuple[str, str]:
        """Why no further step is taken, and why a cooldown starts."""
        reason = "" if is_plateau else none_better(progress, config.patience, per_epoch)
        why = no_gain(progress, config.patience, n_errors=config.gain_errors) if at_full_rate(step) else ""
        if not config.decay_share:
            return reason or why or out_of_time(progress, config.max_minutes), ""
        return reason or out_of_time(progress, config.max_minutes), why

    step = progress.step
    reason, why = ends(step)
    first = step + 1
    steps = range(first, n_steps + 1) if not (reason or why) else range(0)
    counted = phases.progress("training", n_steps, unit="steps", done=progress.step, heeds_stop=False)
    with counted as phase, runtime.interruptible(), prefetched(batch_of) as batch:
        for step in steps:
            with phases.progress("compiling the training step") if step == first else contextlib.nullcontext():
                state, metrics = train_step(state, split_rows(batch(step)))
            if interval:
                # No more than one step waits behind the one under way, so that the clock tells how far training is.
                jax.block_until_ready(interval[-1])
            interval.append(metrics)
            phase()
            if step == first:
                phase.measure_from_here()
            is_due, is_save_due = step % validate_every == 0 or step == n_steps, step % config.save_every_steps == 0
            if len(interval) == config.log_every_steps or step % per_epoch == 0 or is_due or is_save_due:
                flush(step)
            # Processes agree at the end of an interval, where they wait for the step's metrics anyway.
            stop = stop_request(step) if jax.process_count() == 1 or not interval else 0
            if stop:
                flush(step)
            if is_due or stop == _OUT_OF_TIME:
                validate_and_save(step)
                reason, why = ends(step) if step < n_steps else ("", "")
            elif is_save_due or stop > _OUT_OF_TIME:
                save(step)
            if stop > _OUT_OF_TIME:
                checkpoint.finish(checkpoints)
                raise runtime.Interrupted(f"stopped at step {step}; the state is saved", stop - _OUT_OF_TIME)
            if stop == _COOL_DOWN:
                why = why or f"{seconds_so_far() / 60:.1f} of max_minutes={config.max_minutes:g}"
            if reason or why:
                break
            if is_plateau and step == full_rate_until < n_steps and runtime.is_first():
                record(cooldown_line(step, step, per_epoch))
                phase.say(f"cooldown    the learning rate falls to 0 over the last {n_steps - step:,} steps of the run")
        checkpoint.finish(checkpoints)
    if why and not reason:
        return state, replace(progress, step=step, train_seconds=seconds_so_far(), cooldown=why), ""
    cooled = f"the learning rate has fallen to 0, from after {progress.cooldown}" if progress.cooldown else ""
    return state, progress, reason or cooled or config.limit(per_epoch)


@jax.jit
def _is_finite(state: TrainState) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _last_steps(state: TrainState, progress: Progress, n_steps: int) -> tuple[int, int]:
    """The last step at the full learning rate and the last of all; both `n_steps` without the schedule plateau."""
    if state.cooldown is None:
        return n_steps, n_steps
    start, n_falling = on_host(state.cooldown).tolist()
    full_rate_until = progress.step - int(on_host(state.step)) + start
    return full_rate_until, full_rate_until + n_falling


def _next_cooldown(progress: Progress, config: FitConfig, per_epoch: int) -> tuple[int, int]:
    """The step from whose weights the rate falls, and over how many steps; it ends within the run."""
    n_left = config.n_steps(per_epoch) - progress.step
    if no_gain(progress, config.patience, n_errors=config.gain_errors):
        from_step = progress.best[0]
        return from_step, min(n_left, max(per_epoch, round(config.decay_share * from_step)))
    # With some time to spare, since steps are not equally fast.
    return progress.step, min(n_left, max(1, int(0.95 * config.decay_share * progress.step)))
