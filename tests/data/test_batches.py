"""Packed batches against slow loops over the histories."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec.data.batches import make_queries, training_batches
from seqrec.data.packing import pack, pack_training
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import InputError

N_ITEMS = 40
quick = settings(max_examples=60, deadline=None)
histories_strategy = st.lists(st.lists(st.integers(1, N_ITEMS), max_size=14), min_size=1, max_size=12).filter(
    lambda histories: any(len(history) >= 3 for history in histories)
)


def random_histories(n_users=30, longest=14, seed=0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, N_ITEMS + 1, generator.integers(0, longest + 1)).tolist() for _ in range(n_users)]


def a_store(histories):
    store = store_from_sequences(histories, n_items=N_ITEMS)
    return store, leave_last_out(store)


def segments_of(batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(items, next items) of each history in a batch, once its other fields are found to fit."""
    found = []
    for row in range(batch.items.shape[0]):
        ids = batch.segment_ids[row]
        # Segments count from 1 and stand side by side, padding at the end.
        filled = np.count_nonzero(ids)
        assert not np.any(ids[filled:])
        assert not np.any([field[row, filled:] for field in batch])
        assert np.isin(np.diff(ids[:filled], prepend=0), [0, 1]).all()
        for segment in range(1, ids.max() + 1):
            places = ids == segment
            assert batch.positions[row, places].tolist() == list(range(places.sum()))
            found.append((tuple(batch.items[row, places].tolist()), tuple(batch.next_items[row, places].tolist())))
    return found


def training_part(history):
    return history[:-2] if len(history) >= 3 else history


def latest_pairs(histories, max_length):
    """What each user is trained on: the latest `max_length` pairs of an item and the next."""
    pairs = []
    for history in map(training_part, histories):
        if len(history) >= 2:
            pairs.append((tuple(history[:-1][-max_length:]), tuple(history[1:][-max_length:])))
    return pairs


# Packing


@quick
@given(st.lists(st.integers(1, 10), max_size=40))
def test_every_segment_is_packed_once_and_no_row_is_over_full(lengths):
    starts = 100 * np.arange(len(lengths))
    packed = pack(starts, np.array(lengths, np.int64), 10)
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    np.testing.assert_array_equal(packed.starts, starts[packed.order])
    np.testing.assert_array_equal(packed.lengths, np.array(lengths, np.int64)[packed.order])
    rows = [packed.lengths[a:b] for a, b in itertools.pairwise(packed.row_offsets)]
    assert len(rows) == packed.n_rows
    assert all(1 <= row.sum() <= 10 for row in rows)
    # Best fit opens a row only where nothing else has room: no two rows would fit into one.
    fills = sorted(row.sum() for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 10


def test_best_fit_fills_the_rows_of_a_case_on_paper():
    # 7 and 6 open rows; 4 fits only the 6; 3 fits only the 7; both rows are full.
    packed = pack(np.arange(4), np.array([3, 6, 4, 7]), 10)
    rows = [sorted(packed.lengths[a:b].tolist()) for a, b in itertools.pairwise(packed.row_offsets)]
    assert sorted(rows) == [[3, 7], [4, 6]]


def test_rows_are_at_most_two_ninths_more_than_the_fewest():
    # Full rows cut at random places: the fewest rows that hold the parts are known.
    generator, n_full = np.random.default_rng(0), 100
    cuts = [np.sort(generator.choice(np.arange(1, 20), 3, replace=False)) for _ in range(n_full)]
    lengths = np.concatenate([np.diff(cut, prepend=0, append=20) for cut in cuts])
    packed = pack(np.arange(len(lengths)), lengths, 20)
    # Johnson et al. 1974, for first-fit and best-fit decreasing alike.
    assert n_full <= packed.n_rows <= 11 / 9 * n_full + 4


# Training batches


@quick
@given(histories_strategy, st.integers(1, 8))
def test_packed_are_the_latest_pairs_of_each_user(histories, max_length):
    store, split = a_store(histories)
    packed = pack_training(store, split, max_length=max_length)
    found = [
        (tuple(store.items[a : a + n].tolist()), tuple(store.items[a + 1 : a + 1 + n].tolist()))
        for a, n in zip(packed.starts, packed.lengths, strict=True)
    ]
    assert Counter(found) == Counter(latest_pairs(histories, max_length))


@quick
@given(histories_strategy, st.integers(1, 8))
def test_windows_of_whole_histories_hold_every_pair_once(histories, max_length):
    store, split = a_store(histories)
    packed = pack_training(store, split, max_length=max_length, whole_histories=True)
    places = [place for a, n in zip(packed.starts, packed.lengths, strict=True) for place in range(a, a + n)]
    expected = [
        start + i
        for start, history in zip(store.offsets, histories, strict=False)
        for i in range(len(training_part(history)) - 1)
    ]
    assert sorted(places) == expected
    assert packed.lengths.max(initial=0) <= max_length
    latest = pack_training(store, split, max_length=max_length)
    assert set(latest.starts.tolist()) <= set(packed.starts.tolist())


def test_an_epoch_holds_each_users_pairs_exactly_once():
    histories, max_length = random_histories(), 6
    batches = training_batches(*a_store(histories), max_length=max_length, batch_size=8, seed=0)
    n_rows, per_epoch = batches.packed.n_rows, batches.packed.n_rows
    # Batches go over the end of an epoch: lay the stream of rows out and cut it there.
    n_steps = 3 * -(-per_epoch // batches.n_rows)
    stream = [
        batch._replace(**{name: getattr(batch, name)[row : row + 1] for name in batch._fields})
        for batch in map(batches.batch, range(n_steps))
        for row in range(batches.n_rows)
    ]
    expected = Counter(latest_pairs(histories, max_length))
    assert batches.pairs_per_epoch == sum(len(items) for items, _ in expected.elements())
    epochs = [stream[start : start + n_rows] for start in range(0, 2 * n_rows + 1, n_rows)]
    orders = set()
    for rows in epochs[:2]:
        segments = [segment for row in rows for segment in segments_of(row)]
        assert Counter(segments) == expected
        orders.add(tuple(segments))
    assert len(orders) == 2  # each epoch has an order of its own


def test_a_batch_is_a_function_of_seed_and_step():
    store, split = a_store(random_histories())

    def stream(seed):
        return training_batches(store, split, max_length=6, batch_size=8, seed=seed)

    in_order = [stream(0).batch(step) for step in range(7)]
    one = stream(0)
    for step in (5, 0, 6, 2, 2):
        np.testing.assert_array_equal(one.batch(step), in_order[step])
    assert any(not np.array_equal(stream(1).batch(step), in_order[step]) for step in range(3))


def test_a_batch_holds_as_many_histories_as_asked_for_on_average():
    histories = random_histories(200)
    batches = training_batches(*a_store(histories), max_length=6, batch_size=40, seed=0)
    n_segments = [len(segments_of(batches.batch(step))) for step in range(batches.steps_per_epoch - 1)]
    assert abs(np.mean(n_segments) - 40) < 8


@pytest.mark.parametrize("batch_size", [1, 10_000])
def test_a_batch_has_a_row_at_least_and_an_epoch_at_most(batch_size):
    batches = training_batches(*a_store(random_histories()), max_length=6, batch_size=batch_size, seed=0)
    assert 1 <= batches.n_rows <= batches.packed.n_rows
    assert batches.steps_per_epoch == -(-batches.packed.n_rows // batches.n_rows)


def test_shards_add_empty_rows_and_change_nothing_else():
    store, split = a_store(random_histories())
    plain = training_batches(store, split, max_length=6, batch_size=7, seed=0)
    sharded = training_batches(store, split, max_length=6, batch_size=7, seed=0, n_shards=8)
    for step in range(4):
        batch, wide = plain.batch(step), sharded.batch(step)
        assert len(wide.items) % 8 == 0
        for field, wide_field in zip(batch, wide, strict=True):
            np.testing.assert_array_equal(wide_field[: plain.n_rows], field)
            assert not np.any(wide_field[plain.n_rows :])


def test_batches_are_int32_of_one_shape():
    batches = training_batches(*a_store(random_histories()), max_length=6, batch_size=7, seed=0)
    kinds = {(field.dtype, field.shape) for step in range(5) for field in batches.batch(step)}
    assert kinds == {(np.dtype(np.int32), (batches.n_rows, 6))}


def test_ids_survive_twenty_million_items():
    last = 20_000_000
    store = store_from_sequences([[last, 1, last - 1, 2**24 + 1, last]], n_items=last)
    split = leave_last_out(store)
    batch = training_batches(store, split, max_length=4, batch_size=1, seed=0).batch(0)
    assert segments_of(batch) == [((last, 1), (1, last - 1))]
    (query,) = make_queries(store, split.test, max_length=4, batch_size=1, mask_seen=True).batches()
    assert query.batch.items[0].tolist() == [last, 1, last - 1, 2**24 + 1]
    assert query.targets[0] == last
    assert query.excluded[0].tolist() == [last, 1, last - 1, 2**24 + 1]


# Queries


@quick
@given(histories_strategy, st.integers(1, 8), st.integers(1, 6), st.booleans(), st.sampled_from([1, 4]))
def test_each_user_is_asked_about_once_after_all_that_came_before(
    histories, max_length, batch_size, mask_seen, n_shards
):
    store, split = a_store(histories)
    queries = make_queries(
        store, split.test, max_length=max_length, batch_size=batch_size, mask_seen=mask_seen, n_shards=n_shards
    )
    users = [user for user, history in enumerate(histories) if len(history) >= 3]
    assert queries.users.tolist() == users
    assert queries.targets.tolist() == [histories[user][-1] for user in users]
    assert queries.history_lengths.tolist() == [len(histories[user]) - 1 for user in users]
    asked, shapes = [], set()
    for batch, last, targets, excluded, query in queries.batches():
        segments_of(batch)
        shapes.add((batch.items.shape, last.shape, targets.shape, excluded.shape, query.shape))
        assert len(batch.items) % n_shards == len(last) % n_shards == 0
        for i in np.flatnonzero(query >= 0):
            history = histories[users[query[i]]]
            row, column = divmod(int(last[i]), max_length)
            read = history[:-1][-max_length:]
            assert batch.items[row, column + 1 - len(read) : column + 1].tolist() == read
            assert batch.positions[row, column] == len(read) - 1
            assert targets[i] == history[-1]
            assert [item for item in excluded[i].tolist() if item] == (history[:-1] if mask_seen else [])
            asked.append(int(query[i]))
        empty = query < 0
        assert not np.any(targets[empty])
        assert not np.any(excluded[empty])
    assert sorted(asked) == list(range(len(users)))
    assert len(shapes) == 1


def test_validation_does_not_see_the_test_item():
    histories = random_histories()
    store, split = a_store(histories)
    queries = make_queries(store, split.valid, max_length=6, batch_size=4, mask_seen=True)
    assert queries.targets.tolist() == [history[-2] for history in histories if len(history) >= 3]
    for batch in queries.batches():
        for i in np.flatnonzero(batch.query >= 0):
            history = histories[queries.users[batch.query[i]]]
            assert batch.batch.items.reshape(-1)[batch.last[i]] == history[-3]
            assert [item for item in batch.excluded[i].tolist() if item] == history[:-2]


def test_a_query_does_not_carry_its_answer():
    store = store_from_sequences([[1, 2, 3, 4], [4, 3, 2]])
    queries = make_queries(store, leave_last_out(store).test, max_length=4, batch_size=2, mask_seen=True)
    [query_batch] = queries.batches()
    newest = query_batch.last[query_batch.query >= 0]
    assert not query_batch.batch.next_items.reshape(-1)[newest].any()
    assert query_batch.targets[query_batch.query >= 0].all()


@pytest.mark.parametrize("positions", [[], [-1, -1], [0, 5]])
def test_a_query_needs_a_history(positions):
    store = store_from_sequences([[1, 2, 3, 4], [4, 3, 2]])
    with pytest.raises(InputError, match="at least one event before"):
        make_queries(store, np.array(positions, np.int64), max_length=4, batch_size=2, mask_seen=True)
