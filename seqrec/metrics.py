"""Ranks of held-out items -> recall, NDCG and reciprocal rank; sums and counts until the last line divides.

Each user has one relevant item, the held-out one, so a metric is a function of its rank alone. Ranks are
1-based and may be fractional, as the mean of tied ranks is. What is no rank (NaN, infinity, anything below 1)
scores 0, never well.
"""

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from seqrec.types import InputError


def recall_at_k(rank: Float[Array, ""], *, k: int) -> Float[Array, ""]:
    """1 if the target is among the first `k` items, else 0; with one relevant item this is the hit rate.

    A fractional rank counts when `rank <= k`: a target tied with one other item over places 10 and 11 has
    rank 10.5 and is no hit at 10, where a coin flip between the two would have given half a hit.

    >>> float(recall_at_k(jnp.array(5.0), k=5)), float(recall_at_k(jnp.array(5.5), k=5))
    (1.0, 0.0)
    """
    return jnp.where((rank >= 1) & (rank <= k), 1.0, 0.0)


def ndcg_at_k(rank: Float[Array, ""], *, k: int) -> Float[Array, ""]:
    """Normalised discounted cumulative gain: 1 / log2(1 + rank) if `rank <= k`, else 0.

    One relevant item makes the ideal gain 1, so there is nothing left to normalise by. Logarithms are to base
    2 (Järvelin and Kekäläinen, 2002, with log2(1 + rank) for their log2(rank)).

    >>> [float(ndcg_at_k(jnp.array(rank), k=5)) for rank in (1.0, 3.0, 6.0)]
    [1.0, 0.5, 0.0]
    """
    return jnp.where((rank >= 1) & (rank <= k), 1.0 / jnp.log2(1.0 + rank), 0.0)


def reciprocal_rank(rank: Float[Array, ""]) -> Float[Array, ""]:
    """1 / rank, without a cut-off; its mean over users is the MRR.

    >>> float(reciprocal_rank(jnp.array(4.0))), float(reciprocal_rank(jnp.array(jnp.nan)))
    (0.25, 0.0)
    """
    return jnp.where(rank >= 1, 1.0 / rank, 0.0)


def target_rank(
    scores: Float[Array, " n_items"], target: Int[Array, ""], candidates: Bool[Array, " n_items"]
) -> Float[Array, ""]:
    """1-based rank of `target` among `candidates`: the slow and clear form, for one user.

    A tie costs half, so the rank is the mean over all orders of the tied items (McSherry and Najork, 2008,
    average the metric over these orders instead). NaN is held against the target, its own and a competitor's
    alike, and a target outside the scores ranks behind all candidates. The target itself is a candidate,
    whatever `candidates` says.

    >>> float(target_rank(jnp.array([0.3, 0.9, 0.3, 0.1]), jnp.array(0), jnp.ones(4, bool)))
    2.5
    >>> float(target_rank(jnp.full(3, jnp.nan), jnp.array(0), jnp.ones(3, bool)))
    3.0
    """
    score = scores.at[target].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    others = candidates & (jnp.arange(scores.size) != target)
    above = jnp.sum(others & ((scores > score) | jnp.isnan(scores)))
    tied = jnp.sum(others & (scores == score))
    return jnp.where(jnp.isnan(score), 1.0 + jnp.sum(others), 1.0 + above + 0.5 * tied)


@struct.dataclass
class MetricSums:
    """Totals over users; add two with `jax.tree.map(jnp.add, a, b)`, many with `merge_sums`."""

    totals: dict[str, Float[Any, "..."]]
    """Per metric name, the sum over users."""
    n_users: Int[Any, "..."]
    """Users in the totals."""
    n_excluded: Int[Any, "..."]
    """Rows masked out: users without a target, and padding where a batch has any."""


def metric_values(
    ranks: Float[Array | np.ndarray, " n_users"], *, ks: Sequence[int] = (5, 10, 20)
) -> dict[str, Float[Array, " n_users"]]:
    """Each user's recall at every `k`, NDCG at every `k`, and reciprocal rank, by name and in this order.

    >>> {name: float(value[0]) for name, value in metric_values(jnp.array([3.0]), ks=(2, 5)).items()}
    {'recall@2': 0.0, 'recall@5': 1.0, 'ndcg@2': 0.0, 'ndcg@5': 0.5, 'mrr': 0.333...}
    """
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} has a cut-off below 1; a list of recommendations has at least one item")
    ranks = jnp.asarray(ranks)
    # An OrderedDict, because jax sorts the keys of a plain dict wherever one passes through a transformation.
    values = OrderedDict[str, Array]()
    for k in ks:
        values[f"recall@{k}"] = jax.vmap(functools.partial(recall_at_k, k=k))(ranks)
    for k in ks:
        values[f"ndcg@{k}"] = jax.vmap(functools.partial(ndcg_at_k, k=k))(ranks)
    values["mrr"] = jax.vmap(reciprocal_rank)(ranks)
    return values


def metric_sums(
    ranks: Float[Array | np.ndarray, " n_users"],
    *,
    ks: Sequence[int] = (5, 10, 20),
    where: Bool[Array | np.ndarray, " n_users"] | None = None,
) -> MetricSums:
    """Totals of `metric_values` over the users that `where` keeps; the others are only counted.

    Mask out who has no target: as a rank of NaN such a user would score 0 and lower the mean.

    >>> sums = metric_sums(jnp.array([1.0, 3.0, jnp.nan]), ks=(5,), where=jnp.array([True, True, False]))
    >>> float(sums.totals["ndcg@5"]), int(sums.n_users), int(sums.n_excluded)
    (1.5, 2, 1)
    """
    valid = jnp.ones(ranks.shape, bool) if where is None else jnp.asarray(where)
    values = metric_values(ranks, ks=ks)
    n_users = jnp.sum(valid, dtype=jnp.int32)
    return MetricSums(
        totals=OrderedDict((name, jnp.sum(value, where=valid)) for name, value in values.items()),
        n_users=n_users,
        n_excluded=jnp.int32(valid.size) - n_users,
    )


def merge_sums(*parts: MetricSums) -> MetricSums:
    """The sums over all users of all `parts`, however unevenly they were batched.

    >>> both = merge_sums(metric_sums(jnp.array([1.0])), metric_sums(jnp.array([2.0, 4.0])))
    >>> float(both.totals["mrr"]), int(both.n_users)
    (1.75, 3)
    """
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)


def means(sums: MetricSums) -> dict[str, float]:
    """Each metric's mean over users, on the host: the only division. Over no users the mean is NaN.

    >>> means(metric_sums(jnp.array([1.0, 3.0, 6.0]), ks=(5,)))["ndcg@5"]
    0.5
    """
    n_users = int(sums.n_users)
    return {name: float(total) / n_users if n_users else float("nan") for name, total in sums.totals.items()}
