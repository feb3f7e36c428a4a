"""Batches as a pure function of (seed, step, process), and the queries of evaluation."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from seqrec.data.engagement import Engagement
from seqrec.data.feature_values import PositionFeature, features_at
from seqrec.data.packing import PackedRows, pack, pack_training, rotate_rings
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.repeated_targets import seen_before
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import Batch, HistoryBatch, InputError, QueryBatch, Times


class Share(NamedTuple):
    """The part of each batch that one process makes, and how a batch must split."""

    n_shards: int = 1
    """Parts that a batch must split into evenly; empty rows fill it up."""
    process_index: int = 0
    process_count: int = 1
    """Processes that share each batch; each makes, and reads from the store, its own rows alone."""


class EventFields(NamedTuple):
    """What batches hold in addition to item ids and their order."""

    times: Times = "none"
    engagement: Engagement | None = None
    """Weights, skips and side tasks' labels of the events to predict."""
    features: tuple[PositionFeature, ...] = ()
    """Other features of events and users."""


class Windows(NamedTuple):
    """Which windows of `max_length` events training takes from histories that are longer."""

    whole: bool = False
    """All consecutive windows, so that each pair of neighbours occurs once per epoch; otherwise one window."""
    random: bool = False
    """Cut at new random positions in each epoch; otherwise from the newest event backwards."""


ALL_ROWS, ITEMS_ALONE, LATEST = Share(), EventFields(), Windows()


def _segments(
    packed: PackedRows, rows: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " segments"], Int[np.ndarray, " segments"]]:
    """The segments of the given rows, and which of these rows, counted from 0, holds each."""
    n_segments = packed.row_offsets[rows + 1] - packed.row_offsets[rows]
    return ranges(packed.row_offsets[rows], n_segments), np.repeat(np.arange(len(rows)), n_segments)


def _lay_out(
    store: SequenceStore,
    row: Int[np.ndarray, " segments"],
    starts: Int[np.ndarray, " segments"],
    lengths: Int[np.ndarray, " segments"],
    *,
    shape: tuple[int, int],
    fields: EventFields,
) -> Batch:
    """Stretches of the store side by side in their rows, which count up from 0; rows without any are empty."""
    n_rows, length = shape
    n_segments = np.bincount(row, minlength=n_rows)
    segment_ids = ranges(np.ones_like(n_segments), n_segments)
    filled = np.arange(length) < np.bincount(row, lengths, minlength=n_rows)[:, None]
    positions = ranges(np.zeros_like(lengths), lengths)
    first = np.repeat(starts, lengths)
    source = first + positions
    following = np.minimum(source + 1, store.n_events - 1)
    values = [store.items[source], store.items[following], np.repeat(segment_ids, lengths), positions]
    if fields.times != "none":
        timestamps = store.columns["timestamp_us"]
        places = (source, following) if fields.times == "query" else (source,)
        # Whole seconds, of at most 68 years: what an accelerator's integers hold, and more than anybody's history.
        seconds = ((timestamps[place] - timestamps[first]) // 1_000_000 for place in places)
        values += [np.clip(each, 0, np.iinfo(np.int32).max) for each in seconds]
    arrays = np.zeros((len(values), n_rows, length), np.int32)
    for array, value in zip(arrays, values, strict=True):
        array[filled] = value  # not arrays[i, filled], which takes ten times as long

    def spread(values: np.ndarray) -> np.ndarray:
        rows = np.zeros((n_rows, length, *values.shape[1:]), values.dtype)
        rows[filled] = values
        return rows

    extra: dict[str, Any] = {}
    if fields.engagement is not None:
        extra = {name: spread(value) for name, value in fields.engagement.fields_at(store, following).items()}
    if fields.features:
        event_features = features_at(fields.features, store, source)
        extra["event_features"] = {name: spread(value) for name, value in event_features.items()}
    return Batch(*arrays, **extra)


def _part(n: int, share: Share) -> tuple[int, int]:
    """First and size of one process's part of `n` places; parts are equal, so the last may reach beyond `n`."""
    size = -(-n // share.process_count)
    return share.process_index * size, size


def _check(store: SequenceStore, times: Times, share: Share) -> None:
    if times != "none" and "timestamp_us" not in store.columns:
        raise InputError(f"times={times}, but the store has no timestamp_us; prepare it with times, or use times=none")
    if not 0 <= share.process_index < share.process_count:
        raise InputError(
            f"process_index={share.process_index} is outside 0..{share.process_count - 1}; "
            f"number the process_count={share.process_count} processes from 0"
        )


# Kept for the epochs that two neighbouring batches may belong to: to draw them again for each batch would cost
# more than the batch where rows or users are many.
@functools.lru_cache(maxsize=2)
def _row_order(seed: int, epoch: int, n_rows: int) -> Int[np.ndarray, " rows"]:
    order = np.random.default_rng((seed, epoch)).permutation(n_rows)
    order.setflags(write=False)
    return order


@functools.lru_cache(maxsize=2)
def _turns(seed: int, epoch: int, n_users: int) -> Float[np.ndarray, " users"]:
    turns = np.random.default_rng((seed, epoch, 1)).random(n_users)
    turns.setflags(write=False)
    return turns


def _by_epoch(
    draw: Callable[[int], np.ndarray], epochs: Int[np.ndarray, " n"], places: Int[np.ndarray, " n"]
) -> np.ndarray:
    """`draw(epoch)[place]` of each pair, where the epochs rise."""
    return np.concatenate([draw(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)] or [places])


class TrainingBatches(NamedTuple):
    """An endless stream of batches: epoch after epoch of rows, each in an order of its own."""

    store: SequenceStore
    packed: PackedRows
    n_rows: int
    """Rows with data in a batch."""
    seed: int
    share: Share = ALL_ROWS
    fields: EventFields = ITEMS_ALONE
    rings: Int[np.ndarray, " users"] | None = None
    """Where each epoch cuts windows at positions of its own: pairs of an item and the next in each training history."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once."""
        return -(-self.packed.n_rows // self.n_rows)

    def batch(self, step: int) -> Batch:
        """The batch of a 0-based step: a pure function of (seed, step, process), so a position is one integer.

        The rows of all processes, one after another, are the batch of a single one, whatever their number; empty
        rows come last.
        """
        n_parts = math.lcm(self.share.n_shards, self.share.process_count)
        first, n_rows = _part(-(-self.n_rows // n_parts) * n_parts, self.share)
        epochs, rows = self._rows(step * self.n_rows + np.arange(first, min(first + n_rows, self.n_rows)))
        segments, row = _segments(self.packed, rows)
        starts, lengths = self.packed.starts[segments], self.packed.lengths[segments]
        if self.rings is not None:
            users = rows_at(self.store.offsets, starts)
            turns = _by_epoch(lambda epoch: _turns(self.seed, epoch, self.store.n_users), epochs[row], users)
            first, n_pairs = self.store.offsets[users], self.rings[users]
            shifts = (turns * n_pairs * (n_pairs > self.packed.length)).astype(np.int64)
            row, starts, lengths = rotate_rings(row, starts, lengths, shifts, first, n_pairs)
        shape = (n_rows, self.packed.length)
        return _lay_out(self.store, row, starts, lengths, shape=shape, fields=self.fields)

    def users(self, step: int) -> Int[np.ndarray, " users"]:
        """The users in the batch of a 0-based step, over all processes, as rows of the store."""
        _, rows = self._rows(step * self.n_rows + np.arange(self.n_rows))
        segments, _ = _segments(self.packed, rows)
        return np.unique(rows_at(self.store.offsets, self.packed.starts[segments]))

    def _rows(self, places: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The epoch and the packed row at each of these places in the endless stream of rows."""
        epochs, places = np.divmod(places, self.packed.n_rows)
        return epochs, _by_epoch(lambda epoch: _row_order(self.seed, epoch, self.packed.n_rows), epochs, places)


def training_batches(
    store: SequenceStore,
    split: Split,
    *,
    max_length: int,
    batch_size: int,
    seed: int,
    windows: Windows = LATEST,
    share: Share = ALL_ROWS,
    fields: EventFields = ITEMS_ALONE,
) -> TrainingBatches:
    """Batches of `batch_size` histories each, on average: as many packed rows as hold that many.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 3, 4, 5], [3, 4]])
    >>> batches = training_batches(store, leave_last_out(store), max_length=4, batch_size=2, seed=0)
    >>> batch = batches.batch(0)  # the first two steps of one user, and the one step of the other, share a row
    >>> batch.items.tolist(), batch.next_items.tolist(), batch.segment_ids.tolist()
    ([[1, 2, 3, 0]], [[2, 3, 4, 0]], [[1, 1, 2, 0]])

    Raises:
      InputError: the store lacks required times, or no history leaves two events for training.
    """
    _check(store, fields.times, share)
    packed = pack_training(store, split, max_length=max_length, whole_histories=windows.whole)
    if packed.n_rows == 0:
        raise InputError(
            "no history leaves two events for training (the split holds out the rest), so there is "
            "nothing to learn from; give longer histories, or hold out less"
        )
    n_rows = min(packed.n_rows, max(1, round(batch_size * packed.n_rows / len(packed.lengths))))
    rings = split.train_stop - store.offsets[:-1] - 1 if windows.random else None
    return TrainingBatches(store, packed, n_rows, seed, share, fields, rings)


class Queries(NamedTuple):
    """Held-out items to rank, each after all earlier events of its user; batches are made when iterated."""

    store: SequenceStore
    packed: PackedRows
    users: Int[np.ndarray, " queries"]
    """The user of each query, as a row of the store."""
    target_positions: Int[np.ndarray, " queries"]
    """Place of each held-out item in `store.items`; of a query after the whole history, where that ends."""
    row_groups: Int[np.ndarray, "batches n_rows"]
    """Rows of each batch; -1 where the last batch has none left."""
    n_queries: int
    """Queries that a batch has room for."""
    n_excluded: int
    """Length of a query's list of excluded items."""
    is_miss: Bool[np.ndarray, " queries"] | None = None
    """Queries that count as missed, whatever the prediction; None if there are none."""
    share: Share = ALL_ROWS
    fields: EventFields = ITEMS_ALONE

    @property
    def targets(self) -> Int[np.ndarray, " queries"]:
        """The held-out items; 0 where the query is after the whole history."""
        return self._targets(slice(None))

    @property
    def history_lengths(self) -> Int[np.ndarray, " queries"]:
        """Events before each held-out item, all of them, not only those that the encoder reads."""
        return self._history_lengths(slice(None))

    def _targets(self, query_ids: Any) -> Int[np.ndarray, " query_ids"]:
        positions = self.target_positions[query_ids]
        is_held_out = positions < self.store.offsets[self.users[query_ids] + 1]
        return np.where(is_held_out, self.store.items[np.minimum(positions, self.store.n_events - 1)], 0)

    def _history_lengths(self, query_ids: Any) -> Int[np.ndarray, " query_ids"]:
        return self.target_positions[query_ids] - self.store.offsets[self.users[query_ids]]

    def judge(
        self, ranks: Float[np.ndarray, " queries"], n_candidates: Int[np.ndarray, " queries"]
    ) -> Float[np.ndarray, " queries"]:
        """The ranks, those of misses behind all candidates."""
        return ranks if self.is_miss is None else np.where(self.is_miss, n_candidates + 1.0, ranks)

    def batches(self) -> Iterator[QueryBatch]:
        """All queries, in batches of one shape, so that one compiled step serves them.

        Of several processes each makes its own rows and its own entries a query; `last` and `query` count over all.
        """
        for group in self.row_groups:
            segments, row = _segments(self.packed, group[group >= 0])
            starts, lengths = self.packed.starts[segments], self.packed.lengths[segments]
            filled = np.bincount(row, lengths).astype(np.int64)
            ends = np.cumsum(lengths) - (np.cumsum(filled) - filled)[row]
            newest = row * self.packed.length + ends - 1
            first, n_rows = _part(len(group), self.share)
            mine = (first <= row) & (row < first + n_rows)
            shape = (n_rows, self.packed.length)
            batch = _lay_out(
                self.store, row[mine] - first, starts[mine], lengths[mine], shape=shape, fields=self.fields
            )
            # The item after the newest one is the target, so it is hidden.
            batch.next_items.reshape(-1)[newest[mine] - first * self.packed.length] = 0
            first, n_queries = _part(self.n_queries, self.share)
            query_ids = self.packed.order[segments][first : first + n_queries]
            last, targets, query = np.zeros((3, n_queries), np.int32)
            last[: len(query_ids)] = newest[first : first + n_queries]
            targets[: len(query_ids)] = self._targets(query_ids)
            query[:] = -1
            query[: len(query_ids)] = query_ids
            yield QueryBatch(batch, last, targets, self.latest(query_ids, n_queries, self.n_excluded), query)

    def histories(self, max_length: int) -> Iterator[HistoryBatch]:
        """All queries' histories, the latest `max_length` items of each, in the queries' order.

        As with `batches`, batches are of one shape, and of several processes each makes its own rows.
        """
        first, n_rows = _part(self.n_queries, self.share)
        width = min(max_length, int(self.history_lengths.max()))
        for start in range(0, len(self.users), self.n_queries):
            query_ids = np.arange(start + first, min(start + first + n_rows, start + self.n_queries, len(self.users)))
            lengths = np.ones(n_rows, np.int32)
            lengths[: len(query_ids)] = np.minimum(self._history_lengths(query_ids), width)
            items, excluded = (self.latest(query_ids, n_rows, n_items) for n_items in (width, self.n_excluded))
            yield HistoryBatch(items, lengths, excluded)

    def continuations(self, n: int) -> Int[np.ndarray, "queries n"]:
        """The `n` items from each held-out one on, of the same user.

        0 where there are fewer, where one of these repeats, and, if seen items are excluded and do not count as misses,
        where the history has the item.
        """
        places = self.target_positions[:, None] + np.arange(n)
        is_own = places < self.store.offsets[self.users + 1][:, None]
        items = np.where(is_own, self.store.items[np.minimum(places, self.store.n_events - 1)], 0)
        is_repeat = np.tril(items[:, :, None] == items[:, None, :], -1).any(axis=2)
        if self.n_excluded and self.is_miss is None:
            is_repeat[items > 0] |= seen_before(self.store, places[items > 0])
        return np.where(is_repeat, 0, items)

    def latest(
        self, query_ids: Int[np.ndarray, " query_ids"], n_rows: int, width: int
    ) -> Int32[np.ndarray, "n_rows width"]:
        """The latest `width` items before each of these queries' targets, one query a row."""
        rows = np.zeros((n_rows, width), np.int32)
        lengths = np.minimum(self._history_lengths(query_ids), width)
        places = ranges(np.arange(len(query_ids)) * width, lengths)
        rows.reshape(-1)[places] = self.store.items[ranges(self.target_positions[query_ids] - lengths, lengths)]
        return rows


def make_queries(
    store: SequenceStore,
    target_positions: Int[np.ndarray, " targets"],
    *,
    max_length: int,
    batch_size: int,
    mask_seen: bool,
    count_as_miss: Bool[np.ndarray, " targets"] | None = None,
    users: Int[np.ndarray, " targets"] | None = None,
    share: Share = ALL_ROWS,
    fields: EventFields = ITEMS_ALONE,
) -> Queries:
    """Queries for these targets, -1 being none and a user having one or several, about `batch_size` to a batch.

    The encoder reads the latest `max_length` items; with `mask_seen` the whole history is excluded from the
    candidates. Those to `count_as_miss` rank behind all candidates. Where the `users` are given, as rows of the store,
    a position may also be the end of its user's events: such a query has no target, and asks what comes after them.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 3, 4, 5], [3, 4]])
    >>> queries = make_queries(store, leave_last_out(store).test, max_length=4, batch_size=2, mask_seen=True)
    >>> queries.targets.tolist(), queries.history_lengths.tolist()
    ([5], [4])
    """
    _check(store, fields.times, share)
    n_shards = share.n_shards
    positions = target_positions[target_positions >= 0]
    users = rows_at(store.offsets, positions) if users is None else users
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
    n_excluded = int(history_lengths.max()) if mask_seen else 0
    is_miss = None if count_as_miss is None else count_as_miss[target_positions >= 0]
    return Queries(store, packed, users, positions, groups, n_queries, n_excluded, is_miss, share, fields)
