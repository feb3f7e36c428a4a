import numpy as np
import pytest

from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import InputError

HISTORIES = [[5, 1, 2, 4], [3], [2, 3], [1, 5, 3]]


def test_the_last_event_is_for_the_test_and_the_one_before_for_validation():
    store = store_from_sequences(HISTORIES)
    split = leave_last_out(store)
    for user, history in enumerate(HISTORIES):
        trained = store.items[store.offsets[user] : split.train_stop[user]].tolist()
        if len(history) >= 3:
            assert trained == history[:-2]
            assert store.items[split.valid[user]] == history[-2]
            assert store.items[split.test[user]] == history[-1]
        else:
            assert trained == history
            assert split.valid[user] == split.test[user] == -1


def test_arrays_are_int64():
    split = leave_last_out(store_from_sequences(HISTORIES))
    assert {split.train_stop.dtype, split.valid.dtype, split.test.dtype} == {np.dtype(np.int64)}


def test_the_description_counts_who_is_evaluated_and_who_is_not():
    description = leave_last_out(store_from_sequences(HISTORIES)).description
    assert "2 users with 3 or more events" in description
    assert "2 users with fewer" in description


def test_equal_histories_have_equal_hashes_and_any_change_of_order_another():
    first = leave_last_out(store_from_sequences(HISTORIES))
    again = leave_last_out(store_from_sequences([list(history) for history in HISTORIES]))
    other = leave_last_out(store_from_sequences([[5, 1, 4, 2], *HISTORIES[1:]]))
    assert first.content_hash == again.content_hash != other.content_hash


def test_nobody_with_three_events_is_refused():
    with pytest.raises(InputError, match=r"no user has 3 events .*longest history has 2"):
        leave_last_out(store_from_sequences([[1, 2], [2]]))


def test_no_user_at_all_is_refused():
    with pytest.raises(InputError, match="no user has 3 events"):
        leave_last_out(store_from_sequences([], n_items=4))
