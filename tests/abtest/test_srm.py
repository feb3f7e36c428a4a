"""Sample ratio mismatch: published p-values, and false alarms at one look and at many."""

import numpy as np
import pytest
from scipy import stats

from seqrec.abtest.srm import srm_p_value, srm_sequential_p_values
from seqrec.types import InputError


@pytest.mark.parametrize(
    ("n_users", "shares", "p_value", "tolerance"),
    [
        ([821_588, 815_482], [1, 1], 1.8e-6, 0.05e-6),  # Kohavi, Tang and Xu (2020), ch. 3
        ([135, 115], [0.6, 0.4], 0.05281, 0.5e-5),  # (135 - 150)^2 / 150 + (115 - 100)^2 / 100 = 3.75
        ([1000, 1010], [0.5, 0.5], 0.82350, 0.5e-5),  # 2 * 5^2 / 1005
    ],
)
def test_published_counts_have_their_published_p_values(n_users, shares, p_value, tolerance):
    assert srm_p_value(n_users, shares) == pytest.approx(p_value, abs=tolerance)


def test_three_arms_have_two_degrees_of_freedom():
    chi_square = 3 * 10**2 / 100 * 2 / 3  # deviations 10, -10 and 0 of 100 each
    assert srm_p_value([110, 90, 100], [1, 1, 1]) == pytest.approx(stats.chi2.sf(chi_square, 2))


def looks(random: np.random.Generator, share: float, n_looks: int = 200, step: int = 200) -> np.ndarray:
    treated = np.cumsum(random.binomial(step, share, n_looks))
    return np.stack([step * np.arange(1, n_looks + 1) - treated, treated], axis=1)


def test_looking_200_times_alarms_falsely_in_at_most_5_percent_and_a_fixed_test_far_more_often():
    random = np.random.default_rng(0)
    runs = [looks(random, 0.5) for _ in range(200)]
    sequential = np.mean([srm_sequential_p_values(run, [1, 1]).min() <= 0.05 for run in runs])
    totals = np.stack(runs).sum(axis=-1)
    chi_squares = (np.stack(runs)[..., 0] - totals / 2) ** 2 / (totals / 4)
    assert sequential <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert np.mean((chi_squares >= stats.chi2.isf(0.05, 1)).any(axis=1)) > 0.25


def test_a_real_mismatch_is_found_before_the_end():
    p_values = srm_sequential_p_values(looks(np.random.default_rng(1), 0.52), [1, 1])
    assert p_values[-1] < 1e-6
    assert (np.diff(p_values) <= 0).all()


def test_the_bayes_factor_is_one_before_anybody_came():
    assert srm_sequential_p_values(np.zeros((1, 3), int), [1, 1, 2]).tolist() == [1.0]
    assert srm_p_value([0, 0], [1, 1]) == 1.0


@pytest.mark.parametrize(
    ("n_users", "shares", "words"),
    [
        ([1, 2], [1.0], "2 counts and 1 shares"),
        ([1, -2], [1, 1], "whole numbers from 0"),
        ([1, 2], [1, 0], "must be above 0"),
        ([1], [1], "at least two arms"),
    ],
)
def test_invalid_counts_and_shares_are_refused(n_users, shares, words):
    with pytest.raises(InputError, match=words):
        srm_p_value(n_users, shares)


def test_a_concentration_that_is_no_number_is_refused():
    for concentration in (0.0, np.nan, np.inf):
        with pytest.raises(InputError, match="concentration="):
            srm_sequential_p_values(np.array([[1, 2]]), [1, 1], concentration=concentration)


def test_running_totals_do_not_fall():
    with pytest.raises(InputError, match="running totals fall"):
        srm_sequential_p_values(np.array([[5, 5], [4, 6]]), [1, 1])
