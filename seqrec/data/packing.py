"""Several stretches of the store in one row, so that hardly a position is padding."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seqrec.data.ragged import ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError


class PackedRows(NamedTuple):
    """Which stretches of the store share each row; row r holds segments `row_offsets[r]:row_offsets[r + 1]`."""

    starts: Int[np.ndarray, " segments"]
    """Position in `store.items` of each segment's first item."""
    lengths: Int[np.ndarray, " segments"]
    """Items in each segment, 1 to `length`."""
    row_offsets: Int[np.ndarray, " rows_plus_1"]
    order: Int[np.ndarray, " segments"]
    """Which of the segments given to `pack` each one is."""
    length: int
    """Items a row has room for."""

    @property
    def n_rows(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def fill_share(self) -> float:
        """Share of all positions that hold an item."""
        return float(self.lengths.sum()) / max(1, self.n_rows * self.length)


def pack(starts: Int[np.ndarray, " segments"], lengths: Int[np.ndarray, " segments"], length: int) -> PackedRows:
    """Best-fit decreasing: the longest segment first, each into the fullest row that has room for it.

    All segments of one length are placed together: the fullest row that takes one takes as many as it has room
    for. So the number of steps grows with `length` squared, not with the segments: a million take a tenth of the
    time of a loop over them, with the same rows.

    Raises:
      InputError: a segment is empty or longer than a row.
    """
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= length:
        raise InputError(f"segments of {lengths.min()} to {lengths.max()} items; rows of {length} take 1 to {length}")
    n_of_length = np.bincount(lengths, minlength=length + 1)
    row_of = np.empty(len(lengths), np.int64)  # row of each segment, the longest segments first
    rows_with_room: list[list[np.ndarray]] = [[] for _ in range(length)]  # the last row is taken first
    open_rooms = 0  # bit r is set while some row has room for exactly r more items
    n_rows = n_placed = 0
    for needed in range(length, 0, -1):
        n_left = int(n_of_length[needed])
        while n_left:
            fitting = open_rooms >> needed
            room = needed + (fitting & -fitting).bit_length() - 1 if fitting else length
            n_each = room // needed
            n_taken = -(-n_left // n_each)
            if fitting:
                rows_left = rows_with_room[room].pop()
                if n_taken < len(rows_left):
                    rows_with_room[room].append(rows_left[:-n_taken])
                elif not rows_with_room[room]:
                    open_rooms &= ~(1 << room)
                rows = rows_left[-n_taken:][::-1]
            else:
                rows = np.arange(n_rows, n_rows + n_taken)
                n_rows += n_taken
            n_now = min(n_left, n_each * len(rows))
            row_of[n_placed : n_placed + n_now] = np.repeat(rows, n_each)[:n_now]
            n_placed, n_left = n_placed + n_now, n_left - n_now
            # The last row may have got fewer than the others.
            n_last = n_now - n_each * (len(rows) - 1)
            for changed, n_got in ((rows[:-1], n_each), (rows[-1:], n_last)):
                if len(changed) and (left := room - n_got * needed):
                    rows_with_room[left].append(changed)
                    open_rooms |= 1 << left
    longest_first = np.argsort(-lengths, kind="stable")
    order = longest_first[np.argsort(row_of, kind="stable")]
    row_offsets = np.append(0, np.cumsum(np.bincount(row_of, minlength=n_rows)))
    return PackedRows(starts[order], lengths[order], row_offsets, order, length)


def pack_training(store: SequenceStore, split: Split, *, max_length: int, whole_histories: bool = False) -> PackedRows:
    """Each user's latest `max_length` (item, next item) pairs of the training part, packed into rows.

    With `whole_histories` the earlier pairs follow, in further windows of at most `max_length`. A history of one
    item has no next item to learn from and is left out.
    """
    n_pairs = split.train_stop - store.offsets[:-1] - 1
    n_windows = np.where(n_pairs > 0, -(-n_pairs // max_length) if whole_histories else 1, 0)
    users = np.repeat(np.arange(store.n_users), n_windows)
    n_later = ranges(np.zeros_like(n_windows), n_windows) * max_length
    lengths = np.minimum(n_pairs[users] - n_later, max_length)
    return pack(split.train_stop[users] - 1 - n_later - lengths, lengths, max_length)


def rotate_rings(
    row: Int[np.ndarray, " segments"],
    starts: Int[np.ndarray, " segments"],
    lengths: Int[np.ndarray, " segments"],
    shifts: Int[np.ndarray, " segments"],
    first: Int[np.ndarray, " segments"],
    n_pairs: Int[np.ndarray, " segments"],
) -> tuple[Int[np.ndarray, " pieces"], ...]:
    """Row, start and length of each segment after rotating the ring that begins at `first` by `shifts`.

    A ring is a history of `n_pairs` pairs of an item and the next. Rotated before it is cut, it gives other windows of
    the same lengths, so that the packing stays from epoch to epoch, and each pair is as likely as any other.
    A segment that then runs over the end of its history becomes two, since its two parts are not neighbours in time.
    """
    begins = (starts - first + shifts) % n_pairs
    n_to_end = np.minimum(lengths, n_pairs - begins)
    pieces = np.stack([np.stack([row, first + begins, n_to_end]), np.stack([row, first, lengths - n_to_end])], axis=-1)
    row, starts, lengths = pieces.reshape(3, -1)[:, pieces[2].reshape(-1) > 0]
    return row, starts, lengths
