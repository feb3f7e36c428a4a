"""Ranges of users: nobody in two, nobody in none, about as many events in each."""

import itertools

import duckdb
import narwhals as nw
import pyarrow as pa
import pytest

from seqrec.data import engines
from seqrec.data.engines import collect, duckdb_engine
from seqrec.data.user_ranges import UserRange, events_of, number_of, place_users, ranges_of


def table_of(users):
    connection = duckdb.connect()
    return nw.from_native(connection.from_arrow(pa.table({"user_id": users}))), connection


def test_a_range_ends_with_the_user_that_fills_it():
    events, _connection = table_of([3, 1, 1, 2, 5, 5, 5, 5, 5, 4, 1])
    # By user: 1 has events 0 to 2, 2 event 3, 3 event 4, 4 event 5, 5 events 6 to 10.
    assert ranges_of(place_users(events, 4)) == [UserRange(0, 1, 2, 2, 4), UserRange(4, 3, 5, 3, 7)]
    assert ranges_of(place_users(events, 100)) == [UserRange(0, 1, 5, 5, 11)]


@pytest.mark.parametrize("users", [[7, -2, 7, 0, 3, 3], ["b", "Ä", "b", "日", "a'b", "B"]])
@pytest.mark.parametrize("n_events", [1, 2, 5, 100])
def test_each_event_has_the_number_of_the_range_of_its_user(users, n_events):
    events, _connection = table_of([*users, None])
    ranges = ranges_of(place_users(events, n_events))
    rows = collect(events.with_columns(number=number_of(ranges))).to_pylist()
    for row in rows[:-1]:
        number = row["number"]
        assert ranges[number].first <= row["user_id"] <= ranges[number].last
    assert rows[-1]["number"] == len(ranges) - 1
    [in_range] = [each for each in ranges if each.place == 0]
    assert sorted(collect(events_of(events, in_range))["user_id"].to_pylist()) == sorted(
        row["user_id"] for row in rows[:-1] if row["number"] == 0
    )


@pytest.mark.parametrize("users", [[7, -2, 7, None, 0, 3, 3], ["b", "Ä", "b", None, "日", "a'b", "B"]])
@pytest.mark.parametrize("n_at_once", [3, 6])
def test_the_parts_of_events_are_all_events_once_and_their_users_rise(users, n_at_once, monkeypatch):
    events, connection = table_of(users)
    monkeypatch.setattr(engines, "n_bytes_at_once", lambda connection: n_at_once * engines.BYTES_PER_VALUE)
    whole, parts = duckdb_engine(connection).partition(events, len(users))
    in_parts = [collect(part)["user_id"].to_pylist() for part in parts]
    there = [sorted(user for user in part if user is not None) for part in in_parts]
    assert list(itertools.chain(*there)) == sorted(user for user in users if user is not None)
    assert sum(map(len, in_parts)) == len(users) == len(collect(whole))
    # A part ends with the user that fills it, and the last one has the event without a user too.
    n_per_part = max(1, n_at_once // engines.PARTS_AT_ONCE)
    assert all(len(part) < n_per_part + 2 for part in there)


@pytest.mark.parametrize("bound", [-(2**31), 2**31 - 1, 2**31, -(2**31) - 1])
def test_ids_that_fit_32_bits_take_no_more_in_parts_and_have_their_type_in_the_whole(bound, monkeypatch):
    events, connection = table_of([1, None, bound, 2])
    monkeypatch.setattr(engines, "n_bytes_at_once", lambda connection: engines.BYTES_PER_VALUE)
    whole, parts = duckdb_engine(connection).partition(events, 4)
    dtype = nw.Int32 if -(2**31) <= bound < 2**31 else nw.Int64
    assert [part.collect_schema()["user_id"] for part in parts] == [dtype] * 3
    assert whole.collect_schema() == events.collect_schema()
    assert sorted(collect(whole.drop_nulls("user_id"))["user_id"].to_pylist()) == sorted([1, 2, bound])


def test_what_can_be_sorted_at_once_is_left_in_one_part():
    events, connection = table_of([1, 2, 3])
    assert duckdb_engine(connection).partition(events, 3) == (events, [events])


def test_events_of_one_user_or_of_none_are_one_part(monkeypatch):
    monkeypatch.setattr(engines, "n_bytes_at_once", lambda connection: engines.BYTES_PER_VALUE)
    for users in ([1, 1, 1], [None, None]):
        events, connection = table_of(pa.array(users, pa.int64()))
        assert duckdb_engine(connection).partition(events, len(users)) == (events, [events])
