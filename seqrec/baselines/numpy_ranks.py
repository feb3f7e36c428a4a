"""Ranks of held-out items in NumPy, for code that does not import jax: the twin of `seqrec.metrics.ranks`."""

import numpy as np
from jaxtyping import Bool, Float, Int, Real


def target_ranks(
    scores: Real[np.ndarray, "users n_items"],
    targets: Int[np.ndarray, " users"],
    *,
    where: Bool[np.ndarray, "#users n_items"],
) -> Float[np.ndarray, " users"]:
    """1-based rank of each user's target column among the columns for which `where` is True.

    As `seqrec.metrics.target_ranks`: a tie costs half a place, NaN is held against the target, and a target outside
    `where` or outside the scores has no rank, which is NaN.

    >>> target_ranks(np.array([[9.0, 0.3, 0.9, 0.3]]), np.array([1]), where=np.array([[False, True, True, True]]))
    array([2.5])
    """
    where = np.broadcast_to(where, scores.shape)
    users = np.arange(len(scores))
    inside = (targets >= 0) & (targets < scores.shape[1])
    columns = np.where(inside, targets, 0)
    target_scores = scores[users, columns][:, None]
    # Written as "not at most" and "not below", which are also true of NaN on either side.
    n_above = np.count_nonzero(~(scores <= target_scores) & where, axis=1)
    n_not_below = np.count_nonzero(~(scores < target_scores) & where, axis=1)
    # The target is one of the items counted: above itself if it is NaN, else tied with itself.
    is_nan = np.isnan(target_scores[:, 0])
    ranks = ranks_of_counts(n_above - is_nan, n_not_below - n_above - ~is_nan)
    return np.where(inside & where[users, columns], ranks, np.nan)


def ranks_of_counts(
    n_above: Int[np.ndarray, " users"], n_tied: Int[np.ndarray, " users"]
) -> Float[np.ndarray, " users"]:
    """1-based ranks of targets that have `n_above` items above them and tie with `n_tied` others: half a place each.

    >>> ranks_of_counts(np.array([0, 2]), np.array([0, 1]))
    array([1. , 3.5])
    """
    return 1.0 + n_above + 0.5 * n_tied
