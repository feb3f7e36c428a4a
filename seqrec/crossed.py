"""Systems of several seeds, tested on the same users: would other users and other seeds show the difference?"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.paired import holm
from seqrec.types import InputError


class CrossedContrast(NamedTuple):
    """A weighted sum of systems' means, and what is known of it."""

    estimate: float
    lower: float
    upper: float
    """Ends of the t-interval; NaN where a single user leaves no variance to estimate."""
    p_value: float
    """Two-sided, of the estimate being 0."""
    users_variance: float
    """Of the estimate, had other users been sampled and the same seeds trained."""
    seeds_variance: float
    """What training with other seeds adds to it; NaN where there is one seed, whose share is unknown."""
    degrees_of_freedom: float


class CrossedValues(NamedTuple):
    """What contrasts need of the values of one metric."""

    user_means: Float[np.ndarray, "n_systems n_users"]
    """Means over seeds."""
    run_means: Float[np.ndarray, "n_systems n_seeds"]
    """Means over users."""
    between_seeds: float
    """Variance of a system's run means, pooled over the systems; NaN where there is one seed."""
    within_run: float
    """The share of `between_seeds` that is due to users: it falls as 1 / n_users, where the seeds' own does not."""


def crossed_values(values: Float[np.ndarray, "n_systems n_seeds n_users"]) -> CrossedValues:
    """Means and variances of the values of one metric, by system, seed and user."""
    n_systems, n_seeds, n_users = values.shape
    if 0 in values.shape:
        raise InputError(f"values have the shape {values.shape}; give at least one system, seed and user")
    user_means, run_means = values.mean(axis=1, dtype=np.float64), values.mean(axis=2, dtype=np.float64)
    if n_seeds == 1:
        return CrossedValues(user_means, run_means, math.nan, math.nan)
    within = math.nan
    if n_users > 1:
        squares = 0.0
        for system in range(n_systems):
            expected = user_means[system] + (run_means[system] - run_means[system].mean())[:, None]
            squares += float(np.square(values[system] - expected).sum())
        within = squares / (n_systems * (n_seeds - 1) * (n_users - 1)) / n_users
    return CrossedValues(user_means, run_means, float(run_means.var(axis=1, ddof=1).mean()), within)


def crossed_contrast(
    values: CrossedValues, weights: Float[np.ndarray, " n_systems"], *, level: float = 0.95
) -> CrossedContrast:
    """`weights @ means` of the systems, with an interval for other users and other seeds.

    The value of a system with a seed on a user is the sum of the system's mean, an effect of the user, one of the
    seed, and the rest. Users are the same for all systems; seeds are drawn for each system by itself, though they
    go by the same numbers, and vary as much in each. These are the crossed random effects of many readers and cases
    (Dorfman, Berbaum and Metz 1992), with seeds for readers, nested in systems. With w the weights, U users and S
    seeds, the variance of the estimate is the sum of

    - that of the users' contrasts of means over seeds, over U, with U - 1 degrees of freedom;
    - |w|^2 times the variance of run means pooled over all systems, over S, with n_systems (S - 1) degrees;
    - less |w|^2 times the variance of the rest over S U, which both of these hold. What is taken off is never more
      than the second term, so the variance is at least the users' alone.

    The degrees of freedom of the sum are Satterthwaite's (1946), without the third term, as Hillis (2007, eq. 4) has
    it, and never fewer than the lesser of the two above, which is the least that a sum of both can have: where what is
    taken off leaves almost nothing, the formula would come to a fraction of one. Two systems of two seeds are the
    fewest: there, where seeds' variance is most of it, intervals of 95% hold in 92% of cases. One seed says nothing of
    others: the interval is then for these very runs on other users.

    >>> same_for_all_users = np.array([[[0.1, 0.3]], [[0.2, 0.4]]])
    >>> found = crossed_contrast(crossed_values(same_for_all_users), np.array([-1.0, 1.0]))
    >>> round(found.estimate, 3), round(found.upper, 3)
    (0.1, 0.1)
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"level={level} is outside (0, 1); for a level of 95% pass level=0.95")
    (n_systems, n_users), n_seeds = values.user_means.shape, values.run_means.shape[1]
    estimate = float(weights @ values.user_means.mean(axis=1))
    if n_users == 1:
        return CrossedContrast(estimate, *(math.nan,) * 6)
    of_users = weights @ values.user_means
    # Deviations from one user's, so that equal contrasts have exactly no spread.
    users = float((of_users - of_users[0]).var(ddof=1)) / n_users
    seeds = squares = 0.0
    least = n_users - 1
    if n_seeds > 1:
        share = float(weights @ weights) / n_seeds
        squares = (share * values.between_seeds) ** 2 / (n_systems * (n_seeds - 1))
        least = min(least, n_systems * (n_seeds - 1))
        seeds = share * max(values.between_seeds - values.within_run, 0.0)
    variance = users + seeds
    degrees = max(float(least), variance**2 / (users**2 / (n_users - 1) + squares)) if variance else math.inf
    error = math.sqrt(variance)
    margin = float(stats.t.ppf(1.0 - (1.0 - level) / 2.0, degrees)) * error
    statistic = abs(estimate) / error if error else math.inf if estimate else 0.0
    return CrossedContrast(
        estimate,
        estimate - margin,
        estimate + margin,
        float(2.0 * stats.t.sf(statistic, degrees)),
        users,
        seeds if n_seeds > 1 else math.nan,
        degrees,
    )


def crossed_comparison(values: CrossedValues, *, level: float = 0.95) -> Sequence[tuple[CrossedContrast, float]]:
    """Each system but the first less the first, with its p-value adjusted for all of them (`holm`)."""
    n_systems = len(values.run_means)
    found = []
    for system in range(1, n_systems):
        weights = np.zeros(n_systems)
        weights[[0, system]] = -1.0, 1.0
        found.append(crossed_contrast(values, weights, level=level))
    adjusted = holm(np.array([each.p_value for each in found]))
    return list(zip(found, adjusted.tolist(), strict=True))
