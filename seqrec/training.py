"""State in, state out: the optimizer and the jitted training step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from seqrec.config import TRACED, Range, check_above, check_at_least, check_fields, check_share
from seqrec.model import Model, loss_keys
from seqrec.params import Params, ParamSpec, decay_mask, init_params
from seqrec.sharding import constrain_params, constrain_state, deal_rows, split_items
from seqrec.types import Batch


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) with warm-up, a schedule and averaged weights."""

    learning_rate: Annotated[float, TRACED, Range(3e-4, 1e-2, log=True)] = 2e-3
    """Learning rate after warm-up."""
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    """Learning rate after warm-up. cosine: it falls to 0 at the end of the last epoch. constant: it stays. plateau: it
    stays until validation stops improving or the end is near, and then falls to 0; see --patience and --decay-share."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: Annotated[float, TRACED, Range(1e-3, 0.5, log=True)] = 0.05
    """AdamW's decoupled weight decay, applied to matrices and embedding tables; it is multiplied by the learning rate.
    """
    b2: float = 0.999
    """Decay rate of Adam's second-moment estimate, 0 to below 1."""
    second_moments: Literal["full", "rows"] = "full"
    """Adam's second moments of the item table: one per number (full), or one per item (rows), which halves the
    optimizer's memory of large tables."""
    item_updates: Literal["auto", "dense", "sparse"] = "auto"
    """Which rows of the item table a step updates. dense: all. sparse: those that it reads, for sampled losses; a step
    then costs the same however many items there are. auto: sparse where the loss is sampled and there are 100,000
    items or more."""
    accumulation_steps: int = 1
    """Split each batch into this many parts and add up their gradients before the update, to save memory."""
    clip_norm: float = 0.0
    """Largest norm of a step's gradient; larger ones are scaled down to it. 0 means no limit."""
    average_decay: float = 0.99
    """Decay of the exponential moving average of the weights, 0 to below 1; the averaged weights are the ones
    evaluated. 0 evaluates the raw weights. With the schedule plateau any other value means an average over about the
    last ninth of the steps so far."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_above(self, 0, "learning_rate")
        check_share(self, "b2", "average_decay", one=False)
        check_at_least(self, 0, "warmup_steps", "weight_decay", "clip_norm")
        check_at_least(self, 1, "accumulation_steps")


@struct.dataclass
class TrainState:
    """All that a step reads and changes."""

    step: Any
    """Steps taken, Int[Array, ""]; unchecked, since trees of shapes and layouts have this form too."""
    params: Params
    opt_state: Any
    averaged: Params
    """Exponential moving average of `params`, which evaluation uses."""
    constants: Any = None
    """`Model.step_constants`, split over the mesh; checkpoints leave them out."""
    cooldown: Any = None
    """Int[Array, "2"]. Of the schedule plateau, the steps after which the learning rate starts to fall, and over how
    many steps it falls to 0. None elsewhere."""


@struct.dataclass
class StepMetrics:
    """What one step reports; of a population, one value for each member."""

    loss: Float[Array, "*members"]
    """Mean over the batch's targets, in nats; auxiliary losses are in it."""
    n_targets: Shaped[Array, "*members"]
    """Targets, or the sum of their weights."""
    gradient_norm: Float[Array, "*members"]


def make_optimizer(config: OptimizerConfig, specs: Params, *, n_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `n_steps`, which the schedule needs to know.

    >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=10), {}, n_steps=100)
    >>> sorted(optimizer._fields)
    ['init', 'update']
    """
    # Where it never changes, optax need not count steps.
    changes = config.schedule == "cosine" or config.warmup_steps
    rate = learning_rate(config, n_steps=n_steps) if changes else config.learning_rate
    decay = {"weight_decay": config.weight_decay, "mask": decay_mask(specs)}
    if config.second_moments == "full":
        adamw = optax.adamw(rate, b2=config.b2, **decay)
    else:
        adamw = optax.chain(
            scale_by_row_wise_adam(specs, b2=config.b2),
            optax.add_decayed_weights(**decay),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def learning_rate(config: OptimizerConfig, *, n_steps: int) -> optax.Schedule:
    """The rate of the step after each number of steps, in a run of `n_steps`; of plateau, before its cooldown.

    >>> rate = learning_rate(OptimizerConfig(learning_rate=0.1, warmup_steps=10), n_steps=100)
    >>> round(float(rate(5)), 3), round(float(rate(55)), 3)  # half of the rise, half of the cosine
    (0.05, 0.05)
    """
    warmup = min(config.warmup_steps, n_steps)
    if config.schedule == "cosine":
        # As optax.warmup_cosine_decay_schedule, which would ask whether a traced rate is 0.
        rise = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
        fall = optax.schedules.cosine_decay_schedule(config.learning_rate, max(n_steps - warmup, 1))
        return optax.schedules.join_schedules([rise, fall], [warmup])
    if warmup:
        return optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.schedules.constant_schedule(config.learning_rate)


def cooldown_within(n_steps: int, *, decay_share: float) -> tuple[int, int]:
    """The cooldown at the end of a run of `n_steps`: after how many steps it starts, and over how many it goes.

    It takes `decay_share` of the steps before it, and at least one step unless that is 0.

    >>> cooldown_within(120, decay_share=0.2), cooldown_within(120, decay_share=0.0)
    ((100, 20), (120, 0))
    """
    n_falling = max(1, round(n_steps * decay_share / (1 + decay_share))) if decay_share else 0
    return n_steps - n_falling, n_falling


def with_cooldown(state: TrainState, start: int, n_steps: int) -> TrainState:
    """The state of a run whose learning rate falls to 0 from step `start` on, over `n_steps`."""
    cooldown = np.array([start, n_steps], np.int32)
    return replace(state, cooldown=jax.device_put(cooldown, state.step.sharding))


def rate_share(step: Int[Array, ""], cooldown: Int[Array, "2"]) -> Float[Array, ""]:
    """The share of the learning rate that is left in the step after `step` steps (Hägele et al. 2024, 1-sqrt).

    >>> [float(rate_share(jnp.int32(step), jnp.array([100, 20]))) for step in (99, 100, 105, 120, 130)]
    [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return 1.0 - jnp.sqrt(jnp.clip((step - cooldown[0]) / jnp.maximum(cooldown[1], 1), 0.0, 1.0))


def scaled_to_rate(updates: Params, state: TrainState) -> Params:
    """The optimizer's updates as the cooldown leaves them: AdamW's are proportional to the learning rate."""
    if state.cooldown is None:
        return updates
    share = rate_share(state.step, state.cooldown)
    return jax.tree.map(lambda update: share * update, updates)


N_AVERAGED = 9
"""The average of the schedule plateau covers about one step in this many of those so far."""


def weight_in_average(state: TrainState, average_decay: Any) -> Any:
    """The weight that the next step's parameters get in the moving average.

    With a cooldown it is 9 / (8 + t) in step t, which averages over about the last ninth of the steps whatever their
    number (Shamir and Zhang 2013, section 4); t counts from the start of training, and afresh from the start of the
    cooldown.
    """
    if state.cooldown is None:
        return 1.0 - average_decay
    start = state.cooldown[0]
    earlier = state.step - jnp.where(state.step >= start, start, 0)
    return jnp.where(average_decay > 0, N_AVERAGED / (N_AVERAGED + earlier), 1.0)


def kept_in_average(
    before: Int[Array, "*rows"], now: Int[Array, ""], cooldown: Int[Array, "2"]
) -> Float[Array, "*rows"]:
    """The weight of the average after `before` steps in that after `now` steps: the product of 1 - `weight_in_average`
    over the steps between.

    >>> between = [1 - 9 / (8 + t) for t in (4, 5, 6)]
    >>> kept = kept_in_average(jnp.array([3, 6]), jnp.int32(6), jnp.array([10, 5]))
    >>> [round(float(share), 4) for share in kept], round(math.prod(between), 4)
    ([0.0275, 1.0], 0.0275)
    """
    start = jnp.where(now > cooldown[0], cooldown[0], 0)
    earlier, later = jnp.maximum(before - start, 0), jnp.maximum(now - start, 1)
    # (t - 1) / (t + 8) over consecutive t: all but the nine first numerators and the nine last denominators cancel.
    shares = [(earlier + place) / (later + place) for place in range(N_AVERAGED)]
    return jnp.where(before == now, 1.0, math.prod(shares))


def scale_by_row_wise_adam(
    specs: Params, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, algorithm 1) with one second moment a row of the item table.

    A row's moment is the mean of its numbers' squared gradients, as in row-wise Adagrad (Gupta et al. 2014, section
    5): an item's step keeps its gradient's direction, and d_model numbers an item become one.
    """

    def squared(spec: ParamSpec, gradient: Array) -> Array:
        square = jnp.square(gradient)
        return jnp.mean(square, axis=-1, keepdims=True) if "items" in spec.axes else square

    def init(params: Params) -> optax.ScaleByAdamState:
        first = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, jax.tree.map(squared, specs, first))

    def update(
        gradients: Params, state: optax.ScaleByAdamState, params: Params | None = None
    ) -> tuple[Params, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        first = optax.tree.update_moment(gradients, state.mu, b1, 1)
        second = optax.tree.update_moment(jax.tree.map(squared, specs, gradients), state.nu, b2, 1)
        updates = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(first, b1, count),
            optax.tree.bias_correction(second, b2, count),
        )
        return updates, optax.ScaleByAdamState(count, first, second)

    return optax.GradientTransformation(init, update)


def init_state(model: Model, optimizer: optax.GradientTransformation, *, seed: int) -> TrainState:
    """The state before the first step.

    >>> import seqrec
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> state = init_state(model, optax.sgd(0.1), seed=0)
    >>> int(state.step), state.params["item_table"].shape[1]
    (0, 4)
    """

    @jax.jit
    def first_state(key: Array) -> TrainState:
        params = init_params(model.specs, key)
        averaged = jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), averaged)
        return constrain_state(state, model.specs)

    # Constants are not made inside: what a compiled function encloses is written into its program.
    return first_state(jax.random.key(seed)).replace(constants=split_items(model.step_constants))


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
"""`step(state, batch)` -> the state after the step; it takes the memory of the state that it is given."""


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    average_decay: float = 0.0,
    accumulation_steps: int = 1,
) -> TrainStep:
    """A jitted training step of the model.

    Its randomness is a function of (seed, state.step): a resumed run takes the same steps. `average_decay` is that of
    the moving average of the weights, `state.averaged`; with 0 it is the weights themselves. With `accumulation_steps`
    the batch is split into as many parts that run one after another, whose gradients add up to the whole batch's.

    >>> import seqrec
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> step = make_train_step(model, optax.sgd(0.1), seed=0)
    >>> row = jnp.array([[4, 2, 3, 0]])
    >>> batch = Batch(row, jnp.array([[2, 3, 0, 0]]), (row > 0).astype(int), jnp.arange(4)[None])
    >>> state, metrics = step(init_state(model, optax.sgd(0.1), seed=0), batch)
    >>> int(state.step), int(metrics.n_targets), round(float(jnp.exp(metrics.loss)))  # as unsure as a guess among 5
    (1, 2, 5)
    """

    def mean_loss(params: Params, constants: Any, batch: Batch, *, keys: Array) -> tuple[Array, Array]:
        total, count = model.loss(params, constants, batch, keys=keys)
        return total / jnp.maximum(count, 1), count

    def gradients_in_parts(params: Params, constants: Any, batch: Batch, *, keys: Array) -> Any:
        def add(totals: Any, part: Any) -> tuple[Any, None]:
            number, batch = part
            part_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            part_totals = jax.value_and_grad(model.loss, has_aux=True)(params, constants, batch, keys=part_keys)
            return jax.tree.map(jnp.add, totals, part_totals), None

        shapes = jax.eval_shape(model.loss, params, constants, batch, keys=keys), params
        nothing = jax.tree.map(jnp.zeros_like, shapes)
        parts = (jnp.arange(accumulation_steps), deal_rows(batch, accumulation_steps))
        ((total, count), gradients), _ = jax.lax.scan(add, nothing, parts)
        share = 1.0 / jnp.maximum(count, 1)
        return (total * share, count), jax.tree.map(lambda gradient: gradient * share, gradients)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        keys = loss_keys(jax.random.fold_in(jax.random.key(seed), state.step))
        gradients_of = gradients_in_parts if accumulation_steps > 1 else jax.value_and_grad(mean_loss, has_aux=True)
        (mean, count), gradients = gradients_of(state.params, state.constants, batch, keys=keys)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = constrain_params(optax.apply_updates(state.params, scaled_to_rate(updates, state)), model.specs)
        averaged = optax.incremental_update(params, state.averaged, weight_in_average(state, average_decay))
        metrics = StepMetrics(loss=mean, n_targets=count, gradient_norm=optax.tree.norm(gradients))
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state, averaged=averaged), metrics

    return jax.jit(step, donate_argnums=0)
