"""Samplers of items to score targets against: ids, and the log of each draw's chance."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from seqrec.layers import item_table_rows
from seqrec.types import InputError


class Negatives(NamedTuple):
    """Items that targets are scored against: one list that all positions share, or one for each row of the batch."""

    ids: Int[Array, "*rows negatives"]
    """1..n_items, drawn with replacement; a draw may be a position's own target, which losses leave out there."""
    log_q: Float[Array, "*rows negatives"]
    """Log of the chance that one draw is this item."""


Sampler = Callable[..., Negatives]
"""`sampler(key, targets)`, or `sampler(key, targets, tables)` for a loss that is given tables; only `in_batch` looks at
the targets."""


def uniform(key: Array, *, n_negatives: int, n_items: int) -> Negatives:
    """Item ids 1..n_items, all with the same chance."""
    ids = jax.random.randint(key, (n_negatives,), 1, n_items + 1)
    return Negatives(ids, jnp.full((n_negatives,), -jnp.log(n_items)))


BLOCK = 64
WHOLE = 1 << 31
"""Chances are whole numbers out of this many."""


class Popularity(NamedTuple):
    """A distribution over the items, for `popular` and `in_batch`.

    An item is drawn in two steps, first its block of `BLOCK` ids, then the item in its block. Both steps compare a
    whole random number with whole bounds, so items of tiny chance are drawn as often as `log_chance` says: a sum of
    float32 chances cannot tell neighbours apart from some millions of items on.

    Both arrays are made on the host, with a row a block: `sharding.split_items` splits them as the item table. Behind
    the catalogue's blocks are some that are never drawn.
    """

    blocks: UInt32[Any, " n_blocks"]
    """Where each block's numbers begin; behind the catalogue's blocks `WHOLE`."""
    items: UInt32[Any, "n_blocks block_plus_1"]
    """Where each item's numbers begin among those of its block; the last entry of a row is `WHOLE`."""

    def log_chance(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Log of the chance that one draw is this item, exactly as `popular` draws."""
        block, place = jnp.divmod(ids - 1, BLOCK)
        blocks, items = map(jnp.asarray, self)
        of_block = blocks[block + 1] - blocks[block]
        of_item = items[block, place + 1] - items[block, place]
        return jnp.log(of_block.astype(jnp.float32) / float(WHOLE)) + jnp.log(
            of_item.astype(jnp.float32) / float(WHOLE)
        )


def popularity_distribution(
    counts: Int[np.ndarray, " n_items_plus_1"], *, power: float = 1.0, uniform_share: float = 0.0
) -> Popularity:
    """Chances in proportion to count ** power, mixed with a share of uniform ones (Yang et al. 2020, section 3.3).

    `counts` has one entry an id, 0..n_items, as `baselines.popularity.training_counts` returns; entry 0, padding, is
    not used. Without a uniform share an item that has no events is never drawn, so nothing ever pushes it down.

    >>> of = popularity_distribution(np.array([0, 3, 1, 0]), uniform_share=0.5)
    >>> [round(float(chance), 4) for chance in jnp.exp(of.log_chance(jnp.array([1, 2, 3])))]
    [0.5417, 0.2917, 0.1667]

    Raises:
      InputError: the share is none, or there is no event.
    """
    if not 0 <= uniform_share <= 1:
        raise InputError(f"uniform_share={uniform_share} is not a share in [0, 1]; try uniform_share=0.5")
    weights = np.where(counts[1:] > 0, np.maximum(counts[1:], 1).astype(np.float64) ** power, 0.0)
    if not weights.sum() > 0:
        raise InputError("counts hold no event; give the counts of the training part")
    chances = (1 - uniform_share) * weights / weights.sum() + uniform_share / len(weights)
    # One block more, at which the numbers of the last one end, and as many as a mesh needs to split them evenly.
    padding = -(len(chances) + BLOCK) % (BLOCK * math.gcd(item_table_rows(len(chances)), 1024)) + BLOCK
    of_items = np.pad(chances, (0, padding)).reshape(-1, BLOCK)
    return Popularity(_bounds(of_items.sum(axis=1)[None])[0, :-1], _bounds(of_items))


def _bounds(weights: Float[np.ndarray, "rows n"]) -> UInt32[np.ndarray, "rows n_plus_1"]:
    """Each row's share of the whole numbers below `WHOLE`, by their bounds; a weight above 0 has at least one."""
    totals = weights.sum(axis=1, keepdims=True)
    # A row of nothing is never drawn, but its bounds must end as those of the others do.
    weights = np.where(totals > 0, weights, 1.0)
    at_least_one = np.cumsum(weights > 0, axis=1)
    cumulative = np.cumsum(weights, axis=1)
    rest = WHOLE - at_least_one[:, -1:]
    upper = at_least_one + np.rint(cumulative / cumulative[:, -1:] * rest).astype(np.int64)
    return np.pad(upper, ((0, 0), (1, 0))).astype(np.uint32)


def popular(key: Array, of: Popularity, *, n_negatives: int) -> Negatives:
    """Items by their chance."""
    block_draw, item_draw = jax.random.bits(key, (2, n_negatives), jnp.uint32) >> 1
    block = jnp.searchsorted(jnp.asarray(of.blocks), block_draw, side="right") - 1
    place = jnp.sum(jnp.asarray(of.items)[block] <= item_draw[:, None], axis=1) - 1
    ids = (block * BLOCK + place + 1).astype(jnp.int32)
    return Negatives(ids, of.log_chance(ids))


def in_batch(
    key: Array,
    targets: Int[Array, "rows length"],
    of: Popularity,
    *,
    n_items: int,
    n_negatives: int,
    n_uniform: int = 0,
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
    if n_uniform:
        ids = jnp.concatenate([ids, uniform(uniform_key, n_negatives=n_uniform, n_items=n_items).ids])
    share = n_uniform / (n_negatives + n_uniform)
    return Negatives(ids, jnp.log((1 - share) * jnp.exp(of.log_chance(ids)) + share / n_items))


def per_row(sampler: Sampler) -> Sampler:
    """A list of its own for each row of the batch: more different items a step, and their vectors gathered for each."""

    def draw(key: Array, targets: Int[Array, "rows length"], *tables: Any) -> Negatives:
        keys = jax.random.split(key, targets.shape[0])
        return jax.vmap(lambda key: sampler(key, targets, *tables))(keys)

    return draw
