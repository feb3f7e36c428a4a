"""Means and ratios by arm, plain or with covariates (CUPED), and the difference between two arms.

Everything is at the level of users, who are what was randomised: a ratio such as skips a play is the ratio of two sums
over users, and its variance is the delta method's, since plays of one user are not independent.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.abtest.moments import Moments
from seqrec.types import InputError


class Estimate(NamedTuple):
    """An arm's mean or ratio and its uncertainty."""

    value: float
    variance: float
    """Of the arm's own part of `value` (not of a user's value): the whole of it, unless it was adjusted."""
    n_users: int
    shared_variance: float = 0.0
    """Of the part of `value` that all arms share: with covariates, that of their pooled mean times theta. It cancels
    in a difference of two arms, and does not in their ratio."""
    shared_covariance: float = 0.0
    """Of the arm's own part with the shared one."""

    @property
    def total_variance(self) -> float:
        """Variance of `value`, with the part that it shares with other arms."""
        return max(self.variance + self.shared_variance + 2 * self.shared_covariance, 0.0)


class Effect(NamedTuple):
    """How a treatment stands to the control."""

    difference: float
    """Treatment less control."""
    standard_error: float
    degrees_of_freedom: float
    """Welch and Satterthwaite's."""
    lower: float
    upper: float
    """Ends of the difference's interval."""
    p_value: float
    """Two-sided."""
    relative: float
    """Difference over the control's value; NaN where that is 0."""
    relative_lower: float
    relative_upper: float
    """Ends of the relative difference's interval by the delta method; NaN where the control's value is within three
    standard errors of 0."""
    detectable: float
    """The smallest true difference that this many users would have shown with the asked-for power."""


def mean_estimate(arm: Moments, column: int = 0) -> Estimate:
    """A column's mean over users.

    >>> mean_estimate(Moments(4, np.array([2.0]), np.array([[8.0]])))[:3]
    (2.0, 2.0, 4)
    """
    return Estimate(float(arm.mean[column]), float(arm.covariance[column, column]) / arm.n_users, arm.n_users)


def ratio_estimate(arm: Moments, numerator: int = 0, denominator: int = 1) -> Estimate:
    """Sum of one column over sum of another, with the delta method's variance (Deng, Knoblich and Lu, 2018, eq. 2).

    >>> skips_and_plays = Moments(100, np.array([1.0, 4.0]), np.diag([0.16, 0.0]))
    >>> ratio_estimate(skips_and_plays)[:3]  # the denominator does not vary: .16 / 4^2 / 100
    (0.25, 0.0001, 100)
    """
    gradient = _ratio_gradient(arm, numerator, denominator)
    value = float(arm.mean[numerator] / arm.mean[denominator])
    # Where all users have one ratio, rounding may leave a variance of -1e-36.
    return Estimate(value, max(float(gradient @ arm.covariance @ gradient), 0.0) / arm.n_users, arm.n_users)


def _ratio_gradient(arm: Moments, numerator: int, denominator: int) -> Float[np.ndarray, " n_columns"]:
    below = arm.mean[denominator]
    if not below > 0.0:
        raise InputError(
            f"denominator has mean {below:g} over {arm.n_users} users, a ratio needs one above 0; "
            "choose a denominator that the arm has"
        )
    gradient = np.zeros(len(arm.mean))
    gradient[numerator] += 1.0 / below
    gradient[denominator] -= arm.mean[numerator] / below**2
    return gradient


def cuped_estimates(
    arms: Sequence[Moments], covariates: Sequence[int], *, numerator: int = 0, denominator: int | None = None
) -> tuple[list[Estimate], float]:
    """Each arm's mean or ratio adjusted for covariates, and the share of variance that the adjustment removes.

    CUPED (Deng, Xu, Kohavi and Walker, 2013): y - theta'(x - mean of x), with one theta for all arms, from the
    regression inside arms; the mean of x is over all arms, so that adjusted values stay near the plain ones. That mean
    is the part of a value that all arms share. For a ratio y is the linearised one, (numerator - ratio *
    denominator) / mean denominator. Columns of `covariates` must be fixed before the treatment can act on them: sums
    of a period before, or a prediction made from such (CUPAC, Li, Tang and Caruana, 2020; `cross_fitted_weights` makes
    one). A covariate that does not vary is ignored. With one covariate the remaining variance of a difference is
    1 - r^2 of the plain one.

    >>> arm = Moments(100, np.array([5.0, 3.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))  # r = 1 / 2, theta = 1
    >>> estimates, saved = cuped_estimates([arm, arm], [1])
    >>> saved
    0.25
    >>> estimates[0]  # the mean of x over 200 users has variance 1 / 200
    Estimate(value=5.0, variance=0.03, n_users=100, shared_variance=0.005, shared_covariance=0.0)
    """
    columns = list(covariates)
    gradients = _gradients(arms, numerator, denominator)
    theta = _regression(arms, columns, gradients)
    n_all = sum(arm.n_users for arm in arms)
    centre = sum(arm.n_users * arm.mean[columns] for arm in arms) / n_all
    # The shared part is theta'(sum over arms of n * mean of x) / n_all.
    among_covariates = sum(arm.n_users * arm.covariance[np.ix_(columns, columns)] for arm in arms) / n_all**2
    shared_variance = max(float(theta @ among_covariates @ theta), 0.0)
    estimates, plain, left = [], 0.0, 0.0
    for arm, gradient in zip(arms, gradients, strict=True):
        own = gradient.copy()
        own[columns] -= theta
        value = arm.mean[numerator] / (1.0 if denominator is None else arm.mean[denominator])
        variance = float(own @ arm.covariance @ own)
        estimates.append(
            Estimate(
                float(value - theta @ (arm.mean[columns] - centre)),
                max(variance, 0.0) / arm.n_users,
                arm.n_users,
                shared_variance,
                float((arm.covariance @ own)[columns] @ theta) / n_all,
            )
        )
        plain += arm.n_users * float(gradient @ arm.covariance @ gradient)
        left += arm.n_users * variance
    return estimates, 1.0 - left / plain if plain > 0.0 else 0.0


def cross_fitted_weights(
    folds: Sequence[Sequence[Moments]],
    covariates: Sequence[int],
    *,
    numerator: int = 0,
    denominator: int | None = None,
) -> list[Float[np.ndarray, " n_covariates"]]:
    """Weights that predict a user's metric from `covariates`, for each fold of users fitted on the other folds alone
    (Guo et al., 2021, alg. 1, with a linear model).

    `folds` gives the moments of every arm in each fold. The weighted sum of a user's covariates, with the weights of
    the user's fold, is a covariate for `cuped_estimates` (CUPAC): no user's own outcome is in it, so the variance that
    it saves is saved. Folds must be dealt out inside arms. A fold for which nothing can be fitted has weights of 0.

    >>> arm = Moments(100, np.array([5.0, 3.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))
    >>> [weights.round(9).tolist() for weights in cross_fitted_weights([[arm, arm], [arm, arm]], [1])]
    [[1.0], [1.0]]
    """
    found = []
    for own in range(len(folds)):
        others = [arm for fold, arms in enumerate(folds) if fold != own for arm in arms]
        try:
            found.append(_regression(others, list(covariates), _gradients(others, numerator, denominator)))
        except InputError:
            found.append(np.zeros(len(covariates)))
    return found


def _gradients(
    arms: Sequence[Moments], numerator: int, denominator: int | None
) -> list[Float[np.ndarray, " n_columns"]]:
    if not arms:
        raise InputError("there are 0 arms; give at least one")
    if denominator is None:
        return [np.eye(len(arms[0].mean))[numerator]] * len(arms)
    return [_ratio_gradient(arm, numerator, denominator) for arm in arms]


def _regression(
    arms: Sequence[Moments], columns: list[int], gradients: list[Float[np.ndarray, " n_columns"]]
) -> Float[np.ndarray, " n_covariates"]:
    """Of the metric on the covariates, inside arms."""
    within = np.zeros((len(columns), len(columns)))
    with_target = np.zeros(len(columns))
    for arm, gradient in zip(arms, gradients, strict=True):
        within += (arm.n_users - 1) * arm.covariance[np.ix_(columns, columns)]
        with_target += (arm.n_users - 1) * (arm.covariance @ gradient)[columns]
    # Seconds and likes are of other sizes, and a size is no reason to be dropped.
    scale = np.sqrt(np.diag(within))
    scale[scale == 0.0] = 1.0
    # The least-squares solution of least norm, which gives a constant or repeated covariate no weight of its own.
    return np.linalg.lstsq(within / np.outer(scale, scale), with_target / scale, rcond=1e-10)[0] / scale


def effect(control: Estimate, treatment: Estimate, *, alpha: float = 0.05, power: float = 0.8) -> Effect:
    """The difference of two arms with Welch's test and interval (Welch, 1947).

    Where neither arm varies the interval has no width and the p-value is 1 or 0.

    >>> result = effect(Estimate(2.0, 0.5, 1000), Estimate(4.0, 0.5, 1000))
    >>> result.difference, result.standard_error, result.relative, round(result.p_value, 3)
    (2.0, 1.0, 1.0, 0.046)

    Raises:
      InputError: an arm has fewer than 2 users, or a value or variance that is NaN, infinite or negative.
    """
    check_share(alpha=alpha, power=power)
    _check_estimates(control, treatment)
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n_users < 2:
            raise InputError(f"{name} has n_users={arm.n_users}, a variance needs at least 2; wait for more users")
    difference = treatment.value - control.value
    variance = control.variance + treatment.variance
    if variance > 0.0:
        # Of shares of the variance, since the square of a variance may be too large or too small for a float.
        share = control.variance / variance
        degrees = 1.0 / (share**2 / (control.n_users - 1) + (1.0 - share) ** 2 / (treatment.n_users - 1))
    else:
        degrees = float(control.n_users + treatment.n_users - 2)
    error = math.sqrt(variance)
    reach = float(stats.t.isf(alpha / 2, degrees))
    if error > 0.0:
        p_value = float(2 * stats.t.sf(abs(difference) / error, degrees))
    else:
        p_value = 1.0 if difference == 0.0 else 0.0
    ratio, ratio_error = relative(control, treatment)
    return Effect(
        difference,
        error,
        degrees,
        difference - reach * error,
        difference + reach * error,
        p_value,
        ratio,
        ratio - reach * ratio_error,
        ratio + reach * ratio_error,
        (reach + float(stats.t.isf(1 - power, degrees))) * error,
    )


def relative(control: Estimate, treatment: Estimate) -> tuple[float, float]:
    """Relative difference and its standard error by the delta method; NaN where the control is 0 or within three
    standard errors of it.

    With r = treatment / control, r - 1 varies as (own part of the treatment - r * own part of the control +
    (1 - r) * shared part) / control. Of adjusted arms the shared part matters the more, the larger the effect is.

    >>> relative(Estimate(2.0, 0.04, 100), Estimate(3.0, 0.07, 100))  # .07 / 2^2 + .04 * 3^2 / 2^4 = .04
    (0.5, 0.2)
    """
    _check_estimates(control, treatment)
    if control.value == 0.0:
        return math.nan, math.nan
    ratio = treatment.value / control.value
    variance = (
        treatment.variance
        + ratio**2 * control.variance
        + (1 - ratio) ** 2 * control.shared_variance
        + 2 * (1 - ratio) * (treatment.shared_covariance - ratio * control.shared_covariance)
    )
    error = math.sqrt(max(variance, 0.0)) / abs(control.value)
    # With the denominator so near 0 its ratio is far from normal, and the delta method's interval means nothing.
    return ratio - 1.0, error if abs(control.value) >= 3 * math.sqrt(control.total_variance) else math.nan


def _check_estimates(control: Estimate, treatment: Estimate) -> None:
    for name, arm in (("control", control), ("treatment", treatment)):
        if not all(map(math.isfinite, arm)) or min(arm.variance, arm.shared_variance) < 0.0:
            raise InputError(
                f"{name} has value={arm.value}, variance={arm.variance}, a finite value and a variance from 0 are "
                "needed; look for NaN or infinite values among the users"
            )
    if control.shared_variance != treatment.shared_variance:
        raise InputError(
            f"arms share a part of variance {control.shared_variance:g} and {treatment.shared_variance:g}; "
            "adjust both in one call of cuped_estimates"
        )


def non_inferiority_p_value(found: Effect, *, margin: float) -> float:
    """One-sided p-value of "the treatment is worse than the control by `margin` or more"; small means safe.

    `margin` is a positive size in the metric's own unit, of a metric for which more is better; for one for which
    less is better pass the effect's mirror, `mirrored(found)`.

    >>> found = effect(Estimate(2.0, 0.5, 10**6), Estimate(2.0, 0.5, 10**6))
    >>> round(non_inferiority_p_value(found, margin=1.645), 3)
    0.05
    """
    if not margin > 0.0:
        raise InputError(f"margin={margin} is not above 0; give the largest loss that would be acceptable")
    if found.standard_error == 0.0:
        return 0.0 if found.difference > -margin else 1.0
    return float(stats.t.sf((found.difference + margin) / found.standard_error, found.degrees_of_freedom))


def mirrored(found: Effect) -> Effect:
    """The effect on minus the metric, so that more is better where less was."""
    return found._replace(difference=-found.difference, lower=-found.upper, upper=-found.lower)


def interaction_p_value(
    differences: Float[np.ndarray, " n_segments"], standard_errors: Float[np.ndarray, " n_segments"]
) -> float:
    """P-value of "the effect is the same in all segments", whose users are disjoint (Cochran's Q, 1954).

    That one segment's effect is shown and another's is not says nothing: the difference between them must be tested.

    >>> round(interaction_p_value(np.array([0.0, 1.96]), np.array([0.5**0.5, 0.5**0.5])), 3)  # z = 1.96
    0.05
    """
    known = np.isfinite(differences) & np.isfinite(standard_errors) & (standard_errors > 0.0)
    if known.sum() < 2:
        return math.nan
    weights = standard_errors[known] ** -2.0
    centre = np.average(differences[known], weights=weights)
    return float(stats.chi2.sf(np.sum(weights * (differences[known] - centre) ** 2), known.sum() - 1))


def check_share(**values: float) -> None:
    """Refuses what is not inside (0, 1)."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise InputError(f"{name}={value} is outside (0, 1); {'0.05' if name == 'alpha' else '0.8'} is common")
