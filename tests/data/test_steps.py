"""Each step against a slow walk over the events in plain Python."""

import itertools
import math
from collections import Counter

import duckdb
import narwhals as nw
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data import steps
from seqrec.data.engines import duckdb_engine
from seqrec.types import InputError

NEED_AN_ENGINE = (steps.k_core, steps.drop_implausible_users)
DAY = 24 * 3600 * 1_000_000
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.int64()),
        ("timestamp_us", pa.int64()),
        ("event_index", pa.int64()),
        ("rating", pa.float64()),
        ("whole", pa.float64()),
    ]
)
some = examples(15)
missing_or = st.one_of(st.none(), st.just(math.nan), st.integers(-1, 5).map(float))
# Few values of each kind, so that users, items and moments tie.
events_strategy = st.lists(
    st.tuples(st.sampled_from(["a", "B", "ä", "日"]), st.integers(1, 4), st.integers(-6, 6), missing_or, missing_or),
    max_size=30,
).flatmap(
    lambda rows: st.permutations(range(len(rows))).map(
        lambda places: [
            dict(zip(SCHEMA.names, (user, item, time, place, rating, whole), strict=True))
            for (user, item, time, rating, whole), place in zip(rows, places, strict=True)
        ]
    )
)


def in_order(rows):
    return sorted(rows, key=lambda row: (row["timestamp_us"], row["event_index"]))


def by_user(rows):
    return {
        user: in_order(row for row in rows if row["user_id"] == user) for user in sorted({r["user_id"] for r in rows})
    }


def run(step, rows, **options):
    """The rows that the step returns, by event_index."""
    connection = duckdb.connect()
    events = nw.from_native(connection.from_arrow(pa.Table.from_pylist(rows, SCHEMA)))
    if step in NEED_AN_ENGINE:
        kept = step(events, **options, engine=duckdb_engine(connection))(events)
    else:
        kept = step(events, **options)
    table = kept.collect("pyarrow").to_native().to_pylist()
    return sorted(table, key=lambda row: row["event_index"])


def user_items(rows):
    return {(row["user_id"], row["item_id"]) for row in rows}


def places(rows):
    return sorted(row["event_index"] for row in rows)


@some
@given(events_strategy)
def test_the_first_of_the_events_of_one_user_item_and_moment_stays(rows):
    firsts = {}
    for row in sorted(rows, key=lambda row: row["event_index"]):
        firsts.setdefault((row["user_id"], row["item_id"], row["timestamp_us"]), row)
    assert places(run(steps.drop_duplicates, rows)) == places(firsts.values())


@some
@given(events_strategy, st.integers(0, 4))
def test_an_event_soon_after_the_previous_one_of_that_item_goes(rows, gap):
    kept = []
    for history in by_user(rows).values():
        last = {}
        for row in history:
            if row["item_id"] not in last or row["timestamp_us"] - last[row["item_id"]] > gap:
                kept.append(row)
            last[row["item_id"]] = row["timestamp_us"]
    assert places(run(steps.drop_near_duplicates, rows, gap_us=gap)) == places(kept)


@some
@given(events_strategy, st.integers(1, 5))
def test_a_user_with_one_overfull_day_goes_with_all_events(rows, limit):
    # Three steps of time to a day, so that days begin on both sides of 1970.
    rows = [row | {"timestamp_us": row["timestamp_us"] * DAY // 3} for row in rows]
    kept = [
        row
        for history in by_user(rows).values()
        if max(Counter(math.floor(row["timestamp_us"] / DAY) for row in history).values()) <= limit
        for row in history
    ]
    assert places(run(steps.drop_implausible_users, rows, max_events_per_day=limit)) == places(kept)


def test_days_begin_at_midnight_to_the_microsecond():
    times = [20_000 * DAY - 1, 20_000 * DAY, -1, 0]
    rows = [
        dict(zip(SCHEMA.names, ("ab"[place // 2], 1, time, place, 0.0, 0.0), strict=True))
        for place, time in enumerate(times)
    ]
    assert places(run(steps.drop_implausible_users, rows, max_events_per_day=1)) == [0, 1, 2, 3]


@some
@given(events_strategy, st.integers(0, 4))
def test_events_below_a_rating_and_those_without_one_go(rows, minimum):
    def known(value):
        return value is not None and not math.isnan(value)

    kept = [row for row in rows if known(row["rating"]) and row["rating"] >= minimum]
    assert places(run(steps.keep_at_least, rows, column="rating", minimum=float(minimum))) == places(kept)
    shares = [
        row
        for row in rows
        if known(row["rating"]) and known(row["whole"]) and row["whole"] > 0 and row["rating"] / row["whole"] >= 0.5
    ]
    assert places(run(steps.keep_at_least, rows, column="rating", minimum=0.5, share_of="whole")) == places(shares)


@some
@given(events_strategy)
def test_a_run_of_one_item_becomes_its_first_event_with_the_runs_length(rows):
    expected = {}
    for history in by_user(rows).values():
        for _, run_of in itertools.groupby(history, key=lambda row: row["item_id"]):
            members = list(run_of)
            expected[members[0]["event_index"]] = len(members)
    collapsed = run(steps.collapse_repeats, rows)
    assert {row["event_index"]: row["run_length"] for row in collapsed} == expected
    assert sum(expected.values()) == len(rows)


@some
@given(events_strategy, st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_what_dropping_one_at_a_time_leaves(rows, min_user_events, min_item_events):
    kept = list(rows)
    while True:
        users = Counter(row["user_id"] for row in kept)
        items = Counter(row["item_id"] for row in kept)
        poor = [("user_id", user) for user, n in users.items() if n < min_user_events]
        poor += [("item_id", item) for item, n in items.items() if n < min_item_events]
        if not poor:
            break
        kept = [row for row in kept if row[poor[0][0]] != poor[0][1]]
    core = run(steps.k_core, rows, min_user_events=min_user_events, min_item_events=min_item_events)
    assert places(core) == places(kept)


@some
@given(events_strategy, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_core_tells_its_sizes_whether_or_not_its_events_were_tallied_before(rows, min_users, min_items, is_tallied):
    connection = duckdb.connect()
    events, engine = (
        nw.from_native(connection.from_arrow(pa.Table.from_pylist(rows, SCHEMA))),
        duckdb_engine(connection),
    )
    tally = steps.tally(events, engine) if is_tallied else None
    core = steps.k_core(events, min_user_events=min_users, min_item_events=min_items, engine=engine, tallied=tally)
    kept = core(events).collect("pyarrow").to_native().to_pylist()
    assert core.sizes == (len(kept), len({row["user_id"] for row in kept}), len({row["item_id"] for row in kept}))


@some
@given(events_strategy)
def test_no_item_of_a_user_goes_with_duplicates_or_repeats(rows):
    for kept in (
        run(steps.drop_duplicates, rows),
        run(steps.drop_near_duplicates, rows, gap_us=3),
        run(steps.collapse_repeats, rows),
    ):
        assert user_items(kept) == user_items(rows)


@some
@given(events_strategy, st.integers(0, 4))
def test_a_pause_begins_a_session(rows, gap):
    expected = {}
    for history in by_user(rows).values():
        session = 0
        for before, row in zip([history[0], *history], history, strict=False):
            session += row["timestamp_us"] - before["timestamp_us"] > gap
            expected[row["event_index"]] = session
    numbered = run(steps.number_sessions, rows, gap_us=gap)
    assert {row["event_index"]: row["session"] for row in numbered} == expected


@some
@given(events_strategy, st.sampled_from(["key", "first-time", "count"]))
def test_items_are_numbered_from_1_in_the_order_asked_for(rows, order):
    first, counts = {}, Counter(row["item_id"] for row in rows)
    for place, row in enumerate(in_order(rows)):
        first.setdefault(row["item_id"], place)
    keys = {"key": lambda item: item, "first-time": first.get, "count": lambda item: (-counts[item], first[item])}
    expected = {item: number for number, item in enumerate(sorted(counts, key=keys[order]), start=1)}
    connection = duckdb.connect()
    events = nw.from_native(connection.from_arrow(pa.Table.from_pylist(rows, SCHEMA)))
    numbers = steps.number_items(events, order).collect("pyarrow").to_native().to_pylist()
    assert {row["item_id"]: row["item"] for row in numbers} == expected


def test_the_first_reason_that_applies_is_given():
    rows = [
        ("a", 1, 5, None),
        (None, None, None, "no user"),
        ("", 1, 5, "no user"),
        ("a", None, None, "no item"),
        ("a", 1, None, "no time"),
        ("a", 1, 1, "too early"),
        ("a", 1, 2, None),
        ("a", 1, 9, None),
        ("a", 1, 10, "too late"),
    ]
    table = [dict(zip(SCHEMA.names, (*row[:3], place, None, None), strict=True)) for place, row in enumerate(rows)]
    judged = run(steps.with_reason, table, earliest_us=2, latest_us=9)
    assert [row["reason"] for row in judged] == [row[3] for row in rows]


@pytest.mark.parametrize(
    ("step", "options", "message"),
    [
        (steps.drop_near_duplicates, {"gap_us": 1}, "duplicate gap needs times"),
        (steps.drop_implausible_users, {"max_events_per_day": 1}, "events per day needs times"),
        (steps.number_sessions, {"gap_us": 1}, "session gap needs times"),
        (steps.with_reason, {"latest_us": 1}, "latest time needs times"),
        (steps.keep_at_least, {"column": "stars", "minimum": 1.0}, "no column 'stars'; they have user_id, item_id"),
    ],
)
def test_a_step_that_lacks_its_column_says_so(step, options, message):
    connection = duckdb.connect()
    events = connection.from_arrow(pa.table({"user_id": [1], "item_id": [2], "event_index": [0]}))
    if step in NEED_AN_ENGINE:
        options = {**options, "engine": duckdb_engine(connection)}
    with pytest.raises(InputError, match=message):
        step(nw.from_native(events), **options)


def test_without_times_the_place_in_the_log_orders_events():
    connection = duckdb.connect()
    table = pa.table({"user_id": [1, 1, 1, 1], "item_id": [7, 7, 5, 7], "event_index": [0, 1, 2, 3]})
    events = nw.from_native(connection.from_arrow(table))
    collapsed = steps.collapse_repeats(events).sort("event_index").collect("pyarrow").to_native().to_pydict()
    assert (collapsed["item_id"], collapsed["run_length"]) == ([7, 5, 7], [2, 1, 1])
    numbers = steps.number_items(events, "first-time").sort("item").collect("pyarrow").to_native().to_pydict()
    assert numbers == {"item_id": [7, 5], "item": [1, 2]}
    assert steps.drop_duplicates(events) is events


def test_a_session_as_a_user_has_its_place_in_its_key():
    connection = duckdb.connect()
    table = pa.table({"user_id": ["ann", "ann", "a:1"], "item_id": [1, 2, 3], "session": [0, 1, 0]})
    users = steps.sessions_as_users(nw.from_native(connection.from_arrow(table)))
    assert sorted(users.collect("pyarrow").to_native()["user_id"].to_pylist()) == ["a:1:0", "ann:0", "ann:1"]
