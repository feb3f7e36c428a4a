"""Systems trained with several seeds and tested on the same users: would other users and other seeds agree?"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from seqrec.stats.multiplicity import holm
from seqrec.types import InputError


class Contrast(NamedTuple):
    """A weighted sum of the systems' means, with its interval and test."""

    estimate: float
    lower: float
    upper: float
    """Ends of the t-interval; NaN where there is one user, who leaves no variance to estimate."""
    p_value: float
    """Two-sided, for the null hypothesis that the contrast is 0."""
    users_variance: float
    """Variance of the estimate over samples of users, for these trained models."""
    seeds_variance: float
    """Variance that training with other seeds adds; NaN where there is one seed."""
    degrees_of_freedom: float


class SeedUserSummary(NamedTuple):
    """What contrasts need of the values of one metric."""

    user_means: Float[np.ndarray, "n_systems n_users"]
    """Means over seeds."""
    run_means: Float[np.ndarray, "n_systems n_seeds"]
    """Means over users."""
    between_seeds: float
    """Variance of a system's run means, pooled over the systems; NaN where there is one seed."""
    within_run: float
    """The part of `between_seeds` that is due to the sample of users: it falls as 1 / n_users."""


SeedUserValues = Float[np.ndarray, "n_systems n_seeds n_users"] | SeedUserSummary
"""One metric's value for each system, seed and user, or their `seed_user_summary`, which serves several contrasts."""


def seed_user_summary(values: Float[np.ndarray, "n_systems n_seeds n_users"]) -> SeedUserSummary:
    """Means and variances of the values of one metric, by system, seed and user.

    >>> summary = seed_user_summary(np.array([[[0.0, 2.0], [1.0, 5.0]]]))
    >>> summary.user_means.tolist(), summary.run_means.tolist(), summary.between_seeds
    ([[0.5, 3.5]], [[1.0, 3.0]], 2.0)

    Raises:
      InputError: there is no system, no seed or no user.
    """
    n_systems, n_seeds, n_users = values.shape
    if 0 in values.shape:
        raise InputError(f"values has shape {values.shape}; give at least one system, seed and user")
    user_means, run_means = values.mean(axis=1, dtype=np.float64), values.mean(axis=2, dtype=np.float64)
    if n_seeds == 1:
        return SeedUserSummary(user_means, run_means, math.nan, math.nan)
    within = math.nan
    if n_users > 1:
        squares = 0.0
        for system in range(n_systems):
            expected = user_means[system] + (run_means[system] - run_means[system].mean())[:, None]
            squares += float(np.square(values[system] - expected).sum())
        within = squares / (n_systems * (n_seeds - 1) * (n_users - 1)) / n_users
    return SeedUserSummary(user_means, run_means, float(run_means.var(axis=1, ddof=1).mean()), within)


def contrast_over_seeds_and_users(
    values: SeedUserValues, weights: Float[np.ndarray, " n_systems"], *, level: float = 0.95
) -> Contrast:
    """`weights @ means` of the systems, with an interval and a p-value that hold for other users and other seeds.

    The model: a value is the system's mean, plus an effect of the user, plus an effect of the seed, plus a rest. All
    systems are tested on the same users. Each system has seeds of its own, even where they have the same numbers, and
    the seeds' variance is the same for all systems. These are the crossed random effects of studies with many readers
    and cases (Dorfman, Berbaum and Metz, 1992), with seeds, nested in systems, for the readers. With the weights w,
    U users and S seeds, the variance of the estimate is the sum of

    - the variance over users of their contrasts of means over seeds, over U, with U - 1 degrees of freedom;
    - |w|^2 times the variance of run means, pooled over all systems, over S, with n_systems (S - 1) degrees;
    - minus |w|^2 times the variance of the rest over S U, which both of these contain. At most the second term is
      subtracted, so the variance is at least that of the users.

    The degrees of freedom of the sum are Satterthwaite's (1946), without the third term, as in Hillis (2007, eq. 4),
    and at least the smaller of the two above, which is the least that a sum of two variances can have; without this
    bound the formula gives fractions of one where the third term cancels most of the second. Two systems with two seeds
    are the smallest design: there, if most of the variance is the seeds', 95% intervals cover 92%. One seed says
    nothing about others: the interval is then for these trained models on other users.

    A contrast without variance has p-value 0, or 1 where it is 0 itself. NaN values give NaN results.

    >>> values = np.array([[[0.1, 0.3]], [[0.2, 0.4]]])  # two systems, one seed, two users: each user gains .1
    >>> contrast = contrast_over_seeds_and_users(values, np.array([-1.0, 1.0]))
    >>> round(contrast.estimate, 3), round(contrast.upper, 3)
    (0.1, 0.1)

    Raises:
      InputError: `level` is outside (0, 1), or `weights` has not one entry a system.
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"level={level} is outside (0, 1); for a level of 95% pass level=0.95")
    if not isinstance(values, SeedUserSummary):
        values = seed_user_summary(values)
    (n_systems, n_users), n_seeds = values.user_means.shape, values.run_means.shape[1]
    if weights.shape != (n_systems,):
        raise InputError(f"weights has shape {weights.shape} for {n_systems} systems; give one weight a system")
    estimate = float(weights @ values.user_means.mean(axis=1))
    if n_users == 1:
        return Contrast(estimate, *(math.nan,) * 6)
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
    # scipy.stats.t calls these two functions; importing it takes longer than importing NumPy.
    margin = float(special.stdtrit(degrees, 1.0 - (1.0 - level) / 2.0)) * error
    statistic = abs(estimate) / error if error else math.inf if estimate else 0.0
    return Contrast(
        estimate,
        estimate - margin,
        estimate + margin,
        float(2.0 * special.stdtr(degrees, -statistic)),
        users,
        seeds if n_seeds > 1 else math.nan,
        degrees,
    )


def compare_over_seeds_and_users(values: SeedUserValues, *, level: float = 0.95) -> list[tuple[Contrast, float]]:
    """For each system but the first: its contrast with the first, and the p-value adjusted for all of them (`holm`).

    >>> values = np.array([[[0.1, 0.3]], [[0.1, 0.3]], [[0.2, 0.4]]])
    >>> [(round(each.estimate, 3), round(adjusted, 3)) for each, adjusted in compare_over_seeds_and_users(values)]
    [(0.0, 1.0), (0.1, 0.0)]
    """
    if not isinstance(values, SeedUserSummary):
        values = seed_user_summary(values)
    n_systems = len(values.run_means)
    contrasts = []
    for system in range(1, n_systems):
        weights = np.zeros(n_systems)
        weights[[0, system]] = -1.0, 1.0
        contrasts.append(contrast_over_seeds_and_users(values, weights, level=level))
    adjusted = holm(np.array([each.p_value for each in contrasts]))
    return list(zip(contrasts, adjusted.tolist(), strict=True))
