"""Whole preparations: what they leave on disk, what they count, and what they refuse."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.event_tables import ReadOptions
from seqrec.data.events import event_column
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import Columns, read_source
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import leave_last_out
from seqrec.data.store import open_store, read_preparation
from seqrec.data.tables.rows import Limits
from seqrec.types import InputError

EVENTS = """user_id,item_id,timestamp,rating
u1,a,10,5
u1,b,20,1
u1,b,20,2
,a,30,3
u1,c,30,4
u1,a,40,
u2,b,15,5
u2,,16,5
u2,c,25,2
u2,a,35,3
u3,a,,3
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(EVENTS)
    return path


def source_of(log, **options):
    return read_source("events", log, time_unit="s", extra=("rating",), **options)


def histories(store):
    return {
        key: store.item_keys[store.items[store.offsets[u] : store.offsets[u + 1]] - 1].tolist()
        for u, key in enumerate(store.user_keys.tolist())
    }


def test_a_log_becomes_a_store_with_its_counts_and_its_rejected_events(log, tmp_path):
    prepared = prepare_store(source_of(log), tmp_path / "store", StepsConfig(), SplitConfig())
    store = open_store(tmp_path / "store")
    assert histories(store) == {"u1": ["a", "b", "c", "a"], "u2": ["b", "c", "a"]}
    np.testing.assert_array_equal(store.columns["rating"], [5, 1, 4, np.nan, 5, 2, 3])
    assert store.columns["timestamp_us"].tolist() == [t * 1_000_000 for t in (10, 20, 30, 40, 15, 25, 35)]
    # 11 events, of 3 users and 3 items; 3 lack something; 1 is a duplicate.
    assert [tuple(count) for count in prepared.counts] == [
        ("found", 11, 3, 3, 0),
        ("valid", 8, 2, 3, 3),
        ("duplicates", 7, 2, 3, 1),
    ]
    rejected = pq.read_table(tmp_path / "store" / "rejected.parquet")
    assert rejected["event_index"].to_pylist() == [3, 7, 10]
    assert rejected["reason"].to_pylist() == ["no user", "no item", "no time"]
    assert rejected["rating"].to_pylist() == [3, 5, 3]


def test_the_manifest_says_how_the_store_was_made(log, tmp_path):
    config, split = StepsConfig(min_user_events=2, item_order="count"), SplitConfig()
    prepare_store(source_of(log), tmp_path / "store", config, split)
    preparation = read_preparation(tmp_path / "store")
    assert preparation["steps"] == dataclasses.asdict(config)
    assert preparation["counts"][-1] == {"step": "2-1-core", "n_events": 7, "n_users": 2, "n_items": 3, "n_removed": 0}
    assert preparation["split"]["hash"] == leave_last_out(open_store(tmp_path / "store")).content_hash
    assert "split" in json.loads((tmp_path / "store" / "manifest.json").read_text())["preparation"]


def test_a_temporal_split_of_a_prepared_store_needs_no_more_than_its_times(log, tmp_path):
    config = SplitConfig(split="temporal", valid_start="1970-01-01T00:00:25", test_start="1970-01-01T00:00:35")
    store = prepare_store(source_of(log), tmp_path / "store", StepsConfig(), config).store
    split = split_store(store, config)
    # u1 trains on a b, is asked for c at 30 and a at 40; u2 trains on b, is asked for c at 25 and a at 35.
    assert split.train_stop.tolist() == [2, 5]
    assert (split.valid.tolist(), split.test.tolist()) == ([2, 5], [3, 6])


def test_each_step_is_reported_when_it_is_done(log, tmp_path):
    reports = []
    prepared = prepare_store(source_of(log), tmp_path / "store", StepsConfig(), SplitConfig(), report=reports.append)
    assert reports == prepared.counts


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            StepsConfig(latest="1970-01-01"),
            "'valid' leaves none of 11 events of 3 users and 3 items; .*latest=1970-01-01",
        ),
        (StepsConfig(min_column="rating", min_value=9.0), "'rating at least 9' leaves none of 7 .*lower min_value=9"),
        (StepsConfig(min_user_events=5), "'5-1-core' leaves none of 7 events .* lower min_user_events=5"),
        (StepsConfig(max_events_per_day=2), "'implausible users' leaves none .* max_events_per_day=2"),
    ],
)
def test_a_step_that_leaves_nothing_is_named_with_its_remedy(log, tmp_path, config, message):
    with pytest.raises(InputError, match=message) as caught:
        prepare_store(source_of(log), tmp_path / "store", config, SplitConfig())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u9,a,12,good", "log.csv:13: rating 'good' is not a number"),
        ("u9,a,noon,1", "log.csv:13: time 'noon' is not a number"),
        ("u9,a,12", "log.csv:13: 'u9,a,12' has 3 fields, 4 are due"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(log, row, message):
    log.write_text(EVENTS + row + "\n")
    with pytest.raises(InputError, match=message):
        source_of(log)


def test_names_of_files_and_columns_never_reach_sql_unquoted(tmp_path):
    name = "x\"; DROP TABLE events; --'"
    path = tmp_path / "lo'g; [1]*.csv"
    path.write_text('a b,it;em,"' + name.replace('"', '""') + '"\n1,2,0.5\n1,3,7\n1,2,1\n')
    source = read_source("events", path, columns=Columns("a b", "it;em", "none"), extra=(name,))
    config = StepsConfig(min_column=name, min_value=0.5, min_user_events=2)
    store = prepare_store(source, tmp_path / "store'; --", config, SplitConfig()).store
    assert store.columns[name].tolist() == [0.5, 7.0, 1.0]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("rating", "RATING"), "given twice"),
        (("User_ID",), "is one of user_id"),
        (("stars",), "no column 'stars'; it has 'user_id'"),
    ],
)
def test_further_columns_that_cannot_be_told_apart_are_refused(log, extra, message):
    with pytest.raises(InputError, match=message):
        read_source("events", log, time_unit="s", extra=extra)


def test_a_memory_limit_and_a_directory_to_spill_to_reach_the_database(log, tmp_path):
    limits = Limits(memory_limit="100MB", spill_directory=tmp_path / "spill", n_threads=1)
    source = source_of(log, options=ReadOptions(limits=limits))
    settings = "current_setting('memory_limit'), current_setting('threads'), current_setting('temp_directory')"
    memory, threads, directory = source.connection.execute(f"SELECT {settings}").fetchall()[0]
    assert (memory, threads) == ("95.3 MiB", 1)
    assert directory.startswith(str(tmp_path / "spill"))


@pytest.mark.parametrize("limit", ["4", "much", "4GB; DROP TABLE x", "-1GB"])
def test_a_memory_limit_is_a_number_with_its_unit(limit):
    with pytest.raises(ValueError, match="try memory_limit=4GB"):
        Limits(memory_limit=limit)


def test_more_events_than_the_memory_limit_are_spilt_and_come_out_the_same(tmp_path):
    n_events = 300_000
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "user_id": random.integers(20_000, size=n_events).astype(str),
            "item_id": random.integers(3_000, size=n_events).astype(str),
            "timestamp": 1_600_000_000 + random.integers(10**6, size=n_events),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    hashes = [
        prepare_store(
            read_source("events", tmp_path / "log.parquet", options=ReadOptions(limits=limits)),
            tmp_path / "store",
            StepsConfig(min_user_events=5, min_item_events=5),
            SplitConfig(),
        ).store.content_hash
        for limits in (Limits(), Limits(memory_limit="60MB", spill_directory=tmp_path / "spill", n_threads=1))
    ]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_events_per_day": 0}, "max_events_per_day=0 is below 1"),
        ({"session_gap_seconds": -1.0}, "session_gap_seconds=-1.0 is outside"),
        ({"duplicate_gap_seconds": float("nan")}, "duplicate_gap_seconds=nan is not a finite number"),
        ({"earliest": "soon"}, "'soon' is not an ISO date"),
        ({"min_column": "rating"}, "give both or neither"),
        ({"min_share_of": "length"}, "without min_column"),
    ],
)
def test_steps_that_make_no_sense_are_refused_early(fields, message):
    with pytest.raises(ValueError, match=message):
        StepsConfig(**fields)


def test_missing_values_are_nan_and_integers_that_floats_cannot_hold_are_refused():
    np.testing.assert_array_equal(event_column("a", pa.chunked_array([[1, None]])), [1.0, np.nan])
    np.testing.assert_array_equal(event_column("a", pa.chunked_array([[True, None]])), [1.0, np.nan])
    assert event_column("a", pa.chunked_array([[1, 2]])).dtype == np.int64
    with pytest.raises(InputError, match=r"beyond 2\^53"):
        event_column("a", pa.chunked_array([[2**53 + 1, None]]))


SESSIONS = """user_id,item_id,timestamp
u1,a,0
u1,b,10
u2,a,20
u1,c,100
u1,a,110
u1,b,120
u2,b,200
u1,d,300
"""


def test_each_session_may_be_a_sequence_with_thresholds_of_its_own(log, tmp_path):
    log.write_text(SESSIONS)
    config = StepsConfig(session_gap_seconds=50.0, sessions_as_users=True, min_user_events=2)
    split = SplitConfig(split="users", valid_share=0.4, test_share=0.4, split_seed=3)
    prepared = prepare_store(read_source("events", log, time_unit="s"), tmp_path / "store", config, split)
    # u1 has sessions of 2, 3 and 1 events, u2 two of one: those of one are no longer asked to predict anything.
    assert histories(prepared.store) == {"u1:0": ["a", "b"], "u1:1": ["c", "a", "b"]}
    assert [(count.step, count.n_users, count.n_removed) for count in prepared.counts[-2:]] == [
        ("sessions", 5, 0),
        ("2-1-core", 2, 3),
    ]
    assert "session" not in prepared.store.columns
    with pytest.raises(ValueError, match="sessions_as_users without session_gap_seconds"):
        StepsConfig(sessions_as_users=True)


def test_attributes_of_the_source_stand_in_the_store(log, tmp_path):
    known = pa.table({"item_id": ["c", "a", "unheard"], "attributes": [["rock", "live"], [], ["jazz"]]})
    source = source_of(log)._replace(attributes=known)
    store = prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig()).store
    assert store.item_keys.tolist() == ["a", "b", "c"]
    assert store.attributes.to_pylist() == [[], [], ["rock", "live"]]
    assert pq.read_table(tmp_path / "store" / "items.parquet")["n_events"].to_pylist() == [3, 2, 2]


def test_a_parquet_file_that_is_damaged_under_a_preparation_is_refused_in_one_line(tmp_path):
    columns = {"user_id": np.arange(10_000) % 97, "item_id": np.arange(10_000) % 89, "timestamp": np.arange(10_000)}
    pq.write_table(pa.table(columns), tmp_path / "log.parquet", row_group_size=1000, use_dictionary=False)
    source = read_source("events", tmp_path / "log.parquet", time_unit="s")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 5000] = bytes(5000)
    (tmp_path / "log.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"the events cannot be read .*check that their file is whole") as caught:
        prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"]
