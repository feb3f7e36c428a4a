"""State in, state out: the optimizer and the jitted training step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from seqrec.params import Params, decay_mask, init_params
from seqrec.sharding import constrain_params, constrain_state
from seqrec.types import Batch, Encoder


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) with warm-up, a schedule and averaged weights."""

    learning_rate: float = 2e-3
    """Step size after warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the step size after warm-up: down to 0 at the last epoch, or level."""
    warmup_steps: int = 100
    """Steps over which the step size rises from 0."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices and tables, as a share of the step size."""
    b2: float = 0.999
    """Decay of Adam's second moment, 0 to 1."""
    clip_norm: float = 0.0
    """Largest norm of a step's gradient; 0 means no limit."""
    average_decay: float = 0.99
    """Share that the averaged weights, which are evaluated, keep each step; 0 evaluates the raw weights."""

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not above 0; try learning_rate=0.001")
        for name in ("b2", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1); try {name}=0.99")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is below 0; use 0 to switch it off")


@struct.dataclass
class TrainState:
    """All that a step reads and changes."""

    step: Int[Array, ""]
    """Steps taken."""
    params: Params
    opt_state: Any
    averaged: Params
    """Exponential moving average of `params`, which evaluation uses."""


@struct.dataclass
class StepMetrics:
    """What one step reports."""

    loss: Float[Array, ""]
    """Mean over the batch's targets, in nats."""
    n_targets: Int[Array, ""]
    gradient_norm: Float[Array, ""]


def make_optimizer(config: OptimizerConfig, specs: Params, *, n_steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `n_steps`, which the schedule needs to know."""
    warmup = min(config.warmup_steps, n_steps)
    if config.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(n_steps, warmup + 1))
    else:
        rate = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup) if warmup else config.learning_rate
    adamw = optax.adamw(rate, b2=config.b2, weight_decay=config.weight_decay, mask=decay_mask(specs))
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def init_state(encoder: Encoder, optimizer: optax.GradientTransformation, *, seed: int) -> TrainState:
    """The state before the first step."""

    @jax.jit
    def init(key):
        params = constrain_params(init_params(encoder.specs, key), encoder.specs)
        averaged = jax.tree.map(jnp.copy, params)
        opt_state = constrain_state(optimizer.init(params), encoder.specs)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, averaged)

    return init(jax.random.key(seed))


def make_train_step(
    encoder: Encoder,
    objective: Callable[[Batch], tuple[Batch, Array]],
    loss: Callable[..., tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    average_decay: float,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """A jitted `step(state, batch)`; it takes the state's memory, so use the state that it returns.

    Its randomness is a function of (seed, state.step): a resumed run repeats itself.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        dropout_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))

        def mean_loss(params):
            inputs, targets = objective(batch)
            hidden = encoder.encode(params, inputs, key=dropout_key)
            total, count = loss(hidden, params["item_table"], targets, n_items=encoder.n_items, key=loss_key)
            return total / jnp.maximum(count, 1), count

        (mean, count), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = constrain_params(optax.apply_updates(state.params, updates), encoder.specs)
        averaged = optax.incremental_update(params, state.averaged, 1.0 - average_decay)
        metrics = StepMetrics(loss=mean, n_targets=count, gradient_norm=optax.tree.norm(gradients))
        return TrainState(state.step + 1, params, opt_state, averaged), metrics

    return jax.jit(step, donate_argnums=0)
