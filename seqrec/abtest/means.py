"""Means and ratios by arm, plain or adjusted for covariates (CUPED), and the difference between two arms.

The unit is the user, because users are randomised: a ratio such as skips per play is the ratio of two sums over users,
and its variance comes from the delta method, since plays of one user are not independent.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from seqrec.abtest.sample_moments import SampleMoments
from seqrec.types import InputError


class Estimate(NamedTuple):
    """An arm's mean or ratio and its uncertainty."""

    value: float
    variance: float
    """Variance of the arm's own part of `value` (not of a user's value). Without covariates that is all of it."""
    n_users: int
    shared_variance: float = 0.0
    """Variance of the part of `value` that all arms share: theta times the pooled mean of the covariates. It cancels in
    the difference of two arms, but not in their ratio."""
    shared_covariance: float = 0.0
    """Covariance of the arm's own part with the shared part."""

    @property
    def total_variance(self) -> float:
        """Variance of `value`, including the part shared with other arms."""
        return max(self.variance + self.shared_variance + 2 * self.shared_covariance, 0.0)


class Effect(NamedTuple):
    """The difference between a treatment and the control, with intervals."""

    difference: float
    """Treatment minus control."""
    standard_error: float
    degrees_of_freedom: float
    """By Welch and Satterthwaite."""
    lower: float
    upper: float
    """Bounds of the difference's interval."""
    p_value: float
    """Two-sided."""
    relative: float
    """Difference divided by the control's value; NaN where that is 0."""
    relative_lower: float
    relative_upper: float
    """Bounds of the relative difference's interval by the delta method; NaN where the control's value is within three
    standard errors of 0."""
    detectable: float
    """The smallest true difference that this many users detect with the requested power."""


def mean_estimate(arm: SampleMoments, column: int = 0) -> Estimate:
    """The mean of a column over users.

    >>> mean_estimate(SampleMoments(4, np.array([2.0]), np.array([[8.0]])))[:3]
    (2.0, 2.0, 4)
    """
    return Estimate(float(arm.mean[column]), float(arm.covariance[column, column]) / arm.n_users, arm.n_users)


def ratio_estimate(arm: SampleMoments, numerator: int = 0, denominator: int = 1) -> Estimate:
    """Sum of one column divided by the sum of another, with the delta method's variance (Deng, Knoblich and Lu, 2018,
    eq. 2).

    >>> skips_and_plays = SampleMoments(100, np.array([1.0, 4.0]), np.diag([0.16, 0.0]))
    >>> ratio_estimate(skips_and_plays)[:3]  # the denominator does not vary: .16 / 4^2 / 100
    (0.25, 0.0001, 100)
    """
    gradient = _ratio_gradient(arm, numerator, denominator)
    value = float(arm.mean[numerator] / arm.mean[denominator])
    # Where all users have one ratio, rounding may leave a variance of -1e-36.
    return Estimate(value, max(float(gradient @ arm.covariance @ gradient), 0.0) / arm.n_users, arm.n_users)


def _ratio_gradient(arm: SampleMoments, numerator: int, denominator: int) -> Float[np.ndarray, " n_columns"]:
    below = arm.mean[denominator]
    if not below > 0.0:
        raise InputError(
            f"denominator has mean {below:g} over {arm.n_users} users, a ratio needs one above 0; "
            "choose another denominator"
        )
    gradient = np.zeros(len(arm.mean))
    gradient[numerator] += 1.0 / below
    gradient[denominator] -= arm.mean[numerator] / below**2
    return gradient


def cuped_estimates(
    arms: Sequence[SampleMoments], covariates: Sequence[int], *, numerator: int = 0, denominator: int | None = None
) -> tuple[list[Estimate], float]:
    """Each arm's mean or ratio adjusted for covariates, and the share of variance that the adjustment removes.

    CUPED (Deng, Xu, Kohavi and Walker, 2013): y - theta'(x - mean of x), with one theta for all arms, from the
    regression inside arms; the mean of x is over all arms, so that adjusted values stay near the plain ones. That mean
    is the part of a value that all arms share. For a ratio y is the linearised one, (numerator - ratio *
    denominator) / mean denominator. Columns of `covariates` must be fixed before the treatment can act on them: sums
    of a period before, or a prediction made from such (CUPAC, Li, Tang and Caruana, 2020; `cross_fitted_weights` makes
    one). A covariate that does not vary is ignored. With one covariate the remaining variance of a difference is
    1 - r^2 of the plain one.

    >>> arm = SampleMoments(100, np.array([5.0, 3.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))  # r = 1 / 2, theta = 1
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
        coefficients = gradient.copy()
        coefficients[columns] -= theta
        value = arm.mean[numerator] / (1.0 if denominator is None else arm.mean[denominator])
        variance = float(coefficients @ arm.covariance @ coefficients)
        estimates.append(
            Estimate(
                float(value - theta @ (arm.mean[columns] - centre)),
                max(variance, 0.0) / arm.n_users,
                arm.n_users,
                shared_variance,
                float((arm.covariance @ coefficients)[columns] @ theta) / n_all,
            )
        )
        plain += arm.n_users * float(gradient @ arm.covariance @ gradient)
        left += arm.n_users * variance
    return estimates, 1.0 - left / plain if plain > 0.0 else 0.0


def cross_fitted_weights(
    folds: Sequence[Sequence[SampleMoments]],
    covariates: Sequence[int],
    *,
    numerator: int = 0,
    denominator: int | None = None,
) -> list[Float[np.ndarray, " n_covariates"]]:
    """Weights that predict a user's metric from `covariates`; those of a fold of users are fitted on the other folds
    (Guo et al., 2021, alg. 1, with a linear model).

    `folds` gives the statistics of every arm in each fold. The weighted sum of a user's covariates, with the weights of
    the user's fold, is a covariate for `cuped_estimates` (CUPAC). It does not contain the user's own outcome, so the
    variance estimate stays honest. Folds must be drawn within arms. A fold for which nothing can be fitted gets weights
    of 0.

    >>> arm = SampleMoments(100, np.array([5.0, 3.0]), np.array([[4.0, 1.0], [1.0, 1.0]]))
    >>> [weights.round(9).tolist() for weights in cross_fitted_weights([[arm, arm], [arm, arm]], [1])]
    [[1.0], [1.0]]
    """
    weights = []
    for held_out in range(len(folds)):
        others = [arm for fold, arms in enumerate(folds) if fold != held_out for arm in arms]
        try:
            weights.append(_regression(others, list(covariates), _gradients(others, numerator, denominator)))
        except InputError:
            weights.append(np.zeros(len(covariates)))
    return weights


def _gradients(
    arms: Sequence[SampleMoments], numerator: int, denominator: int | None
) -> list[Float[np.ndarray, " n_columns"]]:
    if not arms:
        raise InputError("there are 0 arms; give at least one")
    if denominator is None:
        return [np.eye(len(arms[0].mean))[numerator]] * len(arms)
    return [_ratio_gradient(arm, numerator, denominator) for arm in arms]


def _regression(
    arms: Sequence[SampleMoments], columns: list[int], gradients: list[Float[np.ndarray, " n_columns"]]
) -> Float[np.ndarray, " n_covariates"]:
    """Coefficients of the regression of the metric on the covariates within arms."""
    within = np.zeros((len(columns), len(columns)))
    with_target = np.zeros(len(columns))
    for arm, gradient in zip(arms, gradients, strict=True):
        within += (arm.n_users - 1) * arm.covariance[np.ix_(columns, columns)]
        with_target += (arm.n_users - 1) * (arm.covariance @ gradient)[columns]
    # Seconds and likes differ in scale; without scaling, lstsq would drop the smaller ones as singular.
    scale = np.sqrt(np.diag(within))
    scale[scale == 0.0] = 1.0
    # The minimum-norm solution gives a constant covariate no weight and divides one between equal covariates.
    return np.linalg.lstsq(within / np.outer(scale, scale), with_target / scale, rcond=1e-10)[0] / scale


def effect(control: Estimate, treatment: Estimate, *, alpha: float = 0.05, power: float = 0.8) -> Effect:
    """The difference of two arms with Welch's test and interval (Welch, 1947).

    Where neither arm varies, the interval has no width and the p-value is 1 or 0.

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
        # From shares of the variance, because the square of a variance may overflow or underflow.
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

    With r = treatment / control, the delta method gives r - 1 the variance of (own part of the treatment - r * own part
    of the control + (1 - r) * shared part) / control. For adjusted arms the shared part grows with the effect.

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
    # With a denominator this close to 0 the ratio is far from normal, and the delta method does not hold.
    return ratio - 1.0, error if abs(control.value) >= 3 * math.sqrt(control.total_variance) else math.nan


def _check_estimates(control: Estimate, treatment: Estimate) -> None:
    for name, arm in (("control", control), ("treatment", treatment)):
        if not all(map(math.isfinite, arm)) or min(arm.variance, arm.shared_variance) < 0.0:
            raise InputError(
                f"{name} has value={arm.value}, variance={arm.variance}; both must be finite and the variance at "
                "least 0: look for NaN or infinite values among the users"
            )
    if control.shared_variance != treatment.shared_variance:
        raise InputError(
            f"control and treatment have shared_variance={control.shared_variance:g} and "
            f"{treatment.shared_variance:g}, which must be equal; adjust both in one call of cuped_estimates"
        )


def non_inferiority_p_value(result: Effect, *, margin: float) -> float:
    """One-sided p-value of "the treatment is worse than the control by `margin` or more"; small means safe.

    `margin` is positive and in the metric's own unit. More of the metric is better; where less is better, pass
    `negated_effect(result)`.

    >>> result = effect(Estimate(2.0, 0.5, 10**6), Estimate(2.0, 0.5, 10**6))
    >>> round(non_inferiority_p_value(result, margin=1.645), 3)
    0.05
    """
    if not margin > 0.0:
        raise InputError(f"margin={margin} is not above 0; give the largest loss that would be acceptable")
    if result.standard_error == 0.0:
        return 0.0 if result.difference > -margin else 1.0
    return float(stats.t.sf((result.difference + margin) / result.standard_error, result.degrees_of_freedom))


def negated_effect(result: Effect) -> Effect:
    """The effect on minus the metric: turns a metric for which less is better into one for which more is."""
    return result._replace(difference=-result.difference, lower=-result.upper, upper=-result.lower)


def interaction_p_value(
    differences: Float[np.ndarray, " n_segments"], standard_errors: Float[np.ndarray, " n_segments"]
) -> float:
    """P-value of "the effect is the same in all segments", whose users are disjoint (Cochran's Q, 1954).

    A significant effect in one segment and none in another is no evidence that they differ; this test is.

    >>> round(interaction_p_value(np.array([0.0, 1.96]), np.array([0.5**0.5, 0.5**0.5])), 3)  # z = 1.96
    0.05
    """
    is_finite = np.isfinite(differences) & np.isfinite(standard_errors) & (standard_errors > 0.0)
    if is_finite.sum() < 2:
        return math.nan
    weights = standard_errors[is_finite] ** -2.0
    centre = np.average(differences[is_finite], weights=weights)
    return float(stats.chi2.sf(np.sum(weights * (differences[is_finite] - centre) ** 2), is_finite.sum() - 1))


def check_share(**values: float) -> None:
    """Raises for values outside (0, 1)."""
    for name, value in values.items():
        if not 0.0 < value < 1.0:
            raise InputError(f"{name}={value} is outside (0, 1); {'0.05' if name == 'alpha' else '0.8'} is common")
