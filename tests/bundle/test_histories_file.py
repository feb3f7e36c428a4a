"""Histories and lists from files: each user's own, in their order, in parts of any size."""

import numpy as np
import pyarrow as pa
import pytest

from seqrec.bundle.histories_file import HistoriesConfig, open_histories, read_histories
from seqrec.data.sources import read_source
from seqrec.types import InputError

KEYS = np.array(["a", "b", "c"], object)
EVENTS = "user_id,item_id,timestamp\n" + "\n".join(
    ["2,b,30", "1,a,10", "10,c,50", "2,zzz,20", "1,c,5", "10,a,60", "3,zzz,1", ",a,7", "2,a,40"]
)


@pytest.fixture
def events(write):
    return write(EVENTS, "events.csv")


def rows(histories, *, users_per_part=2, first_part=0):
    """User -> (ids, seconds) over all parts, and the users of each part."""
    by_user, users = {}, []
    for part in histories.parts(users_per_part=users_per_part, first_part=first_part):
        users.append(part.users.to_pylist())
        for place, user in enumerate(users[-1]):
            by_user[user] = part.items.row(place).tolist(), part.seconds.row(place).tolist()
    return by_user, users


EXPECTED = {1: ([3, 1], [5, 10]), 2: ([0, 2, 1], [20, 30, 40]), 3: ([0], [1]), 10: ([3, 1], [50, 60])}


@pytest.mark.parametrize("users_per_part", [1, 2, 3, 9])
def test_each_users_events_come_in_time_order_with_0_for_unknown_items(events, users_per_part):
    histories = open_histories(HistoriesConfig(events, time_unit="s"), KEYS)
    by_user, users = rows(histories, users_per_part=users_per_part)
    assert by_user == EXPECTED
    assert [user for part in users for user in part] == [1, 2, 3, 10]
    assert {len(part) for part in users[:-1]} <= {users_per_part}
    assert (histories.n_users, histories.n_events) == (4, 8)


def test_histories_must_be_named():
    with pytest.raises(InputError, match=r"no histories are given; name their file, as in --histories plays\.parquet"):
        open_histories(HistoriesConfig(), KEYS)


def test_later_parts_can_be_read_alone(events):
    histories = open_histories(HistoriesConfig(events, time_unit="s"), KEYS)
    assert rows(histories, users_per_part=2, first_part=1)[1] == [[3, 10]]
    assert rows(histories, users_per_part=2, first_part=2)[1] == []


@pytest.mark.parametrize(
    ("item_keys", "items"), [(np.array([7, 8]), ["7", "x"]), (np.array(["7", "8"], object), [7, 9])]
)
def test_numbers_and_their_texts_are_the_same_items(item_keys, items):
    frame = pa.table({"user_id": ["u", "u"], "item_id": items, "timestamp": [1_600_000_000, 1_600_000_001]})
    assert rows(read_histories(read_source("events", frame), item_keys))[0]["u"][0] == [1, 0]


def test_a_list_of_items_is_for_all_users(events, write):
    exclude, allow = write("item\nb\nzzz\n", "no.csv"), write("item\nc\na\n", "yes.csv")
    histories = open_histories(HistoriesConfig(events, time_unit="s", exclude=exclude, allow=allow), KEYS)
    for part in histories.parts(users_per_part=2):
        assert [part.exclude.row(place).tolist() for place in range(len(part.users))] == [[2]] * len(part.users)
        assert [part.allow.row(place).tolist() for place in range(len(part.users))] == [[1, 3]] * len(part.users)


def test_a_list_of_users_and_items_is_each_users_own(events, write):
    allow = write("user,item\n10,c\n1,a\n1,b\n99,a\n3,zzz\n", "yes.csv")
    histories = open_histories(HistoriesConfig(events, time_unit="s", allow=allow), KEYS)
    [part] = histories.parts(users_per_part=9)
    assert part.exclude is None
    assert [sorted(part.allow.row(place).tolist()) for place in range(4)] == [[1, 2], [], [], [3]]
    assert rows(histories)[0] == EXPECTED


def test_other_events_or_lists_have_another_fingerprint_and_another_order_of_rows_has_not(events, write):
    def fingerprint(text, **lists):
        config = HistoriesConfig(write(text, "some.csv"), time_unit="s", ties="file", **lists)
        return open_histories(config, KEYS).fingerprint

    no = write("item\nb\n", "no.csv")
    fingerprints = [
        fingerprint(EVENTS),
        fingerprint(EVENTS.replace("2,a,40", "2,c,40")),
        fingerprint(EVENTS, exclude=no),
    ]
    assert len(set(fingerprints)) == 3
    assert fingerprint(EVENTS, exclude=no) == fingerprints[2]


def test_lists_that_allow_nothing_known_are_refused(events, write):
    with pytest.raises(InputError, match=r"yes.csv allows no item that the bundle knows; write keys of its"):
        open_histories(HistoriesConfig(events, time_unit="s", allow=write("item\nzzz\n", "yes.csv")), KEYS)
