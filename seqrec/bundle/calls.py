"""The sizes of the arrays of a call: few of them, since a program is compiled for each."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqrec.bundle.histories import Ragged, power_of_two

MAX_USERS_PER_CALL = 256
SCORES_PER_CALL, IDS_PER_CALL = 1 << 22, 1 << 24
"""About how many scores, and at most how many ids of lists, a call has in memory."""


class CallSizes(NamedTuple):
    """Sizes of the arrays of a call, which fewer users and shorter lists are filled up to."""

    users: int
    k: int
    allow: int
    exclude: int


def users_per_call(n_items: int) -> int:
    """How many users a call answers: a power of two.

    >>> users_per_call(1_000), users_per_call(100_000), users_per_call(10_000_000)
    (256, 32, 16)
    """
    return min(MAX_USERS_PER_CALL, max(16, 1 << int(math.log2(max(1, SCORES_PER_CALL // n_items)))))


def sufficient(sizes: Sequence[CallSizes], k: int, allowed: Ragged | None, excluded: Ragged) -> CallSizes:
    """The first of `sizes` that holds a call's lists, a row of `excluded` for each user; else powers of two.

    >>> small, large = CallSizes(1, 20, 1, 64), CallSizes(8, 20, 1, 64)
    >>> three = Ragged(np.zeros(0, np.int32), np.zeros(3, np.int64), np.zeros(3, np.int64))
    >>> sufficient([small, large], 5, None, three).users, sufficient([], 5, None, three).users
    (8, 4)
    """
    widths = (1 if lists is None else int(lists.lengths.max(initial=1)) for lists in (allowed, excluded))
    needed = CallSizes(len(excluded.lengths), k, *widths)
    enough = (each for each in sizes if all(map(operator.ge, each, needed)))
    return next(enough, CallSizes(*map(power_of_two, needed)))


def filled_up(rows: np.ndarray, n_rows: int | None = None) -> np.ndarray:
    """The rows, and the last of them as often as makes `n_rows`, by default a power of two: for few programs."""
    n_rows = power_of_two(len(rows)) if n_rows is None else n_rows
    return np.concatenate([rows, np.repeat(rows[-1:], n_rows - len(rows), axis=0)])


def list_rows(lists: Ragged | None, n_rows: int, width: int) -> np.ndarray:
    """The lists of a call's users, one a row; 0 without lists."""
    return np.zeros((n_rows, width), np.int32) if lists is None else filled_up(lists.padded(width), n_rows)
