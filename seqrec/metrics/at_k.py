"""Metrics of the ranks of held-out items: recall, NDCG, MRR and others, as values per user or as sums and counts.

A user has one relevant item or several, and a metric is a function of their ranks alone. Ranks are 1-based and may
be fractional, as the mean of tied ranks is. What is no rank (NaN, infinity, anything below 1) scores 0 and still
counts as an item that should have been found. A relevant item that is repeated is one item: leave the repeats out by
`where=distinct_targets(targets)`. A cut-off above the number of candidates cuts nothing off. Values are float32, also
of ranks in float16 or in integers (float64 where jax_enable_x64 is set and the ranks are float64).
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from seqrec.types import InputError

Ranks = Real[Array, "*n_targets"]
"""Ranks of one user's relevant items; a scalar is one item."""

Where = Bool[Array, "*n_targets"] | None
"""True where there is a relevant item; None means everywhere. A user who has none scores 0."""

RankTable = Real[Array | np.ndarray, "n_users *n_targets"]
"""One rank a user, or a row of ranks of the user's relevant items."""

WhereTable = Bool[Array | np.ndarray, "n_users *n_targets"] | None
"""True where there is a relevant item, in the shape of the ranks; None means everywhere."""


def hit_at_k(ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]:
    """1 if any relevant item is among the first `k`, else 0 (its mean is the hit rate, also called success).

    A fractional rank counts when `rank <= k`: a target tied with one other item over places 10 and 11 has
    rank 10.5 and is no hit at 10, where a coin flip between the two would have given half a hit.

    >>> float(hit_at_k(jnp.array(5.0), k=5)), float(hit_at_k(jnp.array(5.5), k=5))
    (1.0, 0.0)
    """
    return jnp.where(jnp.any(_places(ranks, where) <= k), 1.0, 0.0)


def recall_at_k(ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]:
    """The share of the relevant items that are among the first `k`; with one relevant item this is `hit_at_k`.

    The denominator is the number of relevant items even where that is above `k`.

    >>> float(recall_at_k(jnp.array([1.0, 4.0, 30.0, 2.0]), k=5))
    0.75
    """
    return jnp.sum(_places(ranks, where) <= k) / _n_relevant(ranks, where)


def precision_at_k(ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]:
    """The share of the first `k` places that hold a relevant item; the denominator is `k` even for shorter lists.

    >>> float(precision_at_k(jnp.array([1.0, 4.0, 30.0, 2.0]), k=5))
    0.6...
    """
    return jnp.sum(_places(ranks, where) <= k) / k


def ndcg_at_k(ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]:
    """Normalised discounted cumulative gain: the sum of 1 / log2(1 + rank) over ranks <= k, over its best value.

    The best value has the relevant items, at most `k` of them, in the first places; for one item it is 1. Järvelin and
    Kekäläinen (2002, eq. 2), with log2(1 + rank) for their log2(rank), as in Burges et al. (2005).

    >>> [float(ndcg_at_k(jnp.array(rank), k=5)) for rank in (1.0, 3.0, 6.0)]
    [1.0, 0.5, 0.0]
    """
    places = _places(ranks, where)
    gains = jnp.where(places <= k, 1.0 / jnp.log2(1.0 + places), 0.0)
    best = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)), dtype=np.float64)
    n_relevant = _n_relevant(ranks, where)
    return jnp.sum(gains) / jnp.asarray(best, jnp.float32)[jnp.minimum(n_relevant, k) - 1]


def average_precision_at_k(ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]:
    """Precision at the place of each relevant item among the first `k`, summed, over the number of relevant items.

    The mean over users is the MAP (Buckley and Voorhees, 2000). The j-th best relevant item, at rank r, has
    precision j / r. As in trec_eval the denominator is not limited to `k`.

    >>> float(average_precision_at_k(jnp.array([1.0, 4.0]), k=5))
    0.75
    """
    places = _places(ranks, where)
    precisions = jnp.where(places <= k, jnp.arange(1, places.size + 1) / places, 0.0)
    return jnp.sum(precisions) / _n_relevant(ranks, where)


def reciprocal_rank(ranks: Ranks, *, k: int | float = np.inf, where: Where = None) -> Float[Array, ""]:
    """1 / rank of the best relevant item, 0 beyond rank `k`; its mean over users is the MRR (Voorhees, 1999).

    >>> float(reciprocal_rank(jnp.array([9.0, 4.0]))), float(reciprocal_rank(jnp.array(jnp.nan)))
    (0.25, 0.0)
    """
    places = _places(ranks, where)
    return jnp.max(jnp.where(places <= k, 1.0 / places, 0.0), initial=0.0)


def mean_rank(ranks: Ranks, *, where: Where = None) -> Float[Array, ""]:
    """The mean rank of the relevant items; NaN if one of them is not ranked.

    >>> float(mean_rank(jnp.array([9.0, 4.0])))
    6.5
    """
    return jnp.sum(_as_ranks(ranks), where=where) / _n_relevant(ranks, where)


def _as_ranks(ranks: Array | np.ndarray) -> Float[Array, "..."]:
    """The ranks as floats of at least 32 bits, in which sums over many users neither overflow nor lose ones."""
    if ranks.dtype == bool or not (
        jnp.issubdtype(ranks.dtype, jnp.floating) or jnp.issubdtype(ranks.dtype, jnp.integer)
    ):
        raise InputError(f"ranks are {ranks.dtype}; give numbers, 1 for the first place")
    if isinstance(ranks, np.ndarray) and ranks.dtype.kind in "iu":
        return jnp.asarray(ranks.astype(np.float32))  # jax would wrap 64-bit integers to 32 bits
    ranks = jnp.asarray(ranks)
    return ranks.astype(jnp.promote_types(ranks.dtype, jnp.float32))


def _places(ranks: Ranks, where: Where) -> Float[Array, " n"]:
    """The ranks in ascending order, infinite where there is none, the j-th of them at least j.

    The mean rank of tied items may lie before the last of the places that they fill: three items of rank 2 would be
    three hits at 2, and an NDCG above 1.
    """
    ranks = _as_ranks(ranks)
    relevant_ranks = ranks >= 1 if where is None else (ranks >= 1) & where
    relevant_ranks = jnp.where(relevant_ranks, ranks, jnp.inf).reshape(-1)
    if relevant_ranks.size == 1:
        return relevant_ranks
    return jnp.maximum(jnp.sort(relevant_ranks), jnp.arange(1, relevant_ranks.size + 1))


def _n_relevant(ranks: Ranks, where: Where) -> Int[Array, ""]:
    """Number of relevant items, at least 1, since it divides."""
    return jnp.maximum(jnp.int32(ranks.size) if where is None else jnp.sum(where, dtype=jnp.int32), 1)


@runtime_checkable
class MetricAtK(Protocol):
    """A metric of one user's ranks, with a cut-off."""

    def __call__(self, ranks: Ranks, *, k: int, where: Where = None) -> Float[Array, ""]: ...


@runtime_checkable
class RankMetric(Protocol):
    """A metric of one user's ranks."""

    def __call__(self, ranks: Ranks, *, where: Where = None) -> Float[Array, ""]: ...


AT_K: dict[str, MetricAtK] = {
    "hit": hit_at_k,
    "recall": recall_at_k,
    "precision": precision_at_k,
    "ndcg": ndcg_at_k,
    "map": average_precision_at_k,
    "mrr": reciprocal_rank,
}
"""Metrics with a cut-off, by the name that stands before the @."""

WITHOUT_K: dict[str, RankMetric] = {"mrr": reciprocal_rank, "mean_rank": mean_rank}
"""Metrics of the whole list."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetricSums:
    """Totals over users, a pytree; add two with `jax.tree.map(jnp.add, a, b)`, many with `merge_sums`."""

    totals: dict[str, Float[Any, "..."]]
    """Per metric name, the sum over users."""
    n_users: Int[Any, "..."]
    """Users in the totals."""
    n_excluded: Int[Any, "..."]
    """Rows masked out: users without a target, and padding where a batch has any."""


def metric_values(
    ranks: RankTable,
    *,
    ks: Sequence[int] = (5, 10, 20),
    at_k: Sequence[str] = ("recall", "ndcg"),
    without_k: Sequence[str] = ("mrr",),
    where: WhereTable = None,
) -> dict[str, Float[Array, " n_users"]]:
    """Each user's value of every metric, by names such as ndcg@10, first `at_k` at each of `ks`, then `without_k`.

    `ranks` has the shape [n_users] or [n_users, n_targets], and so has `where`, which is False where there is no
    relevant item. `at_k` are names of `AT_K`, and `without_k` of `WITHOUT_K`. What is no rank scores 0.

    >>> {name: float(value[0]) for name, value in metric_values(jnp.array([3.0]), ks=(2, 5)).items()}
    {'recall@2': 0.0, 'recall@5': 1.0, 'ndcg@2': 0.0, 'ndcg@5': 0.5, 'mrr': 0.333...}
    >>> metric_values(jnp.array([[1.0, 4.0]]), ks=(2,), at_k=("map",), without_k=("mean_rank",))["mean_rank"].tolist()
    [2.5]

    Raises:
      InputError: a name is unknown, a cut-off is below 1, or the arrays have another shape or type than these.
    """
    for names, known in ((at_k, AT_K), (without_k, WITHOUT_K)):
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"metric {unknown[0]!r} is not one of {', '.join(known)}; correct its name")
    if any(k < 1 for k in ks):
        raise InputError(f"ks={tuple(ks)} has a cut-off below 1; a list of recommendations has at least one item")
    ranks = _as_ranks(ranks)
    if ranks.ndim == 0:
        raise InputError("ranks is a single number; give [n_users] or [n_users, n_targets]")
    if where is not None and where.shape != ranks.shape:
        raise InputError(f"where has shape {where.shape} and ranks {ranks.shape}; give one entry a rank")
    valid = jnp.ones(ranks.shape, bool) if where is None else jnp.asarray(where)
    return _values(ranks, valid, tuple(ks), tuple(at_k), tuple(without_k))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _values(
    ranks: Array, valid: Array, ks: tuple[int, ...], at_k: tuple[str, ...], without_k: tuple[str, ...]
) -> OrderedDict[str, Array]:
    """`metric_values` in one program: one by one, its operations would each be compiled for every number of users."""
    # An OrderedDict, because jax sorts the keys of a plain dict wherever one passes through a transformation.
    values = OrderedDict[str, Array]()
    for name in at_k:
        for k in ks:
            values[f"{name}@{k}"] = jax.vmap(lambda r, w, f=AT_K[name], k=k: f(r, k=k, where=w))(ranks, valid)
    for name in without_k:
        values[name] = jax.vmap(lambda r, w, f=WITHOUT_K[name]: f(r, where=w))(ranks, valid)
    return values


def metric_sums(
    ranks: RankTable,
    *,
    ks: Sequence[int] = (5, 10, 20),
    at_k: Sequence[str] = ("recall", "ndcg"),
    without_k: Sequence[str] = ("mrr",),
    where: WhereTable = None,
) -> MetricSums:
    """Totals of `metric_values` over the users that have a relevant item; the others are counted and left out.

    Mask out the users without a target by `where`: a rank of NaN scores 0 and lowers the mean.

    >>> sums = metric_sums(jnp.array([1.0, 3.0, jnp.nan]), ks=(5,), where=jnp.array([True, True, False]))
    >>> float(sums.totals["ndcg@5"]), int(sums.n_users), int(sums.n_excluded)
    (1.5, 2, 1)
    """
    values = metric_values(ranks, ks=ks, at_k=at_k, without_k=without_k, where=where)
    valid = jnp.ones(ranks.shape, bool) if where is None else jnp.asarray(where)
    valid = jnp.any(valid, axis=tuple(range(1, valid.ndim)))
    n_users = jnp.sum(valid, dtype=jnp.int32)
    return MetricSums(
        totals=OrderedDict((name, jnp.sum(value, where=valid)) for name, value in values.items()),
        n_users=n_users,
        n_excluded=jnp.int32(valid.size) - n_users,
    )


def merge_sums(*parts: MetricSums) -> MetricSums:
    """The sums over all users of all `parts`, which may be of different sizes.

    >>> both = merge_sums(metric_sums(jnp.array([1.0])), metric_sums(jnp.array([2.0, 4.0])))
    >>> float(both.totals["mrr"]), int(both.n_users)
    (1.75, 3)
    """
    return functools.reduce(functools.partial(jax.tree.map, jnp.add), parts)


def means(sums: MetricSums) -> dict[str, float]:
    """Each metric's mean over users, as Python floats. This is the only division; over no users the mean is NaN.

    >>> means(metric_sums(jnp.array([1.0, 3.0, 6.0]), ks=(5,)))["ndcg@5"]
    0.5
    """
    n_users = int(sums.n_users)
    return {name: float(total) / n_users if n_users else float("nan") for name, total in sums.totals.items()}
