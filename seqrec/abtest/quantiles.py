"""Differences of quantiles, such as the 90% quantile of plays per user, by bootstrap over users."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from seqrec.abtest.means import check_share
from seqrec.types import InputError

# Size of a block of resamples: resamples times events.
_CELLS_PER_BLOCK = 1 << 22

# In floating point .55 * 100 is slightly more than 55, and its ceiling would be 56.
_JUST_BELOW_ONE = 1.0 - 1e-14


class QuantileDifference(NamedTuple):
    """The treatment's quantile minus the control's, with a percentile interval."""

    difference: float
    lower: float
    upper: float
    control: float
    treatment: float


def quantile_difference(
    control: Float[np.ndarray, " n_control"],
    treatment: Float[np.ndarray, " n_treatment"],
    *,
    quantile: float,
    level: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> QuantileDifference:
    """The difference of a quantile of one value per user. The quantile is the order statistic of rank ceil(q n).

    A resample's quantile is one of the sorted values. Its rank is Binomial(n + 1, q) to the accuracy of the bootstrap
    (Schultzberg and Ankargren, 2022), so ranks are drawn and no user is resampled.

    >>> same = np.full(100, 3.0)
    >>> quantile_difference(same, same + 1.0, quantile=0.9)[:3]
    (1.0, 1.0, 1.0)
    """
    _check(quantile=quantile, level=level, n_resamples=n_resamples)
    rng = np.random.default_rng(seed)
    points, draws = [], []
    for name, values in (("control", control), ("treatment", treatment)):
        if not len(values) or not np.isfinite(values).all():
            raise InputError(f"{name} has {len(values)} users, or values that are not finite; give finite values")
        ordered = np.sort(values)
        points.append(ordered[_index(len(ordered), quantile)])
        places = rng.binomial(len(ordered) + 1, quantile, size=n_resamples)
        draws.append(ordered[np.clip(places - 1, 0, len(ordered) - 1)])
    return _difference(points, draws, level)


def event_quantile_difference(
    control: Float[np.ndarray, " n_control_events"],
    control_users: np.ndarray,
    treatment: Float[np.ndarray, " n_treatment_events"],
    treatment_users: np.ndarray,
    *,
    quantile: float,
    level: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> QuantileDifference:
    """The difference of a quantile of one value per event, such as the seconds of a play. Users are resampled with all
    their events, because users are randomised (a Poisson bootstrap: each is drawn Poisson(1) times, Chamandy et al.,
    2012).

    >>> users = np.arange(100) // 10
    >>> event_quantile_difference(np.ones(100), users, np.full(100, 3.0), users, quantile=0.5)[:3]
    (2.0, 2.0, 2.0)
    """
    _check(quantile=quantile, level=level, n_resamples=n_resamples)
    rng = np.random.default_rng(seed)
    points, draws = [], []
    for name, values, users in (("control", control, control_users), ("treatment", treatment, treatment_users)):
        if len(values) != len(users) or not len(values) or not np.isfinite(values).all():
            raise InputError(
                f"{name} has {len(values)} values of {len(users)} users' events; give finite values with a user each"
            )
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        distinct, owner = np.unique(users, return_inverse=True)
        owner = owner[order]
        points.append(ordered[_index(len(ordered), quantile)])
        resampled = np.empty(n_resamples)
        n_per_block = max(1, _CELLS_PER_BLOCK // len(ordered))
        for start in range(0, n_resamples, n_per_block):
            stop = min(start + n_per_block, n_resamples)
            counts = rng.poisson(1.0, size=(stop - start, len(distinct)))
            # A resample without any user, which happens with a handful of users only, becomes the sample itself.
            counts[counts.sum(axis=1) == 0] = 1
            totals = np.cumsum(counts[:, owner], axis=1)
            places = np.ceil(_JUST_BELOW_ONE * quantile * totals[:, -1])
            resampled[start:stop] = [
                ordered[np.searchsorted(row, place)] for row, place in zip(totals, places, strict=True)
            ]
        draws.append(resampled)
    return _difference(points, draws, level)


def _index(n: int, quantile: float) -> int:
    return min(max(int(np.ceil(_JUST_BELOW_ONE * quantile * n)) - 1, 0), n - 1)


def _difference(points: list[float], draws: list[np.ndarray], level: float) -> QuantileDifference:
    tail = (1.0 - level) / 2.0
    lower, upper = np.quantile(draws[1] - draws[0], [tail, 1.0 - tail])
    return QuantileDifference(*map(float, (points[1] - points[0], lower, upper, *points)))


def _check(*, quantile: float, level: float, n_resamples: int) -> None:
    check_share(quantile=quantile, level=level)
    if n_resamples < 1:
        raise InputError(f"n_resamples={n_resamples} is below 1; 10000 is a common choice")
