"""Rows of unequal length in flat arrays."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int64

EVENTS_PER_BLOCK = 1 << 22
"""Work goes in blocks of about this many events, so that memory does not grow with the number of histories."""


def ranges(starts: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " total"]:
    """`lengths[0]` numbers from `starts[0]` on, then `lengths[1]` from `starts[1]` on, and so forth.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)


def distinct(values: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n_distinct"]:
    """As `np.unique`, by sorting: the hash table that numpy fills since 2.3 takes up to 16 times as long where many
    values differ.

    >>> distinct(np.array([5, 2, 5])).tolist()
    [2, 5]
    """
    ordered = np.sort(values)
    is_first = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def blocks(lengths: Int[np.ndarray, " n"], n_events: int | None = None) -> Iterator[slice]:
    """Slices of rows that hold at most `n_events` together, `EVENTS_PER_BLOCK` if not given, or one long row alone.

    >>> list(blocks(np.array([5, 0, 2])))
    [slice(0, 3, None)]
    """
    ends = np.cumsum(lengths + 1)  # plus one, so that empty rows do not make an endless block
    n_events = EVENTS_PER_BLOCK if n_events is None else n_events
    start = 0
    while start < lengths.size:
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + n_events, side="right")))
        yield slice(start, stop)
        start = stop


def rows_at(offsets: Int[np.ndarray, " n_rows_plus_1"], places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The row in which each place of the flat array lies.

    >>> rows_at(np.array([0, 3, 3, 5]), np.array([2, 3, 4])).tolist()
    [0, 2, 2]
    """
    # side="right" steps over empty rows, whose offset is that of the next row.
    return np.searchsorted(offsets, places, side="right") - 1


def first_places(
    values: Int[np.ndarray, " n_events"],
    offsets: Int64[np.ndarray, " n_users_plus_1"],
    bounds: Int64[np.ndarray, " n_users"],
) -> Int64[np.ndarray, " n_users"]:
    """Where in `values`, which rise inside each user, the user's first one of at least its bound is, or the user ends.

    By halves, for all users at once: a few values of each are read, however long the histories.

    >>> first_places(np.array([1, 5, 5, 7, 2]), np.array([0, 4, 5]), np.array([5, 3])).tolist()
    [1, 5]
    """
    return first_between(values, offsets[:-1], offsets[1:], bounds)


def first_between(
    values: Int[np.ndarray, " n_events"],
    low: Int64[np.ndarray, " n"],
    high: Int64[np.ndarray, " n"],
    bounds: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """As `first_places`, of the stretches from `low` up to `high`, which may overlap."""
    low, high = low.copy(), high.copy()
    while np.any(open_ := low < high):
        middle = (low[open_] + high[open_]) // 2
        below = values[middle] < bounds[open_]
        low[open_] = np.where(below, middle + 1, low[open_])
        high[open_] = np.where(below, high[open_], middle)
    return low


def session_numbers(
    timestamp_us: Int[np.ndarray, " n_events"], offsets: Int[np.ndarray, " n_users_plus_1"], *, gap_us: int
) -> Int[np.ndarray, " n_events"]:
    """The session of each event: 0 for a user's first, one more after each pause of more than `gap_us`.

    >>> session_numbers(np.array([0, 5, 20, 7, 8]), np.array([0, 3, 5]), gap_us=10).tolist()
    [0, 0, 1, 0, 0]
    """
    pauses = np.diff(timestamp_us, prepend=timestamp_us[:1]) > gap_us
    starts, lengths = offsets[:-1][np.diff(offsets) > 0], np.diff(offsets)[np.diff(offsets) > 0]
    pauses[starts] = False
    total = np.cumsum(pauses)
    return (total - np.repeat(total[starts], lengths)).astype(np.int32)
