"""Means, ratios and CUPED: published figures, false alarms, coverage and what covariates save."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from seqrec.abtest.means import (
    Estimate,
    cuped_estimates,
    effect,
    interaction_p_value,
    mean_estimate,
    negated_effect,
    non_inferiority_p_value,
    ratio_estimate,
    relative,
)
from seqrec.abtest.sample_moments import SampleMoments, sample_moments, sample_moments_of_sums
from seqrec.types import InputError


def heavy_tailed_skips(random: np.random.Generator, n_users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plays and skips a user, and each user's own leaning to skip; some users play a hundred times as much."""
    plays = 1 + random.geometric(1 / (1 + 5 * random.lognormal(0.0, 1.0, n_users)))
    leaning = random.beta(2.0, 3.0, n_users)
    return plays, random.binomial(plays, leaning), leaning


def test_the_delta_method_and_the_bootstrap_give_the_same_variance():
    random = np.random.default_rng(3)
    plays, skips, _ = heavy_tailed_skips(random, 2000)
    rows = np.stack([skips, plays], axis=1).astype(float)
    draws = random.integers(len(rows), size=(1000, len(rows)))
    resampled = [rows[draw].sum(axis=0) for draw in draws]
    ratios = np.array([skipped / played for skipped, played in resampled])
    # A standard deviation from 1,000 draws has an error of 2.2%; four of them.
    assert math.sqrt(ratio_estimate(sample_moments(rows)).variance) == pytest.approx(ratios.std(), rel=0.09)


def test_welchs_test_equals_scipys():
    random = np.random.default_rng(4)
    control, treatment = random.normal(0, 1, 30), random.normal(0.5, 3, 50)
    treatment_effect = effect(
        mean_estimate(sample_moments(control[:, None])), mean_estimate(sample_moments(treatment[:, None]))
    )
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert treatment_effect.p_value == pytest.approx(expected.pvalue)
    assert [treatment_effect.lower, treatment_effect.upper, treatment_effect.degrees_of_freedom] == pytest.approx(
        [*interval, expected.df]
    )


def test_a_covariate_reduces_the_variance_by_r_squared():
    random = np.random.default_rng(5)
    before = random.lognormal(0, 1, 4000)
    after = 0.7 * before + random.lognormal(0, 1, 4000)
    arm = sample_moments(np.stack([after, before], axis=1))
    (estimate, _), saved = cuped_estimates([arm, arm], [1])
    r = np.corrcoef(after, before)[0, 1]
    assert saved == pytest.approx(r**2, rel=1e-6)
    assert estimate.variance / mean_estimate(arm).variance == pytest.approx(1 - r**2, rel=1e-6)


def test_a_covariate_makes_estimates_less_variable_and_keeps_coverage():
    random = np.random.default_rng(6)
    n_experiments, n_users = 800, 400
    plain, adjusted = [], []
    for _ in range(n_experiments):
        before = random.normal(0, 1, n_users)
        after = 0.8 * before + 0.6 * random.normal(0, 1, n_users)  # r = .8
        after[n_users // 2 :] += 0.1
        rows = np.stack([after, before], axis=1)
        arms = [sample_moments(rows[: n_users // 2]), sample_moments(rows[n_users // 2 :])]
        plain.append(effect(mean_estimate(arms[0]), mean_estimate(arms[1])))
        adjusted.append(effect(*cuped_estimates(arms, [1])[0]))
    variance_ratio = np.var([e.difference for e in adjusted]) / np.var([e.difference for e in plain])
    # 1 - .8^2; each variance of 800 draws has an error of 5%.
    assert variance_ratio == pytest.approx(0.36, rel=0.2)
    covered = np.mean([e.lower <= 0.1 <= e.upper for e in adjusted])
    assert abs(covered - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_experiments)


class CupedCase(NamedTuple):
    """Two arms with one covariate, and the true relative effect."""

    correlation: float
    lift: float
    denominator: bool = False
    """Whether the metric is a ratio over a count that varies by user."""
    control_share: float = 0.5


CUPED_CASES = [
    CupedCase(0.95, 0.5),
    CupedCase(0.98, -0.3),
    CupedCase(0.98, -0.3, control_share=0.8),
    CupedCase(0.95, 0.5, denominator=True),
    CupedCase(0.5, 0.0),
]


def check_relative_coverage(case: CupedCase, n_experiments: int) -> None:
    """The interval of the relative difference after CUPED holds the true one as often as it promises."""
    random = np.random.default_rng(11)
    n_users = 400
    n_control = round(case.control_share * n_users)
    covered = 0
    for _ in range(n_experiments):
        before = random.normal(0.0, 1.0, n_users)
        noise = random.normal(0.0, 1.0, n_users)
        users_mean = np.where(np.arange(n_users) < n_control, 10.0, 10.0 * (1.0 + case.lift))
        after = users_mean + case.correlation * before + math.sqrt(1 - case.correlation**2) * noise
        count = random.integers(2, 7, n_users).astype(float) if case.denominator else np.ones(n_users)
        rows = np.stack([after * count, count, before], axis=1)
        arms = [sample_moments(rows[:n_control]), sample_moments(rows[n_control:])]
        estimates, _ = cuped_estimates(arms, [2], numerator=0, denominator=1)
        treatment_effect = effect(*estimates)
        covered += treatment_effect.relative_lower <= case.lift <= treatment_effect.relative_upper
    assert abs(covered / n_experiments - 0.95) <= 4 * math.sqrt(0.05 * 0.95 / n_experiments)


@pytest.mark.parametrize("case", CUPED_CASES)
def test_relative_intervals_after_cuped_cover_the_true_effect(case):
    check_relative_coverage(case, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("case", CUPED_CASES)
def test_relative_intervals_after_cuped_cover_the_true_effect_in_many_experiments(case):
    check_relative_coverage(case, 10_000)


def test_the_relative_variance_after_cuped_is_the_delta_methods_over_all_means():
    random = np.random.default_rng(12)
    sizes = [300, 500, 200]  # a third arm's covariate is in the pooled mean too
    arms = []
    for n_users, level in zip(sizes, (10.0, 15.0, 9.0), strict=True):
        before = random.normal(3.0, 1.0, n_users)
        arms.append(sample_moments(np.stack([level + before + random.normal(0.0, 0.3, n_users), before], axis=1)))
    estimates, _ = cuped_estimates(arms, [1])
    within = sum((n - 1) * arm.covariance for n, arm in zip(sizes, arms, strict=True))
    theta = within[0, 1] / within[1, 1]

    def relative_of(means: np.ndarray) -> float:
        pooled = np.average(means[:, 1], weights=sizes)
        adjusted = means[:, 0] - theta * (means[:, 1] - pooled)
        return adjusted[1] / adjusted[0] - 1.0

    means = np.stack([arm.mean for arm in arms])
    gradient = np.zeros_like(means)
    for place in np.ndindex(means.shape):
        step = np.zeros_like(means)
        step[place] = 1e-5
        gradient[place] = (relative_of(means + step) - relative_of(means - step)) / 2e-5
    variance = sum(g @ arm.covariance @ g / n for g, arm, n in zip(gradient, arms, sizes, strict=True))
    value, error = relative(estimates[0], estimates[1])
    assert value == pytest.approx(relative_of(means))
    assert error == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert effect(estimates[0], estimates[1]).standard_error ** 2 == pytest.approx(
        estimates[0].variance + estimates[1].variance
    )


def test_arms_that_were_adjusted_separately_are_not_compared():
    random = np.random.default_rng(13)
    arms = [sample_moments(random.normal(size=(50, 2))) for _ in range(2)]
    ((control,), _), ((treatment,), _) = (cuped_estimates([arm], [1]) for arm in arms)
    with pytest.raises(InputError, match="adjust both in one call"):
        effect(control, treatment)


@pytest.mark.parametrize("size", [1e-120, 1.0, 1e120])
def test_the_unit_of_a_metric_changes_no_p_value(size):
    # Squares of such variances are beyond a float.
    control, treatment = (Estimate(size * value, size**2 * 0.5, n) for value, n in ((2.0, 40), (4.0, 60)))
    expected = effect(Estimate(2.0, 0.5, 40), Estimate(4.0, 0.5, 60))
    treatment_effect = effect(control, treatment)
    assert treatment_effect.p_value == pytest.approx(expected.p_value)
    assert treatment_effect.degrees_of_freedom == pytest.approx(expected.degrees_of_freedom)
    assert treatment_effect.relative_lower == pytest.approx(expected.relative_lower, nan_ok=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["value", "variance"])
@pytest.mark.parametrize("name", ["control", "treatment"])
def test_an_estimate_that_is_no_number_has_no_effect(name, field, bad):
    good = Estimate(1.0, 0.1, 10)
    arms = {"control": good, "treatment": good, name: good._replace(**{field: bad})}
    with pytest.raises(InputError, match=f"{name} has"):
        effect(arms["control"], arms["treatment"])


def test_cuped_of_a_ratio_is_a_regression_of_the_linearised_ratio():
    random = np.random.default_rng(7)
    plays, skips, leaning = heavy_tailed_skips(random, 3000)
    before = random.binomial(20, leaning)
    rows = np.stack([skips, plays, before], axis=1).astype(float)
    arm = sample_moments(rows)
    (estimate,), saved = cuped_estimates([arm], [2], numerator=0, denominator=1)
    ratio = skips.sum() / plays.sum()
    linearised = (skips - ratio * plays) / plays.mean()
    r = np.corrcoef(linearised, before)[0, 1]
    assert estimate.value == pytest.approx(ratio)
    assert saved == pytest.approx(r**2, rel=1e-6)


def test_a_constant_covariate_changes_nothing():
    arm = sample_moments(np.stack([np.arange(10.0), np.ones(10)], axis=1))
    (estimate,), saved = cuped_estimates([arm], [1])
    assert estimate == mean_estimate(arm)
    assert saved == 0.0


def test_sums_give_the_moments_of_the_values():
    values = np.random.default_rng(8).normal(1e6, 1.0, (1000, 2))
    whole = sample_moments(values)
    centre = np.array([1e6, 1e6])
    of_sums = sample_moments_of_sums(1000, values.sum(axis=0), (values - centre).T @ (values - centre), centre=centre)
    np.testing.assert_allclose(of_sums.mean, whole.mean)
    for moments in (whole, of_sums):
        np.testing.assert_allclose(moments.covariance, np.cov(values.T), rtol=1e-6)


def test_constant_arms_have_a_p_value_of_0_or_1():
    constant, higher = (mean_estimate(sample_moments(np.full((5, 1), value))) for value in (2.0, 3.0))
    assert effect(constant, constant).p_value == 1.0
    treatment_effect = effect(constant, higher)
    assert (treatment_effect.p_value, treatment_effect.lower, treatment_effect.upper, treatment_effect.relative) == (
        0.0,
        1.0,
        1.0,
        0.5,
    )


def test_a_ratio_that_is_the_same_for_all_users_does_not_vary():
    events = np.random.default_rng(14).integers(1, 1000, 300).astype(float)
    estimate = ratio_estimate(sample_moments(np.stack([events / 2, events], axis=1)))
    assert estimate.value == 0.5
    assert 0.0 <= estimate.variance < 1e-30


def test_a_constant_metric_in_one_arm_still_has_an_interval_from_the_other():
    constant = mean_estimate(sample_moments(np.full((5, 1), 2.0)))
    varied = mean_estimate(sample_moments(np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])))
    # Variance 2.5 / 5 = .5 on 4 degrees of freedom.
    reach = stats.t.isf(0.025, 4) * math.sqrt(0.5)
    treatment_effect = effect(constant, varied)
    assert [treatment_effect.lower, treatment_effect.upper] == pytest.approx([1.0 - reach, 1.0 + reach])


def test_a_relative_difference_from_a_control_near_0_is_nan():
    nothing, some = Estimate(0.0, 0.0, 10), Estimate(1.0, 0.1, 10)
    assert math.isnan(effect(nothing, some).relative)
    # One standard error from 0 the ratio may be anything: the point stands, its interval does not.
    unsure = effect(Estimate(1.0, 1.0, 10), some)
    assert unsure.relative == 0.0
    assert math.isnan(unsure.relative_lower)


def test_non_inferiority_at_the_interval_bound_has_half_of_alpha():
    treatment_effect = effect(Estimate(1.0, 0.0004, 5000), Estimate(0.99, 0.0005, 5000))
    # One-sided at 2.5% is the two-sided 95% interval's lower end.
    assert non_inferiority_p_value(treatment_effect, margin=-treatment_effect.lower) == pytest.approx(0.025)
    assert non_inferiority_p_value(negated_effect(treatment_effect), margin=treatment_effect.upper) == pytest.approx(
        0.025
    )


def test_the_interaction_test_keeps_its_level():
    random = np.random.default_rng(9)
    errors = np.array([0.5, 1.0, 2.0])
    p_values = [interaction_p_value(random.normal(1.0, errors), errors) for _ in range(2000)]
    assert abs(np.mean(np.array(p_values) <= 0.05) - 0.05) <= 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ratio_estimate(sample_moments(np.array([[1.0, 0.0]]))), "denominator has mean 0 over 1 users"),
        (lambda: sample_moments(np.array([[1.0], [math.nan]])), "row 1, column 0 is nan"),
        (lambda: sample_moments(np.array([[1e200], [3e200]])), "NaN or infinite"),
        (lambda: sample_moments_of_sums(2, np.array([math.nan]), np.array([[1.0]])), "NaN or infinite"),
        (lambda: sample_moments_of_sums(2, np.array([1.0]), np.array([[math.nan]])), "NaN or infinite"),
        (lambda: effect(Estimate(1.0, -0.1, 5), Estimate(1.0, 1.0, 5)), "control has value=1.0, variance=-0.1"),
        (lambda: sample_moments(np.empty((0, 1))), "n_users=0 is below 1"),
        (lambda: effect(Estimate(1, 1, 1), Estimate(1, 1, 5)), "control has n_users=1"),
        (lambda: effect(Estimate(1.0, 1.0, 5), Estimate(1.0, 1.0, 5), alpha=5.0), "alpha=5.0 is outside"),
        (lambda: sample_moments_of_sums(2, np.array([4.0]), np.array([[1.0]])), "below sum"),
        (lambda: non_inferiority_p_value(effect(Estimate(1, 1, 5), Estimate(1, 1, 5)), margin=0.0), "margin=0.0"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_column_of_sample_moments_can_be_chosen():
    assert mean_estimate(SampleMoments(4, np.array([1.0, 2.0]), np.diag([4.0, 8.0])), column=1).variance == 2.0
