"""P-values of several tests, adjusted for their number: among many tests some p-values are small by chance."""

import numpy as np
from jaxtyping import Float


def holm(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values adjusted so that the chance of any false positive among them stays below the level.

    The step-down procedure of Holm (1979): the i-th smallest of m p-values is multiplied by m - i + 1, is
    at least the adjusted value before it, and at most 1. It needs no independence. The result has the shape of
    `p_values`; NaN stays NaN and is not counted.

    >>> [round(p, 3) for p in holm(np.array([0.01, 0.04, 0.03])).tolist()]
    [0.03, 0.06, 0.06]
    """
    adjusted = np.full(p_values.shape, np.nan)
    known = ~np.isnan(p_values)
    order = np.argsort(p_values[known])
    n = len(order)
    steps = np.maximum.accumulate((n - np.arange(n)) * p_values[known][order])
    unsorted = np.empty(n)
    unsorted[order] = np.minimum(steps, 1.0)
    adjusted[known] = unsorted
    return adjusted


def benjamini_hochberg(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values adjusted so that among those at most q the expected share of false positives is at most q.

    The step-up procedure of Benjamini and Hochberg (1995): the i-th smallest of m p-values is multiplied
    by m / i and is at most the adjusted value after it. For tests that are independent or positively dependent. The
    result has the shape of `p_values`; NaN stays NaN and is not counted.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    adjusted = np.full(p_values.shape, np.nan)
    known = ~np.isnan(p_values)
    order = np.argsort(p_values[known])
    n = len(order)
    steps = p_values[known][order] * n / np.arange(1, n + 1)
    unsorted = np.empty(n)
    unsorted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    adjusted[known] = unsorted
    return adjusted


def bonferroni(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values times their number, at most 1 (Bonferroni, 1936).

    `holm` rejects at least as much with the same guarantee. NaN stays NaN and is not counted.

    >>> bonferroni(np.array([0.01, 0.5])).tolist()
    [0.02, 1.0]
    """
    return np.minimum(p_values * np.count_nonzero(~np.isnan(p_values)), 1.0)
