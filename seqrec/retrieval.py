"""Ranks and top items from user vectors and the item table, in blocks of users: never [users, n_items]."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.losses import block_size, catalogue_bias, check_item_table
from seqrec.params import Params
from seqrec.sharding import map_rows
from seqrec.types import Batch, Encoder, InputError

_COUNT_GROUP = 64
"""Items counted in int8 before the counts widen; must stay under 128."""


def rank_targets(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    targets: Int[Array, " users"],
    excluded: Int[Array, "users excluded"],
    *,
    n_items: int,
) -> tuple[Float[Array, " users"], Int[Array, " users"]]:
    """1-based rank of each target among the candidates, and the number of candidates.

    Candidates are the items 1..n_items less the user's `excluded` ids (0 and repeats are ignored); the target
    always is one. A tie costs half and NaN ranks last, so constant or broken scores never rank well. Ranks are
    float32: exact among 8 million items, and to one among 16 million.
    """

    chex.assert_rank([hidden, item_table, targets, excluded], [2, 2, 1, 2])
    chex.assert_type([targets, excluded], int)
    chex.assert_equal_shape_prefix([hidden, targets, excluded], 1)

    def rank(hidden, targets, excluded, item_table):
        scores = hidden @ item_table.T
        candidates = _candidates(excluded, item_table.shape[0], n_items)
        # The same product gives the target's score: a dot product of its own would round differently.
        target_scores = jnp.take_along_axis(scores, targets[:, None], axis=1)
        others = candidates & (jnp.arange(item_table.shape[0]) != targets[:, None])
        # Written as "not at most", which is also true of NaN on either side.
        above = _count(others & ~(scores <= target_scores))
        tied = _count(others & (scores == target_scores))
        return 1.0 + above + 0.5 * tied, 1 + _count(others)

    return _over_user_blocks(rank, (hidden, targets, excluded), item_table, n_items=n_items)


def top_k_items(
    hidden: Float[Array, "users d_model"],
    item_table: Float[Array, "n_rows d_model"],
    excluded: Int[Array, "users excluded"],
    *,
    k: int,
    n_items: int,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """Ids of each user's `k` best candidates, best first, and their scores.

    Where fewer than `k` candidates are left, the list ends in id 0 with score -inf.
    """
    if not 1 <= k <= n_items:
        raise InputError(f"k={k} is not in 1..n_items={n_items}; ask for at most as many items as there are")

    chex.assert_rank([hidden, item_table, excluded], 2)
    chex.assert_type(excluded, int)
    chex.assert_equal_shape_prefix([hidden, excluded], 1)

    def top(hidden, excluded, item_table):
        scores = hidden @ item_table.T
        scores = jnp.where(_candidates(excluded, item_table.shape[0], n_items), scores, -jnp.inf)
        best, ids = jax.lax.top_k(scores, k)
        return jnp.where(best > -jnp.inf, ids, 0), best

    return _over_user_blocks(top, (hidden, excluded), item_table, n_items=n_items)


def make_recommend(encoder: Encoder) -> Callable[..., list[int]]:
    """`recommend(params, sequence, k, *, mask_seen=True)` for any list of item ids, oldest first.

    It returns the `k` best next items, best first; with `mask_seen` none of them is in `sequence`, and where too
    few are left the list is shorter. The user need not be one that the model was trained on.
    """

    @functools.partial(jax.jit, static_argnames="k")
    def top(params: Params, batch: Batch, last: Array, excluded: Array, *, k: int) -> Array:
        hidden = encoder.encode(params, batch)[:, last]
        return top_k_items(hidden, params["item_table"], excluded, k=k, n_items=encoder.n_items)[0]

    def recommend(params: Params, sequence: Sequence[int] | np.ndarray, k: int, *, mask_seen: bool = True) -> list[int]:
        items = np.asarray(sequence)
        if items.size == 0 or not np.issubdtype(items.dtype, np.integer):
            raise InputError(f"sequence={sequence!r} is not a list of item ids; give at least one integer")
        if items.min() < 1 or items.max() > encoder.n_items:
            bad = items[(items < 1) | (items > encoder.n_items)][0]
            raise InputError(f"item {bad} is not in 1..{encoder.n_items}; use the ids of the store's vocabulary")
        read = items[-encoder.max_length :]
        fields = np.zeros((4, 1, encoder.max_length), np.int32)
        fields[0, 0, : len(read)] = read
        fields[2, 0, : len(read)] = 1
        fields[3, 0, : len(read)] = np.arange(len(read))
        seen = np.unique(items) if mask_seen else items[:0]
        # Lengths in powers of two: one compiled function serves many users.
        excluded = np.zeros((1, 1 << int(len(seen) - 1).bit_length() if len(seen) else 0), np.int32)
        excluded[0, : len(seen)] = seen
        found = top(params, Batch(*fields), jnp.int32(len(read) - 1), jnp.asarray(excluded), k=k)
        return [int(item) for item in found[0] if item]

    return recommend


def _candidates(excluded: Int[Array, "users excluded"], n_rows: int, n_items: int) -> Bool[Array, "users n_rows"]:
    allowed = jnp.broadcast_to(catalogue_bias(n_rows, n_items) == 0, (excluded.shape[0], n_rows))
    return allowed.at[jnp.arange(excluded.shape[0])[:, None], excluded].set(False, mode="drop")


def _count(mask: Bool[Array, "users n_rows"]) -> Int[Array, " users"]:
    # XLA's CPU backend sums int32 rows ten times slower than it reads them; int8 groups first cost 1.4 times.
    groups = mask.astype(jnp.int8).reshape(mask.shape[0], -1, _COUNT_GROUP)
    return jnp.sum(jnp.sum(groups, axis=2, dtype=jnp.int8).astype(jnp.int32), axis=1)


def _over_user_blocks(function: Callable[..., Any], rows: tuple[Array, ...], item_table: Array, *, n_items: int) -> Any:
    """`function(*block, item_table)` for blocks of users, each device over its own users."""
    check_item_table(item_table, n_items)
    item_table = jnp.pad(item_table, ((0, -item_table.shape[0] % _COUNT_GROUP), (0, 0)))

    def local(*arguments):
        *rows, item_table = arguments
        n_users = rows[0].shape[0]
        block = block_size(n_users, item_table.shape[0])
        n_blocks = -(-n_users // block)
        padding = n_blocks * block - n_users
        blocks = [
            jnp.pad(row, ((0, padding),) + ((0, 0),) * (row.ndim - 1)).reshape(n_blocks, block, *row.shape[1:])
            for row in rows
        ]
        outputs = jax.lax.map(lambda block: function(*block, item_table), tuple(blocks))
        return jax.tree.map(lambda out: out.reshape(-1, *out.shape[2:])[:n_users], outputs), ()

    return map_rows(local, rows, (item_table,))[0]
