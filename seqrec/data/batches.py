"""Training batches as a pure function of (seed, step), and the queries that evaluation asks."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seqrec.data.ragged import ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import Batch, InputError, QueryBatch


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


def pack(starts: Int[np.ndarray, " segments"], lengths: Int[np.ndarray, " segments"], length: int) -> PackedRows:
    """Best-fit decreasing: the longest first, each into the fullest row that still has room for it."""
    rows: list[list[int]] = []
    rows_with_room: list[list[int]] = [[] for _ in range(length + 1)]
    open_rooms = 0  # bit r is set while some row has room for exactly r more items
    for segment in np.argsort(-lengths, kind="stable").tolist():
        needed = int(lengths[segment])
        fitting = open_rooms >> needed
        if fitting:
            room = needed + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                open_rooms &= ~(1 << room)
            rows[row].append(segment)
        else:
            room, row = length, len(rows)
            rows.append([segment])
        if room > needed:
            rows_with_room[room - needed].append(row)
            open_rooms |= 1 << (room - needed)
    order = np.fromiter((segment for row in rows for segment in row), np.int64, len(lengths))
    row_offsets = np.cumsum([0] + [len(row) for row in rows])
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


def _gather(store: SequenceStore, packed: PackedRows, rows: Int[np.ndarray, " rows"], *, n_rows: int) -> Batch:
    """The given rows, then empty ones up to `n_rows`."""
    first, stop = packed.row_offsets[rows], packed.row_offsets[rows + 1]
    segments = ranges(first, stop - first)
    lengths = packed.lengths[segments]
    segment_in_row = ranges(np.zeros_like(first), stop - first)
    # Where a segment starts in its row: what the row's earlier segments take up.
    taken = np.cumsum(lengths) - lengths
    column = taken - np.repeat(taken[np.cumsum(stop - first) - (stop - first)], stop - first)
    slots = ranges(np.repeat(np.arange(len(rows)), stop - first) * packed.length + column, lengths)
    source = ranges(packed.starts[segments], lengths)
    fields = np.zeros((4, n_rows * packed.length), np.int32)
    fields[0, slots] = store.items[source]
    fields[1, slots] = store.items[np.minimum(source + 1, store.n_events - 1)]
    fields[2, slots] = np.repeat(segment_in_row + 1, lengths)
    fields[3, slots] = ranges(np.zeros_like(lengths), lengths)
    return Batch(*fields.reshape(4, n_rows, packed.length))


class TrainingBatches(NamedTuple):
    """An endless stream of batches: epoch after epoch of rows, each in an order of its own."""

    store: SequenceStore
    packed: PackedRows
    n_rows: int
    """Rows with data in a batch."""
    seed: int
    n_shards: int = 1
    """Parts that a batch must split into evenly; empty rows fill it up."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once."""
        return -(-self.packed.n_rows // self.n_rows)

    @property
    def pairs_per_epoch(self) -> int:
        """Positions with a target in one pass over all rows."""
        return int(self.packed.lengths.sum())

    def batch(self, step: int) -> Batch:
        """The batch of a 0-based step: a pure function of (seed, step), so a position is one integer."""
        stream = np.arange(step * self.n_rows, (step + 1) * self.n_rows)
        epochs, places = np.divmod(stream, self.packed.n_rows)
        rows = np.empty_like(stream)
        for epoch in np.unique(epochs):
            order = np.random.default_rng((self.seed, int(epoch))).permutation(self.packed.n_rows)
            rows[epochs == epoch] = order[places[epochs == epoch]]
        return _gather(self.store, self.packed, rows, n_rows=-(-self.n_rows // self.n_shards) * self.n_shards)


def training_batches(
    store: SequenceStore,
    split: Split,
    *,
    max_length: int,
    batch_size: int,
    seed: int,
    whole_histories: bool = False,
    n_shards: int = 1,
) -> TrainingBatches:
    """Batches of `batch_size` histories each, on average: as many packed rows as hold that many."""
    packed = pack_training(store, split, max_length=max_length, whole_histories=whole_histories)
    if packed.n_rows == 0:
        raise InputError(
            "no history leaves two events for training (the split holds out the rest), so there is "
            "nothing to learn from; give longer histories, or hold out less"
        )
    n_rows = min(packed.n_rows, max(1, round(batch_size * packed.n_rows / len(packed.lengths))))
    return TrainingBatches(store, packed, n_rows, seed, n_shards)


class Queries(NamedTuple):
    """Held-out items to rank, each given all that its user did before it; batches are made when asked for."""

    store: SequenceStore
    packed: PackedRows
    users: Int[np.ndarray, " queries"]
    """Whose history each query is, as a row of the store."""
    target_positions: Int[np.ndarray, " queries"]
    """Place of each held-out item in `store.items`."""
    row_groups: Int[np.ndarray, "batches n_rows"]
    """Rows of each batch; -1 where the last batch has none left."""
    n_queries: int
    """Queries that a batch has room for."""
    n_excluded: int
    """Length of a query's list of excluded items."""

    @property
    def targets(self) -> Int[np.ndarray, " queries"]:
        """The held-out items."""
        return self.store.items[self.target_positions]

    @property
    def history_lengths(self) -> Int[np.ndarray, " queries"]:
        """Events before each held-out item, all of them, not only those that the encoder reads."""
        return self.target_positions - self.store.offsets[self.users]

    def batches(self) -> Iterator[QueryBatch]:
        """All queries, in batches of one shape, so that one compiled step serves them."""
        for group in self.row_groups:
            rows = group[group >= 0]
            first, stop = self.packed.row_offsets[rows], self.packed.row_offsets[rows + 1]
            asked = self.packed.order[ranges(first, stop - first)]
            batch = _gather(self.store, self.packed, rows, n_rows=len(group))
            ends = (batch.segment_ids > 0) & (np.diff(batch.segment_ids, axis=1, append=0) != 0)
            # What followed the newest item is the question.
            batch = batch._replace(next_items=np.where(ends, 0, batch.next_items))
            last, targets, query = np.zeros((3, self.n_queries), np.int32)
            last[: len(asked)] = np.flatnonzero(ends)
            targets[: len(asked)] = self.targets[asked]
            query[:] = -1
            query[: len(asked)] = asked
            excluded = np.zeros((self.n_queries, self.n_excluded), np.int32)
            if self.n_excluded:
                lengths = self.history_lengths[asked]
                places = ranges(np.arange(len(asked)) * self.n_excluded, lengths)
                excluded.reshape(-1)[places] = self.store.items[ranges(self.target_positions[asked] - lengths, lengths)]
            yield QueryBatch(batch, last, targets, excluded, query)


def make_queries(
    store: SequenceStore,
    target_positions: Int[np.ndarray, " users"],
    *,
    max_length: int,
    batch_size: int,
    mask_seen: bool,
    n_shards: int = 1,
) -> Queries:
    """Queries for the users that have a target (position >= 0), about `batch_size` to a batch.

    The encoder reads the latest `max_length` items; with `mask_seen` the whole history is excluded from the
    candidates.
    """
    positions = target_positions[target_positions >= 0]
    users = np.searchsorted(store.offsets, positions, side="right") - 1
    history_lengths = positions - store.offsets[users]
    if not history_lengths.size or history_lengths.min() < 1:
        raise InputError(
            f"{int(np.sum(history_lengths < 1))} of {len(positions)} targets are their user's first event; "
            "a query needs a target with at least one event before it"
        )
    lengths = np.minimum(history_lengths, max_length)
    packed = pack(positions - lengths, lengths, max_length)
    n_rows = max(1, round(batch_size * packed.n_rows / len(positions) / n_shards)) * n_shards
    # Packing puts long histories first; in a random order every batch asks about as many queries.
    shuffled = np.random.default_rng(0).permutation(packed.n_rows)
    groups = np.full((-(-packed.n_rows // n_rows), n_rows), -1)
    groups.reshape(-1)[: packed.n_rows] = shuffled
    n_segments = np.append(np.diff(packed.row_offsets), 0)
    n_queries = -(-int(n_segments[groups].sum(axis=1).max()) // (8 * n_shards)) * 8 * n_shards
    return Queries(store, packed, users, positions, groups, n_queries, int(history_lengths.max()) if mask_seen else 0)
