"""State in, state out: the optimizer and the jitted training step."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Shaped

from seqrec.config import TRACED, Range
from seqrec.objectives import Question
from seqrec.params import Params, ParamSpec, decay_mask, init_params
from seqrec.repeats import mixture
from seqrec.sharding import (
    Mesh,
    abstract_items,
    abstract_state,
    constrain_params,
    constrain_state,
    deal_rows,
    split_items,
)
from seqrec.types import Batch, Encoder, InputError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) with warm-up, a schedule and averaged weights."""

    learning_rate: Annotated[float, TRACED, Range(3e-4, 1e-2, log=True)] = 2e-3
    """Learning rate after warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after warm-up: cosine decays it to 0 at the end of the last epoch, constant keeps it."""
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
    accumulation_steps: int = 1
    """Split each batch into this many parts and add up their gradients before the update, to save memory."""
    clip_norm: float = 0.0
    """Largest norm of a step's gradient; larger ones are scaled down to it. 0 means no limit."""
    average_decay: float = 0.99
    """Decay of the exponential moving average of the weights, 0 to below 1; the averaged weights are the ones
    evaluated. 0 evaluates the raw weights."""

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not above 0; try learning_rate=0.001")
        for name in ("b2", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1); try {name}=0.99")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is below 0; use 0 to switch it off")
        if self.accumulation_steps < 1:
            raise ValueError(f"accumulation_steps={self.accumulation_steps} is below 1; use 1 for whole batches")


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
    """What the encoder reads and no step changes; checkpoints leave it out."""


@struct.dataclass
class StepMetrics:
    """What one step reports, of a population for each member."""

    loss: Float[Array, "*members"]
    """Mean over the batch's targets, in nats; what heads add is in it."""
    n_targets: Shaped[Array, "*members"]
    """Targets, or the sum of their weights."""
    gradient_norm: Float[Array, "*members"]


def make_optimizer(config: OptimizerConfig, specs: Params, *, n_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `n_steps`, which the schedule needs to know."""
    warmup = min(config.warmup_steps, n_steps)
    if config.schedule == "cosine":
        # As optax.warmup_cosine_decay_schedule, which would ask whether a traced rate is 0.
        rise = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
        fall = optax.schedules.cosine_decay_schedule(config.learning_rate, max(n_steps - warmup, 1))
        rate = optax.schedules.join_schedules([rise, fall], [warmup])
    else:
        rate = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup) if warmup else config.learning_rate
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


def init_state(encoder: Encoder, optimizer: optax.GradientTransformation, *, seed: int) -> TrainState:
    """The state before the first step."""
    state = jax.jit(functools.partial(_first_state, encoder, optimizer))(jax.random.key(seed))
    # Not made inside: what a compiled function encloses is written into its program.
    return state.replace(constants=split_items(encoder.constants))


def init_shapes(encoder: Encoder, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The shapes, types and layouts of `init_state` on a mesh, for which nothing is allocated: to compile with."""
    shapes = jax.eval_shape(functools.partial(_first_state, encoder, optimizer), jax.random.key(0))
    shapes = abstract_state(shapes, encoder.specs, mesh)
    return shapes.replace(constants=abstract_items(encoder.constants, mesh))


def _first_state(encoder: Encoder, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    params = init_params(encoder.specs, key)
    averaged = jax.tree.map(jnp.copy, params)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), averaged)
    return constrain_state(state, encoder.specs)


def make_train_step(
    encoder: Encoder,
    objective: Callable[..., Question],
    loss: Callable[..., tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    average_decay: float,
    accumulation_steps: int = 1,
    head_weights: Mapping[str, float] = MappingProxyType({}),
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """A jitted `step(state, batch)`; it takes the state's memory, so use the state that it returns.

    Its randomness is a function of (seed, state.step): a resumed run repeats itself. With `accumulation_steps` the
    batch is worked on in as many parts, one after another, whose gradients add up to the whole batch's. What the
    encoder's heads foretell adds to each target's loss by `head_weights`.
    """

    def total_loss(params: Params, batch: Batch, keys: Array, constants: Any) -> tuple[Array, Array]:
        params = encoder.compose(params, constants, key=keys[3])
        asked = objective(batch, key=keys[2])
        hidden = encoder.encode(params, asked.inputs, key=keys[0])
        options: dict[str, Any] = {}
        if asked.unwanted is not None:
            options["unwanted"] = asked.unwanted
        if asked.places is not None and (encoder.repeats is not None or encoder.heads is not None):
            raise InputError("a repeat mixture and heads need an objective that asks what follows each item: next_item")
        if encoder.repeats is not None:
            found = encoder.repeats(params, hidden, asked.inputs)
            labels = asked.targets if asked.unwanted is None else jnp.maximum(asked.targets, asked.unwanted)
            options["mixed"] = mixture(found, asked.inputs.items, labels)
        if asked.places is not None:
            hidden = jnp.take_along_axis(hidden, asked.places[..., None], axis=1)
        total, count = loss(
            hidden,
            params["item_table"],
            asked.targets,
            n_items=encoder.n_items,
            weights=asked.weights,
            # Where places are asked for, what is known there is not what came before.
            history=asked.inputs if asked.places is None else None,
            **options,
            key=keys[1],
        )
        if encoder.heads is not None:
            foretold = encoder.heads(params, hidden, batch.next_items, batch.answers)
            weighed = sum(head_weights[name] * losses for name, losses in foretold.items())
            total += jnp.sum(jnp.where(batch.next_items > 0, weighed, 0.0))
        return total, count

    def mean_loss(params: Params, batch: Batch, keys: Array, constants: Any) -> tuple[Array, Array]:
        total, count = total_loss(params, batch, keys, constants)
        return total / jnp.maximum(count, 1), count

    def gradients_in_parts(params: Params, batch: Batch, keys: Array, constants: Any) -> Any:
        def add(totals, part):
            number, batch = part
            part_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            found = jax.value_and_grad(total_loss, has_aux=True)(params, batch, part_keys, constants)
            return jax.tree.map(jnp.add, totals, found), None

        shapes = jax.eval_shape(total_loss, params, batch, keys, constants), params
        nothing = jax.tree.map(jnp.zeros_like, shapes)
        parts = (jnp.arange(accumulation_steps), deal_rows(batch, accumulation_steps))
        ((total, count), gradients), _ = jax.lax.scan(add, nothing, parts)
        share = 1.0 / jnp.maximum(count, 1)
        return (total * share, count), jax.tree.map(lambda gradient: gradient * share, gradients)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step), 4)
        arguments = state.params, batch, keys, state.constants
        if accumulation_steps > 1:
            (mean, count), gradients = gradients_in_parts(*arguments)
        else:
            (mean, count), gradients = jax.value_and_grad(mean_loss, has_aux=True)(*arguments)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = constrain_params(optax.apply_updates(state.params, updates), encoder.specs)
        averaged = optax.incremental_update(params, state.averaged, 1.0 - average_decay)
        metrics = StepMetrics(loss=mean, n_targets=count, gradient_norm=optax.tree.norm(gradients))
        return TrainState(state.step + 1, params, opt_state, averaged, state.constants), metrics

    return jax.jit(step, donate_argnums=0)
