"""A store of events in memory: the same as the preparation of a table makes of them."""

import numpy as np
import pandas as pd
import pytest

from seqrec.data.event_arrays import store_from_events
from seqrec.data.events import prepare, sequences
from seqrec.data.sources import Columns, read_source
from seqrec.types import InputError


@pytest.fixture(scope="module")
def frame():
    """Events in no order, of which several share a time only where they are of different users."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user": random.choice(["zoe", "ann", "bob"], 60),
            "item": random.integers(100, 110, 60),
            "time": 1_700_000_000 + random.permutation(60),
        }
    )


def test_it_is_the_store_that_preparation_makes(frame, tmp_path):
    frame.to_csv(tmp_path / "events.csv", index=False)
    store = store_from_events(frame["user"], frame["item"], frame["time"])
    source = read_source("events", tmp_path / "events.csv", columns=Columns("user", "item", "time"), time_unit="s")
    prepared = prepare(source, tmp_path / "store")
    for name in ("items", "offsets", "item_keys", "user_keys"):
        np.testing.assert_array_equal(getattr(store, name), getattr(prepared, name))


def test_dates_and_seconds_are_the_same_times(frame):
    dates = pd.to_datetime(frame["time"], unit="s")
    stores = [store_from_events(frame["user"], frame["item"], times) for times in (dates, frame["time"])]
    assert stores[0].content_hash == stores[1].content_hash
    assert stores[0].columns["timestamp_us"].min() == 1_700_000_000_000_000


@pytest.mark.parametrize("text", [False, True])
def test_a_frame_sorted_by_user_and_item_gives_the_store_of_any_order_and_that_of_a_file(frame, text):
    frame = frame.assign(time=1_700_000_000 + np.arange(60) % 3)
    if text:
        frame["user"], frame["item"] = (frame[name].map("{} ü".format) for name in ("user", "item"))
    ordered = frame.sort_values(["user", "item"], kind="stable")
    source = read_source("events", ordered, columns=Columns("user", "item", "time"), time_unit="s")
    assert source.ties.order == "hash"
    for table in (ordered, ordered.iloc[::-1]):
        store = store_from_events(table["user"], table["item"], table["time"])
        np.testing.assert_array_equal(store.items, sequences(source).items)
    # As drawn, the frame is in no order of its ids, and keeps its own.
    kept = store_from_events(frame["user"], frame["item"], frame["time"])
    by_time = frame.sort_values(["user", "time"], kind="stable")
    assert kept.item_keys[kept.items - 1].tolist() == by_time["item"].tolist()


def test_events_of_one_time_keep_the_order_of_their_rows():
    store = store_from_events([1, 1, 1, 1], [7, 5, 9, 5], [4, 3, 3, 3])
    assert store.item_keys[store.items - 1].tolist() == [5, 9, 5, 7]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1, 2], [1], [1, 2]), "2 users, 1 items and 2 times"),
        (([], [], []), "users has shape"),
        ((["ann", None], [1, 2], [1, 2]), "users are object and not all integers or texts"),
        (([1, 2], [1.0, np.nan], [1, 2]), "items are float64 and not all integers or texts"),
        (([1, 2], [1, 2], [1.0, np.nan]), "times are float64; give dates"),
        (([1, 2], [1, 2], ["2026-01-01", "later"]), "times are <U10; give dates"),
        (([1], [1], np.array(["NaT"], "datetime64[s]")), "none missing"),
        (([1], [1], np.array([1.6e9], np.float32)), "times are float32"),
        (([1], [1], [1_600_000_000_000]), "time 1600000000000 is outside the years 1900 to 2200"),
        (([1], [1], [2**63 - 1]), "time 9223372036854775807 is outside"),
        (([1], [1], np.array(["2300-01-01"], "datetime64[ms]")), "time 2300-01-01T00:00:00.000 is outside"),
        ((["ann", "nan"], [1, 2], [1, 2]), "users hold 'nan', which means a missing value"),
        ((["ann", "bob"], ["tea", "  "], [1, 2]), "items hold '  ', which means a missing value"),
        ((np.array([2**63], np.uint64), [1], [1]), "users go to 9223372036854775808, beyond 64 bits"),
    ],
    ids=[
        *("lengths", "empty", "no user", "no item", "no time", "texts", "no date", "float32", "milliseconds"),
        *("overflow", "far date", "word", "blank", "uint64"),
    ],
)
def test_what_is_no_event_is_refused(columns, message):
    with pytest.raises(InputError, match=message):
        store_from_events(*columns)
