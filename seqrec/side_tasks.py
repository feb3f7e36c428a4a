"""Side tasks, trained jointly with the next item: is it skipped, and how soon does it come."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from seqrec.layers import item_vectors
from seqrec.model import Model
from seqrec.params import Initialise, Params, ParamSpec
from seqrec.types import Batch, InputError

Label = Bool[Array, "*shape"] | Int[Array, "*shape"]
TaskLoss = Callable[[Params, Array, Array, Any], Float[Array, "*shape"]]
"""`task(its params, states, vectors of the next items, labels)` -> loss of each state, in nats."""


def labels_of(batch: Batch) -> dict[str, Array]:
    """The labels of side tasks that a batch holds, by the names of the tasks."""
    labels = {"skip": batch.next_skips, "gap": batch.next_gaps}
    return {name: values for name, values in labels.items() if values is not None}


def with_side_tasks(
    model: Model, weights: Mapping[str, float], log_rates: Mapping[str, Float[np.ndarray, " n_labels"]]
) -> Model:
    """The model whose states also predict properties of the next event, each loss added by its weight.

    `skip`: whether it will be skipped, from a bilinear form of the state and the next item, since one skips what does
    not fit. `gap`: the bucket, from 1 on, of the time until then, from the state alone (multi-task learning over one
    shared state: Caruana 1997). Each task starts at `log_rates`, the logarithms of how often its labels occur, and
    with no other weight, so that at first no state is moved.

    Raises:
      InputError: the model's states know later events than their own, or it has auxiliary losses already.
    """
    if model.auxiliary_loss is not None:
        raise InputError("the model has auxiliary losses already; add all side tasks at once")
    if not model.encoder.causal:
        raise InputError("side tasks need a causal encoder, whose states know no later event; set their weights to 0")

    def auxiliary_loss(params: Params, states: Float[Array, "rows length d_model"], batch: Batch) -> Float[Array, ""]:
        losses = side_task_losses(params, states, batch.next_items, labels_of(batch))
        total = sum(weights[name] * each for name, each in losses.items())
        return jnp.sum(jnp.where(batch.next_items > 0, total, 0.0))

    specs = {name: _SPECS[name](model.d_model, log_rates[name]) for name in _SPECS if name in log_rates}
    return dataclasses.replace(model, specs={**model.specs, "side_tasks": specs}, auxiliary_loss=auxiliary_loss)


def side_task_losses(
    params: Params,
    states: Float[Array, "*shape d_model"],
    next_items: Int[Array, "*shape"],
    labels: Mapping[str, Label],
) -> dict[str, Float[Array, "*shape"]]:
    """The loss of each side task that the parameters hold, in nats, by the task's name."""
    states = states.astype(jnp.float32)
    items = item_vectors(params["item_table"], next_items)
    tasks = params["side_tasks"]
    return {name: _LOSSES[name](tasks[name], states, items, labels[name]) for name in _LOSSES if name in tasks}


def _constant(values: Float[np.ndarray, "*shape"]) -> Initialise:
    return lambda key, shape, dtype=jnp.float32: jnp.asarray(values, dtype).reshape(shape)


def _skip_specs(d_model: int, log_rates: Float[np.ndarray, " 2"]) -> Params:
    zeros = jax.nn.initializers.zeros
    vector = ParamSpec((d_model,), ("embed",), zeros)
    no, yes = log_rates
    return {
        "pair": ParamSpec((d_model, d_model), ("embed", "heads"), zeros),
        "state": vector,
        "item": vector,
        "bias": ParamSpec((), (), _constant(np.asarray(yes - no)), decay=False),
    }


def _gap_specs(d_model: int, log_rates: Float[np.ndarray, " n_buckets"]) -> Params:
    n_buckets = len(log_rates)
    return {
        "kernel": ParamSpec((d_model, n_buckets), ("embed", None), jax.nn.initializers.zeros),
        "bias": ParamSpec((n_buckets,), (None,), _constant(log_rates), decay=False),
    }


def _skip_losses(params: Params, states: Array, items: Array, skipped: Array) -> Array:
    pairs = jnp.sum((states @ params["pair"]) * items, axis=-1)
    logits = pairs + states @ params["state"] + items @ params["item"] + params["bias"]
    return optax.sigmoid_binary_cross_entropy(logits, skipped.astype(jnp.float32))


def _gap_losses(params: Params, states: Array, items: Array, buckets: Array) -> Array:
    del items
    logits = states @ params["kernel"] + params["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(buckets - 1, 0))


_SPECS = {"skip": _skip_specs, "gap": _gap_specs}
_LOSSES: dict[str, TaskLoss] = {"skip": _skip_losses, "gap": _gap_losses}
