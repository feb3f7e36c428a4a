"""Two systems on the same users: is their mean difference more than chance, and could this test set have shown it?"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seqrec.stats.bootstrap import Values, as_columns, bootstrap_intervals
from seqrec.types import InputError

# Sign flips are drawn for as many resamples at a time as fit in this many cells (8 bytes each).
_CELLS_PER_BLOCK = 1 << 22
# Time grows with the number of distinct differences. Above this many, neighbouring ones are drawn together, unless
# that would lose more than this share of their variance.
_MOST_DISTINCT = 2048
_VARIANCE_TO_LOSE = 1e-4


class PairedComparison(NamedTuple):
    """`b` compared with `a`, one entry a metric."""

    difference: Float[np.ndarray, "*n_metrics"]
    """Mean over users of b - a."""
    lower: Float[np.ndarray, "*n_metrics"]
    upper: Float[np.ndarray, "*n_metrics"]
    """Ends of the difference's bootstrap interval."""
    p_value: Float[np.ndarray, "*n_metrics"]
    """Two-sided, of the sign-flip test; not adjusted for the number of metrics (see `holm`)."""
    detectable: Float[np.ndarray, "*n_metrics"]
    """The smallest true difference that a test of this many users with this spread detects with the given power."""
    n_users: int


def paired_comparison(
    a: Values,
    b: Values,
    *,
    level: float = 0.95,
    power: float = 0.8,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Mean differences b - a over users, with intervals, p-values and the smallest detectable differences.

    `a` and `b` have the shape [n_users] or [n_users, n_metrics], and row i of both is the same user; the results have
    the shape [] or [n_metrics]. The interval is the percentile bootstrap over users. The p-value is that of the
    sign-flip permutation test (Fisher, 1935, section 21; Smucker, Allan and Carterette, 2007): if a and b
    are exchangeable for each user, both signs of a user's difference are equally likely, and
    p = (1 + #{|T*| >= |T|}) / (n_resamples + 1) for the sum T of differences. The detectable difference is
    (z_{1 - (1 - level) / 2} + z_power) * sd / sqrt(n_users), with the sd of the differences; one user has none.

    A metric's results depend on its own values and `seed`, not on the other metrics nor on the order of users.
    A metric with a NaN has NaN results. Where a metric has more than 2,048 distinct differences they are
    replaced by the means of 2,048 bins of equal width, if that loses at most 1 part in 10,000 of their variance.

    >>> comparison = paired_comparison(np.zeros((3, 1)), np.array([[0.5], [0.5], [0.5]]))
    >>> comparison.difference.item(), comparison.lower.item(), comparison.upper.item(), comparison.detectable.item()
    (0.5, 0.5, 0.5, 0.0)
    >>> round(comparison.p_value.item(), 1)  # of the 8 choices of signs, 2 are as far from 0: 1/4
    0.2

    Raises:
      InputError: the shapes differ, there are no users, or an option is out of range.
    """
    if a.shape != b.shape:
        raise InputError(f"a has shape {a.shape} and b {b.shape}; give the same users and metrics in both")
    differences = as_columns(b, "b") - as_columns(a, "a")
    n_users, n_metrics = differences.shape
    if n_users == 0:
        raise InputError("a and b have 0 users; a comparison needs at least one")
    for name, value in (("level", level), ("power", power)):
        if not 0.0 < value < 1.0:
            raise InputError(f"{name}={value} is outside (0, 1); for {name} 90% pass {name}=0.9")
    lower, upper = difference_intervals(differences, level=level, n_resamples=n_resamples, seed=seed)
    p_value, detectable = np.full((2, n_metrics), np.nan)
    z = NormalDist().inv_cdf
    z_sum = z(1.0 - (1.0 - level) / 2.0) + z(power)
    for metric, column in enumerate(differences.T):
        if not np.isfinite(column).all():
            continue
        p_value[metric] = _sign_flip_p_value(column, n_resamples=n_resamples, seed=seed)
        if n_users > 1:
            # Deviations from one user's, so that equal differences have exactly no spread.
            detectable[metric] = z_sum * (column - column[0]).std(ddof=1) / math.sqrt(n_users)
    shape = a.shape[1:]
    return PairedComparison(
        difference=differences.mean(axis=0).reshape(shape),
        lower=lower.reshape(shape),
        upper=upper.reshape(shape),
        p_value=p_value.reshape(shape),
        detectable=detectable.reshape(shape),
        n_users=n_users,
    )


def difference_intervals(
    differences: Values, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> tuple[Float[np.ndarray, "*n_metrics"], Float[np.ndarray, "*n_metrics"]]:
    """As `bootstrap_intervals`, but for each metric by itself: faster where few users have equal rows.

    Pairs of ranks make many more distinct rows than ranks do. Many distinct differences are binned as in
    `paired_comparison`.

    >>> lower, upper = difference_intervals(np.array([[0.5, -1.0], [0.5, 1.0]]))
    >>> lower.tolist(), upper.tolist()
    ([0.5, -1.0], [0.5, 1.0])
    """
    ends = []
    for column in as_columns(differences, "differences").T:
        if np.isfinite(column).all():
            values, n_each = _distinct(column)
            column = np.repeat(values, n_each)
        ends.append(bootstrap_intervals(column, level=level, n_resamples=n_resamples, seed=seed))
    shape = differences.shape[1:]
    lower, upper = np.array(ends).reshape(-1, 2).T
    return lower.reshape(shape), upper.reshape(shape)


def _sign_flip_p_value(differences: Float[np.ndarray, " n_users"], *, n_resamples: int, seed: int) -> float:
    # Users whose differences have the same size are interchangeable: of n, Binomial(n, 1/2) keep their sign.
    sizes, n_each = _distinct(np.abs(differences[differences != 0.0]))
    total = abs(differences.sum())
    # Sums of the same terms in another order differ in their last digits; these must not break ties.
    tolerance = 1e-11 * np.abs(differences).sum()
    rng = np.random.default_rng(seed)
    n_as_far = 0
    n_per_block = max(1, _CELLS_PER_BLOCK // max(1, len(sizes)))
    for start in range(0, n_resamples, n_per_block):
        n_block = min(n_per_block, n_resamples - start)
        n_kept = rng.binomial(n_each, 0.5, size=(n_block, len(sizes)))
        totals = (2.0 * n_kept - n_each) @ sizes
        n_as_far += int(np.count_nonzero(np.abs(totals) >= total - tolerance))
    return (1 + n_as_far) / (n_resamples + 1)


def _distinct(
    values: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n_distinct"], Int[np.ndarray, " n_distinct"]]:
    """Distinct values and how often each occurs, or the means and counts of bins where these lose little variance."""
    distinct, n_each = np.unique(values, return_counts=True)
    if len(distinct) <= _MOST_DISTINCT:
        return distinct, n_each
    low, high = distinct[0], distinct[-1]
    bins = np.minimum(((distinct - low) / (high - low) * _MOST_DISTINCT).astype(int), _MOST_DISTINCT - 1)
    n_in_bin = np.bincount(bins, weights=n_each, minlength=_MOST_DISTINCT)
    means = np.bincount(bins, weights=n_each * distinct, minlength=_MOST_DISTINCT) / np.maximum(n_in_bin, 1.0)
    lost = np.sum(n_each * (distinct - means[bins]) ** 2)
    if lost > _VARIANCE_TO_LOSE * np.sum(n_each * (distinct - values.mean()) ** 2):
        return distinct, n_each
    return means[n_in_bin > 0], n_in_bin[n_in_bin > 0].astype(int)
