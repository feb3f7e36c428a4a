"""Adjusted p-values: published examples, the share of false positives, and NaN."""

import math

import numpy as np

from seqrec.stats import benjamini_hochberg, bonferroni, holm

# Benjamini and Hochberg (1995), section 3.2: fifteen comparisons of thrombolysis after heart attacks.
THROMBOLYSIS = np.array(
    [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1.0]
)


def test_benjamini_and_hochbergs_example_has_four_rejections_where_the_stricter_have_three():
    counts = [int(np.sum(adjust(THROMBOLYSIS) <= 0.05)) for adjust in (benjamini_hochberg, bonferroni, holm)]
    assert counts == [4, 3, 3]


def test_unknown_p_values_are_no_part_of_the_family():
    with_gap = np.insert(THROMBOLYSIS, 3, math.nan)
    adjusted = benjamini_hochberg(with_gap)
    assert math.isnan(adjusted[3])
    np.testing.assert_array_equal(np.delete(adjusted, 3), benjamini_hochberg(THROMBOLYSIS))


def test_holm_on_an_example_by_hand():
    # Sorted: .005 x 4 = .02, .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04 but at least the one before: .06.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_holm_keeps_shape_and_nan_and_stays_below_one():
    adjusted = holm(np.array([[0.5, math.nan], [0.9, 0.001]]))
    np.testing.assert_allclose(adjusted, [[1.0, math.nan], [1.0, 0.003]])
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([])).tolist() == []


def test_holm_raises_a_false_alarm_among_twenty_in_one_of_twenty_cases():
    p_values = np.random.default_rng(11).random((2000, 20))
    alarms = np.mean([holm(row).min() <= 0.05 for row in p_values])
    # The chance is 1 - (1 - .05/20)^20, just below .05.
    assert abs(alarms - (1 - (1 - 0.05 / 20) ** 20)) <= 4 * math.sqrt(0.05 * 0.95 / 2000)
