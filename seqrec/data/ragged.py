"""Rows of unequal length in flat arrays."""

import numpy as np
from jaxtyping import Int


def ranges(starts: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """`lengths[0]` numbers from `starts[0]` on, then `lengths[1]` from `starts[1]` on, and so forth.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
