"""Tests of a drop against a margin: what they decide, and how often they are wrong."""

import numpy as np
import pytest
from scipy import stats

from seqrec.stats import NonInferiority, non_inferiority
from seqrec.types import InputError

N_PAIRS = 1000
"""Simulated pairs of systems whose true drop is the margin."""


def mean_of_geometric(chance: float, values: np.ndarray) -> float:
    """The mean of values[rank - 1] over geometric ranks, which are worth 0 beyond the values."""
    ranks = np.arange(1, len(values) + 1)
    return float(np.sum(chance * (1 - chance) ** (ranks - 1) * values))


def test_one_test_is_a_one_sided_t_test_with_one_more_user():
    drops = np.random.default_rng(0).normal(0.01, 0.2, 300)
    [test] = non_inferiority([drops], [0.03])
    worst, best = np.append(drops, 1.0), np.append(drops, -1.0)
    assert test.drop == pytest.approx(drops.mean())
    assert test.p_within == pytest.approx(stats.ttest_1samp(worst, 0.03, alternative="less").pvalue)
    assert test.p_beyond == pytest.approx(stats.ttest_1samp(best, 0.03, alternative="greater").pvalue)
    one_sided = {"confidence_level": 0.95}
    high = stats.ttest_1samp(worst, 0.03, alternative="less").confidence_interval(**one_sided).high
    low = stats.ttest_1samp(best, 0.03, alternative="greater").confidence_interval(**one_sided).low
    assert (test.lower, test.upper) == pytest.approx((low, high))


def test_several_tests_are_adjusted_and_bounds_agree_with_the_verdicts():
    random = np.random.default_rng(1)
    verdicts = []
    for _ in range(100):
        drops = [random.normal(random.choice([-0.02, 0.0, 0.02]), 0.1, random.integers(30, 400)) for _ in range(4)]
        margins = random.choice([0.0, 0.01, 0.03], 4).tolist()
        tests = non_inferiority(drops, margins)
        alone = [non_inferiority([each], [margin])[0] for each, margin in zip(drops, margins, strict=True)]
        for test, by_itself in zip(tests, alone, strict=True):
            assert test.p_within >= by_itself.p_within
            assert (test.upper <= test.margin) == (test.verdict == "pass")
            assert (test.lower >= test.margin) == (test.verdict == "fail")
            verdicts.append(test.verdict)
    assert set(verdicts) == {"pass", "fail", "cannot tell"}


@pytest.mark.parametrize("n_users", [40, 300])
def test_at_the_margin_a_pass_is_as_rare_as_the_level_says(n_users):
    random = np.random.default_rng(n_users)
    ndcg = 1 / np.log2(1 + np.arange(1, 11))
    better, worse = 0.12, 0.08
    margin = mean_of_geometric(better, ndcg) - mean_of_geometric(worse, ndcg)
    of_rank = np.append(ndcg, 0.0)
    ranks = [random.geometric(chance, (N_PAIRS, n_users)) for chance in (better, worse)]
    incumbents, candidates = (of_rank[np.minimum(each, 11) - 1] for each in ranks)
    verdicts = [non_inferiority([drops], [margin])[0].verdict for drops in incumbents - candidates]
    assert 0 < verdicts.count("pass") <= 0.05 * N_PAIRS
    assert 0 < verdicts.count("fail") <= 0.05 * N_PAIRS


@pytest.mark.parametrize("n_users", [20, 50, 150, 300, 2000])
def test_a_loss_of_few_users_does_not_pass_because_none_of_them_is_in_the_sample(n_users):
    share = 0.02  # of the users lose the whole metric, which is the margin; no others lose or gain
    chance = 0.0
    for n_losers in range(n_users + 1):
        if (probability := stats.binom.pmf(n_losers, n_users, share)) < 1e-9 and n_losers > n_users * share:
            break
        drops = np.zeros(n_users)
        drops[:n_losers] = 1.0
        chance += probability * (non_inferiority([drops], [share])[0].verdict == "pass")
    # Users that lose are few and whole: the level, .05, cannot be met exactly.
    assert chance <= 0.061


def test_more_tests_at_the_margin_pass_no_more_often():
    random = np.random.default_rng(2)
    at_least_one = 0
    for _ in range(N_PAIRS):
        drops = random.normal(0.01, 0.1, (5, 100))
        at_least_one += any(test.verdict == "pass" for test in non_inferiority(list(drops), [0.01] * 5))
    assert at_least_one <= 0.05 * N_PAIRS


def test_as_many_users_as_are_needed_decide():
    drops = np.random.default_rng(3).normal(0.0, 0.2, 400)
    drops += 0.005 - drops.mean()
    [test] = non_inferiority([drops], [0.01])
    assert test.verdict == "cannot tell"
    repeated = np.resize(drops, 400 * int(1 + test.n_users_needed / 400))
    assert non_inferiority([repeated], [0.01])[0].verdict == "pass"
    assert non_inferiority([np.resize(drops, int(test.n_users_needed / 2))], [0.01])[0].verdict == "cannot tell"


def test_a_drop_at_the_margin_is_decided_by_no_number_of_users():
    test = NonInferiority(0.01, 0.0, 0.02, 0.01, 0.5, 0.5, "cannot tell", 100)
    assert test.n_users_needed == np.inf


def test_systems_that_lose_or_gain_everything_are_decided():
    everything = np.ones(100)
    assert [test.verdict for test in non_inferiority([everything, -everything], [0.5, 0.0])] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("drops", "margin", "level", "message"),
    [
        ([0.0], -0.1, 0.95, r"margin of -0.1 is outside \[0, 1\)"),
        ([0.0], np.nan, 0.95, "margin of nan"),
        ([0.0], 1.0, 0.95, "margin of 1"),
        ([0.0], 0.1, 95.0, "level=95.0 is outside"),
        ([], 0.1, 0.95, "a test has no users"),
        ([0.0, np.nan], 0.1, 0.95, "1 of 2 drops are NaN or infinite"),
    ],
)
def test_what_cannot_be_tested_is_refused(drops, margin, level, message):
    with pytest.raises(InputError, match=message):
        non_inferiority([np.array(drops, float)], [margin], level=level)
