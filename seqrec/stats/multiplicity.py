"""P-values of several tests, adjusted for their number: among many tests some p-values are small by chance."""

from collections.abc import Callable

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
    return _adjust(p_values, lambda p, rank: np.maximum.accumulate((len(p) + 1 - rank) * p))


def benjamini_hochberg(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values adjusted so that among those at most q the expected share of false positives is at most q.

    The step-up procedure of Benjamini and Hochberg (1995): the i-th smallest of m p-values is multiplied
    by m / i and is at most the adjusted value after it. For tests that are independent or positively dependent. The
    result has the shape of `p_values`; NaN stays NaN and is not counted.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    return _adjust(p_values, lambda p, rank: np.minimum.accumulate((p * len(p) / rank)[::-1])[::-1])


def _adjust(
    p_values: Float[np.ndarray, "*shape"], adjust: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Float[np.ndarray, "*shape"]:
    """`adjust(p, rank)` of the known p-values in rising order, at most 1, back in their places."""
    adjusted = np.full(p_values.shape, np.nan)
    places = np.flatnonzero(~np.isnan(p_values))
    places = places[np.argsort(p_values.ravel()[places])]
    adjusted.ravel()[places] = np.minimum(adjust(p_values.ravel()[places], np.arange(1, len(places) + 1)), 1.0)
    return adjusted


def bonferroni(p_values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """P-values times their number, at most 1 (Bonferroni, 1936).

    `holm` rejects at least as much with the same guarantee. NaN stays NaN and is not counted.

    >>> bonferroni(np.array([0.01, 0.5])).tolist()
    [0.02, 1.0]
    """
    return np.minimum(p_values * np.count_nonzero(~np.isnan(p_values)), 1.0)
