"""Histories of unequal lengths as the arrays that a bundle's programs read, made on the host."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from seqrec.data.ragged import distinct, ranges
from seqrec.types import Times


class Histories(NamedTuple):
    """The newest items of each user, oldest first; NumPy arrays on the host, jax arrays inside a program."""

    items: Int[Any, "*users length"]
    """0 fills the row."""
    lengths: Int[Any, "*users"]
    """Items in each row, at least 1."""
    times: Int[Any, "*users length"] | None = None
    """Seconds of each item after the first of its row; None unless the model reads times."""
    next_times: Int[Any, "*users length"] | None = None
    """The same of each following item and, behind the newest, of the query; None unless the model reads it."""

    def as_dict(self) -> dict[str, Int[Any, "..."]]:
        """The fields that there are, by name: what a program takes."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Ragged(NamedTuple):
    """Rows of unequal length: row u is `values[starts[u]:starts[u] + lengths[u]]`; rows may share values.

    >>> rows = ragged([[1, 2, 3], [4]], np.int32)
    >>> rows.row(0).tolist(), rows.take(np.array([1, 1])).lengths.tolist()
    ([1, 2, 3], [1, 1])
    """

    values: np.ndarray
    starts: Int64[np.ndarray, " n_rows"]
    lengths: Int64[np.ndarray, " n_rows"]

    def row(self, number: int) -> np.ndarray:
        """One row."""
        return self.values[self.starts[number] :][: self.lengths[number]]

    def flat(self) -> np.ndarray:
        """The rows one after another."""
        return self.values[ranges(self.starts, self.lengths)]

    def take(self, rows: Int[np.ndarray, " n"]) -> "Ragged":
        """The rows of these numbers, in this order."""
        return Ragged(self.values, self.starts[rows], self.lengths[rows])

    def keep(self, where: np.ndarray) -> "Ragged":
        """The rows without the values where `where` is False."""
        n_kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(where)])
        starts = n_kept[self.starts]
        return Ragged(self.values[where], starts, n_kept[self.starts + self.lengths] - starts)

    def padded(self, width: int) -> np.ndarray:
        """The last `width` values of each row, from the first column on; 0 fills the row.

        >>> ragged([[1, 2, 3], [4]], np.int32).padded(2).tolist()
        [[2, 3], [4, 0]]
        """
        rows = np.zeros((len(self.lengths), width), self.values.dtype)
        lengths = np.minimum(self.lengths, width)
        places = ranges(np.arange(len(rows)) * width, lengths)
        rows.reshape(-1)[places] = self.values[ranges(self.starts + self.lengths - lengths, lengths)]
        return rows


def ragged(rows: Sequence[Any], dtype: Any) -> Ragged:
    """Rows of any lengths in one array."""
    values = np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)])
    return consecutive_rows(values, np.array([len(row) for row in rows], np.int64))


def consecutive_rows(values: np.ndarray, lengths: Int[np.ndarray, " n_rows"]) -> Ragged:
    """Rows that lie one after another in `values`."""
    return Ragged(values, np.cumsum(lengths) - lengths, lengths)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below `n`.

    >>> power_of_two(1), power_of_two(5), power_of_two(8)
    (1, 8, 8)
    """
    return 1 << (n - 1).bit_length() if n > 1 else 1


def joined_rows(parts: Sequence[Ragged]) -> Ragged:
    """The rows of all parts, one part after another.

    >>> joined_rows([ragged([[1, 2]], np.int32), ragged([[], [3]], np.int32)]).padded(2).tolist()
    [[1, 2], [0, 0], [3, 0]]
    """
    offsets = np.cumsum([0, *(len(part.values) for part in parts[:-1])])
    return Ragged(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.starts + offset for part, offset in zip(parts, offsets, strict=True)]),
        np.concatenate([part.lengths for part in parts]),
    )


def unique_ids(lists: Sequence[Ragged], n_rows: int) -> Ragged:
    """The ids of each row of all `lists` together, each id once and in rising order.

    >>> unique_ids([ragged([[3, 1], []], np.int32), ragged([[3], [2]], np.int32)], 2).padded(2).tolist()
    [[1, 3], [2, 0]]
    """
    pairs = [np.zeros(0, np.int64)]
    for each in lists:
        pairs.append(np.repeat(np.arange(n_rows, dtype=np.int64) << 32, each.lengths) | each.flat())
    unique = distinct(np.concatenate(pairs))
    return consecutive_rows((unique & 0xFFFFFFFF).astype(np.int32), np.bincount(unique >> 32, minlength=n_rows))


def make_histories(items: Ragged, *, max_length: int, times: Times, seconds: Ragged | None = None) -> Histories:
    """What a program reads of histories that hold at least one item each: the newest `max_length` items.

    `seconds` are those of the items or, where the model reads the query's time, with one more behind each row.
    """
    rows = items.padded(max_length).astype(np.int32)
    lengths = np.minimum(items.lengths, max_length).astype(np.int32)
    if times == "none" or seconds is None:
        return Histories(rows, lengths)
    row_seconds = seconds.padded(max_length + (times == "query"))
    is_item = np.arange(max_length) < lengths[:, None]
    # What an accelerator's integers hold: 68 years.
    since_first = np.clip(row_seconds - row_seconds[:, :1], 0, np.iinfo(np.int32).max).astype(np.int32)
    of_items = np.where(is_item, since_first[:, :max_length], 0)
    return Histories(rows, lengths, of_items, np.where(is_item, since_first[:, 1:], 0) if times == "query" else None)
