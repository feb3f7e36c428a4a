"""Pairs of items that follow one another in histories: what shares a session."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from seqrec.data.ragged import ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

BLOCK = 1 << 20


class NeighbourPairs(NamedTuple):
    """Neighbouring events of two different items."""

    items: Int32[np.ndarray, " n_events"]
    """Those of the store."""
    first: Int64[np.ndarray, " n_pairs"]
    """Position of the first event of each pair; the second is the next one."""

    def blocks(self) -> Iterator[tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " n"]]]:
        """All pairs of item ids, a block at a time."""
        for start in range(0, len(self.first), BLOCK):
            yield self.at(self.first[start : start + BLOCK])

    def at(self, first: Int64[np.ndarray, " n"]) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """The item ids of these events, and of the next ones."""
        return np.asarray(self.items[first]), np.asarray(self.items[first + 1])

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Int32[np.ndarray, " n"], Int32[np.ndarray, " n"]]:
        """`n` pairs, each drawn evenly from all."""
        return self.at(self.first[rng.integers(0, len(self.first), n)])


def neighbour_pairs(store: SequenceStore, split: Split) -> NeighbourPairs:
    """The pairs of the training part, inside a session where the store knows sessions, else inside a history.

    No event of validation or test is among them.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 2, 3, 4, 5]])  # 4 is for validation, 5 for the test
    >>> [(a.tolist(), b.tolist()) for a, b in neighbour_pairs(store, leave_last_out(store)).blocks()]
    [([1, 2], [2, 3])]

    Raises:
      InputError: there is no pair.
    """
    starts = np.asarray(store.offsets[:-1])
    first = _of_different_items(store, ranges(starts, np.maximum(np.asarray(split.train_stop) - starts - 1, 0)))
    if not len(first):
        raise InputError("no two different items follow one another in a training history; read longer histories")
    return NeighbourPairs(store.items, first)


def validation_pairs(store: SequenceStore, split: Split) -> NeighbourPairs:
    """The pairs of each validation target and the event before it, as in `neighbour_pairs`; there may be none.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 2, 3, 4, 5]])
    >>> [(a.tolist(), b.tolist()) for a, b in validation_pairs(store, leave_last_out(store)).blocks()]
    [([3], [4])]
    """
    first = np.asarray(split.valid) - 1
    return NeighbourPairs(store.items, _of_different_items(store, first[first >= store.offsets[:-1]]))


def _of_different_items(store: SequenceStore, first: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_pairs"]:
    keep = store.items[first] != store.items[first + 1]
    if "session" in store.columns:
        session = store.columns["session"]
        keep &= session[first] == session[first + 1]
    return first[keep]
