"""Batches hold times when asked, and when the answer came only when that is asked too."""

import numpy as np
import pytest
from histories import held

from seqrec.data.batches import EventFields, make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.types import InputError

SECOND = 1_000_000
# Each user's times, in seconds; the last two are for validation and test.
TIMES = [[100, 107, 107, 200, 5000, 9000], [3, 4, 10**9, 10**9 + 50]]


def a_store(columns=True):
    times = np.concatenate(TIMES) * SECOND + 999_999  # what is less than a second does not count
    offsets = np.cumsum([0, *map(len, TIMES)])
    items = np.arange(1, offsets[-1] + 1)
    store = sequence_store(items, offsets, items, np.arange(2), columns={"timestamp_us": times} if columns else {})
    return store, leave_last_out(store)


def by_segment(batch, field):
    """What a field holds of each segment, by the segment's first item."""
    values = {}
    for row, ids in enumerate(batch.segment_ids):
        for segment in range(1, ids.max() + 1):
            places = ids == segment
            values[int(batch.items[row, places][0])] = field[row, places].tolist()
    return values


@pytest.mark.parametrize("times", ["none", "history", "query"])
def test_a_batch_counts_the_seconds_from_each_segments_first_item(times):
    batch = training_batches(*a_store(), max_length=8, batch_size=2, seed=0, fields=EventFields(times)).batch(0)
    assert len(held(batch)) == {"none": 4, "history": 5, "query": 6}[times]
    if times != "none":
        assert by_segment(batch, batch.times) == {1: [0, 7, 7], 7: [0]}
    if times == "query":
        assert by_segment(batch, batch.next_times) == {1: [7, 7, 100], 7: [1]}


@pytest.mark.parametrize("times", ["history", "query"])
def test_a_query_tells_its_own_time_only_when_that_is_asked(times):
    store, split = a_store()
    options = {"batch_size": 2, "mask_seen": True, "fields": EventFields(times)}
    (queries,) = make_queries(store, split.test, max_length=4, **options).batches()
    batch = queries.batch
    # The latest four items before the target, counted from the first of them.
    assert by_segment(batch, batch.times) == {2: [0, 0, 93, 4893], 7: [0, 1, 10**9 - 3]}
    if times == "query":
        assert by_segment(batch, batch.next_times) == {2: [0, 93, 4893, 8893], 7: [1, 10**9 - 3, 10**9 + 47]}
    else:
        assert batch.next_times is None
    assert batch.next_items.reshape(-1)[queries.last[queries.query >= 0]].tolist() == [0, 0]


def test_a_store_without_times_is_refused():
    store, split = a_store(columns=False)
    message = "times=query, but the store has no timestamp_us; prepare it with times, or use times=none"
    with pytest.raises(InputError, match=message):
        training_batches(store, split, max_length=4, batch_size=2, seed=0, fields=EventFields("query"))
    with pytest.raises(InputError, match=message):
        make_queries(store, split.test, max_length=4, batch_size=2, mask_seen=True, fields=EventFields("query"))
