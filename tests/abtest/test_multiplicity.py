"""Families of tests: a published example, and unknown p-values."""

import math

import numpy as np

from seqrec.abtest.multiplicity import benjamini_hochberg, bonferroni, holm

# Benjamini and Hochberg (1995), § 3.2: fifteen comparisons of thrombolysis after heart attacks.
THROMBOLYSIS = np.array(
    [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1.0]
)


def test_benjamini_and_hochbergs_example_has_four_rejections_where_the_stricter_have_three():
    counts = [int(np.sum(adjust(THROMBOLYSIS) <= 0.05)) for adjust in (benjamini_hochberg, bonferroni, holm)]
    assert counts == [4, 3, 3]


def test_nan_p_values_are_not_counted_in_the_family():
    with_gap = np.insert(THROMBOLYSIS, 3, math.nan)
    adjusted = benjamini_hochberg(with_gap)
    assert math.isnan(adjusted[3])
    np.testing.assert_array_equal(np.delete(adjusted, 3), benjamini_hochberg(THROMBOLYSIS))
