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
    """An arm's mean or ratio and how uncertain it is."""

    value: float
    variance: float
    """Of `value`, not of a user."""
    n_users: int


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

    >>> mean_estimate(Moments(4, np.array([2.0]), np.array([[8.0]])))
    Estimate(value=2.0, variance=2.0, n_users=4)
    """
    return Estimate(float(arm.mean[column]), float(arm.covariance[column, column]) / arm.n_users, arm.n_users)


def ratio_estimate(arm: Moments, numerator: int = 0, denominator: int = 1) -> Estimate:
    """Sum of one column over sum of another, with the delta method's variance (Deng, Knoblich and Lu, 2018, eq. 2).

    >>> a_skip_in_four_plays = Moments(100, np.array([1.0, 4.0]), np.diag([0.16, 0.0]))
    >>> ratio_estimate(a_skip_in_four_plays)  # the denominator does not vary: .16 / 4^2 / 100
    Estimate(value=0.25, variance=0.0001, n_users=100)
    """
    gradient = _ratio_gradient(arm, numerator, denominator)
    value = float(arm.mean[numerator] / arm.mean[denominator])
    return Estimate(value, float(gradient @ arm.covariance @ gradient) / arm.n_users, arm.n_users)


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
    """Each arm's mean or ratio with what was known before taken out of it, and the share of variance that this saved.

    CUPED (Deng, Xu, Kohavi and Walker, 2013): y - theta'(x - mean of x), with one theta for all arms, of the
    regression inside arms; the mean of x is that of all arms, so values stay near the plain ones. For a ratio y is
    the linearised one, (numerator - ratio * denominator) / mean denominator. Columns of `covariates` must have been
    fixed before the treatment could act on them: sums of a period before, or a prediction made from such (CUPAC,
    Li, Tang and Caruana, 2020; `cross_fitted_weights` makes one). A covariate that does not vary is left out. With
    one covariate the variance left is 1 - r^2 of the plain one.

    >>> arm = Moments(100, np.array([5.0, 3.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))  # r = 1 / 2
    >>> estimates, saved = cuped_estimates([arm, arm], [1])
    >>> estimates[0], saved
    (Estimate(value=5.0, variance=0.03, n_users=100), 0.25)
    """
    columns = list(covariates)
    gradients = _gradients(arms, numerator, denominator)
    theta = _regression(arms, columns, gradients)
    n_all = sum(arm.n_users for arm in arms)
    centre = sum(arm.n_users * arm.mean[columns] for arm in arms) / n_all
    estimates, plain, left = [], 0.0, 0.0
    for arm, gradient in zip(arms, gradients, strict=True):
        full = gradient.copy()
        full[columns] -= theta
        value = arm.mean[numerator] / (1.0 if denominator is None else arm.mean[denominator])
        variance = float(full @ arm.covariance @ full)
        estimates.append(
            Estimate(float(value - theta @ (arm.mean[columns] - centre)), max(variance, 0.0) / arm.n_users, arm.n_users)
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

    >>> found = effect(Estimate(2.0, 0.5, 1000), Estimate(4.0, 0.5, 1000))
    >>> found.difference, found.standard_error, found.relative, round(found.p_value, 3)
    (2.0, 1.0, 1.0, 0.046)
    """
    check_share(alpha=alpha, power=power)
    for name, arm in (("control", control), ("treatment", treatment)):
        if arm.n_users < 2:
            raise InputError(f"{name} has n_users={arm.n_users}, a variance needs at least 2; wait for more users")
    difference = treatment.value - control.value
    variance = control.variance + treatment.variance
    if variance > 0.0:
        degrees = variance**2 / (
            control.variance**2 / (control.n_users - 1) + treatment.variance**2 / (treatment.n_users - 1)
        )
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
    """Relative difference and its standard error by the delta method, NaN where the control may well be 0.

    >>> relative(Estimate(2.0, 0.04, 100), Estimate(3.0, 0.07, 100))  # .07 / 2^2 + .04 * 3^2 / 2^4 = .04
    (0.5, 0.2)
    """
    if control.value == 0.0:
        return math.nan, math.nan
    ratio = treatment.value / control.value
    error = math.sqrt(treatment.variance + control.variance * ratio**2) / abs(control.value)
    # With the denominator so near 0 its ratio is far from normal, and the delta method's interval means nothing.
    return ratio - 1.0, error if abs(control.value) >= 3 * math.sqrt(control.variance) else math.nan


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
