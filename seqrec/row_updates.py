"""Training steps that cost what they touch: of a large item table, the rows that the batch reads.

A dense step walks the whole table for its gradient, for Adam, decay and average. Here a step updates the rows that its
loss has read, and what a row has missed since its last update is made up for when it is read again, or evaluated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from seqrec.model import Model, keep_params, loss_keys
from seqrec.params import Params, init_params
from seqrec.sharding import constrain_items, constrain_params, constrain_state, split_items
from seqrec.training import (
    OptimizerConfig,
    StepMetrics,
    TrainState,
    TrainStep,
    kept_in_average,
    learning_rate,
    make_optimizer,
    rate_share,
    scaled_to_rate,
    weight_in_average,
)
from seqrec.types import Batch, InputError

TABLE = "item_table"
B1, EPS = 0.9, 1e-8
"""Adam's, as in `training.scale_by_row_wise_adam`."""


@struct.dataclass
class RowState:
    """What the optimizer keeps of each row of the item table, and of all.

    Fields are unchecked, since trees of shapes, of layouts and of nothing have this form too.
    """

    first: Any
    """Float[Array, "n_rows d_model"]. Adam's first moment when the row was last updated. What a row that is read again
    has missed counts as if its gradient had been that of this step all the while."""
    second: Any
    """Float[Array, " n_rows"]. Its second moment then, one number a row as in `training.scale_by_row_wise_adam`; it
    falls in each step, as in dense ones."""
    step: Any
    """Int[Array, " n_rows"]. Steps taken when it was last updated."""
    log_decay: Any
    """Float[Array, " n_rows"]. `total_log_decay` at that time."""
    past: Any
    """Float[Array, " n_rows"]. `total_past` at that time."""
    total_log_decay: Any
    """Float[Array, ""]. Log of the product of all steps' weight decays, 1 - rate x decay."""
    total_past: Any
    """Float[Array, ""]. The sum over the steps j so far of average_decay ** (step - j) / (product of the decays after
    step j): what a row that is 1 now, and was but decayed, has gathered for its average. With a cooldown the powers
    are the weights of step j in the average."""
    average_decay: Any
    """Float[Array, ""]. Decay of the moving average."""


@struct.dataclass
class SparseState:
    """`TrainState.opt_state` of sparse updates."""

    others: Any
    """The optimizer's state of all parameters but the item table."""
    table: RowState


class _ReadRows:
    """Stands for the item table inside a loss, which may read rows of it by their ids, and nothing else.

    What the i-th reading returns is a sum with `offsets[i]`, so the loss's gradient by the offsets is that by the rows.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[Array], Array], offsets: Sequence[Array] | None = None):
        self.shape, self.ndim, self.dtype = shape, len(shape), jnp.dtype(jnp.float32)
        self.ids: list[Array] = []
        self._read, self._offsets = read, offsets

    def __getitem__(self, ids: Any) -> Array:
        rows = self._read(ids)
        if self._offsets is not None:
            rows = rows + self._offsets[len(self.ids)]
        self.ids.append(ids)
        return rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getattr__(self, name: str) -> Any:
        raise InputError(
            "this loss reads the whole item table, so a step updates all of it; use --loss sampled-softmax or another "
            "sampled loss, or --item-updates dense"
        )

    __jax_array__ = property(lambda self: self.__getattr__("__jax_array__"))


def reads_rows_alone(model: Model) -> bool:
    """Whether the model has an item table that no step makes anew; its loss may yet read the whole of it."""
    return model.compose is keep_params and TABLE in model.specs


def _check(model: Model) -> None:
    if not reads_rows_alone(model):
        raise InputError("item vectors that are made of features are all made anew each step; use --item-updates dense")


def init_sparse_state(model: Model, config: OptimizerConfig, *, n_steps: int, seed: int) -> TrainState:
    """The state before the first step of `make_sparse_step`, which raises the same errors."""
    _check(model)
    specs = _without_table(model.specs)
    optimizer = make_optimizer(replace(config, clip_norm=0.0), specs, n_steps=n_steps)

    @jax.jit
    def first_state(key: Array) -> TrainState:
        params = init_params(model.specs, key)
        n_rows = len(params[TABLE])
        rows = RowState(
            first=jnp.zeros_like(params[TABLE]),
            second=jnp.zeros(n_rows),
            step=jnp.zeros(n_rows, jnp.int32),
            log_decay=jnp.zeros(n_rows),
            past=jnp.zeros(n_rows),
            total_log_decay=jnp.zeros(()),
            total_past=jnp.zeros(()),
            average_decay=jnp.float32(config.average_decay),
        )
        others = constrain_state(optimizer.init(_without_table(params)), specs)
        params = constrain_params(params, model.specs)
        averaged = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), params, SparseState(others, _laid_out(rows)), averaged)

    return first_state(jax.random.key(seed)).replace(constants=split_items(model.step_constants))


def make_sparse_step(model: Model, config: OptimizerConfig, *, n_steps: int, seed: int) -> TrainStep:
    """As `training.make_train_step` with row-wise second moments, but of the item table only rows that are read change.

    Second moment, decay and moving average of the steps that a row has missed are made up for at its next update, as if
    it had taken part in each; the first moment as if its gradient had been this step's in each, so that it moves at
    once by what dense steps move it afterwards. So where every row is read each step, states are those of dense steps.

    Raises:
      InputError: item vectors are made of features, the loss reads the whole table, or batches are split in parts.
    """
    _check(model)
    if config.accumulation_steps > 1:
        raise InputError(
            f"accumulation_steps={config.accumulation_steps} adds up gradients of whole parameters; use 1, or "
            "--item-updates dense"
        )
    specs = _without_table(model.specs)
    optimizer = make_optimizer(replace(config, clip_norm=0.0), specs, n_steps=n_steps)
    rate_of = learning_rate(config, n_steps=n_steps)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        keys = loss_keys(jax.random.fold_in(jax.random.key(seed), state.step))
        table, others, rows = state.params[TABLE], _without_table(state.params), state.opt_state.table

        def loss(others: Params, read: _ReadRows) -> tuple[Array, Array]:
            return model.loss({**others, TABLE: read}, state.constants, batch, keys=keys)

        def readings(others: Params) -> list[Array]:
            read = _ReadRows(table.shape, lambda ids: jnp.zeros((*ids.shape, table.shape[1])))
            loss(others, read)
            return read.ids

        def mean_loss(others: Params, offsets: list[Array]) -> tuple[Array, tuple[Array, list[Array]]]:
            def weights(ids: Array) -> Array:
                return table[ids] * jnp.exp(rows.total_log_decay - rows.log_decay[ids])[..., None]

            read = _ReadRows(table.shape, weights, offsets)
            total, count = loss(others, read)
            return total / jnp.maximum(count, 1), (count, read.ids)

        shapes = jax.eval_shape(readings, others)
        offsets = [jnp.zeros((*ids.shape, table.shape[1])) for ids in shapes]
        (mean, (count, ids)), gradients = jax.value_and_grad(mean_loss, (0, 1), has_aux=True)(others, offsets)
        ids, of_readings = jnp.concatenate([each.reshape(-1) for each in ids]), gradients[1]
        # Ids beyond the table fill up the list of those that are read.
        touched, places = jnp.unique(ids, size=ids.size, fill_value=len(table), return_inverse=True)
        of_rows = jnp.zeros((ids.size, table.shape[1]))
        of_rows = of_rows.at[places].add(jnp.concatenate([each.reshape(-1, table.shape[1]) for each in of_readings]))

        norm = jnp.sqrt(optax.tree.norm(gradients[0], squared=True) + jnp.sum(jnp.square(of_rows)))
        if config.clip_norm:
            scale = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-30))
            gradients, of_rows = jax.tree.map(lambda leaf: scale * leaf, (gradients, of_rows))
        updates, of_others = optimizer.update(gradients[0], state.opt_state.others, others)
        others = constrain_params(optax.apply_updates(others, scaled_to_rate(updates, state)), specs)
        new_weight = weight_in_average(state, config.average_decay)
        averaged = optax.incremental_update(others, _without_table(state.averaged), new_weight)
        decay = config.weight_decay if model.specs[TABLE].decay else 0.0
        rate = rate_of(state.step)
        if state.cooldown is not None:
            rate = rate * rate_share(state.step, state.cooldown)
        table, mean_table, rows = _update_rows(state, touched, of_rows, rate, decay, config.b2)
        new = replace(
            state,
            step=state.step + 1,
            params={**others, TABLE: table},
            opt_state=SparseState(of_others, rows),
            averaged={**averaged, TABLE: mean_table},
        )
        return new, StepMetrics(loss=mean, n_targets=count, gradient_norm=norm)

    return jax.jit(step, donate_argnums=0)


Tables = tuple[Array, Array, RowState]
"""The item table, its average, and what the optimizer keeps of it."""


def _update_rows(state: TrainState, touched: Array, gradients: Array, rate: Any, decay: Any, b2: float) -> Tables:
    """The tables after one step's gradients of the rows `touched`."""
    step, cooldown = state.step, state.cooldown
    tables = table, mean_table, rows = state.params[TABLE], state.averaged[TABLE], state.opt_state.table
    weights, averages, old = jax.tree.map(
        lambda leaf: leaf.at[touched].get(mode="clip") if leaf.ndim else leaf, (table, mean_table, rows)
    )
    weights, averages = _caught_up(weights, averages, old, step, cooldown)
    n_steps = (step + 1).astype(jnp.float32)
    since = n_steps - old.step
    kept_first = B1 ** since[:, None]
    first = kept_first * old.first + (1 - kept_first) * gradients
    second = b2**since * old.second + (1 - b2) * jnp.mean(jnp.square(gradients), axis=1)
    moved = (first / (1 - B1**n_steps)) / (jnp.sqrt(second / (1 - b2**n_steps))[:, None] + EPS)
    weights = weights - rate * (moved + decay * weights)
    new_weight = weight_in_average(state, old.average_decay)
    kept = old.average_decay if cooldown is None else 1 - new_weight
    averages = kept * averages + new_weight * weights
    total = rows.total_log_decay + jnp.log1p(-rate * decay)
    past = (1 if cooldown is None else new_weight) + kept / (1 - rate * decay) * rows.total_past
    # By way of all that was read: what could be written earlier XLA copies first, whole.
    is_number = ~jnp.isnan(averages[:, 0])
    when, log_decay, own_past = (jnp.where(is_number, each, 0) for each in (step + 1, total, past))
    new = RowState(first, second, when, log_decay, own_past, total, past, old.average_decay)

    def put(leaf: Array, values: Array) -> Array:
        return leaf.at[touched].set(values, mode="drop", indices_are_sorted=True) if leaf.ndim else values

    table, mean_table, rows = jax.tree.map(put, tables, (weights, averages, new))
    return (*constrain_items((table, mean_table)), _laid_out(rows))


def _caught_up(
    weights: Array, averages: Array, rows: RowState, step: Array, cooldown: Array | None
) -> tuple[Array, Array]:
    """Rows of the item table and of its average as they stand after `step` steps, of which they missed some."""
    decayed = jnp.exp(rows.total_log_decay - rows.log_decay)
    if cooldown is None:
        kept = rows.average_decay ** (step - rows.step).astype(jnp.float32)
    else:
        kept = jnp.where(rows.average_decay > 0, kept_in_average(rows.step, step, cooldown), rows.step == step)
    # What the missed steps add to the average of a row of ones, as it now stands.
    added = decayed * rows.total_past - kept * rows.past
    if cooldown is None:
        added = (1 - rows.average_decay) * added
    return decayed[:, None] * weights, kept[:, None] * averages + added[:, None] * weights


_caught_up_tables = jax.jit(_caught_up)


def caught_up(state: TrainState) -> TrainState:
    """The state whose rows have made up for all missed steps, to evaluate; training goes on from the one given.

    A state of dense steps misses none.
    """
    opt_state: Any = state.opt_state
    if has_sparse_updates(opt_state):  # as a checkpoint has it
        opt_state = SparseState(opt_state["others"], RowState(**opt_state["table"]))
    return _caught_up_state(replace(state, opt_state=opt_state)) if isinstance(opt_state, SparseState) else state


def has_sparse_updates(opt_state: Any) -> bool:
    """Whether this, as a checkpoint has it, is the state of sparse updates."""
    return isinstance(opt_state, Mapping) and opt_state.keys() == {"others", "table"}


def _caught_up_state(state: TrainState) -> TrainState:
    rows = state.opt_state.table
    # Compiled alone, as in `caught_up_average`, so that both are the same to the bit.
    table, average = _caught_up_tables(state.params[TABLE], state.averaged[TABLE], rows, state.step, state.cooldown)
    rows = replace(
        rows,
        step=jnp.full_like(rows.step, state.step),
        log_decay=jnp.full_like(rows.log_decay, rows.total_log_decay),
        past=jnp.full_like(rows.past, rows.total_past),
    )
    return replace(
        state,
        params={**state.params, TABLE: table},
        averaged={**state.averaged, TABLE: average},
        opt_state=replace(state.opt_state, table=rows),
    )


NEEDED_TO_CATCH_UP = ("step", "log_decay", "past", "total_log_decay", "total_past", "average_decay")
"""Fields of `RowState` that `caught_up_average` reads."""


def caught_up_average(table: Any, mean_table: Any, rows: RowState, step: Any, cooldown: Any = None) -> Array:
    """The average of the item table, whose rows have made up for all missed steps; it takes the tables' memory.

    Of the optimizer's state it reads the fields `NEEDED_TO_CATCH_UP`; the others may be None.
    """
    return jax.jit(_caught_up, donate_argnums=(0, 1))(table, mean_table, rows, step, cooldown)[1]


def _without_table(tree: Params) -> Params:
    return {name: leaf for name, leaf in tree.items() if name != TABLE}


def _laid_out(rows: RowState) -> RowState:
    """The arrays with a row an item, split as the item table is."""
    return jax.tree.map(lambda leaf: constrain_items(leaf) if leaf.ndim else leaf, rows)
