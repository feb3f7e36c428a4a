import random
import subprocess
import sys

import duckdb
import narwhals as nw
import pyarrow as pa
import pytest

from seqrec.data.events import prepare, sequences
from seqrec.data.sources import Source
from seqrec.types import InputError


def a_source(users, items, times=None, titles=None):
    columns = {"user_id": users, "item_id": items, "event_index": list(range(len(items)))}
    if times is not None:
        columns["timestamp_us"] = times
    connection = duckdb.connect()
    events = nw.from_native(connection.from_arrow(pa.table(columns)))
    if titles is not None:
        titles = pa.table({"item_id": list(titles), "title": list(titles.values())})
    return Source("test", events, titles, connection)


def histories(store):
    """user key -> item keys, in order."""
    return {
        key: [store.item_keys[item - 1] for item in store.items[store.offsets[u] : store.offsets[u + 1]]]
        for u, key in enumerate(store.user_keys.tolist())
    }


def test_ids_follow_the_order_of_the_keys():
    store = sequences(a_source([30, 4, 30], ["pear", "Zebra", "apple"]))
    assert store.item_keys.tolist() == ["Zebra", "apple", "pear"]
    assert store.user_keys.tolist() == [4, 30]
    assert store.items.tolist() == [1, 3, 2]


def test_events_are_in_time_order_and_ties_keep_the_order_of_the_file():
    store = sequences(a_source([1, 1, 1, 1], [40, 30, 20, 10], [5, 3, 5, 3]))
    assert histories(store) == {1: [30, 10, 40, 20]}


def test_without_times_the_order_of_the_file_stays():
    store = sequences(a_source([2, 1, 2, 1], [9, 8, 7, 6]))
    assert histories(store) == {1: [8, 6], 2: [9, 7]}


def test_agrees_with_sorting_in_plain_python():
    draw = random.Random(0)
    rows = [(draw.randrange(50), draw.randrange(300), draw.randrange(20)) for _ in range(5000)]
    users, items, times = zip(*rows, strict=True)
    expected = {
        user: [item for u, item, _ in sorted(rows, key=lambda row: row[2]) if u == user] for user in sorted(set(users))
    }
    assert histories(sequences(a_source(users, items, times))) == expected


def test_repeated_events_all_stay():
    assert sequences(a_source([1, 1, 1], [5, 5, 5], [0, 0, 0])).items.tolist() == [1, 1, 1]


def test_events_that_lack_an_id_or_their_time_are_dropped_and_counted(caplog):
    store = sequences(a_source([1, None, 1, 1], [5, 6, None, 7], [1, 1, 1, None]))
    assert histories(store) == {1: [5]}
    assert store.item_keys.tolist() == [5]
    assert "dropped 3 of 4 events" in caplog.text


def test_no_complete_event_is_refused():
    with pytest.raises(InputError, match="each of 2 events lacks"):
        sequences(a_source([1, None], [None, 2]))


def test_titles_go_to_their_items_and_unknown_ones_are_empty():
    store = sequences(a_source([1, 1, 1], [9, 3, 6], titles={3: "three", 9: "nine", 12: "twelve"}))
    assert store.item_keys.tolist() == [3, 6, 9]
    assert store.titles.tolist() == ["three", "", "nine"]


def test_prepare_leaves_the_same_store_on_disk(tmp_path):
    source = a_source([2, 1, 2], ["b", "a", "c"], [3, 2, 1])
    assert prepare(source, tmp_path / "store").content_hash == sequences(source).content_hash


def test_data_preparation_does_not_import_jax():
    code = (
        "import sys, seqrec.data.events, seqrec.data.splits, seqrec.data.sources; "
        "sys.exit(any(name.split('.')[0] in ('jax', 'jaxlib', 'flax') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
