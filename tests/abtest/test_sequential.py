"""Repeated looks: published bounds and intervals, and the false-alarm rate over 28 daily looks."""

import math

import numpy as np
import pytest
from scipy import stats

from seqrec.abtest.means import mean_estimate
from seqrec.abtest.sample_moments import sample_moments_of_sums
from seqrec.abtest.sequential import (
    confidence_sequence,
    crossing_probability,
    obrien_fleming_bounds,
    pocock_bounds,
    sequence_multiple,
    sequential_relative,
    spending_bounds,
)
from seqrec.types import InputError


def test_growthbooks_sequential_t_test_of_published_sums():
    control, treatment = (
        mean_estimate(sample_moments_of_sums(n, np.array([total]), np.array([[squares]])))
        for total, squares, n in ((1396.87, 52377.9767, 3000), (2422.7, 134698.29, 3461))
    )
    interval = sequential_relative(control, treatment, tuning=1000.0)
    # The relative lift 2422.7 / 3461 / (1396.87 / 3000) - 1, and the figures of GrowthBook's own test of it.
    expected = [0.50336, 0.33341, -0.55844, 1.56516]
    assert [interval.value, interval.standard_error, interval.lower, interval.upper] == pytest.approx(
        expected, abs=0.5e-5
    )


def test_five_looks_at_a_fixed_test():
    # Armitage, McPherson and Rowe (1969), table 2: .142 at 1.960.
    assert crossing_probability([1.96] * 5) == pytest.approx(0.142, abs=0.5e-3)
    assert crossing_probability([1.96] * 20) == pytest.approx(0.248, abs=0.5e-3)
    assert crossing_probability([1.96]) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize(
    ("n_looks", "pocock", "obrien_fleming"), [(2, 2.178, 1.977), (3, 2.289, 2.004), (5, 2.413, 2.040)]
)
def test_published_bounds_of_evenly_spaced_looks(n_looks, pocock, obrien_fleming):
    # Jennison and Turnbull (2000), tables 2.1 and 2.3; the second gives the bound of the last look.
    assert pocock_bounds(n_looks) == pytest.approx([pocock] * n_looks, abs=0.6e-3)
    falling = [obrien_fleming * math.sqrt(n_looks / k) for k in range(1, n_looks + 1)]
    assert obrien_fleming_bounds(n_looks) == pytest.approx(falling, abs=1.2e-3)


PUBLISHED_SPENDING_BOUNDS = {
    "obrien-fleming": [
        [2.9626, 1.9686],
        [3.7103, 2.5114, 1.9930],
        [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
    ],
    "pocock": [
        [2.1570, 2.2010],
        [2.2794, 2.2949, 2.2959],
        [2.4380, 2.4268, 2.4101, 2.3966, 2.3859],
    ],
}
"""Two-sided bounds at .05 of even looks by Lan and DeMets's two functions (Reboussin, DeMets, Kim and Lan, 2000)."""


@pytest.mark.parametrize(
    ("shape", "bounds"),
    [(shape, bounds) for shape, tables in PUBLISHED_SPENDING_BOUNDS.items() for bounds in tables],
)
def test_published_bounds_of_spending_functions(shape, bounds):
    times = [k / len(bounds) for k in range(1, len(bounds) + 1)]
    assert spending_bounds(times, shape=shape) == pytest.approx(bounds, abs=1.5e-4)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("time", [0.3, 0.7])
def test_each_side_spends_its_half_of_alpha_by_the_first_look(alpha, time):
    tail = alpha / 2
    one_sided = {
        "obrien-fleming": 2 * (1 - stats.norm.cdf(stats.norm.ppf(1 - tail / 2) / math.sqrt(time))),
        "pocock": tail * math.log(1 + (math.e - 1) * time),
    }
    for shape, spent in one_sided.items():
        bound = spending_bounds([time, 1.0], alpha=alpha, shape=shape)[0]
        assert stats.norm.sf(bound) == pytest.approx(spent, rel=1e-5)


def walks(n_walks: int, n_looks: int, *, seed: int) -> np.ndarray:
    """z after each look, of independent increments without drift."""
    increments = np.random.default_rng(seed).normal(size=(n_walks, n_looks))
    return np.cumsum(increments, axis=1) / np.sqrt(np.arange(1, n_looks + 1))


@pytest.mark.parametrize(
    "bounds", [[1.96] * 5, [2.413] * 5, [2.040 * math.sqrt(5 / k) for k in range(1, 6)]], ids=["fixed", "pocock", "obf"]
)
def test_the_crossing_probability_equals_its_simulation(bounds):
    n_walks = 200_000
    share = np.mean((np.abs(walks(n_walks, 5, seed=0)) >= bounds).any(axis=1))
    expected = crossing_probability(bounds)
    assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n_walks)


def test_spent_error_adds_up_at_uneven_looks():
    times = [0.2, 0.5, 1.0]
    for shape in PUBLISHED_SPENDING_BOUNDS:
        assert crossing_probability(list(spending_bounds(times, shape=shape)), times) == pytest.approx(0.05, abs=1e-5)


def check_peeking(n_experiments: int) -> None:
    """28 daily looks at heavy-tailed users who come in day by day, with nothing to find."""
    n_days, n_a_day = 28, 100
    random = np.random.default_rng(1)
    fixed = sequential = 0
    n = n_a_day * np.arange(1, n_days + 1)
    for _ in range(n_experiments):
        values = random.lognormal(0.0, 1.0, (2, n_days, n_a_day))
        means = np.cumsum(values.sum(axis=2), axis=1) / n
        variances = (np.cumsum((values**2).sum(axis=2), axis=1) - n * means**2) / (n - 1) / n
        differences, errors = means[1] - means[0], np.sqrt(variances.sum(axis=0))
        fixed += (np.abs(differences) > 1.96 * errors).any()
        looks = [
            confidence_sequence(float(d), float(e), int(2 * k), tuning=2800.0)
            for d, e, k in zip(differences, errors, n, strict=True)
        ]
        excluded = any(not look.lower <= 0.0 <= look.upper for look in looks)
        # The p-value and the interval say the same.
        assert excluded == any(look.p_value < 0.05 for look in looks)
        sequential += excluded
    # Early looks are at few heavy-tailed users, which adds a little.
    expected = crossing_probability([1.96] * n_days)
    assert abs(fixed / n_experiments - expected) <= 0.02 + 4 * math.sqrt(expected * (1 - expected) / n_experiments)
    assert sequential / n_experiments <= 0.05


def test_a_confidence_sequence_keeps_its_level_over_28_daily_looks():
    check_peeking(300)


@pytest.mark.slow
def test_a_confidence_sequence_keeps_its_level_over_28_daily_looks_in_many_experiments():
    check_peeking(10_000)


def check_growing_totals(n_experiments: int, *, persistence: float) -> None:
    """As `check_peeking`, where users come in over 14 days and their totals go on growing until day 28."""
    n_days, n_users = 28, 400
    random = np.random.default_rng(2)
    since = np.arange(n_users) % 14
    n = np.array([np.sum(since <= day) for day in range(n_days)])
    multiples = np.array([sequence_multiple(int(2 * k), tuning=800.0) for k in n])
    crossed = 0
    for _ in range(n_experiments):
        # With persistence 1 a user has one rate for all days, with 0 days are independent.
        rate = random.lognormal(0.0, 1.0, (2, n_users, 1)) ** persistence
        daily = rate * random.lognormal(0.0, 1.0, (2, n_users, n_days)) * (np.arange(n_days) >= since[:, None])
        totals = np.cumsum(daily, axis=2)
        means = totals.sum(axis=1) / n
        variances = ((totals**2).sum(axis=1) - n * means**2) / (n - 1) / n
        crossed += (np.abs(means[1] - means[0]) > multiples * np.sqrt(variances.sum(axis=0))).any()
    assert crossed / n_experiments <= 0.05


@pytest.mark.parametrize("persistence", [0.0, 1.0])
def test_growing_totals_keep_the_level(persistence):
    check_growing_totals(200, persistence=persistence)


@pytest.mark.slow
@pytest.mark.parametrize("persistence", [0.0, 1.0])
def test_growing_totals_keep_the_level_in_many_experiments(persistence):
    check_growing_totals(5000, persistence=persistence)


def test_28_looks_at_the_same_users_keep_the_level():
    # Then the multiple stays where it is, at worst at its narrowest, while totals go on, at worst independently.
    narrowest = min(sequence_multiple(n, tuning=1000.0) for n in np.geomspace(10, 10**6, 200).astype(int).tolist())
    assert crossing_probability([narrowest] * 28) <= 0.05


def test_the_sequence_is_tightest_in_information_near_its_tuning():
    # Optimised at 5,000, a sequence is narrower there than ones optimised a factor 20 off on either side.
    at = {tuning: sequence_multiple(5000, tuning=tuning) for tuning in (250.0, 5000.0, 100_000.0)}
    assert at[5000.0] == min(at.values())
    assert at[5000.0] > 1.96


def test_an_unknown_estimate_has_an_unknown_p_value():
    for value, error in ((math.nan, 1.0), (1.0, math.nan), (math.nan, 0.0)):
        assert math.isnan(confidence_sequence(value, error, 10, tuning=10.0).p_value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: crossing_probability([]), "0 bounds"),
        (lambda: crossing_probability([2.0, 2.0], [0.5, 0.4]), "does not rise"),
        (lambda: pocock_bounds(0), "n_looks=0"),
        (lambda: spending_bounds([1.0], shape="flat"), "'flat' is not one of"),
        (lambda: spending_bounds([0.5, 1.5]), r"is not in \(0, 1\]"),
        (lambda: spending_bounds([0.0, 1.0]), r"is not in \(0, 1\]"),
        (lambda: confidence_sequence(0.0, 1.0, 0, tuning=10.0), "n_users=0"),
        (lambda: confidence_sequence(0.0, 1.0, 10, tuning=0.0), "tuning=0.0"),
        (lambda: confidence_sequence(0.0, 1.0, 10, tuning=math.inf), "tuning=inf"),
        (lambda: crossing_probability([2.0, 2.0], [0.5, math.nan]), "does not rise"),
        (lambda: crossing_probability([2.0, math.nan]), "must be above 0"),
        (lambda: spending_bounds([0.5, math.nan]), r"is not in \(0, 1\]"),
    ],
)
def test_invalid_looks_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
