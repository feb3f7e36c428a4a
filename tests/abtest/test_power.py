"""Sample sizes, power and detectable differences: published values, and agreement with each other."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from seqrec.abtest.power import (
    detectable_difference,
    power_of,
    required_days,
    rule_of_16,
    t_test_users_per_arm,
    users_per_arm,
)
from seqrec.types import InputError


def test_the_rule_of_16_gives_published_sample_sizes():
    # Kohavi, Tang and Xu (2020), ch. 17 give 16 s^2 / d^2; s^2 = p (1 - p) of a conversion.
    assert rule_of_16(0.05 * 0.95, 0.05 * 0.05) == pytest.approx(121_600)
    assert rule_of_16(30.0**2, 3.75 * 0.05) == pytest.approx(409_600)


def test_the_exact_factor_is_close_to_16():
    # 2 (1.96 + .8416)^2 = 15.7.
    assert users_per_arm(1.0, variance=1.0) == pytest.approx(2 * (1.959964 + 0.841621) ** 2, rel=1e-5)


def test_a_rise_from_20_to_25_percent_takes_1030_an_arm():
    expected = (1.959964 * math.sqrt(2 * 0.16) + 0.841621 * math.sqrt(0.16 + 0.1875)) ** 2 / 0.05**2
    assert users_per_arm(0.05, variance=0.16, treatment_variance=0.1875) == pytest.approx(expected, rel=1e-5)
    assert round(expected) == 1030


def test_half_a_standard_deviation_takes_64_an_arm_by_the_t_test():
    # Cohen (1988), table 2.4.1: 64.
    assert t_test_users_per_arm(0.5) == pytest.approx(63.77, abs=0.005)


def power_by_integration(n_users: float, effect_size: float, alpha: float) -> float:
    """Power of the t-test: the normal chance of passing the bound, over the chi distribution of the deviation."""
    degrees = 2 * n_users - 2
    bound, shift = stats.t.isf(alpha / 2, degrees), effect_size * math.sqrt(n_users / 2)

    def passing(deviation: float) -> float:
        reach = bound * deviation / math.sqrt(degrees)
        return stats.chi.pdf(deviation, degrees) * (stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift))

    middle = math.sqrt(degrees)
    return integrate.quad(passing, max(middle - 10.0, 0.0), middle + 10.0, epsabs=1e-12, limit=200)[0]


@pytest.mark.parametrize("effect_size", [0.01, 0.1, 0.5, 1.0, 2.0, 3.0, -2.0])
@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.1])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.9, 0.99])
def test_as_many_users_as_the_t_test_needs_give_it_its_power(effect_size, alpha, power):
    n_users = t_test_users_per_arm(effect_size, alpha=alpha, power=power)
    assert n_users >= 2.0
    reached = power_by_integration(n_users, effect_size, alpha)
    assert reached == pytest.approx(power, abs=1e-6) if n_users > 2.0 else reached >= power


def test_an_effect_that_two_users_show_takes_two():
    assert power_by_integration(2.0, 30.0, 0.05) > 0.8
    assert t_test_users_per_arm(30.0) == 2.0


def test_power_detectable_difference_and_users_agree():
    n = users_per_arm(0.2, variance=1.0, power=0.9)
    error = math.sqrt(2 / n)
    assert detectable_difference(error, power=0.9) == pytest.approx(0.2)
    assert power_of(0.2, error) == pytest.approx(0.9)
    assert power_of(0.0, 1.0) == pytest.approx(0.05)


def test_days_are_whole_weeks():
    assert required_days(650, np.array([100.0] * 5)) == 7
    assert required_days(701, np.array([100.0] * 5)) == 14


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: users_per_arm(0.0, variance=1.0), "difference=0.0"),
        (lambda: users_per_arm(1.0, variance=0.0), "variance=0.0"),
        (lambda: users_per_arm(1.0, variance=math.nan), "variance=nan"),
        (lambda: users_per_arm(1.0, variance=1.0, treatment_variance=-2.0), "treatment_variance=-2.0"),
        (lambda: users_per_arm(1.0, variance=1.0, treatment_variance=math.nan), "treatment_variance=nan"),
        (lambda: t_test_users_per_arm(math.nan), "difference=nan"),
        (lambda: power_of(1.0, 0.0), "standard_error=0.0"),
        (lambda: power_of(1.0, math.nan), "standard_error=nan"),
        (lambda: required_days(5, np.array([0.0])), "users_by_day"),
        (lambda: required_days(5, np.array([math.nan])), "users_by_day"),
        (lambda: required_days(math.nan, np.array([1.0])), "n_users_needed=nan"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
