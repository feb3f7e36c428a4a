"""Batches as a pure function of (seed, step, process), and the queries of evaluation."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from seqrec.data.layout import EventFields as EventFields
from seqrec.data.layout import lay_out, segments_of
from seqrec.data.own_shards import AllQueries, Gather, gather_queries
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
    gather: Gather | None = None
    """Where each process has opened its own shards of a store: what exchanges what they know of them. Each then packs
    its own histories, and its rows of a batch are of these alone."""

    def of_all(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of the processes that have opened different shards; of others, this one's own stands for all."""
        return [array] if self.gather is None else self.gather(array)

    def total(self, number: int) -> int:
        """The sum of these processes' numbers."""
        return int(np.sum(self.of_all(np.array([number]))))

    @property
    def of_own(self) -> "Share":
        """What of the rows that this process packs it makes: all, where it packs its own shards alone."""
        return self if self.gather is None else Share(-(-self.n_shards // self.process_count))


class Windows(NamedTuple):
    """Which windows of `max_length` events training takes from histories that are longer."""

    whole: bool = False
    """All consecutive windows, so that each pair of neighbours occurs once per epoch; otherwise one window."""
    random: bool = False
    """Cut at new random positions in each epoch; otherwise from the newest event backwards."""


ALL_ROWS, ITEMS_ALONE, LATEST = Share(), EventFields(), Windows()


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
def _row_order(seed: tuple[int, ...], epoch: int, n_rows: int) -> Int[np.ndarray, " rows"]:
    order = np.random.default_rng((seed[0], epoch, *seed[1:])).permutation(n_rows)
    order.setflags(write=False)
    return order


@functools.lru_cache(maxsize=2)
def _turns(seed: tuple[int, ...], epoch: int, n_users: int) -> Float[np.ndarray, " users"]:
    turns = np.random.default_rng((seed[0], epoch, 1, *seed[1:])).random(n_users)
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
    """Rows with data in a batch; on average, where each process packs its own shards."""
    seed: int
    share: Share = ALL_ROWS
    fields: EventFields = ITEMS_ALONE
    rings: Int[np.ndarray, " users"] | None = None
    """Where each epoch cuts windows at positions of its own: pairs of an item and the next in each training history."""
    n_packed: tuple[int, ...] = ()
    """Packed rows of each process, where each packs its own shards; empty where all pack the same."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row has been seen at least once."""
        return -(-sum(self._n_packed) // self.n_rows)

    @property
    def fill_share(self) -> float:
        """Share of positions that hold an item in batches of all processes, whose rows are as full as those here."""
        return self.packed.fill_share * self.n_rows / (len(self._n_packed) * self._n_room)

    def batch(self, step: int) -> Batch:
        """The batch of a 0-based step: a pure function of (seed, step, process), so a position is one integer.

        The rows of all processes, one after another, are the batch of a single one, whatever their number; empty
        rows come last. Where each packs its own shards, each goes through its own rows, all at the same share of them a
        step, so that every row is seen as often as any other.
        """
        share = self.share.of_own
        n_parts = math.lcm(share.n_shards, share.process_count)
        first, n_rows = _part(-(-self._n_room // n_parts) * n_parts, share)
        first += self._n_before(step)
        epochs, rows = self._rows(np.arange(first, min(first + n_rows, self._n_before(step + 1))))
        segments, row = segments_of(self.packed, rows)
        starts, lengths = self.packed.starts[segments], self.packed.lengths[segments]
        if self.rings is not None:
            users = rows_at(self.store.offsets, starts)
            turns = _by_epoch(lambda epoch: _turns(self._seed, epoch, self.store.n_users), epochs[row], users)
            first, n_pairs = self.store.offsets[users], self.rings[users]
            shifts = (turns * n_pairs * (n_pairs > self.packed.length)).astype(np.int64)
            row, starts, lengths = rotate_rings(row, starts, lengths, shifts, first, n_pairs)
        shape = (n_rows, self.packed.length)
        return lay_out(self.store, row, starts, lengths, shape=shape, fields=self.fields)

    def users(self, step: int) -> Int[np.ndarray, " users"]:
        """The users in the batch of a 0-based step, over all processes that read this store, as rows of it."""
        _, rows = self._rows(np.arange(self._n_before(step), self._n_before(step + 1)))
        segments, _ = segments_of(self.packed, rows)
        return np.unique(rows_at(self.store.offsets, self.packed.starts[segments]))

    def _rows(self, places: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The epoch and the packed row at each of these places in the endless stream of rows."""
        epochs, places = np.divmod(places, max(1, self.packed.n_rows))
        return epochs, _by_epoch(lambda epoch: _row_order(self._seed, epoch, self.packed.n_rows), epochs, places)

    @property
    def _seed(self) -> tuple[int, ...]:
        """With the number of the process, where each draws the order of rows of its own."""
        return (self.seed, 2, self.share.process_index) if self.n_packed else (self.seed,)

    @property
    def _n_packed(self) -> tuple[int, ...]:
        return self.n_packed or (self.packed.n_rows,)

    def _n_before(self, step: int) -> int:
        """Rows of those packed here that batches before a step hold."""
        return step * self.n_rows * self.packed.n_rows // sum(self._n_packed)

    @property
    def _n_room(self) -> int:
        """The most rows that a batch holds of those that one process has packed."""
        return -(-self.n_rows * max(self._n_packed) // sum(self._n_packed))


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
    sizes = np.stack(share.of_all(np.array([packed.n_rows, len(packed.lengths)])))
    n_packed, n_segments = sizes.sum(axis=0).tolist()
    if n_packed == 0:
        raise InputError(
            "no history leaves two events for training (the split holds out the rest), so there is "
            "nothing to learn from; give longer histories, or hold out less"
        )
    n_rows = min(n_packed, max(1, round(batch_size * n_packed / n_segments)))
    rings = split.train_stop - store.offsets[:-1] - 1 if windows.random else None
    of_each = () if share.gather is None else tuple(sizes[:, 0].tolist())
    return TrainingBatches(store, packed, n_rows, seed, share, fields, rings, of_each)


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
    whole: AllQueries | None = None
    """The queries of all processes, where those here are of this process's shards alone."""

    @property
    def of_all(self) -> "Queries | AllQueries":
        """The queries of all processes, in whose order ranks are."""
        return self if self.whole is None else self.whole

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
        is_miss = self.of_all.is_miss
        return ranks if is_miss is None else np.where(is_miss, n_candidates + 1.0, ranks)

    def batches(self) -> Iterator[QueryBatch]:
        """All queries, in batches of one shape, so that one compiled step serves them.

        Of several processes each makes its own rows and its own entries a query; `last` and `query` count over all.
        """
        places, first_row = (None, 0) if self.whole is None else (self.whole.places, self.whole.first_row)
        for group in self.row_groups:
            segments, row = segments_of(self.packed, group[group >= 0])
            starts, lengths = self.packed.starts[segments], self.packed.lengths[segments]
            filled = np.bincount(row, lengths).astype(np.int64)
            ends = np.cumsum(lengths) - (np.cumsum(filled) - filled)[row]
            newest = row * self.packed.length + ends - 1
            first, n_rows = _part(len(group), self.share)
            in_share = (first <= row) & (row < first + n_rows)
            shape = (n_rows, self.packed.length)
            batch = lay_out(
                self.store, row[in_share] - first, starts[in_share], lengths[in_share], shape=shape, fields=self.fields
            )
            # The item after the newest one is the target, so it is hidden.
            batch.next_items.reshape(-1)[newest[in_share] - first * self.packed.length] = 0
            first, n_queries = _part(self.n_queries, self.share)
            query_ids = self.packed.order[segments][first : first + n_queries]
            last, targets, query = np.zeros((3, n_queries), np.int32)
            last[: len(query_ids)] = newest[first : first + n_queries] + first_row * self.packed.length
            targets[: len(query_ids)] = self._targets(query_ids)
            query[:] = -1
            query[: len(query_ids)] = query_ids if places is None else places[query_ids]
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
    positions = target_positions[target_positions >= 0]
    users = rows_at(store.offsets, positions) if users is None else users
    history_lengths = positions - store.offsets[users]
    n_all = share.total(len(positions))
    if not n_all or history_lengths.min(initial=1) < 1:
        raise InputError(
            f"{int(np.sum(history_lengths < 1))} of {len(positions)} targets are their user's first event; "
            "a query needs a target with at least one event before it"
        )
    lengths = np.minimum(history_lengths, max_length)
    packed = pack(positions - lengths, lengths, max_length)
    sizes = np.stack(share.of_all(np.array([packed.n_rows, history_lengths.max(initial=0)])))
    n_packed, (most_packed, longest) = int(sizes[:, 0].sum()), sizes.max(axis=0).tolist()
    # With shards of its own a process makes batches as if by itself, of the sizes that all agree on.
    n_shards = share.of_own.n_shards
    n_rows = max(1, round(batch_size * n_packed / n_all / len(sizes) / n_shards)) * n_shards
    # Packing puts long histories first; in a random order every batch asks about as many queries.
    shuffled = np.random.default_rng(0).permutation(packed.n_rows)
    groups = np.full((-(-most_packed // n_rows), n_rows), -1)
    groups.reshape(-1)[: packed.n_rows] = shuffled
    n_segments = np.append(np.diff(packed.row_offsets), 0)
    most_asked = max(each.item() for each in share.of_all(n_segments[groups].sum(axis=1).max(keepdims=True)))
    n_queries = -(-most_asked // (8 * n_shards)) * 8 * n_shards
    n_excluded = longest if mask_seen else 0
    is_miss = None if count_as_miss is None else count_as_miss[target_positions >= 0]
    queries = Queries(store, packed, users, positions, groups, n_queries, n_excluded, is_miss, share.of_own, fields)
    if share.gather is None:
        return queries
    assert store.own is not None
    whole = gather_queries(
        store.own.rows[users],
        queries.targets,
        history_lengths,
        is_miss,
        number=share.process_index,
        n_rows=n_rows,
        gather=share.gather,
    )
    return queries._replace(whole=whole)
