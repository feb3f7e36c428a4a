"""Statistics packages of other hands find the same, where they do the same."""

import math

import numpy as np
import pytest

from seqrec.abtest.means import cuped_estimates, effect, mean_estimate, ratio_estimate
from seqrec.abtest.power import detectable_difference, power_of, t_test_users_per_arm, users_per_arm
from seqrec.abtest.sample_moments import SampleMoments, sample_moments, sample_moments_of_sums
from seqrec.abtest.srm import srm_p_value
from seqrec.stats.multiplicity import benjamini_hochberg, bonferroni, holm

CLOSE = {"rtol": 1e-6, "atol": 1e-12}


@pytest.fixture(scope="module")
def users() -> dict[str, np.ndarray]:
    """Sessions, orders, both before the experiment, and the arm of 2,000 users."""
    random = np.random.default_rng(0)
    n = 2000
    activity = random.lognormal(0.0, 0.7, n)
    sessions = 1.0 + random.poisson(2.0 * activity)
    before = 1.0 + random.poisson(2.0 * activity)
    arm = random.integers(2, size=n)
    return {
        "variant": arm,
        "sessions": sessions,
        "orders": random.binomial(sessions.astype(int), 0.25 + 0.03 * arm).astype(float),
        "sessions_before": before,
        "orders_before": random.binomial(before.astype(int), 0.25).astype(float),
    }


def by_arm(users: dict[str, np.ndarray], *columns: str) -> list[SampleMoments]:
    rows = np.stack([users[name] for name in columns], axis=1)
    return [sample_moments(rows[users["variant"] == arm]) for arm in (0, 1)]


def analysed_by_tea_tasting(users, metric):
    tea_tasting = pytest.importorskip("tea_tasting", reason="tea-tasting is in the extra oracles")
    pandas = pytest.importorskip("pandas")
    experiment = tea_tasting.Experiment(metric=metric(tea_tasting))
    return experiment.analyze(pandas.DataFrame(users))["metric"]


def check_effect(treatment_effect, oracle) -> None:
    """Difference, interval, p-value and relative difference, the latter's intervals being of another kind there."""
    expected = [
        oracle.effect_size,
        oracle.effect_size_ci_lower,
        oracle.effect_size_ci_upper,
        oracle.pvalue,
        oracle.rel_effect_size,
    ]
    np.testing.assert_allclose(
        [
            treatment_effect.difference,
            treatment_effect.lower,
            treatment_effect.upper,
            treatment_effect.p_value,
            treatment_effect.relative,
        ],
        expected,
        **CLOSE,
    )


def test_means_are_tea_tastings(users):
    oracle = analysed_by_tea_tasting(users, lambda tt: tt.Mean("orders"))
    control, treatment = (mean_estimate(arm) for arm in by_arm(users, "orders"))
    assert [oracle.control, oracle.treatment] == pytest.approx([control.value, treatment.value])
    check_effect(effect(control, treatment), oracle)


def test_ratios_are_tea_tastings(users):
    oracle = analysed_by_tea_tasting(users, lambda tt: tt.RatioOfMeans("orders", "sessions"))
    check_effect(effect(*(ratio_estimate(arm) for arm in by_arm(users, "orders", "sessions"))), oracle)


def test_a_mean_with_its_past_taken_out_is_tea_tastings(users):
    # In tea-tasting theta is of all users' covariance, here of that inside arms, which an effect does not enter. They
    # are the same where both arms have one past, as matched pairs have.
    half = len(users["orders"]) // 2
    past = np.tile(users["orders_before"][:half], 2)
    matched = {"variant": np.repeat([0, 1], half), "orders": users["orders"] + 0.5 * past, "orders_before": past}
    oracle = analysed_by_tea_tasting(matched, lambda tt: tt.Mean("orders", "orders_before"))
    check_effect(effect(*cuped_estimates(by_arm(matched, "orders", "orders_before"), [1])[0]), oracle)


def test_a_mean_with_an_unlike_past_is_near_tea_tastings(users):
    oracle = analysed_by_tea_tasting(users, lambda tt: tt.Mean("orders", "orders_before"))
    treatment_effect = effect(*cuped_estimates(by_arm(users, "orders", "orders_before"), [1])[0])
    # Two thetas differ by the product of two differences of means, each of the order of n ** -1/2.
    assert treatment_effect.difference == pytest.approx(oracle.effect_size, abs=0.02 * treatment_effect.standard_error)


def test_sample_ratios_are_tea_tastings(users):
    oracle = analysed_by_tea_tasting(users, lambda tt: tt.SampleRatio(method="norm", correction=False))
    counts = [int(np.sum(users["variant"] == arm)) for arm in (0, 1)]
    # A z-test of one share against 1/2 is the chi-square test of two.
    np.testing.assert_allclose(srm_p_value(counts, [1, 1]), oracle.pvalue, **CLOSE)


def test_welchs_test_is_statsmodels(users):
    weightstats = pytest.importorskip("statsmodels.stats.weightstats", reason="statsmodels is not installed")
    control, treatment = (users["orders"][users["variant"] == arm] for arm in (0, 1))
    compared = weightstats.CompareMeans(weightstats.DescrStatsW(treatment), weightstats.DescrStatsW(control))
    _, p_value, degrees = compared.ttest_ind(usevar="unequal")
    treatment_effect = effect(*(mean_estimate(arm) for arm in by_arm(users, "orders")))
    np.testing.assert_allclose(
        [treatment_effect.p_value, treatment_effect.degrees_of_freedom], [p_value, degrees], **CLOSE
    )
    np.testing.assert_allclose(
        [treatment_effect.lower, treatment_effect.upper], compared.tconfint_diff(usevar="unequal"), **CLOSE
    )


def test_an_adjusted_mean_is_a_regression_by_statsmodels(users):
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    arms = by_arm(users, "orders", "orders_before", "sessions_before")
    (control, treatment), _ = cuped_estimates(arms, [1, 2])
    design = np.stack([users["variant"], users["orders_before"], users["sessions_before"]], axis=1)
    fitted = api.OLS(users["orders"], api.add_constant(design)).fit()
    # One theta inside arms is what least squares finds beside a term for the arm.
    np.testing.assert_allclose(treatment.value - control.value, fitted.params[1], **CLOSE)


def test_proportions_are_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion", reason="statsmodels is not installed")
    n_users, n_back = (44_700, 45_489), (8_502, 8_279)
    arms = [
        mean_estimate(sample_moments_of_sums(n, np.array([k * 1.0]), np.array([[k * 1.0]])))
        for n, k in zip(n_users, n_back, strict=True)
    ]
    treatment_effect = effect(*arms)
    lower, upper = proportion.confint_proportions_2indep(
        n_back[1], n_users[1], n_back[0], n_users[0], compare="diff", method="wald"
    )
    # Welch's t over n - 1 against Wald's z over n: alike to 1 / n of the interval's width.
    assert [treatment_effect.lower, treatment_effect.upper] == pytest.approx([lower, upper], abs=1e-6)
    # The chi-square test of counts is its one-sample test of shares.
    _, p_value, _ = proportion.proportions_chisquare([n_back[0]], [n_users[0]], value=0.19)
    np.testing.assert_allclose(srm_p_value([n_back[0], n_users[0] - n_back[0]], [0.19, 0.81]), p_value, **CLOSE)


def test_power_is_statsmodels():
    power = pytest.importorskip("statsmodels.stats.power", reason="statsmodels is not installed")
    for size, wanted in ((0.5, 0.8), (0.2, 0.9)):
        exact = power.TTestIndPower().solve_power(size, power=wanted, alpha=0.05)
        np.testing.assert_allclose(t_test_users_per_arm(size, power=wanted), exact, **CLOSE)
        normal = power.NormalIndPower().solve_power(size, power=wanted, alpha=0.05)
        # Ours leaves out the chance to be right in the wrong direction, which is below 1e-6 here.
        np.testing.assert_allclose(users_per_arm(size, variance=1.0, power=wanted), normal, rtol=1e-5)
        error = math.sqrt(2 / normal)
        np.testing.assert_allclose(
            power_of(size, error), power.NormalIndPower().power(size, normal, alpha=0.05), **CLOSE
        )
        assert detectable_difference(error, power=wanted) == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize(
    ("adjust", "name"), [(benjamini_hochberg, "fdr_bh"), (holm, "holm"), (bonferroni, "bonferroni")]
)
def test_adjusted_p_values_are_statsmodels(adjust, name):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p_values = np.random.default_rng(1).random(50) ** 3
    np.testing.assert_allclose(adjust(p_values), multitest.multipletests(p_values, method=name)[1], **CLOSE)
