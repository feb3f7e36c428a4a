"""Off-policy estimates: coverage, clipping and the effective sample size."""

import math

import numpy as np
import pytest

from seqrec.abtest.off_policy import doubly_robust, importance_weights, ips, snips
from seqrec.types import InputError


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
        estimates = {
            "ips": ips(rewards, weights),
            "snips": snips(rewards, weights),
            "dr": doubly_robust(rewards, weights, model[actions], np.full(1000, 0.2 * 0.3 + 0.8 * 0.5)),
        }
        for name, value in estimates.items():
            covered[name] += value.lower <= truth <= value.upper
    for name, n_covered in covered.items():
        assert abs(n_covered / n_logs - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_logs), name


def test_weights_of_1_give_the_mean_reward():
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    estimate = ips(rewards, np.ones(4))
    assert (estimate.value, estimate.effective_sample_size, estimate.mean_weight) == (0.5, 4.0, 1.0)
    assert estimate.value == snips(rewards, np.ones(4)).value


def test_one_dominant_weight_has_an_effective_sample_size_of_1():
    weights = np.array([1e9, 1.0, 1.0, 1.0])
    assert ips(np.ones(4), weights).effective_sample_size == pytest.approx(1.0)
    clipped = ips(np.ones(4), weights, max_weight=1.0)
    assert (clipped.value, clipped.share_clipped) == (1.0, 0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: importance_weights(np.array([0.5]), np.array([0.0])), "row 0: chances 0.5 over 0"),
        (lambda: snips(np.ones(2), np.zeros(2)), "all weights are 0"),
        (lambda: ips(np.ones(2), np.array([1.0, -1.0])), "weight below 0"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
