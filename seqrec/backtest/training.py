"""Training and testing a model on many days by the same compiled programs."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from seqrec import runtime
from seqrec.backtest.periods import Period, unknown_ids
from seqrec.baselines.popularity import training_counts
from seqrec.data.batches import TrainingBatches, Windows, training_batches
from seqrec.data.prefetch import prefetched
from seqrec.data.store import SequenceStore
from seqrec.evaluation import RankTable, evaluate
from seqrec.model import Model, composed_params
from seqrec.params import Params, leaves_by_name
from seqrec.run.data import Task
from seqrec.run.start_from import mean_rows, neighbour_counts, rare_items, start_params
from seqrec.sharding import on_host, split_items, split_rows
from seqrec.training import (
    OptimizerConfig,
    TrainState,
    TrainStep,
    cooldown_within,
    init_state,
    make_optimizer,
    make_train_step,
    with_cooldown,
)
from seqrec.types import InputError, QueryBatch


class Length(NamedTuple):
    """How long a training is, and what its learning rate does; numbers that no program depends on."""

    n_steps: int
    n_warmup_steps: int
    learning_rate: float


class AnyLengthState(NamedTuple):
    """Optimizer state with the length of the training in it."""

    inner: Any
    count: Any
    length: Length


def optimizer_of_any_length(config: OptimizerConfig, specs: Params) -> optax.GradientTransformation:
    """As `make_optimizer`, but the length of the training is in its state, so that one compiled step serves all.

    Its `init` leaves the length at one step; `with_length` sets it.
    """
    inner = make_optimizer(
        dataclasses.replace(config, learning_rate=1.0, schedule="constant", warmup_steps=0), specs, n_steps=1
    )

    def init(params: Params) -> AnyLengthState:
        length = Length(jnp.int32(1), jnp.int32(0), jnp.float32(config.learning_rate))
        return AnyLengthState(inner.init(params), jnp.int32(0), length)

    def update(gradients: Params, state: AnyLengthState, params: Params | None = None) -> tuple[Params, AnyLengthState]:
        updates, inner_state = inner.update(gradients, state.inner, params)
        # AdamW's update is proportional to its learning rate, weight decay included.
        rate = learning_rate(state.count, state.length, schedule=config.schedule)
        return jax.tree.map(lambda each: rate * each, updates), AnyLengthState(
            inner_state, state.count + 1, state.length
        )

    return optax.GradientTransformation(init, update)


def learning_rate(count: Array, length: Length, *, schedule: str) -> Float[Array, ""]:
    """The learning rate after `count` steps: a linear rise, then the schedule of `OptimizerConfig`.

    >>> rates = [float(learning_rate(jnp.int32(at), Length(6, 2, 0.5), schedule="cosine")) for at in (0, 1, 2, 4, 6)]
    >>> [round(rate, 6) for rate in rates]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    rise = jnp.where(count < length.n_warmup_steps, count / jnp.maximum(length.n_warmup_steps, 1), 1.0)
    if schedule != "cosine":  # the state says where plateau falls
        return length.learning_rate * rise
    n_falling = jnp.maximum(length.n_steps - length.n_warmup_steps, 1)
    passed = jnp.clip((count - length.n_warmup_steps) / n_falling, 0.0, 1.0)
    return length.learning_rate * rise * 0.5 * (1.0 + jnp.cos(jnp.pi * passed))


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """A model with its compiled programs, for all days."""

    task: Task
    model: Model
    config: Any
    """`TrainingConfig` of the script."""
    train_step: TrainStep
    rank_step: Any
    """As `make_eval_step`, with the ids that are no candidates."""
    first: TrainState
    """The state before the first step of a training from random weights, on the host."""
    layout: Any
    """Where the devices hold each array of a state."""
    n_rows: int
    """Packed rows with data in a batch."""
    n_unknown: int
    """Room for items that are no candidates."""

    def batches(self, period: Period, *, seed: int, active_since: Period | None = None) -> TrainingBatches:
        """All events before the period, in batches of the same shape for all periods.

        With `active_since` only the newest window of each user with an event between that period's beginning and this
        one's.
        """
        data, split = self.task.config, period.split
        if active_since is not None:
            is_active = split.train_stop > active_since.split.train_stop
            nothing = np.asarray(self.task.store.offsets[:-1])
            split = split._replace(train_stop=np.where(is_active, split.train_stop, nothing))
        made = training_batches(
            self.task.store,
            split,
            max_length=data.max_length,
            batch_size=data.batch_size,
            seed=seed,
            windows=Windows(data.whole_histories and active_since is None, data.random_crops),
            share=self.task.train.share,
            fields=self.task.train.fields,
        )
        return made._replace(n_rows=self.n_rows)

    def train(
        self, params: Params, batches: TrainingBatches, length: Length, *, first_step: int, is_averaged: bool
    ) -> Params:
        """The weights after training from `params`, averaged or raw, on the host; the optimizer starts afresh.

        `first_step` numbers the first step for the draws of dropout.

        Raises:
          InputError: the loss is not finite at the end.
          runtime.Interrupted: Ctrl-C or SIGTERM came.
        """
        fresh = self.first
        opt_state = fresh.opt_state._replace(
            length=Length(
                np.int32(length.n_steps),  # type: ignore[arg-type]
                np.int32(length.n_warmup_steps),  # type: ignore[arg-type]
                np.float32(length.learning_rate),  # type: ignore[arg-type]
            )
        )
        host = TrainState(np.int32(first_step), params, opt_state, params)
        if fresh.cooldown is not None:
            start, n_falling = cooldown_within(length.n_steps, decay_share=self.config.fit.decay_share)
            host = dataclasses.replace(host, cooldown=np.array([first_step + start, n_falling], np.int32))
        # Copied to the devices even where these share the host's memory, which a step takes over.
        state = jax.tree.map(lambda each, layout: jax.device_put(np.array(each), layout), host, self.layout)
        state = dataclasses.replace(state, constants=split_items(self.model.step_constants))
        metrics = None
        with prefetched(lambda step: batches.batch(step - 1)) as batch:
            for step in range(1, length.n_steps + 1):
                runtime.check_interrupt()
                state, metrics = self.train_step(state, split_rows(batch(step)))
        if metrics is None or not np.isfinite(float(metrics.loss)):
            raise InputError("the loss is not finite after training; try a lower --learning-rate, or --clip-norm 1")
        return jax.tree.map(on_host, state.averaged if is_averaged else state.params)

    def test(self, params: Params, period: Period, *, is_known: Bool[np.ndarray, " n_items_plus_1"]) -> RankTable:
        """Ranks of the period's targets among the items that are known; a target that is not is a miss."""
        assert period.queries is not None
        queries = period.queries
        is_miss = np.asarray(queries.is_miss) | ~is_known[queries.targets]
        unknown = unknown_ids(is_known, n_ids=self.n_unknown)[None]

        def step(params: Params, batch: QueryBatch) -> tuple[Array, ...]:
            return self.rank_step(params, unknown, batch)

        composed = composed_params(self.model, jax.device_put(params))
        return evaluate(step, composed, queries._replace(is_miss=is_miss))


def warm_params(
    params: Params,
    fresh: Params,
    store: SequenceStore,
    period: Period,
    *,
    specs: Params,
    known_then: Bool[np.ndarray, " n_items_plus_1"],
    has_rows_of_its_own: bool = True,
) -> Params:
    """`params` with the rows of items that are new since then started as `--start-from` starts them.

    Unless an item has rows of its own alone, as beside shared vectors, new items have those of `fresh`.
    """
    rows = np.arange(len(known_then))
    rows[period.is_known & ~known_then] = -1
    new_rows = None
    if has_rows_of_its_own:
        kept = np.where(known_then | (rows == 0), rows, -1)
        rare = kept[rare_items(training_counts(store, period.split), kept)]
        new_rows = functools.partial(mean_rows, neighbours=neighbour_counts(store, period.split, kept), rare=rare)
    return start_params(specs, fresh, leaves_by_name(params), rows, new_rows=new_rows)


def make_trainer(task: Task, model: Model, config: Any, periods: list[Period]) -> Trainer:
    """The programs of a backtest; nothing is compiled yet."""
    optimizer = optimizer_of_any_length(config.optimizer, model.specs)
    train_step = make_train_step(
        model,
        optimizer,
        seed=config.run.seed,
        average_decay=config.optimizer.average_decay,
        accumulation_steps=config.optimizer.accumulation_steps,
    )

    @jax.jit
    def rank_step(params: Params, unknown: Array, queries: QueryBatch) -> tuple[Array, Array]:
        vectors = model.queries(params, queries.batch, queries.last)
        shared = jnp.broadcast_to(unknown, (len(queries.targets), unknown.shape[1]))
        exclude = jnp.concatenate([queries.excluded, shared], axis=1)
        return model.head.rank(params, vectors, queries.targets, exclude=exclude)

    state = dataclasses.replace(init_state(model, optimizer, seed=config.run.seed), constants=None)
    if config.optimizer.schedule == "plateau":
        state = with_cooldown(state, 0, 1)  # each training has its own
    layout = jax.tree.map(lambda leaf: leaf.sharding, state)
    first = jax.tree.map(on_host, state)
    n_unknown = int(np.sum(~periods[0].is_known[1:]))
    return Trainer(task, model, config, train_step, rank_step, first, layout, task.train.n_rows, n_unknown)
