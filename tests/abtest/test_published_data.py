"""Published experiments: Cookie Cats' counts are those of its users, and ASOS's running totals tempt to stop early."""

import gzip
import itertools
import math

import duckdb
import numpy as np
import pytest
from scipy import stats

from seqrec.abtest.means import Estimate, effect, mean_estimate
from seqrec.abtest.quantiles import quantile_difference
from seqrec.abtest.sample_moments import sample_moments, sample_moments_of_sums
from seqrec.abtest.sequential import confidence_sequence, sequential_effect
from seqrec.abtest.srm import srm_p_value
from seqrec.stats.multiplicity import benjamini_hochberg, holm

PUBLISHED = {"gate_30": (44_700, 20_034, 8_502), "gate_40": (45_489, 20_119, 8_279)}


@pytest.fixture(scope="module")
def players(shared_data):
    """Arm -> rounds, day-1 and day-7 retention, a row a player."""
    with gzip.open(shared_data / "cookie-cats" / "cookie_cats.csv.gz", "rt") as stream:
        rows = [line.rstrip("\n").split(",") for line in itertools.islice(stream, 1, None)]
    return {
        arm: np.array([[float(r[2]), r[3].upper() == "TRUE", r[4].upper() == "TRUE"] for r in rows if r[1] == arm])
        for arm in PUBLISHED
    }


def test_counts_tell_the_same_as_the_players(players):
    for column in (1, 2):
        of_players = effect(*(mean_estimate(sample_moments(rows), column) for rows in players.values()))
        of_counts = []
        for arm, rows in players.items():
            n_users, n_back = PUBLISHED[arm][0], PUBLISHED[arm][column]
            assert (len(rows), rows[:, column].sum()) == (n_users, n_back)
            sums = np.array([float(n_back)])
            of_counts.append(mean_estimate(sample_moments_of_sums(n_users, sums, sums[None])))
        assert effect(*of_counts) == pytest.approx(of_players)


def test_retention_and_sample_ratio_are_those_of_another_hand(players):
    for column in (1, 2):
        treatment_effect = effect(*(mean_estimate(sample_moments(rows), column) for rows in players.values()))
        control, treatment = (rows[:, column] for rows in players.values())
        expected = stats.ttest_ind(treatment, control, equal_var=False)
        interval = expected.confidence_interval(0.95)
        assert [treatment_effect.lower, treatment_effect.upper, treatment_effect.p_value] == pytest.approx(
            [*interval, expected.pvalue], rel=1e-6
        )
        assert treatment_effect.difference == pytest.approx(treatment.mean() - control.mean(), rel=1e-9)
    counts = [len(rows) for rows in players.values()]
    assert srm_p_value(counts, [1, 1]) == pytest.approx(stats.chisquare(counts).pvalue, rel=1e-6)


def test_one_player_of_49854_rounds_moves_the_mean_and_not_the_median(players):
    control, treatment = (rows[:, 0] for rows in players.values())
    outlier = control.max()
    assert outlier == 49_854
    without = control[control < outlier]
    assert control.mean() - without.mean() == pytest.approx((outlier - without.mean()) / len(control))
    # That player is worth more than a whole round of the mean difference.
    difference = treatment.mean() - control.mean()
    assert abs(treatment.mean() - without.mean()) < 0.1 * abs(difference)
    medians = [quantile_difference(c, treatment, quantile=0.5, n_resamples=500) for c in (control, without)]
    assert medians[0].difference == medians[1].difference


@pytest.fixture(scope="module")
def asos(shared_data):
    """(experiment, arm, metric) -> looks in time: users, means and variances of control and treatment."""
    rows = (
        duckdb.connect()
        .execute(
            "SELECT experiment_id, variant_id, metric_id, count_c, count_t, mean_c, mean_t, variance_c, variance_t "
            "FROM read_parquet($path) WHERE count_c >= 100 AND count_t >= 100 AND variance_c > 0 AND variance_t > 0 "
            "ORDER BY experiment_id, variant_id, metric_id, time_since_start",
            {"path": str(shared_data / "asos" / "asos_digital_experiments_dataset.parquet")},
        )
        .fetchall()
    )
    return {key: [row[3:] for row in looks] for key, looks in itertools.groupby(rows, key=lambda row: row[:3])}


def test_the_documented_figures_of_asos(asos):
    fixed_ever = fixed_end = sequence_ever = mismatched = 0
    for looks in asos.values():
        n_last = looks[-1][0] + looks[-1][1]
        fixed, sequence = [], []
        for n_c, n_t, mean_c, mean_t, variance_c, variance_t in looks:
            error = math.sqrt(variance_c / n_c + variance_t / n_t)
            fixed.append(abs(mean_t - mean_c) > 1.96 * error)
            interval = confidence_sequence(mean_t - mean_c, error, int(n_c + n_t), tuning=n_last)
            sequence.append(not interval.lower <= 0.0 <= interval.upper)
        # An interval that is always valid is never the narrower one.
        assert not any(s and not f for s, f in zip(sequence, fixed, strict=True))
        fixed_ever += any(fixed)
        fixed_end += fixed[-1]
        sequence_ever += any(sequence)
        mismatched += srm_p_value([int(n) for n in looks[-1][:2]], [1, 1]) < 0.001
    # docs/ab_testing.md quotes these.
    assert (len(asos), fixed_ever, fixed_end, sequence_ever, mismatched) == (381, 224, 105, 105, 48)


def variants_of(asos, metric: int) -> list[list[tuple]]:
    return [looks for (_, _, each), looks in asos.items() if each == metric]


def always_valid_p_values(variants: list[list[tuple]]) -> np.ndarray:
    """Each variant's smallest always-valid p-value over its looks: what an analyst may stop at, whenever it came."""
    smallest = []
    for looks in variants:
        n_last = looks[-1][0] + looks[-1][1]
        estimates = [
            (Estimate(mean_c, variance_c / n_c, int(n_c)), Estimate(mean_t, variance_t / n_t, int(n_t)))
            for n_c, n_t, mean_c, mean_t, variance_c, variance_t in looks
        ]
        smallest.append(min(sequential_effect(*pair, tuning=n_last).p_value for pair in estimates))
    return np.array(smallest)


def test_all_99_variants_are_read_sequentially_at_a_false_discovery_rate_of_5_percent(asos):
    variants = variants_of(asos, 1)
    p_values = always_valid_p_values(variants)
    assert len(p_values) == 99
    adjusted = benjamini_hochberg(p_values)
    # Benjamini and Hochberg's rule by hand: the largest i with p_(i) <= .05 i / 99.
    ordered = np.sort(p_values)
    passing = np.flatnonzero(ordered <= 0.05 * np.arange(1, 100) / 99)
    n_found = int(passing[-1]) + 1 if passing.size else 0
    assert int(np.sum(adjusted <= 0.05)) == n_found
    assert int(np.sum(holm(p_values) <= 0.05)) <= n_found <= int(np.sum(p_values <= 0.05))
    # docs/ab_testing.md quotes these.
    assert (int(np.sum(p_values <= 0.05)), n_found, int(np.sum(holm(p_values) <= 0.05))) == (21, 18, 13)


def test_with_all_effects_taken_out_hardly_a_variant_is_found(asos):
    # The same looks, variances and numbers, with increments drawn anew about no difference.
    random = np.random.default_rng(0)
    variants = []
    for looks in variants_of(asos, 1):
        times = np.array([1.0 / (v_c / n_c + v_t / n_t) for n_c, n_t, _, _, v_c, v_t in looks])
        # Information may fall a little where a variance was measured anew; a walk's cannot.
        times = np.maximum.accumulate(times)
        walk = np.cumsum(random.normal(size=len(times)) * np.sqrt(np.diff(times, prepend=0.0))) / times
        variants.append(
            [(n_c, n_t, 0.0, d, v_c, v_t) for (n_c, n_t, _, _, v_c, v_t), d in zip(looks, walk, strict=True)]
        )
    p_values = always_valid_p_values(variants)
    # The binomial's 99.9% quantile of 99 at 5% is 13.
    assert np.sum(p_values <= 0.05) <= 13
    # With nothing to find, a false discovery rate of 5% is a chance of 5% of any discovery.
    assert np.sum(benjamini_hochberg(p_values) <= 0.05) <= 1


def test_a_mean_with_its_variance_is_an_estimate(asos):
    n_c, n_t, mean_c, mean_t, variance_c, variance_t = next(iter(asos.values()))[-1]
    treatment_effect = effect(
        Estimate(mean_c, variance_c / n_c, int(n_c)), Estimate(mean_t, variance_t / n_t, int(n_t))
    )
    # So many users make Welch's t a z.
    assert treatment_effect.upper - treatment_effect.lower == pytest.approx(
        2 * 1.96 * treatment_effect.standard_error, rel=1e-3
    )
