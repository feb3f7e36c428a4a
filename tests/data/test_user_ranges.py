"""Ranges of users: nobody in two, nobody in none, about as many events in each."""

import itertools

import duckdb
import narwhals as nw
import pyarrow as pa
import pytest

from seqrec.data.engines import collect
from seqrec.data.user_ranges import UserRange, events_of, parts_of, place_users, ranges_at_once, ranges_of


def table_of(users):
    connection = duckdb.connect()
    return nw.from_native(connection.from_arrow(pa.table({"user_id": users}))), connection


def test_a_range_ends_with_the_user_that_fills_it():
    events, _connection = table_of([3, 1, 1, 2, 5, 5, 5, 5, 5, 4, 1])
    # By user: 1 has events 0 to 2, 2 event 3, 3 event 4, 4 event 5, 5 events 6 to 10.
    assert ranges_of(place_users(events, 4)) == [UserRange(0, 1, 2, 2, 4), UserRange(4, 3, 5, 3, 7)]
    assert ranges_of(place_users(events, 100)) == [UserRange(0, 1, 5, 5, 11)]


@pytest.mark.parametrize("users", [[7, -2, 7, 0, 3, 3], ["b", "Ä", "b", "日", "a'b", "B"]])
@pytest.mark.parametrize("n_at_once", [1, 2, 5])
def test_the_parts_of_events_are_all_events_once_and_their_users_rise(users, n_at_once):
    events, _connection = table_of(users)
    ranges = ranges_at_once(events, len(users), n_at_once)
    parts = [sorted(collect(part)["user_id"].to_pylist()) for part in parts_of(events, ranges)]
    assert list(itertools.chain(*parts)) == sorted(users)
    assert all(len(part) < n_at_once + max(map(users.count, users)) for part in parts)


def test_what_can_be_sorted_at_once_is_left_in_one_part():
    events, _connection = table_of([1, 2, 3])
    assert ranges_at_once(events, 3, 3) == ranges_at_once(events, 3, None) == []
    assert parts_of(events, []) == [events]
    assert collect(events_of(events, UserRange(0, 2, 3, 2, 2)))["user_id"].to_pylist() == [2, 3]
