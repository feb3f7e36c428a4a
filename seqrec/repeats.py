"""Items that come back: a share of the next item's probability that is dealt out over the history itself."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.layers import causal_mask
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, Encoder


class Repeats(NamedTuple):
    """How likely each state finds it that an item comes back, and which."""

    log_odds: Float[Array, "rows length"]
    """Of the next item being repeated from the history, against being picked from the catalogue."""
    log_attention: Float[Array, "rows length length"]
    """Log-probability that it is the place [row, state, place] that is repeated; -inf outside the history."""


class Mixture(NamedTuple):
    """What stands beside a softmax: P(target) = exp(log_share) * softmax + exp(log_mass)."""

    log_share: Float[Array, "rows length"]
    log_mass: Float[Array, "rows length"]


class Raised(NamedTuple):
    """Items of each query's history, which are likelier than the catalogue's softmax has them."""

    items: Int[Array, "queries length"]
    """0 where there is none; an item that the history holds several times stands there as often."""
    log_odds: Float[Array, "queries length"]
    """Log of the item's chance to be repeated, from all its places, against that of no repeat."""


def with_repeats(encoder: Encoder) -> Encoder:
    """The encoder, whose states also say whether an item of the history comes next, and which.

    The next item's probability is p times that of the history's places, plus 1 - p times the softmax over the
    catalogue, which may pick an item of the history too (after RepeatNet: Ren et al. 2019, eq. 1, whose explore mode
    may not). Places are weighed by scaled products of states and a slope over the logarithm of their age. The states
    must know no later item than their own.
    """
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), encoder.specs)
    d_model = jax.eval_shape(encoder.compose, shapes, encoder.constants)["item_table"].shape[1]
    normal, zeros = jax.nn.initializers.normal(0.02), jax.nn.initializers.zeros
    specs: Params = {
        "query": ParamSpec((d_model, d_model), ("embed", "heads"), normal),
        "key": ParamSpec((d_model, d_model), ("embed", "heads"), normal),
        "age": ParamSpec((), (), zeros, decay=False),
        "share": ParamSpec((d_model,), ("embed",), zeros),
        "share_bias": ParamSpec((), (), zeros, decay=False),
    }

    def repeats(params: Params, hidden: Float[Array, "rows length d_model"], batch: Batch) -> Repeats:
        own, hidden = params["repeats"], hidden.astype(jnp.float32)
        products = jnp.einsum("rqd,rkd->rqk", hidden @ own["query"], hidden @ own["key"]) / d_model**0.5
        age = jnp.maximum(batch.positions[:, :, None] - batch.positions[:, None, :], 0)
        scores = jnp.where(causal_mask(batch.segment_ids), products - own["age"] * jnp.log1p(age), -jnp.inf)
        return Repeats(hidden @ own["share"] + own["share_bias"], jax.nn.log_softmax(scores, axis=-1))

    return dataclasses.replace(encoder, specs={**encoder.specs, "repeats": specs}, repeats=repeats)


def mixture(found: Repeats, items: Int[Array, "rows length"], targets: Int[Array, "rows length"]) -> Mixture:
    """What the history gives each target, and the share that it leaves to the catalogue."""
    matches = items[:, None, :] == targets[:, :, None]
    matches &= (targets > 0)[:, :, None] & (found.log_attention > -jnp.inf)
    any_match = jnp.any(matches, axis=-1)
    # Where there is no match the sum is over nothing, of which only the value is wanted: its gradient is NaN.
    others = jnp.where(any_match, -jnp.inf, 0.0)[:, :, None]
    log_sum = jax.nn.logsumexp(jnp.where(matches, found.log_attention, others), axis=-1)
    log_history = jnp.where(any_match, log_sum, -jnp.inf)
    return Mixture(jax.nn.log_sigmoid(-found.log_odds), jax.nn.log_sigmoid(found.log_odds) + log_history)


def raised(found: Repeats, items: Int[Array, "rows length"], last: Int[Array, " queries"]) -> Raised:
    """The items of each query's history, by the state at the place `last` of the flattened [rows x length] batch."""
    length = items.shape[1]
    own, log_attention = items[last // length], found.log_attention.reshape(-1, length)[last]
    held = (own > 0) & (log_attention != -jnp.inf)
    same = (own[:, :, None] == own[:, None, :]) & held[:, None, :]
    log_sum = jax.nn.logsumexp(jnp.where(same, log_attention[:, None, :], -jnp.inf), axis=-1)
    log_odds = found.log_odds.reshape(-1)[last][:, None] + log_sum
    return Raised(jnp.where(held, own, 0), log_odds)
