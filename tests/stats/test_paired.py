"""Paired comparisons: false alarms, coverage, power, and agreement with slower ways to the same numbers."""

import itertools
import math

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from seqrec.stats import difference_intervals, paired, paired_comparison
from seqrec.types import InputError


def ndcg(rank: np.ndarray, *, k: int = 10) -> np.ndarray:
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def mean_ndcg(chance: float, *, k: int) -> float:
    """Of geometric ranks: chance * (1 - chance)^(rank - 1) is the share of users with that rank."""
    places = np.arange(1, k + 1)
    return float(np.sum(chance * (1 - chance) ** (places - 1) * ndcg(places, k=k)))


def compared(a: np.ndarray, b: np.ndarray, **options) -> paired.PairedComparison:
    """Of one metric, whose results stand alone in each field."""
    return paired_comparison(a[:, None].astype(float), b[:, None].astype(float), **options)


def enumerated_p_value(differences: np.ndarray) -> float:
    """The share of all 2^n choices of signs whose sum is as far from 0."""
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=len(differences))))
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9))


def test_of_two_equal_systems_one_in_twenty_is_called_different_at_5_percent():
    n_data_sets, n_users = 2000, 40
    random = np.random.default_rng(0)
    # Users differ much and their two systems are noisy around the same user: exchangeable, so the null holds.
    difficulty = random.random((n_data_sets, n_users, 1)) * 0.4 + 0.02
    values = ndcg(random.geometric(difficulty, (n_data_sets, n_users, 2)))
    # 199 resamples make (1 + count) / 200 <= 0.05 an event of exactly that chance, ties aside.
    p_values = [compared(x[:, 0], x[:, 1], n_resamples=199, seed=i).p_value[0] for i, x in enumerate(values)]
    # Four standard errors of a share of 2,000.
    assert abs(np.mean(np.array(p_values) <= 0.05) - 0.05) <= 4 * math.sqrt(0.05 * 0.95 / n_data_sets)


def test_a_95_percent_interval_covers_the_true_difference_in_95_percent_of_data_sets():
    n_data_sets, n_users = 2000, 250
    random = np.random.default_rng(1)
    a, b = (ndcg(random.geometric(chance, (n_data_sets, n_users)), k=4) for chance in (0.20, 0.25))
    truth = mean_ndcg(0.25, k=4) - mean_ndcg(0.20, k=4)
    comparisons = [compared(x, y, n_resamples=300, seed=i) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    coverage = np.mean([f.lower[0] <= truth <= f.upper[0] for f in comparisons])
    assert 0.93 <= coverage <= 0.97


def test_a_true_difference_of_the_detectable_size_is_found_four_times_in_five():
    n_data_sets, n_users, sd = 1000, 100, 0.3
    random = np.random.default_rng(2)
    # (1.96 + 0.84) standard errors, by the tables of the normal distribution.
    size = (1.96 + 0.8416) * sd / math.sqrt(n_users)
    b = random.normal(size, sd, (n_data_sets, n_users))
    comparisons = [compared(np.zeros(n_users), x, n_resamples=199, seed=i) for i, x in enumerate(b)]
    assert np.mean([f.detectable[0] for f in comparisons]) == pytest.approx(size, rel=0.01)
    shown = np.mean([f.p_value[0] <= 0.05 for f in comparisons])
    # Five standard errors; 199 resamples cost about a point of power.
    assert abs(shown - 0.8) <= 5 * math.sqrt(0.8 * 0.2 / n_data_sets) + 0.01


@pytest.mark.parametrize("n_users", [1, 2, 5, 10])
def test_the_p_value_is_near_that_of_all_choices_of_signs(n_users):
    random = np.random.default_rng(n_users)
    b = random.integers(-3, 6, n_users) / 8
    exact = enumerated_p_value(b)
    n_resamples = 20_000
    p_value = compared(np.zeros(n_users), b, n_resamples=n_resamples).p_value[0]
    assert abs(p_value - exact) <= 4 * math.sqrt(exact * (1 - exact) / n_resamples) + 1 / n_resamples


@pytest.mark.slow
def test_the_p_value_is_that_of_all_choices_of_signs_on_many_small_data_sets():
    random = np.random.default_rng(3)
    for seed in range(300):
        n_users = int(random.integers(1, 11))
        b = random.normal(0.2, 1, n_users).round(int(random.integers(0, 4)))
        exact = enumerated_p_value(b)
        p_value = compared(np.zeros(n_users), b, n_resamples=100_000, seed=seed).p_value[0]
        assert abs(p_value - exact) <= 4.5 * math.sqrt(exact * (1 - exact) / 100_000) + 1e-5


def test_the_p_value_is_near_scipys():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(4)
    a, b = ndcg(random.geometric(0.10, 200)), ndcg(random.geometric(0.13, 200))
    n_resamples = 20_000
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=np.random.default_rng(0),
    ).pvalue
    ours = compared(a, b, n_resamples=n_resamples).p_value[0]
    # scipy doubles a one-sided count, and both are estimates.
    assert abs(ours - theirs) <= 6 * math.sqrt(theirs / n_resamples)
    assert 0.001 < theirs < 0.5


def test_a_system_does_not_differ_from_itself():
    values = np.random.default_rng(5).random((50, 3))
    comparison = paired_comparison(values, values)
    for field in (comparison.difference, comparison.lower, comparison.upper, comparison.detectable):
        assert field.tolist() == [0.0] * 3
    assert comparison.p_value.tolist() == [1.0] * 3
    assert comparison.n_users == 50


def test_swapping_the_systems_turns_the_sign_and_nothing_else():
    random = np.random.default_rng(6)
    a, b = random.random((2, 60, 1))
    ours, swapped = paired_comparison(a, b), paired_comparison(b, a)
    np.testing.assert_allclose(ours.difference, -swapped.difference)
    np.testing.assert_array_equal(ours.p_value, swapped.p_value)
    np.testing.assert_allclose(ours.detectable, swapped.detectable)
    # The two ends come of other draws: a few Monte Carlo errors of a quantile (sd/sqrt(n) is .05).
    np.testing.assert_allclose(ours.lower, -swapped.upper, atol=5e-3)


def test_neither_other_metrics_nor_the_order_of_users_change_a_metrics_results():
    random = np.random.default_rng(7)
    a, b = random.random((2, 40, 3)).round(2)
    whole = paired_comparison(a, b, n_resamples=500)
    order = random.permutation(40)
    alone = paired_comparison(a[order, 1:2], b[order, 1:2], n_resamples=500)
    for ours, theirs in zip(alone[:5], whole[:5], strict=True):
        np.testing.assert_allclose(ours[0], theirs[1], rtol=1e-12)


def test_one_metric_needs_no_axis_of_metrics():
    random = np.random.default_rng(12)
    a, b = (random.random((2, 30)) < 0.5).astype(np.float32)
    alone, column = paired_comparison(a, b), paired_comparison(a[:, None], b[:, None])
    for ours, theirs in zip(alone[:5], column[:5], strict=True):
        assert ours.shape == ()
        assert float(ours) == theirs[0]
    np.testing.assert_array_equal(difference_intervals(b - a), np.ravel(difference_intervals((b - a)[:, None])))


def test_a_constant_gain_is_certain():
    comparison = compared(np.zeros(30), np.full(30, 0.1), n_resamples=999)
    assert comparison.lower[0] == comparison.upper[0] == pytest.approx(0.1)
    assert comparison.detectable[0] == 0.0
    # Only all signs kept or all turned are as far: 2 of 2^30 choices, so none of 999 draws.
    assert comparison.p_value[0] == 1 / 1000


def test_many_distinct_differences_give_the_same_results_in_bins(monkeypatch):
    random = np.random.default_rng(8)
    n_users = 4000
    a, b = 1 / random.geometric(0.02, n_users), 1 / random.geometric(0.0208, n_users)
    binned = compared(a, b, n_resamples=4000)
    monkeypatch.setattr(paired, "_MOST_DISTINCT", 10**9)
    exact = compared(a, b, n_resamples=4000)
    assert len(np.unique(b - a)) > 2048
    # Equal but for Monte Carlo errors: other draws, the same distribution.
    width = exact.upper[0] - exact.lower[0]
    assert abs(binned.lower[0] - exact.lower[0]) <= 0.04 * width
    assert abs(binned.upper[0] - exact.upper[0]) <= 0.04 * width
    assert abs(binned.p_value[0] - exact.p_value[0]) <= 5 * math.sqrt(0.25 * 2 / 4000)


def test_bins_are_refused_where_they_would_lose_the_spread():
    random = np.random.default_rng(9)
    # One giant stretches the bins until all others share one.
    values = np.append(random.normal(size=3000), 1e6)
    distinct, n_each = paired._distinct(values)
    assert len(distinct) == 3001 or np.sum(n_each * (distinct - values.mean()) ** 2) >= 0.9999 * np.sum(
        (values - values.mean()) ** 2
    )
    uniform = random.random(5000)
    distinct, n_each = paired._distinct(uniform)
    assert len(distinct) <= 2048
    assert np.sum(distinct * n_each) == pytest.approx(uniform.sum(), rel=1e-12)


def test_blocks_bound_memory_and_change_nothing(monkeypatch):
    a, b = np.random.default_rng(10).random((2, 30, 1))
    whole = paired_comparison(a, b, n_resamples=100)
    monkeypatch.setattr(paired, "_CELLS_PER_BLOCK", 7 * 30)
    np.testing.assert_array_equal(whole.p_value, paired_comparison(a, b, n_resamples=100).p_value)


def test_a_nan_shows_in_its_own_metric_only():
    a = np.zeros((3, 2))
    b = np.array([[1.0, math.nan], [2.0, 0.0], [3.0, 1.0]])
    comparison = paired_comparison(a, b)
    for field in comparison[:5]:
        assert math.isnan(field[1])
        assert math.isfinite(field[0])


def test_one_user_shows_nothing():
    comparison = compared(np.array([0.0]), np.array([1.0]))
    assert comparison.p_value[0] == 1.0
    assert math.isnan(comparison.detectable[0])


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros((0, 1)), np.zeros((0, 1)), {}, "0 users"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"level": 95.0}, "level=95.0 is outside"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"power": 0.0}, "power=0.0 is outside"),
        (np.zeros((2, 1)), np.zeros((2, 1)), {"n_resamples": 0}, "n_resamples=0"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, options, message):
    with pytest.raises(InputError, match=message):
        paired_comparison(a, b, **options)


def test_one_row_is_not_spread_over_all_users():
    # Where annotations are checked, as in these tests, they object before the function does.
    with pytest.raises((InputError, TypeCheckError)):
        paired_comparison(np.zeros((2, 1)), np.zeros((1, 1)))
