"""Side tasks, trained jointly with the next item: is it skipped, and how soon does it come."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from seqrec.layers import item_vectors
from seqrec.model import Model
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, InputError, States

Label = Bool[Array, "*shape"] | Int[Array, "*shape"]


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

    def auxiliary_loss(params: Params, states: States, batch: Batch) -> Float[Array, ""]:
        losses = side_task_losses(params, states, batch.next_items, labels_of(batch))
        total = sum(weights[name] * each for name, each in losses.items())
        return jnp.sum(jnp.where(batch.next_items > 0, total, 0.0))

    d_model, zeros, constant = model.d_model, jax.nn.initializers.zeros, jax.nn.initializers.constant
    specs: Params = {}
    if "skip" in log_rates:
        no, yes = log_rates["skip"]
        specs["skip"] = {
            "pair": ParamSpec((d_model, d_model), ("embed", "heads"), zeros),
            "state": ParamSpec((d_model,), ("embed",), zeros),
            "item": ParamSpec((d_model,), ("embed",), zeros),
            "bias": ParamSpec((), (), constant(yes - no), decay=False),
        }
    if "gap" in log_rates:
        n_buckets = len(log_rates["gap"])
        specs["gap"] = {
            "kernel": ParamSpec((d_model, n_buckets), ("embed", None), zeros),
            "bias": ParamSpec((n_buckets,), (None,), constant(log_rates["gap"]), decay=False),
        }
    return dataclasses.replace(model, specs={**model.specs, "side_tasks": specs}, auxiliary_loss=auxiliary_loss)


def side_task_losses(
    params: Params,
    states: Float[Array, "*shape d_model"],
    next_items: Int[Array, "*shape"],
    labels: Mapping[str, Label],
) -> dict[str, Float[Array, "*shape"]]:
    """The loss of each side task that the parameters hold, in nats, by the task's name."""
    states = states.astype(jnp.float32)
    tasks, losses = params["side_tasks"], {}
    if "skip" in tasks:
        skip_params, items = tasks["skip"], item_vectors(params["item_table"], next_items)
        pairs = jnp.sum((states @ skip_params["pair"]) * items, axis=-1)
        logits = pairs + states @ skip_params["state"] + items @ skip_params["item"] + skip_params["bias"]
        losses["skip"] = optax.sigmoid_binary_cross_entropy(logits, labels["skip"].astype(jnp.float32))
    if "gap" in tasks:
        logits = states @ tasks["gap"]["kernel"] + tasks["gap"]["bias"]
        buckets = jnp.maximum(labels["gap"] - 1, 0)
        losses["gap"] = optax.softmax_cross_entropy_with_integer_labels(logits, buckets)
    return losses
