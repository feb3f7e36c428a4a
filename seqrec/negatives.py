"""Samplers of items to score targets against: ids, and the log of each draw's chance."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec.types import InputError


class Negatives(NamedTuple):
    """Items that targets are scored against: one list that all positions share, or one for each row of the batch."""

    ids: Int[Array, "*rows negatives"]
    """1..n_items, drawn with replacement; a draw may be a position's own target, which losses leave out there."""
    log_q: Float[Array, "*rows negatives"]
    """Log of the chance that one draw is this item."""


Sampler = Callable[[Array, Int[Array, "rows length"]], Negatives]
"""`sampler(key, targets)`; only `in_batch` looks at the targets."""


def uniform(key: Array, *, n_negatives: int, n_items: int) -> Negatives:
    """Item ids 1..n_items, all with the same chance."""
    ids = jax.random.randint(key, (n_negatives,), 1, n_items + 1)
    return Negatives(ids, jnp.full((n_negatives,), -jnp.log(n_items)))


class Popularity(NamedTuple):
    """A distribution over the items, for `popular` and `in_batch`."""

    cumulative: Float[Array, " n_items"]
    """Chance of an id up to this one, from id 1; the last is 1."""
    log_q: Float[Array, " n_items"]
    """Log-chance of each id, from id 1."""


def popularity_distribution(
    counts: Int[np.ndarray, " n_items_plus_1"], *, power: float = 1.0, uniform_share: float = 0.0
) -> Popularity:
    """Chances in proportion to count ** power, mixed with a share of uniform ones (Yang et al. 2020, section 3.3).

    `counts` has one entry an id, 0..n_items, as `baselines.popularity.training_counts` returns; entry 0, padding, is
    not used. Without a uniform share an item that has no events is never drawn, so nothing ever pushes it down.

    >>> chances = np.exp(popularity_distribution(np.array([0, 3, 1, 0]), uniform_share=0.5).log_q)
    >>> [round(float(chance), 4) for chance in chances]
    [0.5417, 0.2917, 0.1667]
    """
    if not 0 <= uniform_share <= 1:
        raise InputError(f"uniform_share={uniform_share} is not a share in [0, 1]; try uniform_share=0.5")
    weights = np.where(counts[1:] > 0, np.maximum(counts[1:], 1).astype(np.float64) ** power, 0.0)
    if not weights.sum() > 0:
        raise InputError("counts hold no event; give the counts of the training part")
    chances = (1 - uniform_share) * weights / weights.sum() + uniform_share / len(weights)
    with np.errstate(divide="ignore"):
        return Popularity(jnp.asarray(np.cumsum(chances), jnp.float32), jnp.asarray(np.log(chances), jnp.float32))


def popular(key: Array, of: Popularity, *, n_negatives: int) -> Negatives:
    """Items by their chance, found by inverting the cumulative chances."""
    draws = jax.random.uniform(key, (n_negatives,)) * of.cumulative[-1]
    places = jnp.searchsorted(of.cumulative, draws, side="right")
    places = jnp.minimum(places, len(of.log_q) - 1)
    return Negatives(places + 1, of.log_q[places])


def in_batch(
    key: Array, targets: Int[Array, "rows length"], of: Popularity, *, n_negatives: int, n_uniform: int = 0
) -> Negatives:
    """Targets drawn from the batch, and `n_uniform` items from the whole catalogue behind them.

    `of` is how often each item is a target over all batches. A draw's chance is that of a draw from both lists
    together (mixed negative sampling: Yang et al. 2020, section 3.3); without uniform draws an item that is never a
    target is never drawn.
    """
    batch_key, uniform_key = jax.random.split(key)
    flat = targets.reshape(-1)
    valid = flat > 0
    ids = jax.random.choice(batch_key, flat, (n_negatives,), p=valid / jnp.maximum(jnp.sum(valid), 1))
    # In a batch without targets nothing is scored, but ids must exist.
    ids = jnp.maximum(ids, 1)
    n_items = len(of.log_q)
    if n_uniform:
        ids = jnp.concatenate([ids, uniform(uniform_key, n_negatives=n_uniform, n_items=n_items).ids])
    share = n_uniform / (n_negatives + n_uniform)
    return Negatives(ids, jnp.log((1 - share) * jnp.exp(of.log_q[ids - 1]) + share / n_items))


def per_row(sampler: Sampler) -> Sampler:
    """A list of its own for each row of the batch: more different items a step, and their vectors gathered for each."""

    def draw(key: Array, targets: Int[Array, "rows length"]) -> Negatives:
        keys = jax.random.split(key, targets.shape[0])
        return jax.vmap(sampler, in_axes=(0, None))(keys, targets)

    return draw
