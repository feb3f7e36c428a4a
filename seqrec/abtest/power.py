"""Sample size and power: how many users and days an experiment needs, and which effect a number of users detects.

Estimate the metric's variance from last month's users (`means`), and the share of it that covariates save: they reduce
the number of users by the factor 1 - saved.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from seqrec.abtest.means import check_share
from seqrec.types import InputError


def rule_of_16(variance: float, difference: float) -> float:
    """Approximate users per arm for 80% power at the 5% level: 16 s^2 / d^2 (van Belle, 2008, ch. 2).

    >>> round(rule_of_16(0.05 * 0.95, 0.05 * 0.05))  # a conversion of 5%, a lift of 5%
    121600
    """
    _check_difference(difference)
    return 16 * variance / difference**2


def users_per_arm(
    difference: float,
    *,
    variance: float,
    treatment_variance: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Users per arm, for two equal arms, with which a two-sided z-test detects a true `difference`; round it up.

    (z_alpha/2 * sqrt(2 v_c) + z_power * sqrt(v_c + v_t))^2 / d^2: without an effect both arms have the control's
    `variance`; with one the treatment has `treatment_variance`, by default the same.

    >>> round(users_per_arm(0.05, variance=0.2 * 0.8, treatment_variance=0.25 * 0.75))  # 20% -> 25%
    1030
    """
    check_share(alpha=alpha, power=power)
    _check_difference(difference)
    if not 0.0 < variance < math.inf:
        raise InputError(f"variance={variance} is not above 0 and finite; give that of a user's value")
    other = variance if treatment_variance is None else treatment_variance
    if not 0.0 <= other < math.inf:
        raise InputError(
            f"treatment_variance={treatment_variance} is below 0 or not finite; give that of a user's value"
        )
    null, alternative = math.sqrt(2 * variance), math.sqrt(variance + other)
    return (stats.norm.isf(alpha / 2) * null + stats.norm.isf(1 - power) * alternative) ** 2 / difference**2


def t_test_users_per_arm(effect_size: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """As `users_per_arm`, exact for few users with normal values: for a t-test, whose statistic is noncentral t.
    `effect_size` is the difference over the standard deviation. At least 2, since a variance needs two users.

    >>> round(t_test_users_per_arm(0.5), 2)
    63.77
    """
    check_share(alpha=alpha, power=power)
    _check_difference(effect_size)

    def shortfall(n: float) -> float:
        degrees = 2 * n - 2
        # Both tails at once: the square of a noncentral t is a noncentral F, and SciPy's far tail of the t is NaN.
        square = stats.t.isf(alpha / 2, degrees) ** 2
        return float(stats.ncf.sf(square, 1, degrees, effect_size**2 * n / 2)) - power

    if shortfall(2.0) >= 0.0:
        return 2.0
    # The z-test needs fewer users; a t-test with 50 more than that has the power.
    guess = users_per_arm(effect_size, variance=1.0, alpha=alpha, power=power)
    return float(optimize.brentq(shortfall, 2.0, guess + 50))


def power_of(difference: float, standard_error: float, *, alpha: float = 0.05) -> float:
    """The probability that a two-sided z-test detects a true `difference`.

    >>> round(power_of(2.8, 1.0), 2)
    0.8
    """
    check_share(alpha=alpha)
    if not standard_error > 0.0:
        raise InputError(f"standard_error={standard_error} is not above 0; give that of the difference")
    reach = stats.norm.isf(alpha / 2)
    shift = difference / standard_error
    return float(stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift))


def detectable_difference(standard_error: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a z-test with this standard error detects with this power.

    >>> round(detectable_difference(1.0), 2)  # 1.96 + .84
    2.8
    """
    check_share(alpha=alpha, power=power)
    return float(stats.norm.isf(alpha / 2) + stats.norm.isf(1 - power)) * standard_error


def required_days(n_users_needed: float | int, users_by_day: Float[np.ndarray, " days"]) -> int:
    """Days, in whole weeks, until `n_users_needed` users in all arms have arrived; `users_by_day` counts new users.

    Later days are assumed to bring as many as the last one given. That is optimistic, since new users become fewer over
    time. Weeks are whole because weekends differ from working days.

    >>> required_days(900, np.array([500.0, 300.0, 100.0])), required_days(1001, np.array([500.0, 300.0, 100.0]))
    (7, 7)
    >>> required_days(1001, np.array([100.0]))
    14
    """
    if not math.isfinite(n_users_needed):
        raise InputError(f"n_users_needed={n_users_needed} is not finite; give a number of users")
    counts_are_valid = np.isfinite(users_by_day).all() and (users_by_day >= 0).all()
    if not (users_by_day.size and counts_are_valid and users_by_day[-1] > 0):
        raise InputError(
            f"users_by_day is {users_by_day.tolist()[:5]}; give counts from 0, and above 0 on the last day"
        )
    total = np.cumsum(users_by_day)
    if n_users_needed <= total[-1]:
        day = int(np.searchsorted(total, n_users_needed)) + 1
    else:
        day = len(total) + math.ceil((n_users_needed - total[-1]) / users_by_day[-1])
    return 7 * math.ceil(day / 7)


def _check_difference(difference: float) -> None:
    if difference == 0.0 or not math.isfinite(difference):
        raise InputError(f"difference={difference} is 0 or not finite; give the smallest one that matters")
