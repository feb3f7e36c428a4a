"""Differences between systems hold for other users and other seeds, or are not called differences."""

import numpy as np
import pytest
from scipy import stats

from seqrec.stats import compare_over_seeds_and_users, contrast_over_seeds_and_users, seed_user_summary
from seqrec.types import InputError

DIFFERENCE = np.array([-1.0, 1.0])


def simulated(rng, *, n_systems=5, n_seeds=3, n_users=150, of_seeds=0.02, gain=0.0):
    """Values with skewed effects of users, which systems share in part; the last system is better by `gain`."""
    user = rng.exponential(0.3, n_users) + rng.normal(0, 0.1, (n_systems, 1, n_users))
    seed = rng.normal(0, of_seeds, (n_systems, n_seeds, 1))
    values = user + seed + rng.normal(0, 0.2, (n_systems, n_seeds, n_users))
    values[-1] += gain
    return values


def test_the_variance_is_that_of_its_parts():
    rng = np.random.default_rng(0)
    values = simulated(rng, n_systems=3, n_seeds=4, n_users=7, of_seeds=1.0)
    weights = np.array([-1.0, 0.0, 1.0])
    contrast = contrast_over_seeds_and_users(values, weights)
    # By loops, from the definitions.
    of_users = [np.mean([values[2, s, u] - values[0, s, u] for s in range(4)]) for u in range(7)]
    users = np.var(of_users, ddof=1) / 7
    seeds = 2 / 4 * np.mean([np.var([values[i, s].mean() for s in range(4)], ddof=1) for i in range(3)])
    rest = 0.0
    for i in range(3):
        for s in range(4):
            for u in range(7):
                expected = values[i, :, u].mean() + values[i, s].mean() - values[i].mean()
                rest += (values[i, s, u] - expected) ** 2
    both = 2 * rest / (3 * 3 * 6) / (4 * 7)
    assert contrast.estimate == pytest.approx(np.mean(of_users))
    assert contrast.users_variance == pytest.approx(users)
    assert contrast.seeds_variance == pytest.approx(seeds - both)
    degrees = (users + seeds - both) ** 2 / (users**2 / 6 + seeds**2 / (3 * 3))
    assert degrees > 6  # else it is the least that the formula's parts allow
    assert contrast.degrees_of_freedom == pytest.approx(degrees)
    margin = stats.t.ppf(0.975, degrees) * np.sqrt(users + seeds - both)
    assert (contrast.lower, contrast.upper) == pytest.approx((contrast.estimate - margin, contrast.estimate + margin))


def test_one_seed_is_the_paired_t_test():
    values = simulated(np.random.default_rng(1), n_systems=2, n_seeds=1)
    [(contrast, adjusted)] = compare_over_seeds_and_users(values)
    oracle = stats.ttest_rel(values[1, 0], values[0, 0])
    interval = oracle.confidence_interval(0.95)
    assert (contrast.lower, contrast.upper) == pytest.approx((interval.low, interval.high))
    assert contrast.p_value == adjusted == pytest.approx(oracle.pvalue)
    assert np.isnan(contrast.seeds_variance)


def test_seeds_without_an_effect_cost_nothing_more_than_the_users():
    values = np.repeat(simulated(np.random.default_rng(2), n_systems=2, n_seeds=1), 3, axis=1)
    once, thrice = (contrast_over_seeds_and_users(each, DIFFERENCE) for each in (values[:, :1], values))
    assert thrice.seeds_variance == 0.0
    assert (thrice.lower, thrice.upper) == pytest.approx((once.lower, once.upper))


def test_a_system_that_is_0_for_every_user_gets_an_interval_of_the_others_size():
    values = simulated(np.random.default_rng(5), n_systems=3, n_users=40, of_seeds=0.001)
    values[0] = 0.0  # as of targets that it never finds
    of_pool = seed_user_summary(values)
    contrast = contrast_over_seeds_and_users(of_pool, np.array([1.0, 0.0, 0.0]))
    assert contrast.users_variance == 0.0
    # Its seeds' part is what the others' spread says, with the 3 x 2 degrees of freedom of that.
    margin = stats.t.ppf(0.975, 6) * np.sqrt(max(of_pool.between_seeds - of_pool.within_run, 0.0) / 3)
    assert 0 < margin < 0.1
    assert (contrast.lower, contrast.upper) == pytest.approx((-margin, margin))


def test_a_single_user_and_equal_systems():
    assert np.isnan(contrast_over_seeds_and_users(np.ones((2, 3, 1)), DIFFERENCE).lower)
    same = contrast_over_seeds_and_users(np.ones((2, 3, 5)), DIFFERENCE)
    assert (same.estimate, same.upper, same.p_value) == (0.0, 0.0, 1.0)
    with pytest.raises(InputError, match="at least one system, seed and user"):
        seed_user_summary(np.ones((2, 0, 5)))
    with pytest.raises(InputError, match="is outside"):
        contrast_over_seeds_and_users(np.ones((2, 3, 5)), DIFFERENCE, level=95.0)


N_STUDIES = 2_000
# Three standard errors of a share of .05 among so many.
SLACK = 3 * np.sqrt(0.05 * 0.95 / N_STUDIES)


@pytest.mark.parametrize("of_seeds", [0.0, 0.02, 0.06])
def test_intervals_hold_and_false_verdicts_are_rare_whatever_the_seeds_do(of_seeds):
    rng = np.random.default_rng(3)
    n_covered = n_covered_by_users = n_false = 0
    for _ in range(N_STUDIES):
        values = seed_user_summary(simulated(rng, of_seeds=of_seeds))
        comparisons = compare_over_seeds_and_users(values)
        # The first of four null variations; users alone would have given this interval.
        first = comparisons[0][0]
        n_covered += first.lower <= 0 <= first.upper
        n_covered_by_users += abs(first.estimate) <= stats.t.ppf(0.975, 149) * np.sqrt(first.users_variance)
        n_false += min(adjusted for _, adjusted in comparisons) <= 0.05
    assert n_covered / N_STUDIES > 0.95 - SLACK
    assert n_false / N_STUDIES < 0.05 + SLACK
    if of_seeds == 0.06:
        assert n_covered_by_users / N_STUDIES < 0.8


@pytest.mark.usefixtures("unchecked")
def test_weights_of_other_systems_are_refused():
    with pytest.raises(InputError, match=r"weights has shape \(3,\) for 2 systems"):
        contrast_over_seeds_and_users(np.ones((2, 3, 5)), np.zeros(3))


def test_a_summary_serves_in_place_of_the_values():
    values = simulated(np.random.default_rng(6))
    summary = seed_user_summary(values)
    weights = np.array([0.5, 0.5, -1.0, 0.0, 0.0])
    assert contrast_over_seeds_and_users(values, weights) == contrast_over_seeds_and_users(summary, weights)
    assert compare_over_seeds_and_users(values) == compare_over_seeds_and_users(summary)


def test_a_planted_gain_is_found():
    rng = np.random.default_rng(4)
    # The users' and the seeds' parts give the mean difference a standard error of
    # sqrt((2 * .1^2 + 2 * .2^2 / 3) / 150 + 2 * .02^2 / 3) = .024, so 4 of them are found nearly always.
    n_found = sum(compare_over_seeds_and_users(simulated(rng, gain=0.096))[-1][1] <= 0.05 for _ in range(300))
    assert n_found / 300 > 0.8
