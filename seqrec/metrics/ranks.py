"""Ranks of held-out items among scored ones, by counting the better items: no catalogue is ever sorted.

This is the one implementation in jax; `seqrec.baselines.numpy_ranks` is its twin in NumPy.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Real

from seqrec.types import InputError

Ties = Literal["mean", "optimistic", "pessimistic"]
"""What a tie costs the target: half a place, none, or a whole one."""

_OWN_COST = {"mean": 1, "optimistic": 0, "pessimistic": 2}
"""Half-places that the target, which ties with itself, is charged when it is counted like any other item."""

_GROUP = 32
"""Items whose costs are summed in int8 before they widen; at 2 each a group must stay under 64."""


def target_ranks(
    scores: Real[Array | np.ndarray, "users n_items"] | Bool[Array | np.ndarray, "users n_items"],
    targets: Integer[Array | np.ndarray, "users *n_targets"],
    *,
    where: Bool[Array | np.ndarray, "#users n_items"] | None = None,
    exclude: Integer[Array | np.ndarray, "users n_excluded"] | None = None,
    ties: Ties = "mean",
) -> Float[Array, "users *n_targets"]:
    """1-based rank of each user's target, or of each of several, among all columns of `scores`.

    `targets` has the shape [users] or [users, n_targets] and holds columns, which count from 0. `where` is True where
    a column is an item: pass it if column 0 is padding. A target outside `where`, or outside the scores, has no rank:
    it is NaN and scores 0 in every metric. `exclude` lists columns that are no candidates for a user, such as items
    seen before; repeated columns and columns outside the scores are ignored, so -1 may pad a row, and a user's own
    targets stay candidates. A repeated target has the same rank each time; pass `where=distinct_targets(targets)` to
    the metrics, which then count it once.

    Tied items cost half a place each, so the rank is the mean over all orders of the tied items (the mean rank of
    McSherry and Najork, 2008); "optimistic" and "pessimistic" give the best and the worst of these orders. A
    NaN target ranks behind all candidates, and any target behind a NaN. Scores are compared in their own type, integers
    too; NumPy's float64 becomes float32 unless jax_enable_x64 is set, and scores that become equal tie. Ranks are
    float32, exact among 8 million items.

    >>> scores = jnp.array([[0.3, 0.9, 0.3, 0.1]])
    >>> [float(target_ranks(scores, jnp.array([0]), ties=ties)[0]) for ties in ("optimistic", "mean", "pessimistic")]
    [2.0, 2.5, 3.0]
    >>> target_ranks(scores, jnp.array([[0, 3]]), exclude=jnp.array([[1, -1]])).tolist()
    [[1.5, 3.0]]
    >>> target_ranks(jnp.full((1, 3), jnp.nan), jnp.array([0])).tolist()
    [3.0]

    Raises:
      InputError: an array has another shape or type than these.
    """
    scores = as_comparable(scores, "scores")
    if scores.ndim != 2:
        raise InputError(f"scores has shape {scores.shape}; give [users, n_items], one row a user")
    targets = _columns(targets, "targets")
    if targets.ndim not in (1, 2) or len(targets) != len(scores):
        raise InputError(
            f"targets has shape {targets.shape} for {len(scores)} users; give [users] or [users, n_targets]"
        )
    if where is not None and where.shape not in (scores.shape, (1, scores.shape[1])):
        raise InputError(f"where has shape {where.shape} for scores {scores.shape}; give this shape or [1, n_items]")
    if exclude is not None:
        exclude = _columns(exclude, "exclude")
        if exclude.ndim != 2 or len(exclude) != len(scores):
            raise InputError(
                f"exclude has shape {exclude.shape} for {len(scores)} users; give [users, n_excluded], one row a user"
            )
    return _target_ranks(scores, targets, None if where is None else jnp.asarray(where), exclude, ties)


@functools.partial(jax.jit, static_argnums=4)
def _target_ranks(
    scores: Real[Array, "users n_items"],
    targets: Integer[Array, "users *n_targets"],
    where: Bool[Array, "#users n_items"] | None,
    exclude: Integer[Array, "users n_excluded"] | None,
    ties: Ties,
) -> Float[Array, "users *n_targets"]:
    """`target_ranks` of arrays that were checked, in one program."""
    each = targets if targets.ndim == 2 else targets[:, None]
    valid = None if where is None else jnp.broadcast_to(where, scores.shape)
    if exclude is not None:
        valid = candidates(jnp.ones(scores.shape, bool) if valid is None else valid, exclude, each)
    target_scores = take(scores, each, fill=jnp.nan if jnp.issubdtype(scores.dtype, jnp.floating) else False)
    lost = half_places_lost(scores, target_scores, valid, ties=ties)
    ranks = 1.0 + 0.5 * (lost - own_half_places(target_scores, ties=ties))
    ranked = (each >= 0) & (each < scores.shape[1]) if valid is None else take(valid, each, fill=False)
    return jnp.where(ranked, ranks, jnp.nan).reshape(targets.shape)


def distinct_targets(
    targets: Integer[Array | np.ndarray, "*users n_targets"], *, padding: int = 0
) -> Bool[Array, "*users n_targets"]:
    """True where a target is an item that does not stand earlier in its row: the `where` of metrics.

    A repeated relevant item is one item, as in the sets of relevant items of trec_eval, ranx and RecBole. Ids equal to
    `padding` are no items.

    >>> distinct_targets(jnp.array([[5, 5, 7, 0]])).tolist()
    [[True, False, True, False]]

    Raises:
      InputError: `targets` are not integers.
    """
    targets = _columns(targets, "targets")
    equal = targets[..., :, None] == targets[..., None, :]
    earlier = jnp.tril(jnp.ones(equal.shape[-2:], bool), k=-1)
    return (targets != padding) & ~jnp.any(equal & earlier, axis=-1)


class ListRanks(NamedTuple):
    """Places of each query's true items in its list."""

    rank: Float[np.ndarray, "queries n"]
    """Places from 1 on; infinite where the list lacks the item."""
    where: Bool[np.ndarray, "queries n"]
    """True where there is a true item that does not stand earlier in its row."""


def list_ranks(lists: Integer[np.ndarray, "queries n"], targets: Integer[np.ndarray, "queries n_targets"]) -> ListRanks:
    """Ranks of the targets in ordered lists, which have no scores and so no ties.

    0 pads both. A target that the list lacks has an infinite rank, which scores 0; a repeated target counts once, as in
    `distinct_targets`. Pass `rank` and `where` to `metric_values`.

    >>> list_ranks(np.array([[7, 2, 5]]), np.array([[5, 8, 5, 0]]))
    ListRanks(rank=array([[ 3., inf,  3., inf]]), where=array([[ True,  True, False, False]]))
    """
    is_target = (lists[:, None, :] == targets[:, :, None]) & (targets > 0)[:, :, None]
    rank = np.where(is_target.any(axis=2), 1.0 + is_target.argmax(axis=2), np.inf)
    return ListRanks(rank, np.asarray(distinct_targets(targets)))


def half_places_lost(
    scores: Real[Array, "users n_items"],
    target_scores: Real[Array, "users n_targets"],
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


def own_half_places(target_scores: Real[Array, "*shape"], *, ties: Ties) -> Int[Array, "*shape"]:
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


def take(values: Array, columns: Integer[Array, "users n_columns"], *, fill: float | bool) -> Array:
    """`values[user, column]`; `fill` where the column is negative or too large."""
    return jnp.take_along_axis(values, _inside(columns, values.shape[1]), axis=1, mode="fill", fill_value=fill)


def candidates(
    items: Bool[Array, "users n_items"],
    exclude: Integer[Array, "users n_excluded"],
    targets: Integer[Array, "users n_targets"],
) -> Bool[Array, "users n_items"]:
    """`items` without the excluded columns, but with the user's own targets; columns outside are ignored."""
    users = jnp.arange(len(items))[:, None]
    targets, exclude = (_inside(columns, items.shape[1]) for columns in (targets, exclude))
    kept = take(items, targets, fill=False)
    return items.at[users, exclude].set(False, mode="drop").at[users, targets].set(kept, mode="drop")


def as_comparable(values: Array | np.ndarray, name: str) -> Array:
    """`values` as a jax array of numbers in the same order; booleans become 0 and 1.

    >>> as_comparable(np.array([False, True]), "scores").tolist()
    [0, 1]

    Raises:
      InputError: they are no real numbers, or 64-bit integers that jax would wrap to 32 bits.
    """
    array = jnp.asarray(values)
    if array.dtype == bool:
        return array.astype(jnp.uint8)
    if not jnp.issubdtype(array.dtype, jnp.integer) and not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{name} are {array.dtype}; give integers or floats")
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.dtype != array.dtype and values.size:
        limits = np.iinfo(array.dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise InputError(
                f"{name} go from {values.min()} to {values.max()}, beyond {array.dtype}; give smaller ones or floats"
            )
    return array


def _columns(ids: Array | np.ndarray, name: str) -> Integer[Array, "..."]:
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(f"{name} are {ids.dtype}; give integers, the columns of items")
    return as_comparable(ids, name)


def _inside(columns: Integer[Array, "*shape"], n_columns: int) -> Int[Array, "*shape"]:
    """The same columns, `n_columns` for negative ones, in a type that holds this number."""
    columns = columns.astype(jnp.promote_types(columns.dtype, jnp.int32))
    return jnp.where(columns < 0, n_columns, columns)
