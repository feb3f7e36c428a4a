"""Differences of quantiles: coverage, and agreement with a plain bootstrap."""

import math

import numpy as np
import pytest

from seqrec.abtest.quantiles import event_quantile_difference, quantile_difference
from seqrec.types import InputError


def test_quantile_intervals_cover_the_true_difference():
    random = np.random.default_rng(0)
    n_experiments, covered = 400, 0
    truth = -math.log(0.1)  # the 90% quantiles of exponentials of mean 1 and 2 differ by so much
    for i in range(n_experiments):
        control, treatment = random.exponential(1.0, 300), random.exponential(2.0, 300)
        difference = quantile_difference(control, treatment, quantile=0.9, n_resamples=1000, seed=i)
        covered += difference.lower <= truth <= difference.upper
    assert abs(covered / n_experiments - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_experiments)


def test_a_quantile_of_a_hundred_users_is_the_value_of_that_rank():
    ranks = np.arange(1.0, 101.0)
    for percent in range(1, 100):  # .55 * 100 is a little more than 55 to a float
        difference = quantile_difference(ranks, ranks, quantile=percent / 100, n_resamples=1)
        users = np.arange(100)
        of_events = event_quantile_difference(ranks, users, ranks, users, quantile=percent / 100, n_resamples=1)
        assert difference.control == of_events.control == percent


def test_drawn_ranks_give_the_interval_of_a_plain_bootstrap():
    random = np.random.default_rng(1)
    control, treatment = random.normal(0, 1, 200), random.normal(1, 1, 300)
    difference = quantile_difference(control, treatment, quantile=0.5, n_resamples=20_000)
    plain = [
        np.median(treatment[random.integers(300, size=300)]) - np.median(control[random.integers(200, size=200)])
        for _ in range(4000)
    ]
    low, high = np.quantile(plain, [0.025, 0.975])
    assert [difference.lower, difference.upper] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_events_are_resampled_by_user():
    # Each user's 20 events are equal, so there are 100 independent values, not 2,000.
    random = np.random.default_rng(2)
    a, b = random.normal(0, 1, 100), random.normal(0, 1, 100)
    users = np.repeat(np.arange(100), 20)
    clustered = event_quantile_difference(np.repeat(a, 20), users, np.repeat(b, 20), users, quantile=0.5)
    of_users = quantile_difference(a, b, quantile=0.5)
    width, expected = clustered.upper - clustered.lower, of_users.upper - of_users.lower
    assert width == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quantile_difference(np.array([]), np.ones(2), quantile=0.5), "control has 0 users"),
        (lambda: quantile_difference(np.ones(2), np.ones(2), quantile=1.0), "quantile=1.0 is outside"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
