"""Packed batches against slow loops over the histories."""

import math
from collections import Counter

import numpy as np
import pytest
from examples import examples
from histories import a_store, held, histories_strategy, latest_pairs, random_histories, segments_of, training_part
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data.batches import Share, Windows, make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import Batch, InputError

quick = examples(60)
counts = st.sampled_from([1, 2, 4, 8])


class Read(np.ndarray):
    """Items that note which of their places are read."""

    def __getitem__(self, places):
        self.noted.extend(np.arange(len(self))[places].reshape(-1).tolist())
        return np.asarray(self)[places]


def watched(store):
    """The store, and the list to which the places that are read from now on are added."""
    items = store.items.view(Read)
    items.noted = []
    return store._replace(items=items), items.noted


# Training batches


def epochs_of(batches, n_epochs):
    """The segments of each epoch, in their order. Batches go over an epoch's end: the stream is laid out and cut."""
    n_rows, per_epoch = batches.n_rows, batches.packed.n_rows
    rows = [
        Batch(*(field[row : row + 1] for field in held(batch)))
        for batch in map(batches.batch, range(-(-n_epochs * per_epoch // n_rows)))
        for row in range(n_rows)
    ]
    return [
        [segment for row in rows[epoch * per_epoch : (epoch + 1) * per_epoch] for segment in segments_of(row)]
        for epoch in range(n_epochs)
    ]


def test_an_epoch_holds_each_users_pairs_exactly_once():
    histories, max_length = random_histories(), 6
    batches = training_batches(*a_store(histories), max_length=max_length, batch_size=8, seed=0)
    expected = Counter(latest_pairs(histories, max_length))
    epochs = epochs_of(batches, 2)
    assert [Counter(segments) for segments in epochs] == [expected, expected]
    assert epochs[0] != epochs[1]  # each epoch has an order of its own


def test_a_batch_is_a_function_of_seed_and_step():
    store, split = a_store(random_histories())

    def stream(seed):
        return training_batches(store, split, max_length=6, batch_size=8, seed=seed)

    in_order = [stream(0).batch(step) for step in range(7)]
    one = stream(0)
    for step in (5, 0, 6, 2, 2):
        np.testing.assert_array_equal(held(one.batch(step)), held(in_order[step]))
    assert any(not np.array_equal(held(stream(1).batch(step)), held(in_order[step])) for step in range(3))


def test_a_batch_holds_as_many_histories_as_asked_for_on_average():
    histories = random_histories(200)
    batches = training_batches(*a_store(histories), max_length=6, batch_size=40, seed=0)
    n_segments = [len(segments_of(batches.batch(step))) for step in range(batches.steps_per_epoch - 1)]
    assert abs(np.mean(n_segments) - 40) < 8


@given(counts, st.booleans(), st.integers(0, 20))
@quick
def test_the_users_of_a_batch_are_those_whose_items_it_holds(n_parts, random_crops, step):
    # Each user takes one item of their own, again and again; the second leaves nothing to train on.
    histories = [[user + 1] * n for user, n in enumerate((9, 2, 5, 4, 12, 3, 7))]
    store = store_from_sequences(histories)
    options = {"max_length": 4, "batch_size": 2, "seed": 3, "windows": Windows(whole=True, random=random_crops)}
    parts = [
        training_batches(store, leave_last_out(store), **options, share=Share(1, part, n_parts))
        for part in range(n_parts)
    ]
    items = np.unique([part.batch(step).items for part in parts])
    for part in parts:
        np.testing.assert_array_equal(part.users(step), items[items > 0] - 1)


@pytest.mark.parametrize("batch_size", [1, 10_000])
def test_a_batch_has_a_row_at_least_and_an_epoch_at_most(batch_size):
    batches = training_batches(*a_store(random_histories()), max_length=6, batch_size=batch_size, seed=0)
    assert 1 <= batches.n_rows <= batches.packed.n_rows
    assert batches.steps_per_epoch == -(-batches.packed.n_rows // batches.n_rows)


def test_shards_add_empty_rows_and_change_nothing_else():
    store, split = a_store(random_histories())
    plain = training_batches(store, split, max_length=6, batch_size=7, seed=0)
    sharded = training_batches(store, split, max_length=6, batch_size=7, seed=0, share=Share(8))
    for step in range(4):
        batch, wide = plain.batch(step), sharded.batch(step)
        assert len(wide.items) % 8 == 0
        for field, wide_field in zip(held(batch), held(wide), strict=True):
            np.testing.assert_array_equal(wide_field[: plain.n_rows], field)
            assert not np.any(wide_field[plain.n_rows :])


@examples(30)
@given(histories_strategy, counts, counts, st.booleans(), st.integers(0, 30))
def test_the_parts_of_any_number_of_processes_are_the_batch_of_one(
    histories, process_count, n_shards, random_crops, step
):
    store, split = a_store([*histories, [1, 2]])  # the last has a pair to learn from, whatever is drawn

    def batch(*process):
        return training_batches(
            store,
            split,
            max_length=4,
            batch_size=5,
            seed=3,
            windows=Windows(random=random_crops),
            share=Share(n_shards, *process),
        ).batch(step)

    whole = batch()
    parts = [batch(index, process_count) for index in range(process_count)]
    n_rows = len(whole.items)
    for field, of_parts in zip(held(whole), zip(*map(held, parts), strict=True), strict=True):
        assert len({len(part) for part in of_parts}) == 1
        together = np.concatenate(of_parts)
        assert len(together) % math.lcm(n_shards, process_count) == 0
        assert len(together) - n_rows < math.lcm(n_shards, process_count)
        np.testing.assert_array_equal(together[:n_rows], field)
        assert not np.any(together[n_rows:])


def test_a_process_reads_its_own_rows_alone():
    store, noted = watched(store_from_sequences([[1 + 7 * user, 2, 3, 4, 5, 6, 7, 8] for user in range(32)]))
    split = leave_last_out(store)
    for index in range(4):
        batches = training_batches(store, split, max_length=5, batch_size=16, seed=0, share=Share(1, index, 4))
        noted.clear()
        part = batches.batch(0)
        # Five pairs a history are read from six places, the items and the items after them.
        assert len(part.items) == 4
        assert len(set(noted)) == 4 * 6
        queries = make_queries(store, split.test, max_length=5, batch_size=16, mask_seen=True, share=Share(1, index, 4))
        noted.clear()
        queries_read = [query for batch in queries.batches() for query in batch.query[batch.query >= 0]]
        read = {place // 8 for place in noted}
        assert len(queries_read) == 8
        assert read >= set(queries_read)
        assert len(read) <= 2 * 8  # whose rows it has, and whose questions


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_a_process_is_one_of_those_that_there_are(index, count):
    store, split = a_store(random_histories())
    share = Share(1, index, count)
    with pytest.raises(InputError, match="number the"):
        training_batches(store, split, max_length=4, batch_size=4, seed=0, share=share)
    with pytest.raises(InputError, match="number the"):
        make_queries(store, split.test, max_length=4, batch_size=4, mask_seen=True, share=share)


def test_batches_are_int32_of_one_shape():
    batches = training_batches(*a_store(random_histories()), max_length=6, batch_size=7, seed=0)
    kinds = {(field.dtype, field.shape) for step in range(5) for field in held(batches.batch(step))}
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


# Crops at random


def places(n_users, n_events):
    """Histories of which each item says where in the store it stands, so that a segment tells its place."""
    return [list(range(1 + user * n_events, 1 + (user + 1) * n_events)) for user in range(n_users)]


def crops(histories, *, whole=False, **options):
    store = store_from_sequences(histories)
    return training_batches(
        store, leave_last_out(store), batch_size=4, windows=Windows(whole=whole, random=True), **options
    )


@quick
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda n: max(n) >= 4), st.integers(1, 8))
def test_random_crops_of_whole_histories_hold_every_pair_once_an_epoch(n_events, max_length):
    store = store_from_sequences([list(range(1, 1 + n)) for n in n_events])
    split = leave_last_out(store)
    batches = training_batches(
        store, split, max_length=max_length, batch_size=3, seed=1, windows=Windows(whole=True, random=True)
    )
    pairs = [(i, i + 1) for n in n_events for i in range(1, len(training_part(range(n))))]
    for segments in epochs_of(batches, 2):
        assert Counter(pair for items, following in segments for pair in zip(items, following, strict=True)) == Counter(
            pairs
        )
        for items, following in segments:
            # Neighbours in the history, though the window may have run over its end.
            assert following == tuple(item + 1 for item in items)
            assert items == tuple(range(items[0], items[0] + len(items)))


def test_a_history_of_one_window_is_never_cut():
    histories = places(6, 8)
    expected = Counter(latest_pairs(histories, 5))
    for whole in (True, False):
        assert [Counter(windows) for windows in epochs_of(crops(histories, max_length=5, seed=0, whole=whole), 3)] == [
            expected
        ] * 3


def test_each_pair_is_as_likely_in_a_random_crop_as_any_other():
    n_users, n_events, max_length, n_epochs = 20, 14, 4, 150
    batches = crops(places(n_users, n_events), max_length=max_length, seed=0)
    n_seen = np.zeros(n_users * n_events)
    for segments in epochs_of(batches, n_epochs):
        for items, _ in segments:
            n_seen[np.array(items) - 1] += 1
    n_pairs = n_events - 3
    n_seen = n_seen.reshape(n_users, n_events)
    assert not n_seen[:, n_pairs:].any()
    assert (n_seen.sum(axis=1) == max_length * n_epochs).all()
    share = max_length / n_pairs
    # Over users and epochs a pair's count is binomial; five standard deviations for each of 11 places.
    n_draws = n_users * n_epochs
    deviations = (n_seen.sum(axis=0)[:n_pairs] - share * n_draws) / np.sqrt(n_draws * share * (1 - share))
    assert np.abs(deviations).max() < 5


def test_windows_begin_at_any_place_and_each_user_at_one_of_its_own():
    n_users, n_events, max_length = 30, 24, 8
    batches = crops(places(n_users, n_events), max_length=max_length, seed=0, whole=True)
    n_pairs = n_events - 3
    starts = [{user: set() for user in range(n_users)} for _ in range(12)]
    for first_places, segments in zip(starts, epochs_of(batches, 12), strict=True):
        for items, _ in segments:
            user, place = divmod(items[0] - 1, n_events)
            first_places[user].add(place)
    assert set().union(*(first_places for epoch in starts for first_places in epoch.values())) == set(range(n_pairs))
    for epoch in starts:
        assert len(set(map(frozenset, epoch.values()))) > n_users / 3
    assert all(len({frozenset(epoch[user]) for epoch in starts}) > 3 for user in range(n_users))


def test_random_crops_follow_from_seed_and_step():
    def stream(seed):
        return crops(places(12, 20), max_length=6, seed=seed, whole=True)

    in_order, one = [stream(0).batch(step) for step in range(12)], stream(0)
    for step in (9, 0, 11, 3, 3):
        np.testing.assert_array_equal(held(one.batch(step)), held(in_order[step]))
    assert any(not np.array_equal(held(stream(1).batch(step)), held(in_order[step])) for step in range(3))


# Queries


@quick
@given(histories_strategy, st.integers(1, 8), st.integers(1, 6), st.booleans(), st.sampled_from([1, 4]))
def test_each_user_is_asked_about_once_after_all_that_came_before(
    histories, max_length, batch_size, mask_seen, n_shards
):
    store, split = a_store(histories)
    queries = make_queries(
        store, split.test, max_length=max_length, batch_size=batch_size, mask_seen=mask_seen, share=Share(n_shards)
    )
    users = [user for user, history in enumerate(histories) if len(history) >= 3]
    assert queries.users.tolist() == users
    assert queries.targets.tolist() == [histories[user][-1] for user in users]
    assert queries.history_lengths.tolist() == [len(histories[user]) - 1 for user in users]
    queries_seen, shapes = [], set()
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
            queries_seen.append(int(query[i]))
        empty = query < 0
        assert not np.any(targets[empty])
        assert not np.any(excluded[empty])
    assert sorted(queries_seen) == list(range(len(users)))
    assert len(shapes) == 1


@quick
@given(histories_strategy, counts, counts, st.integers(1, 6))
def test_processes_share_the_queries_of_one(histories, process_count, n_shards, batch_size):
    store, split = a_store(histories)

    def batches(*process):
        return list(
            make_queries(
                store, split.test, max_length=4, batch_size=batch_size, mask_seen=True, share=Share(n_shards, *process)
            ).batches()
        )

    whole = batches()
    shares = [batches(index, process_count) for index in range(process_count)]
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        for name, field in zip(batch._fields[1:], batch[1:], strict=True):
            together = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(together[: len(field)], field)
            assert (together[len(field) :] == (-1 if name == "query" else 0)).all()
        for field, *of_parts in zip(held(batch.batch), *(held(part.batch) for part in parts), strict=True):
            together = np.concatenate(of_parts)
            np.testing.assert_array_equal(together[: len(field)], field)
            assert not together[len(field) :].any()


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
