"""Is one system at most a margin worse than another, on the same users? One-sided tests, several at once."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

from seqrec.stats.multiplicity import holm
from seqrec.types import InputError

Verdict = Literal["pass", "fail", "cannot tell"]


class NonInferiority(NamedTuple):
    """A test of a mean drop against a margin."""

    drop: float
    """Mean over users of how far the tested system is below the other."""
    lower: float
    upper: float
    """One-sided bounds of the drop, each at the level that Holm's procedure leaves to this test."""
    margin: float
    p_within: float
    """Adjusted p-value of the null hypothesis that the drop is at least the margin."""
    p_beyond: float
    """Adjusted p-value of the null hypothesis that the drop is at most the margin."""
    verdict: Verdict
    n_users: int

    @property
    def n_users_needed(self) -> float:
        """About how many users would decide, if the drop and its spread stay as measured; infinite at the margin."""
        width = self.upper - self.drop if self.drop < self.margin else self.drop - self.lower
        distance = abs(self.margin - self.drop)
        return self.n_users * (width / distance) ** 2 if distance else math.inf


def non_inferiority(
    drops: Sequence[Float[np.ndarray, " _"]], margins: Sequence[float], *, level: float = 0.95
) -> list[NonInferiority]:
    """For each test, whether the mean of its users' drops is shown to be within its margin, or beyond it.

    A drop is one user's value of a metric from 0 to 1 under the system in use, less that under the system that is to
    replace it. A test passes if the mean drop is shown to be below the margin and fails if it is shown to be above it,
    by two one-sided t-tests (Schuirmann 1987). The p-values of each side are adjusted for the number of tests (`holm`),
    so that the chance that any test passes wrongly is at most 1 - level, and so is the chance that any fails wrongly.
    `upper` is at most the margin exactly where a test passes, and `lower` at least the margin exactly where it fails.

    Each side counts one more user, with the largest possible drop: 1 against passing, -1 against failing. Without this
    user, users with equal values have no spread and always decide: if one user in 50 loses the whole metric and the
    margin is .02, then 36% of samples of 50 users hold no such user, and all of these would pass. With it, between 20
    and 6,000 users at most 6% pass there.

    >>> equal = np.zeros(2000)
    >>> [test] = non_inferiority([equal], [0.002])
    >>> test.verdict, round(test.upper, 4)  # 1/2001 for the user that is added, and 1.65 standard errors of 1/2001
    ('pass', 0.0013)
    >>> non_inferiority([equal[:100]], [0.002])[0].verdict
    'cannot tell'
    >>> non_inferiority([equal + 0.01], [0.002])[0].verdict
    'fail'

    Raises:
      InputError: a margin is not from 0 to below 1, a test has no users, or a drop is NaN or infinite, or `level` is
        outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"level={level} is outside (0, 1); for a level of 95% pass level=0.95")
    for users, margin in zip(drops, margins, strict=True):
        if not 0.0 <= margin < 1.0:
            raise InputError(f"a margin of {margin:g} is outside [0, 1); metrics are from 0 to 1, try 0.002")
        if not len(users):
            raise InputError("a test has no users; leave out slices without users")
        if n_bad := int(np.sum(~np.isfinite(users))):
            raise InputError(f"{n_bad} of {len(users)} drops are NaN or infinite; give each user a number")
    upper, p_within = _upper_bounds(drops, margins, level=level)
    lower, p_beyond = _upper_bounds([-users for users in drops], [-margin for margin in margins], level=level)
    tests = []
    for place, (users, margin) in enumerate(zip(drops, margins, strict=True)):
        within, beyond = float(p_within[place]), float(p_beyond[place])
        verdict: Verdict = "pass" if within <= 1.0 - level else "fail" if beyond <= 1.0 - level else "cannot tell"
        bounds = -float(lower[place]), float(upper[place])
        tests.append(NonInferiority(float(users.mean()), *bounds, margin, within, beyond, verdict, len(users)))
    return tests


def _upper_bounds(
    values: Sequence[Float[np.ndarray, " _"]], margins: Sequence[float], *, level: float
) -> tuple[Float[np.ndarray, " n_tests"], Float[np.ndarray, " n_tests"]]:
    """Upper bounds of the means, and adjusted p-values of the hypotheses that these are at least the margins."""
    extended = [np.append(each, 1.0) for each in values]
    means = np.array([each.mean() for each in extended])
    errors = np.array([each.std(ddof=1) / math.sqrt(len(each)) for each in extended])
    # A drop of 1 for every user has no spread, and is at least any margin.
    errors = np.maximum(errors, np.finfo(float).tiny)
    degrees = np.array([float(len(each) - 1) for each in extended])
    # Above 0, so that the ratio below exists.
    p_values = np.maximum(special.stdtr(degrees, (means - margins) / errors), np.finfo(float).tiny)
    adjusted = holm(p_values)
    # The p-value is compared with this share of 1 - level exactly where the adjusted one is compared with 1 - level.
    return means + special.stdtrit(degrees, 1.0 - (1.0 - level) * p_values / adjusted) * errors, adjusted
