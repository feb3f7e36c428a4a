"""Power, quantiles, interleaving and off-policy values."""

import math

import numpy as np
import pytest

from seqrec.abtest.interleaving import interleaving_preference, team_draft
from seqrec.abtest.off_policy import doubly_robust, importance_weights, ips, snips
from seqrec.abtest.offline_online import offline_online
from seqrec.abtest.power import (
    detectable_difference,
    power_of,
    required_days,
    rule_of_16,
    t_test_users_per_arm,
    users_per_arm,
)
from seqrec.abtest.quantiles import event_quantile_difference, quantile_difference
from seqrec.types import InputError


def test_sixteen_s_squared_over_d_squared():
    # Kohavi, Tang and Xu (2020), ch. 17 give 16 s^2 / d^2; s^2 = p (1 - p) of a conversion.
    assert rule_of_16(0.05 * 0.95, 0.05 * 0.05) == pytest.approx(121_600)
    assert rule_of_16(30.0**2, 3.75 * 0.05) == pytest.approx(409_600)


def test_the_exact_number_is_near_sixteen():
    # 2 (1.96 + .8416)^2 = 15.7.
    assert users_per_arm(1.0, variance=1.0) == pytest.approx(2 * (1.959964 + 0.841621) ** 2, rel=1e-5)


def test_a_rise_from_20_to_25_percent_takes_1030_an_arm():
    expected = (1.959964 * math.sqrt(2 * 0.16) + 0.841621 * math.sqrt(0.16 + 0.1875)) ** 2 / 0.05**2
    assert users_per_arm(0.05, variance=0.16, treatment_variance=0.1875) == pytest.approx(expected, rel=1e-5)
    assert round(expected) == 1030


def test_half_a_standard_deviation_takes_64_an_arm_by_the_t_test():
    # Cohen (1988), table 2.4.1: 64.
    assert t_test_users_per_arm(0.5) == pytest.approx(63.77, abs=0.005)


def test_power_detectable_difference_and_users_agree():
    n = users_per_arm(0.2, variance=1.0, power=0.9)
    error = math.sqrt(2 / n)
    assert detectable_difference(error, power=0.9) == pytest.approx(0.2)
    assert power_of(0.2, error) == pytest.approx(0.9)
    assert power_of(0.0, 1.0) == pytest.approx(0.05)


def test_days_are_whole_weeks():
    assert required_days(650, np.array([100.0] * 5)) == 7
    assert required_days(701, np.array([100.0] * 5)) == 14


def test_quantile_intervals_cover_the_true_difference():
    random = np.random.default_rng(0)
    n_experiments, covered = 400, 0
    truth = -math.log(0.1)  # the 90% quantiles of exponentials of mean 1 and 2 differ by so much
    for i in range(n_experiments):
        control, treatment = random.exponential(1.0, 300), random.exponential(2.0, 300)
        found = quantile_difference(control, treatment, quantile=0.9, n_resamples=1000, seed=i)
        covered += found.lower <= truth <= found.upper
    assert abs(covered / n_experiments - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_experiments)


def test_places_drawn_are_those_of_a_plain_bootstrap():
    random = np.random.default_rng(1)
    control, treatment = random.normal(0, 1, 200), random.normal(1, 1, 300)
    found = quantile_difference(control, treatment, quantile=0.5, n_resamples=20_000)
    plain = [
        np.median(treatment[random.integers(300, size=300)]) - np.median(control[random.integers(200, size=200)])
        for _ in range(4000)
    ]
    low, high = np.quantile(plain, [0.025, 0.975])
    assert [found.lower, found.upper] == pytest.approx([low, high], abs=0.1 * (high - low))


def test_events_of_one_user_are_drawn_together():
    # Each user's 20 events are equal, so there are 100 independent values, not 2,000.
    random = np.random.default_rng(2)
    a, b = random.normal(0, 1, 100), random.normal(0, 1, 100)
    users = np.repeat(np.arange(100), 20)
    clustered = event_quantile_difference(np.repeat(a, 20), users, np.repeat(b, 20), users, quantile=0.5)
    of_users = quantile_difference(a, b, quantile=0.5)
    width, expected = clustered.upper - clustered.lower, of_users.upper - of_users.lower
    assert width == pytest.approx(expected, rel=0.25)


def test_a_team_draft_is_fair_to_equal_lists_and_gives_both_teams_half():
    random = np.random.default_rng(3)
    first_teams = []
    for _ in range(2000):
        items, teams = team_draft([1, 2, 3, 4], [1, 2, 3, 4], length=4, random=random)
        assert items == [1, 2, 3, 4]
        assert sum(teams) == 2
        first_teams.append(teams[0])
    assert abs(np.mean(first_teams) - 0.5) <= 4 * 0.5 / math.sqrt(2000)


def test_a_short_list_leaves_its_turns_to_the_other():
    items, teams = team_draft([1], [5, 6, 7], length=10, random=np.random.default_rng(0))
    assert sorted(items) == [1, 5, 6, 7]
    assert [items[i] for i in range(4) if teams[i] == 1] == [5, 6, 7]


def test_a_better_ranker_wins_the_interleaving():
    random = np.random.default_rng(4)
    found = interleaving_preference(random.poisson(1.0, 2000), random.poisson(1.2, 2000))
    assert found.preference > 0.5
    assert found.p_value < 0.01


def logged_bandit(random: np.random.Generator, n: int):
    """Two actions, rewards of mean .2 and .6; logged with chances .8 and .2, the new policy turns them around."""
    actions = (random.random(n) < 0.2).astype(int)
    rewards = (random.random(n) < np.array([0.2, 0.6])[actions]).astype(float)
    return actions, rewards, importance_weights(np.array([0.2, 0.8])[actions], np.array([0.8, 0.2])[actions])


def test_off_policy_intervals_cover_the_new_policys_value():
    truth = 0.2 * 0.2 + 0.8 * 0.6
    random = np.random.default_rng(5)
    covered = {"ips": 0, "snips": 0, "dr": 0}
    n_logs = 500
    for _ in range(n_logs):
        actions, rewards, weights = logged_bandit(random, 1000)
        model = np.array([0.3, 0.5])  # a wrong model: doubly robust must still be right
        found = {
            "ips": ips(rewards, weights),
            "snips": snips(rewards, weights),
            "dr": doubly_robust(rewards, weights, model[actions], np.full(1000, 0.2 * 0.3 + 0.8 * 0.5)),
        }
        for name, value in found.items():
            covered[name] += value.lower <= truth <= value.upper
    for name, n_covered in covered.items():
        assert abs(n_covered / n_logs - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_logs), name


def test_the_old_policy_itself_needs_no_weights():
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    found = ips(rewards, np.ones(4))
    assert (found.value, found.effective_sample_size, found.mean_weight) == (0.5, 4.0, 1.0)
    assert found.value == snips(rewards, np.ones(4)).value


def test_one_heavy_row_is_worth_one_row_and_clipping_is_counted():
    weights = np.array([1e9, 1.0, 1.0, 1.0])
    assert ips(np.ones(4), weights).effective_sample_size == pytest.approx(1.0)
    clipped = ips(np.ones(4), weights, max_weight=1.0)
    assert (clipped.value, clipped.share_clipped) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: users_per_arm(0.0, variance=1.0), "difference=0.0"),
        (lambda: users_per_arm(1.0, variance=0.0), "variance=0.0"),
        (lambda: required_days(5, np.array([0.0])), "users_by_day"),
        (lambda: quantile_difference(np.array([]), np.ones(2), quantile=0.5), "control has 0 users"),
        (lambda: quantile_difference(np.ones(2), np.ones(2), quantile=1.0), "quantile=1.0 is outside"),
        (lambda: team_draft([1], [2], length=0, random=np.random.default_rng(0)), "length=0"),
        (lambda: importance_weights(np.array([0.5]), np.array([0.0])), "row 0: chances 0.5 over 0"),
        (lambda: snips(np.ones(2), np.zeros(2)), "all weights are 0"),
        (lambda: ips(np.ones(2), np.array([1.0, -1.0])), "weight below 0"),
        (lambda: offline_online(np.ones(1), np.ones(1)), "1 offline and 1 online"),
        (lambda: offline_online(np.array([1.0, math.nan]), np.ones(2)), "experiment 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
