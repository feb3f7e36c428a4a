"""Ranking metrics of scores and graded labels, in the signatures of rax: any number of relevant items a list.

Scores, labels and the mask `where` have the shape [..., n_items]; each list is ranked by itself. The conventions:

- Ties have the exact mean of the metric over all orders of the tied items (McSherry and Najork, 2008), from
  the positions and counts of each group of ties. The order of the items in the array never matters.
- NaN scores rank behind all others, -inf included, and among themselves the least relevant first: a model that
  has diverged gets the worst value its labels allow. A score of -inf takes a place like any other.
- Scores may be floats, integers or booleans, and are compared in their own type. NumPy's float64 becomes float32
  unless jax_enable_x64 is set; scores that become equal tie.
- Masked items take no place.
- An item is relevant if its label is above 0. A label that is NaN or negative counts as 0. An infinite one makes an
  infinite DCG, and its NDCG is the limit for a growing label: beside it, finite labels add nothing.
- A list without a relevant item says nothing about a model. It is left out of the mean, and is NaN where
  `reduce_fn=None` returns one value a list: sum with `jnp.nansum`, count with `~jnp.isnan`. Over no lists at
  all the mean is NaN.
- `reduce_fn` is called as `reduce_fn(values, where=has_relevant_item)`, as `jnp.sum` can be.
- An `InputError` is raised where shapes differ, a list has no items, `topn` is below 1, or an array has no numbers.

Values are float32, whatever the type of the scores; lists of up to 16 million items are counted exactly. Of
rax's options `segments`, `weights`, `key`, `rank_fn` and `cutoff_fn` are missing: no tie is left to be broken.
`metric_values` is shorter where the ranks of the relevant items are at hand.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from seqrec.metrics.ranks import as_comparable
from seqrec.types import InputError

Scores = Real[Array | np.ndarray, "*lists n_items"] | Bool[Array | np.ndarray, "*lists n_items"]
Labels = Scores
Mask = Bool[Array | np.ndarray, "*lists n_items"] | None
"""True where there is an item; None means everywhere."""


@runtime_checkable
class Reduction(Protocol):
    """How the values of many lists become one, such as `jnp.mean` or `jnp.sum`."""

    def __call__(self, values: Array, /, *, where: Array) -> Array:
        """`where` is True for the lists that count."""


ReduceFn = Reduction | None
"""None keeps one value a list."""

ArrayFn = Callable[[Array], Array]
"""A function of labels or places, entry by entry. Each new object is compiled anew: pass the same one each time."""


def exponential_gain(labels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """2^label - 1, the gain of Burges et al. (2005); Järvelin and Kekäläinen (2002) take the label itself.

    It is infinite from label 128 on; `ndcg_metric` scales it down there.

    >>> exponential_gain(jnp.array([0.0, 1.0, 3.0])).tolist()
    [0.0, 1.0, 7.0]
    """
    return jnp.exp2(labels) - 1.0


def log2_discount(places: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 / log2(1 + place), for places from 1.

    >>> log2_discount(jnp.array([1.0, 3.0])).tolist()
    [1.0, 0.5]
    """
    return 1.0 / jnp.log2(1.0 + places)


def dcg_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    gain_fn: ArrayFn = exponential_gain,
    discount_fn: ArrayFn = log2_discount,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Discounted cumulative gain: the sum of gain x discount over the first `topn` places.

    Järvelin and Kekäläinen (2002, eq. 2). In a group of ties each place has the group's mean gain. With the
    default gain a label of 128 or more makes it infinite.

    >>> float(dcg_metric(jnp.array([3.0, 2.0, 1.0]), jnp.array([3, 0, 1])))  # 7 / log2(2) + 1 / log2(4)
    7.5
    >>> float(dcg_metric(jnp.zeros(2), jnp.array([3, 0]), topn=1))  # 7 or 0
    3.5
    """
    return _over_lists(_dcg, scores, labels, where, reduce_fn, topn, gain_fn, discount_fn)


def _dcg(ranking: "_Ranking", topn: int | None, gain_fn: ArrayFn, discount_fn: ArrayFn) -> "_Value":
    gains = _gains(ranking, gain_fn)
    return _discounted_gain(ranking, gains, topn, discount_fn), ranking.n_relevant > 0


def ndcg_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    gain_fn: ArrayFn = exponential_gain,
    discount_fn: ArrayFn = log2_discount,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Normalised DCG: `dcg_metric` over that of the best order, both cut at `topn` (Järvelin and Kekäläinen, 2002).

    A list in which nothing has a gain is left out, as one without a relevant item is. A `gain_fn` that exceeds float32
    makes NaN; the default gain is scaled and does not.

    >>> float(ndcg_metric(jnp.array([1.0, 2.0, 3.0]), jnp.array([1, 0, 0])))  # third: 1 / log2(4)
    0.5
    >>> float(ndcg_metric(jnp.zeros(4), jnp.array([1, 0, 0, 0]), topn=1))
    0.25
    """
    return _over_lists(_ndcg, scores, labels, where, reduce_fn, topn, gain_fn, discount_fn)


def _ndcg(ranking: "_Ranking", topn: int | None, gain_fn: ArrayFn, discount_fn: ArrayFn) -> "_Value":
    if gain_fn is exponential_gain:
        # Both sums of the ratio are scaled by the same power of two, by 1 up to label 64, so that none overflows.
        largest = jnp.max(ranking.labels, where=jnp.isfinite(ranking.labels), initial=0.0)
        shift = jnp.maximum(largest - 64.0, 0.0)
        gains = jnp.where(ranking.kept, jnp.exp2(ranking.labels - shift) - jnp.exp2(-shift), 0.0)
    else:
        gains = _gains(ranking, gain_fn)
    outweighs_all = jnp.isinf(ranking.labels) & jnp.isinf(gains)
    gains = jnp.where(jnp.any(outweighs_all), outweighs_all, gains)
    n_places = gains.size if topn is None else min(topn, gains.size)
    best, _ = jax.lax.top_k(gains, n_places)
    ideal = jnp.sum(best * discount_fn(ranking.places[:n_places]))
    value = _discounted_gain(ranking, gains, topn, discount_fn) / jnp.where(ideal == 0.0, 1.0, ideal)
    return value, (ranking.n_relevant > 0) & (ideal != 0.0)


def precision_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Relevant items among the first `topn`, over `topn`; without a cut-off, over the number of items.

    The divisor stays `topn` where a list is shorter, as in trec_eval: an empty place is not relevant.

    >>> scores, labels = jnp.array([3.0, 2.0, 1.0]), jnp.array([1, 0, 1])
    >>> [float(precision_metric(scores, labels, topn=topn)) for topn in (1, 2, 4)]
    [1.0, 0.5, 0.5]
    """
    return _over_lists(_precision, scores, labels, where, reduce_fn, topn)


def _precision(ranking: "_Ranking", topn: int | None) -> "_Value":
    n_places = ranking.n_kept if topn is None else topn
    return _relevant_in_top(ranking, topn) / jnp.maximum(n_places, 1.0), ranking.n_relevant > 0


def recall_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Relevant items among the first `topn`, over all relevant items of the list.

    With more relevant items than places the best value is below 1; some divide by min(`topn`, relevant items).

    >>> float(recall_metric(jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1, 0, 1, 0]), topn=2))
    0.5
    >>> float(recall_metric(jnp.zeros(4), jnp.array([1, 0, 0, 0]), topn=3))
    0.75
    """
    return _over_lists(_recall, scores, labels, where, reduce_fn, topn)


def _recall(ranking: "_Ranking", topn: int | None) -> "_Value":
    return _relevant_in_top(ranking, topn) / jnp.maximum(ranking.n_relevant, 1.0), ranking.n_relevant > 0


def ap_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Average precision: the sum of the precisions at the relevant items' places, over all relevant items.

    Buckley and Voorhees (2000). The divisor does not shrink with `topn`, as in trec_eval's map_cut: a
    relevant item beyond it adds 0.

    >>> float(ap_metric(jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1, 0, 0, 1])))  # (1/1 + 2/4) / 2
    0.75
    >>> float(ap_metric(jnp.zeros(2), jnp.array([1, 0])))  # 1 or 1/2
    0.75
    """
    return _over_lists(_average_precision, scores, labels, where, reduce_fn, topn)


def _average_precision(ranking: "_Ranking", topn: int | None) -> "_Value":
    # Given that a place of the group is relevant, the group's other relevant items are spread evenly.
    earlier = ranking.n_earlier * (ranking.n_tied_relevant - 1.0) / jnp.maximum(ranking.n_tied - 1.0, 1.0)
    precision = (ranking.n_relevant_above + 1.0 + earlier) / ranking.places
    chance = ranking.n_tied_relevant / ranking.n_tied
    total = jnp.sum(chance * precision, where=_in_top(ranking, topn))
    return total / jnp.maximum(ranking.n_relevant, 1.0), ranking.n_relevant > 0


def mrr_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """Reciprocal rank: 1 / place of the first relevant item, 0 if that is beyond `topn`; its mean is the MRR.

    Voorhees (1999), for a place of the first correct answer.

    >>> float(mrr_metric(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 2])))
    0.5
    >>> float(mrr_metric(jnp.zeros(2), jnp.array([1, 0])))  # 1 or 1/2
    0.75
    """
    return _over_lists(_reciprocal_rank, scores, labels, where, reduce_fn, topn)


def _reciprocal_rank(ranking: "_Ranking", topn: int | None) -> "_Value":
    hazard = _first_relevant_hazard(ranking)
    log_none_above = jnp.cumsum(jnp.log1p(-hazard)[:-1])
    none_above = jnp.concatenate([jnp.ones(1, jnp.float32), jnp.exp(log_none_above)])
    value = jnp.sum(none_above * hazard / ranking.places, where=_in_top(ranking, topn))
    return value, ranking.n_relevant > 0


def hit_metric(
    scores: Scores,
    labels: Labels,
    *,
    where: Mask = None,
    topn: int | None = None,
    reduce_fn: ReduceFn = jnp.mean,
) -> Float[Array, "..."]:
    """1 if a relevant item is among the first `topn`, else 0; also called success. Among ties, its probability.

    >>> float(hit_metric(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 2]), topn=1))
    0.0
    >>> float(hit_metric(jnp.zeros(4), jnp.array([1, 1, 0, 0]), topn=2))  # 1 - 2/4 x 1/3
    0.833...
    """
    return _over_lists(_hit, scores, labels, where, reduce_fn, topn)


def _hit(ranking: "_Ranking", topn: int | None) -> "_Value":
    log_none = jnp.sum(jnp.log1p(-_first_relevant_hazard(ranking)), where=_in_top(ranking, topn))
    # The size of a number that is never positive: 1 - exp() would round small chances, and -expm1(0) is -0.
    return jnp.abs(jnp.expm1(log_none)), ranking.n_relevant > 0


_Value = tuple[Float[Array, ""], Bool[Array, ""]]
"""A list's value, and whether the list counts."""


class _Ranking(NamedTuple):
    """One list, best score first: what every metric reads. Masked items fill its end."""

    labels: Float[Array, " n_items"]
    """Label of each place, never below 0; ascending inside a group of ties."""
    kept: Bool[Array, " n_items"]
    """Whether the place is taken by an item that is not masked."""
    places: Float[Array, " n_items"]
    """1, 2, …"""
    groups: Int[Array, " n_items"]
    """0-based index of each place's group of ties."""
    n_tied: Float[Array, " n_items"]
    """Items in the place's group."""
    n_tied_relevant: Float[Array, " n_items"]
    """Relevant items in the place's group."""
    n_relevant_above: Float[Array, " n_items"]
    """Relevant items in the groups above."""
    n_earlier: Float[Array, " n_items"]
    """Places of the same group above this one."""
    n_relevant: Float[Array, ""]
    n_kept: Float[Array, ""]


def _rank(scores: Real[Array, " n_items"], labels: Array, where: Bool[Array, " n_items"]) -> _Ranking:
    n_items = scores.size
    kept = jnp.arange(n_items) < jnp.sum(where)
    places = jnp.arange(1.0, n_items + 1.0, dtype=jnp.float32)
    clean = jnp.where(labels > 0, labels, 0).astype(jnp.float32)  # NaN is not above 0 either
    # NaN sorts last, by label in ascending order, and masked items behind it. As NaN is not equal to itself, no two of
    # them are a tie. Of integers the bitwise complement reverses the order; a minus would overflow for the smallest
    # signed one and for all unsigned ones.
    is_float = jnp.issubdtype(scores.dtype, jnp.floating)
    keys = [jnp.where(where, -scores, jnp.nan)] if is_float else [~where, ~scores]
    padded_labels = jnp.where(where, clean, jnp.inf)
    *keys, ordered = jax.lax.sort((*keys, padded_labels), dimension=0, num_keys=len(keys) + 1)
    ordered = jnp.where(kept, ordered, 0.0)
    differs = functools.reduce(jnp.logical_or, [key[1:] != key[:-1] for key in keys])
    starts = jnp.concatenate([jnp.ones(1, bool), differs])
    groups = jnp.cumsum(starts) - 1
    relevant = (ordered > 0).astype(jnp.float32)
    n_relevant_so_far = jnp.cumsum(relevant)
    return _Ranking(
        labels=ordered,
        kept=kept,
        places=places,
        groups=groups,
        n_tied=_group_sums(jnp.ones(n_items, jnp.float32), groups)[groups],
        n_tied_relevant=_group_sums(relevant, groups)[groups],
        # Both grow along the list, so the largest value at a start so far is that of the group's own start.
        n_relevant_above=jax.lax.cummax(jnp.where(starts, n_relevant_so_far - relevant, 0.0)),
        n_earlier=places - jax.lax.cummax(jnp.where(starts, places, 0.0)),
        n_relevant=n_relevant_so_far[-1],
        n_kept=jnp.sum(where, dtype=jnp.float32),
    )


def _group_sums(values: Float[Array, " n_items"], groups: Int[Array, " n_items"]) -> Float[Array, " n_items"]:
    return jax.ops.segment_sum(values, groups, num_segments=groups.size, indices_are_sorted=True)


def _in_top(ranking: _Ranking, topn: int | None) -> Bool[Array, " n_items"]:
    return ranking.kept if topn is None else ranking.kept & (ranking.places <= topn)


def _gains(ranking: _Ranking, gain_fn: ArrayFn) -> Float[Array, " n_items"]:
    return jnp.where(ranking.kept, gain_fn(ranking.labels), 0.0)


def _discounted_gain(
    ranking: _Ranking, gains: Float[Array, " n_items"], topn: int | None, discount_fn: ArrayFn
) -> Float[Array, ""]:
    mean_gains = _group_sums(gains, ranking.groups)[ranking.groups] / ranking.n_tied
    return jnp.sum(mean_gains * discount_fn(ranking.places), where=_in_top(ranking, topn))


def _relevant_in_top(ranking: _Ranking, topn: int | None) -> Float[Array, ""]:
    return jnp.sum(ranking.n_tied_relevant / ranking.n_tied, where=_in_top(ranking, topn))


def _first_relevant_hazard(ranking: _Ranking) -> Float[Array, " n_items"]:
    """Probability that a place is relevant if none above it is; without meaning behind a certain hit.

    The first relevant item stands in the first group that has one. After i of its n places without a hit, all
    r relevant items are among the n - i that are left.
    """
    decides = (ranking.n_relevant_above == 0) & (ranking.n_tied_relevant > 0)
    chance = ranking.n_tied_relevant / (ranking.n_tied - ranking.n_earlier)
    return jnp.where(decides, jnp.minimum(chance, 1.0), 0.0)


def _over_lists(
    value: Callable[..., _Value], scores: Scores, labels: Labels, where: Mask, reduce_fn: ReduceFn, *options: Any
) -> Float[Array, "..."]:
    """`value(ranking, *options)` of each list, reduced over the lists that count; the first option is `topn`."""
    topn = options[0]
    if topn is not None and topn < 1:
        raise InputError(f"topn={topn} is below 1; a list has at least one place, and None is no cut-off")
    scores, labels = as_comparable(scores, "scores"), as_comparable(labels, "labels")
    where = jnp.ones(scores.shape, bool) if where is None else jnp.asarray(where)
    if not scores.shape == labels.shape == where.shape:
        raise InputError(
            f"scores {scores.shape}, labels {labels.shape} and where {where.shape} differ in shape; "
            f"pass one label (and one mask entry) a score"
        )
    if not scores.shape or not scores.shape[-1]:
        raise InputError(f"scores has shape {scores.shape}; its last axis is the list and has at least one item")
    values, counts = _list_values(value, options, scores, labels, where)
    if reduce_fn is None:
        return jnp.where(counts, values, jnp.nan)
    return reduce_fn(values, where=counts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _list_values(
    value: Callable[..., _Value], options: tuple[Any, ...], scores: Array, labels: Array, where: Array
) -> tuple[Float[Array, "*lists"], Bool[Array, "*lists"]]:
    def of_list(scores: Array, labels: Array, where: Array) -> tuple[Array, Array]:
        return value(_rank(scores, labels, where), *options)

    return jnp.vectorize(of_list, signature="(n),(n),(n)->(),()")(scores, labels, where)
