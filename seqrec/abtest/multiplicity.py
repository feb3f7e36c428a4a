"""Many p-values at once: of a family of tests some are small by luck. Holm's adjustment is `seqrec.paired.holm`."""

import numpy as np
from jaxtyping import Float

from seqrec.paired import holm

__all__ = ["benjamini_hochberg", "bonferroni", "holm"]


def benjamini_hochberg(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values adjusted so that of those at most q, a share of at most q is false on average (Benjamini and
    Hochberg, 1995): the i-th smallest of m is multiplied by m / i and is at most the one after it.

    For tests that are independent or positively dependent. NaN stays NaN and is not counted.

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
    """P-values times their number, at most 1; `holm` finds at least as much at the same cost in false alarms.

    >>> bonferroni(np.array([0.01, 0.5])).tolist()
    [0.02, 1.0]
    """
    return np.minimum(p_values * np.count_nonzero(~np.isnan(p_values)), 1.0)
