"""Where held-out items stand among scored ones, by counting what beats them: no catalogue is ever sorted."""

from typing import Literal

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.types import InputError

Ties = Literal["mean", "optimistic", "pessimistic"]
"""What a tie costs the target: half a place, none, or a whole one."""

_OWN_COST = {"mean": 1, "optimistic": 0, "pessimistic": 2}
"""Half-places that the target, which ties with itself, is charged when it is counted like any other item."""

_GROUP = 32
"""Items whose costs are summed in int8 before they widen; at 2 each a group must stay under 64."""


def target_ranks(
    scores: Float[Array, "users n_items"],
    targets: Int[Array, "users *n_targets"],
    *,
    where: Bool[Array, "#users n_items"] | None = None,
    exclude: Int[Array, "users n_excluded"] | None = None,
    ties: Ties = "mean",
) -> Float[Array, "users *n_targets"]:
    """1-based rank of each user's target, or of each of several, among all columns of `scores`.

    `where` says which columns are items at all: a target outside it, or outside the scores, has no rank, which is
    NaN and scores 0 in every metric. Columns count from 0; if column 0 is padding, say so there. `exclude` lists
    columns that a user is not to be offered, such as those already seen; repeats in the list and ids outside
    the scores are ignored, so -1 may fill it, and a user's own targets stay candidates. A NaN target ranks behind
    all candidates, and any target behind a NaN.

    Tied items cost half a place each, so the rank is the mean over all orders of the tied items; "optimistic"
    and "pessimistic" give the best and the worst of these orders. Ranks are float32, exact among 8 million items.

    >>> scores = jnp.array([[0.3, 0.9, 0.3, 0.1]])
    >>> [float(target_ranks(scores, jnp.array([0]), ties=ties)[0]) for ties in ("optimistic", "mean", "pessimistic")]
    [2.0, 2.5, 3.0]
    >>> target_ranks(scores, jnp.array([[0, 3]]), exclude=jnp.array([[1, -1]])).tolist()
    [[1.5, 3.0]]
    >>> target_ranks(jnp.full((1, 3), jnp.nan), jnp.array([0])).tolist()
    [3.0]
    """
    chex.assert_rank([scores, targets], [2, {1, 2}])
    chex.assert_type(targets, int)
    chex.assert_equal_shape_prefix([scores, targets], 1)
    each = targets if targets.ndim == 2 else targets[:, None]
    valid = None if where is None else jnp.broadcast_to(where, scores.shape)
    if exclude is not None:
        chex.assert_type(exclude, int)
        chex.assert_equal_shape_prefix([scores, exclude], 1)
        valid = candidates(jnp.ones(scores.shape, bool) if valid is None else valid, exclude, each)
    target_scores = take(scores, each, fill=jnp.nan)
    lost = half_places_lost(scores, target_scores, valid, ties=ties)
    ranks = 1.0 + 0.5 * (lost - own_half_places(target_scores, ties=ties))
    ranked = (each >= 0) & (each < scores.shape[1]) if valid is None else take(valid, each, fill=False)
    return jnp.where(ranked, ranks, jnp.nan).reshape(targets.shape)


def half_places_lost(
    scores: Float[Array, "users n_items"],
    target_scores: Float[Array, "users n_targets"],
    valid: Bool[Array, "#users n_items"] | None,
    *,
    ties: Ties,
) -> Int[Array, "users n_targets"]:
    """Twice the places that each target loses to the valid items, itself counted like any other."""
    if ties not in _OWN_COST:
        raise InputError(f"ties={ties!r} is not one of {', '.join(_OWN_COST)}; mean is the usual choice")
    lost = []
    for column in range(target_scores.shape[1]):
        target = target_scores[:, column, None]
        # Written as "not at most" and "not below", which are also true of NaN on either side.
        above, not_below = (~(scores <= target)).astype(jnp.int8), (~(scores < target)).astype(jnp.int8)
        cost = {"mean": above + not_below, "optimistic": 2 * above, "pessimistic": 2 * not_below}[ties]
        lost.append(count(cost if valid is None else jnp.where(valid, cost, 0)))
    return jnp.stack(lost, axis=1)


def own_half_places(target_scores: Float[Array, "*shape"], *, ties: Ties) -> Int[Array, "*shape"]:
    """What `half_places_lost` charges a target for itself."""
    return jnp.where(jnp.isnan(target_scores), 2, _OWN_COST[ties])


def count(costs: Int[Array, "users n_items"]) -> Int[Array, " users"]:
    """Row sums of int8 costs of at most 2."""
    # XLA's CPU backend sums int32 or float32 rows of a comparison 8 to 12 times slower than it reads the scores.
    # Contiguous groups of 20 or 32 in int8 cost 1.2 times; of 50 4.7, as the inner loop is no longer unrolled.
    n_grouped = costs.shape[1] // _GROUP * _GROUP
    groups = costs[:, :n_grouped].reshape(costs.shape[0], n_grouped // _GROUP, _GROUP)
    total = jnp.sum(jnp.sum(groups, axis=2, dtype=jnp.int8), axis=1, dtype=jnp.int32)
    return total + jnp.sum(costs[:, n_grouped:], axis=1, dtype=jnp.int32)


def take(values: Array, columns: Int[Array, "users n_columns"], *, fill: float | bool) -> Array:
    """`values[user, column]`; `fill` where the column is outside, be it negative or too large."""
    columns = jnp.where(columns < 0, values.shape[1], columns)
    return jnp.take_along_axis(values, columns, axis=1, mode="fill", fill_value=fill)


def candidates(
    items: Bool[Array, "users n_items"],
    exclude: Int[Array, "users n_excluded"],
    targets: Int[Array, "users n_targets"],
) -> Bool[Array, "users n_items"]:
    """`items` less the excluded columns, which the user's own targets are not; columns outside are ignored."""
    users = jnp.arange(len(items))[:, None]
    targets, exclude = (jnp.where(columns < 0, items.shape[1], columns) for columns in (targets, exclude))
    kept = take(items, targets, fill=False)
    return items.at[users, exclude].set(False, mode="drop").at[users, targets].set(kept, mode="drop")
