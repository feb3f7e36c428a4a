"""CUPED and CUPAC: what covariates save, against plain loops over users, and that nothing of an outcome leaks."""

import dataclasses
import math
from datetime import date

import numpy as np
import pytest

from seqrec.abtest import tables
from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs, set_period
from seqrec.abtest.means import cross_fitted_weights, cuped_estimates, effect, mean_estimate
from seqrec.abtest.plan import MEASURES, ExperimentPlan, Metric
from seqrec.abtest.sample_moments import SampleMoments, sample_moments
from seqrec.abtest.simulate import Simulation, simulate, write_logs

PLAN = ExperimentPlan(
    name="p", start=date(2026, 3, 2), n_days=6, primary=Metric("plays"), days_before=6, adjustment="cupac"
)


def predicted(rows: np.ndarray, fold: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Outcome and prediction, a row a user."""
    return np.stack([rows[:, 0], np.sum(rows[:, 1:] * np.stack(weights)[fold], axis=1)], axis=1)


def fitted(arms: list[np.ndarray], folds: list[np.ndarray]) -> list[np.ndarray]:
    of_folds = [[sample_moments(rows[fold == each]) for rows, fold in zip(arms, folds, strict=True)] for each in (0, 1)]
    return cross_fitted_weights(of_folds, range(1, arms[0].shape[1]))


def test_weights_are_least_squares_on_the_other_fold():
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 4)) * [1.0, 1.0, 1e4, 1e-3]
    rows[:, 0] = rows[:, 1] + 1e-4 * rows[:, 2] + random.normal(size=200)
    fold = random.integers(2, size=200)
    for each, weights in enumerate(fitted([rows], [fold])):
        other = rows[fold != each]
        expected = np.linalg.lstsq(np.c_[np.ones(len(other)), other[:, 1:]], other[:, 0], rcond=None)[0]
        np.testing.assert_allclose(weights, expected[1:], rtol=1e-6)


def test_the_variance_left_is_1_less_r_squared_of_the_prediction():
    random = np.random.default_rng(1)
    before = random.lognormal(0, 1, (4000, 3))
    rows = np.c_[before @ [0.5, 0.3, 0.2] + random.lognormal(0, 1, 4000), before]
    fold = np.arange(4000) % 2
    both = predicted(rows, fold, fitted([rows], [fold]))
    r = np.corrcoef(both.T)[0, 1]
    (estimate,), saved = cuped_estimates([sample_moments(both)], [1])
    assert saved == pytest.approx(r**2, rel=1e-6)
    assert estimate.variance / mean_estimate(sample_moments(both)).variance == pytest.approx(1 - r**2, rel=1e-6)
    # Three covariates know more than one.
    assert saved > cuped_estimates([sample_moments(rows)], [1])[1] + 0.05


def check_cupac(n_experiments: int) -> None:
    """Many useless covariates and few users: what is fitted on a user's own outcome would promise too much."""
    random = np.random.default_rng(2)
    n_users, n_covariates = 80, 20
    covered, naive_covered = 0, 0
    for _ in range(n_experiments):
        arms = [random.normal(size=(n_users // 2, 1 + n_covariates)) for _ in range(2)]
        folds = [np.arange(len(rows)) % 2 for rows in arms]
        weights = fitted(arms, folds)
        of_arms = [sample_moments(predicted(rows, fold, weights)) for rows, fold in zip(arms, folds, strict=True)]
        treatment_effect = effect(*cuped_estimates(of_arms, [1])[0])
        covered += treatment_effect.lower <= 0.0 <= treatment_effect.upper
        own = effect(*cuped_estimates([sample_moments(rows) for rows in arms], range(1, 1 + n_covariates))[0])
        naive_covered += own.lower <= 0.0 <= own.upper
    four_errors = 4 * math.sqrt(0.05 * 0.95 / n_experiments)
    assert abs(covered / n_experiments - 0.95) <= four_errors
    # Fitting 20 weights takes a quarter of what 78 degrees of freedom leave, and adds a third to the true variance.
    assert naive_covered / n_experiments < 0.95 - 0.04


def test_a_prediction_fitted_on_others_keeps_its_coverage_and_one_on_oneself_does_not():
    check_cupac(600)


@pytest.mark.slow
def test_a_prediction_fitted_on_others_keeps_its_coverage_in_many_experiments():
    check_cupac(5000)


def test_a_fold_for_which_nothing_can_be_fitted_predicts_nothing():
    constant = SampleMoments(10, np.array([1.0, 0.0, 2.0]), np.diag([1.0, 0.0, 1.0]))
    # The metric's denominator, the second column, is 0 for all.
    weights = cross_fitted_weights([[constant], [constant]], [2], denominator=1)
    assert [each.tolist() for each in weights] == [[0.0], [0.0]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    logs = simulate(PLAN, Simulation(n_users=600, sessions_per_day=1.5, lift=0.1))
    files = write_logs([logs], tmp_path_factory.mktemp("logs"))
    connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    tables.build_tables(connection)
    return connection


@pytest.mark.parametrize("metric", [Metric("plays"), Metric("skips", "plays")])
def test_predictions_by_sql_are_those_of_a_loop_over_users(loaded, metric):
    names = [metric.numerator, metric.denominator, *(f"{name}_before" for name in MEASURES)]
    rows = loaded.execute(f"SELECT user_id, arm, {', '.join(names)} FROM user_totals ORDER BY arm, user_id").fetchall()
    arms = np.array([row[1] for row in rows])
    values = np.array([row[2:] for row in rows], float)
    fold = np.concatenate([np.arange(1, 1 + np.sum(arms == arm)) % 2 for arm in PLAN.arms])
    expected = np.zeros(len(rows))
    for own in (0, 1):
        targets, covariates = [], []
        for arm in PLAN.arms:
            others = values[(arms == arm) & (fold != own)]
            above, below = others[:, 0].mean(), others[:, 1].mean()
            targets.append((others[:, 0] - above / below * others[:, 1]) / below)
            covariates.append(others[:, 2:] - others[:, 2:].mean(axis=0))
        weights = np.linalg.lstsq(np.concatenate(covariates), np.concatenate(targets), rcond=None)[0]
        expected[fold == own] = values[fold == own, 2:] @ weights
    tables.predict_metric(loaded, metric)
    predictions = dict(loaded.execute("SELECT user_id, v FROM metric_values").fetchall())
    np.testing.assert_allclose([predictions[row[0]] for row in rows], expected, rtol=1e-6, atol=1e-9)


def test_halves_of_each_arm_are_of_one_size(loaded):
    tables.predict_metric(loaded, PLAN.primary)
    counts = loaded.execute(
        "SELECT u.arm, f.fold, COUNT(*) FROM user_folds f JOIN user_totals u ON u.user_id = f.user_id GROUP BY ALL"
    ).fetchall()
    assert len(counts) == 4
    for arm in PLAN.arms:
        sizes = [n for name, _, n in counts if name == arm]
        assert abs(sizes[0] - sizes[1]) <= 1


def test_the_plan_chooses_what_is_taken_out(tmp_path, loaded):
    plans = {name: dataclasses.replace(PLAN, adjustment=name) for name in ("none", "cuped", "cupac")}
    saved = {name: analyze(loaded, plan)["variance_saved"] for name, plan in plans.items()}
    assert saved["none"] == 0.0
    # Fitted on half of 600 users, a prediction from six measures is about as good as the metric's own past.
    assert saved["cuped"] > 0.3
    assert saved["cupac"] > saved["cuped"] - 0.05
    last = analyze(loaded, plans["cupac"])
    primary, day = last["effects"]["treatment"]["primary"], last["days"]["treatment"][-1]
    assert [day["difference"], day["fixed_lower"]] == pytest.approx([primary["difference"], primary["lower"]])


def test_sql_gives_the_moments_of_the_users_values(loaded):
    tables.predict_metric(loaded, PLAN.primary)
    whole = tables.moments_by_arm(loaded)["control"]
    rows = np.array(loaded.execute("SELECT y, z, v, w FROM metric_values WHERE arm = 'control'").fetchall())
    expected = sample_moments(rows)
    np.testing.assert_allclose(whole.mean, expected.mean)
    np.testing.assert_allclose(whole.covariance, expected.covariance, rtol=1e-9, atol=1e-12)
