"""Promised rates, by simulation of heavy-tailed users: false alarms, coverage and power of plays a session."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from seqrec.abtest.means import Effect, cuped_estimates, effect, mean_estimate, ratio_estimate
from seqrec.abtest.power import users_per_arm
from seqrec.abtest.sample_moments import sample_moments


class Experiment(NamedTuple):
    """Two arms of users, and the plays of every session by arm."""

    arms: list[np.ndarray]
    """Plays and sessions a user."""
    sessions: list[np.ndarray]


def experiment(random: np.random.Generator, *, n_users: int = 500, lift: float = 0.0) -> Experiment:
    """Some users have a hundred times the sessions of others, and each has a liking of their own for long ones."""
    arms, sessions = [], []
    for growth in (0.0, lift):
        n_sessions = 1 + random.geometric(1 / (1 + 2 * random.lognormal(0.0, 1.0, n_users)))
        longer = random.gamma(28.0, 1 / 28.0, n_users) * 4.0 * (1.0 + growth)
        plays = random.poisson(np.repeat(longer, n_sessions))
        user = np.repeat(np.arange(n_users), n_sessions)
        arms.append(np.stack([np.bincount(user, plays, n_users), n_sessions], axis=1).astype(float))
        sessions.append(plays.astype(float))
    return Experiment(arms, sessions)


def of_users(drawn: Experiment) -> Effect:
    return effect(*(ratio_estimate(sample_moments(arm)) for arm in drawn.arms))


def of_sessions(drawn: Experiment) -> Effect:
    """The naive test: every session taken for an independent one."""
    return effect(*(mean_estimate(sample_moments(plays[:, None])) for plays in drawn.sessions))


def four_errors(share: float, n: int) -> float:
    return 4 * math.sqrt(share * (1 - share) / n)


def check_a_a(n_experiments: int) -> None:
    random = np.random.default_rng(0)
    experiments = [experiment(random) for _ in range(n_experiments)]
    ours, naive = [of_users(each) for each in experiments], [of_sessions(each) for each in experiments]
    p_values = np.array([each.p_value for each in ours])
    assert abs(np.mean(p_values <= 0.05) - 0.05) <= four_errors(0.05, n_experiments)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    # Both arms are alike, so the true difference is 0.
    assert abs(np.mean([each.lower <= 0.0 <= each.upper for each in ours]) - 0.95) <= four_errors(0.05, n_experiments)
    # The naive error is too small by a factor, and 1.96 of it are fewer true ones: one alarm in five.
    too_small = np.median([a.standard_error / b.standard_error for a, b in zip(naive, ours, strict=True)])
    expected = 2 * stats.norm.sf(1.96 * too_small)
    assert expected == pytest.approx(0.2, abs=0.03)
    share = np.mean([each.p_value <= 0.05 for each in naive])
    assert abs(share - expected) <= 0.02 + four_errors(expected, n_experiments)


def test_sessions_taken_for_independent_alarm_falsely_and_the_delta_method_does_not():
    check_a_a(500)


@pytest.mark.slow
def test_sessions_taken_for_independent_alarm_falsely_and_the_delta_method_does_not_in_many_experiments():
    check_a_a(4000)


def check_planted(n_experiments: int) -> None:
    random = np.random.default_rng(1)
    effects = [of_users(experiment(random, lift=0.05)) for _ in range(n_experiments)]
    # The mean of the gamma is 1, so that a session has 4 plays, and 4.2 with the lift.
    covered = np.mean([each.lower <= 0.2 <= each.upper for each in effects])
    assert abs(covered - 0.95) <= four_errors(0.05, n_experiments)
    relative = np.mean([each.relative_lower <= 0.05 <= each.relative_upper for each in effects])
    assert abs(relative - 0.95) <= four_errors(0.05, n_experiments)


def test_a_planted_effect_lies_in_95_percent_of_the_intervals():
    check_planted(500)


@pytest.mark.slow
def test_a_planted_effect_lies_in_95_percent_of_the_intervals_in_many_experiments():
    check_planted(4000)


def check_power(n_experiments: int, *, with_past: bool) -> None:
    """As many users as were asked for show the effect as often as was asked for."""
    random = np.random.default_rng(2)
    difference, r = 0.2, 0.6 if with_past else 0.0
    n_users = math.ceil(users_per_arm(difference, variance=1.0 - r**2, power=0.8))
    shown = 0
    for _ in range(n_experiments):
        arms = []
        for shift in (0.0, difference):
            past = random.normal(size=n_users)
            arms.append(
                sample_moments(
                    np.stack([shift + r * past + math.sqrt(1 - r**2) * random.normal(size=n_users), past], axis=1)
                )
            )
        estimates = cuped_estimates(arms, [1])[0] if with_past else [mean_estimate(arm) for arm in arms]
        shown += effect(*estimates).p_value <= 0.05
    # A t-test of some hundred users has about half a percent less than the z-test that was planned.
    assert abs(shown / n_experiments - 0.8) <= 0.01 + four_errors(0.8, n_experiments)


@pytest.mark.parametrize("with_past", [False, True])
def test_power_is_as_planned(with_past):
    check_power(800, with_past=with_past)


@pytest.mark.slow
@pytest.mark.parametrize("with_past", [False, True])
def test_power_is_as_planned_in_many_experiments(with_past):
    check_power(4000, with_past=with_past)
