"""Heads beside the next item, trained jointly with it: will it be skipped, and when does it come."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from seqrec.layers import item_vectors
from seqrec.params import Params, ParamSpec
from seqrec.types import Encoder

Answer = Bool[Array, "*shape"] | Int[Array, "*shape"]
Head = Callable[[Params, Array, Array, Any], Float[Array, "*shape"]]
"""`head(its params, states, vectors of the next items, answers)` -> loss of each state, in nats."""


def with_heads(encoder: Encoder, log_rates: Mapping[str, Float[np.ndarray, " n_answers"]]) -> Encoder:
    """The encoder, whose states also foretell what `log_rates` names of the event that comes next.

    `skip`: whether it will be skipped, by a bilinear form of the state and the item that comes, as one skips what does
    not fit. `gap`: in which of so many buckets, from 1 on, the time until then falls, which the state alone must know
    (multi-task learning over one shared state: Caruana 1997). Each head begins at these logarithms of how often its
    answers come, and with no other weight: at first no state is moved.
    """
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), encoder.specs)
    d_model = jax.eval_shape(encoder.compose, shapes, encoder.constants)["item_table"].shape[1]
    zeros = jax.nn.initializers.zeros
    specs: dict[str, Params] = {}
    if "skip" in log_rates:
        no, yes = log_rates["skip"]
        vector = ParamSpec((d_model,), ("embed",), zeros)
        pair = ParamSpec((d_model, d_model), ("embed", "heads"), zeros)
        bias = ParamSpec((), (), jax.nn.initializers.constant(yes - no), decay=False)
        specs["skip"] = {"pair": pair, "state": vector, "item": vector, "bias": bias}
    if "gap" in log_rates:
        n_buckets = len(log_rates["gap"])
        kernel = ParamSpec((d_model, n_buckets), ("embed", None), zeros)
        bias = ParamSpec((n_buckets,), (None,), _start_at(log_rates["gap"]), decay=False)
        specs["gap"] = {"kernel": kernel, "bias": bias}
    heads: dict[str, Head] = {"skip": _skip_losses, "gap": _gap_losses}

    def losses(
        params: Params,
        hidden: Float[Array, "*shape d_model"],
        next_items: Int[Array, "*shape"],
        answers: Mapping[str, Answer],
    ) -> dict[str, Float[Array, "*shape"]]:
        states = hidden.astype(jnp.float32)
        items = item_vectors(params["item_table"], next_items)
        return {name: heads[name](params["heads"][name], states, items, answers[name]) for name in specs}

    return dataclasses.replace(encoder, specs={**encoder.specs, "heads": specs}, heads=losses)


def _start_at(values: Float[np.ndarray, " n"]) -> Callable[..., Array]:
    return lambda key, shape, dtype=jnp.float32: jnp.asarray(values, dtype).reshape(shape)


def _skip_losses(params: Params, states: Array, items: Array, skipped: Array) -> Array:
    pairs = jnp.sum((states @ params["pair"]) * items, axis=-1)
    logits = pairs + states @ params["state"] + items @ params["item"] + params["bias"]
    return optax.sigmoid_binary_cross_entropy(logits, skipped.astype(jnp.float32))


def _gap_losses(params: Params, states: Array, items: Array, buckets: Array) -> Array:
    del items
    logits = states @ params["kernel"] + params["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(buckets - 1, 0))
