"""Bootstrap intervals: coverage, degenerate samples, and the work left to others."""

import math
import subprocess
import sys

import numpy as np
import pytest

from seqrec.metrics import metric_values
from seqrec.stats import bootstrap, bootstrap_intervals
from seqrec.types import InputError


def test_a_95_percent_interval_of_a_hit_rate_covers_it_in_about_95_percent_of_samples():
    hit_rate, n_users, n_samples = 0.3, 400, 400
    hits = np.random.default_rng(1).random((n_samples, n_users, 1)) < hit_rate
    ends = [bootstrap_intervals(sample.astype(float), n_resamples=500, seed=i) for i, sample in enumerate(hits)]
    coverage = np.mean([(lower <= hit_rate) & (hit_rate <= upper) for lower, upper in ends])
    # Four standard errors of a share of 400, and two points for a discrete mean and 500 resamples.
    slack = 4 * math.sqrt(0.95 * 0.05 / n_samples) + 0.02
    assert 0.95 - slack <= coverage <= 0.95 + slack


def test_the_width_is_that_of_the_normal_approximation_for_many_users():
    values = np.random.default_rng(2).normal(size=(5000, 1))
    lower, upper = bootstrap_intervals(values, n_resamples=4000)
    np.testing.assert_allclose(upper - lower, 2 * 1.96 * values.std(axis=0) / math.sqrt(5000), rtol=0.05)
    np.testing.assert_allclose((lower + upper) / 2, values.mean(axis=0), atol=2e-3)


def test_a_resample_is_a_draw_of_whole_users():
    hits = np.random.default_rng(3).random(200) < 0.4
    lower, upper = bootstrap_intervals(np.stack([hits, 1.0 - hits], axis=1))
    # Hits and misses add up to 1 in every resample, so one's lower end mirrors the other's upper end.
    np.testing.assert_allclose(lower, 1 - upper[::-1])


def test_rows_of_a_user_are_drawn_together():
    by_user = np.random.default_rng(4).random((300, 1)) < 0.4
    # Copies of a row are no news: the interval is that of the users alone, and not narrower by the root of nine.
    users = np.repeat(np.arange(300), 9)
    copied = bootstrap_intervals(by_user[users].astype(float), users=users)
    np.testing.assert_allclose(copied, bootstrap_intervals(by_user.astype(float)), atol=0.01)
    # One row each is what no users at all mean, to the last bit.
    once = bootstrap_intervals(by_user.astype(float), users=np.arange(300))
    np.testing.assert_array_equal(once, bootstrap_intervals(by_user.astype(float)))


def test_the_interval_of_a_mean_over_rows_is_that_of_a_ratio_of_sums():
    rng = np.random.default_rng(5)
    n_each = rng.integers(1, 20, 800)
    users = np.repeat(np.arange(800), n_each)
    values = rng.normal(size=len(users)) + 0.1 * n_each[users]
    lower, upper = bootstrap_intervals(values[:, None], users=users, n_resamples=4000)
    # Its standard error by the delta method (Deng et al. 2018, equation 4).
    residuals = np.bincount(users, values - values.mean())
    standard_error = np.sqrt(np.sum(residuals**2)) / len(values)
    np.testing.assert_allclose(upper - lower, 2 * 1.96 * standard_error, rtol=0.07)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32, np.float64])
def test_one_metric_needs_no_axis_of_metrics(dtype):
    values = (np.random.default_rng(6).random(40) < 0.5).astype(dtype)
    users = np.arange(40) // 2
    for options in ({}, {"users": users}):
        ends = bootstrap_intervals(values, **options)
        column = bootstrap_intervals(values[:, None].astype(np.float64), **options)
        assert [end.shape for end in ends] == [(), ()]
        np.testing.assert_array_equal(ends, np.ravel(column))


def test_values_of_the_metrics_come_as_jax_has_them():
    ndcg = metric_values(np.array([1.0, 2.0, 30.0]))["ndcg@10"]
    np.testing.assert_array_equal(bootstrap_intervals(ndcg), bootstrap_intervals(np.asarray(ndcg, np.float64)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("values", "users", "message"),
    [
        (np.array(1.0), None, r"values has shape \(\); give \[n_users\] or"),
        (np.ones((2, 3, 4)), None, r"values has shape \(2, 3, 4\)"),
        (np.ones(3), np.arange(2), r"users has shape \(2,\) for 3 rows"),
    ],
)
def test_values_or_users_of_another_shape_are_refused(values, users, message):
    with pytest.raises(InputError, match=message):
        bootstrap_intervals(values, users=users)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_equal_values_leave_nothing_to_doubt(value):
    others = np.arange(7.0)
    lower, upper = bootstrap_intervals(np.stack([np.full(7, value), others], axis=1))
    assert lower[0] == upper[0] == value
    assert lower[1] < upper[1]


def test_a_narrower_level_lies_inside_a_wider_one():
    values = np.random.default_rng(4).random((100, 1))
    (wide_low, wide_high), (low, high) = (bootstrap_intervals(values, level=level) for level in (0.99, 0.8))
    assert wide_low < low < high < wide_high


def test_the_seed_decides_and_the_order_of_users_does_not():
    values = np.random.default_rng(5).random((50, 2))
    ends = bootstrap_intervals(values, seed=7)
    np.testing.assert_array_equal(ends, bootstrap_intervals(values[::-1], seed=7))
    assert not np.array_equal(ends, bootstrap_intervals(values, seed=8))


def test_blocks_bound_memory_and_change_nothing(monkeypatch):
    values = np.random.default_rng(6).random((30, 2))
    whole = bootstrap_intervals(values, n_resamples=100)
    monkeypatch.setattr(bootstrap, "_CELLS_PER_BLOCK", 7 * 30)  # 100 resamples as 14 blocks of 7 and one of 2
    done = []
    in_blocks = bootstrap_intervals(values, n_resamples=100, report=done.append)
    np.testing.assert_allclose(whole, in_blocks, rtol=1e-12)
    assert done == [7] * 14 + [2]


def test_a_nan_shows_in_its_own_metric_only():
    lower, upper = bootstrap_intervals(np.array([[1.0, math.nan], [2.0, 0.0], [3.0, 1.0]]))
    assert math.isnan(lower[1])
    assert math.isnan(upper[1])
    assert lower[0] < 2 < upper[0]


def test_no_users_no_interval():
    with pytest.raises(InputError, match="0 users"):
        bootstrap_intervals(np.empty((0, 3)))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5, math.nan])
def test_a_level_outside_zero_and_one_is_refused(level):
    with pytest.raises(InputError, match="outside"):
        bootstrap_intervals(np.ones((2, 1)), level=level)


def test_no_resamples_are_refused():
    with pytest.raises(InputError, match="n_resamples=0"):
        bootstrap_intervals(np.ones((2, 1)), n_resamples=0)


@pytest.mark.parametrize("module", ["seqrec.stats", "seqrec.baselines.numpy_ranks", "seqrec.baselines"])
def test_neither_statistics_nor_baselines_need_jax(module):
    check = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
