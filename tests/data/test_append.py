"""A store that grows by days against one that is made of the whole log at once."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data import store as store_module
from seqrec.data.append import append_events
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.ragged import session_numbers
from seqrec.data.sources import Columns, read_source
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.store import open_store, read_preparation, sequence_store
from seqrec.types import InputError

FIRST = [("b", "x", 10), ("a", "y", 20), ("b", "y", 30), ("b", "z", 40), ("a", "x", 50), ("a", "z", 60)]


def source_of(tmp_path, rows, name="day.csv", header="user_id,item_id,timestamp"):
    path = tmp_path / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return read_source("events", path, time_unit="s", extra=("rating",) if "rating" in header else ())


def first_store(tmp_path, rows=FIRST, config=None, **options):
    source = source_of(tmp_path, rows, **options)
    return prepare_store(source, tmp_path / "store", config or StepsConfig(), SplitConfig()).store


def keyed(store):
    """user key -> [(item key, seconds), ...], in order."""
    return {
        key: [
            (store.item_keys[store.items[place] - 1], int(store.columns["timestamp_us"][place]) // 10**6)
            for place in range(store.offsets[u], store.offsets[u + 1])
        ]
        for u, key in enumerate(store.user_keys.tolist())
    }


def test_new_users_and_items_follow_the_old_and_are_counted(tmp_path):
    before = first_store(tmp_path)
    day = [("c", "new", 70), ("b", "x", 80), ("a", "newer", 90), ("", "x", 95)]
    appended = append_events(source_of(tmp_path, day), tmp_path / "store")
    assert (appended.n_new_events, appended.n_new_users, appended.n_new_items) == (3, 1, 2)
    assert appended.store.user_keys.tolist() == [*before.user_keys.tolist(), "c"]
    assert appended.store.item_keys.tolist() == [*before.item_keys.tolist(), "new", "newer"]
    assert keyed(appended.store) == {
        "a": [("y", 20), ("x", 50), ("z", 60), ("newer", 90)],
        "b": [("x", 10), ("y", 30), ("z", 40), ("x", 80)],
        "c": [("new", 70)],
    }
    assert open_store(tmp_path / "store").content_hash == appended.store.content_hash
    assert pq.read_table(tmp_path / "store" / "shards" / "000001" / "rejected.parquet")["reason"].to_pylist() == [
        "no user"
    ]
    preparation = read_preparation(tmp_path / "store")
    assert preparation["appended"][0]["n_new_users"] == 1
    assert preparation["split"]["hash"] == split_store(appended.store, SplitConfig()).content_hash


rows_strategy = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("uvwxyz"), st.integers(1, 12)), min_size=1, max_size=25
)


@examples(5)
@given(rows_strategy, rows_strategy, st.sampled_from([None, 2.0]), st.booleans())
def test_two_days_are_what_their_log_is(tmp_path_factory, first, second, gap, drop_duplicates):
    tmp_path = tmp_path_factory.mktemp("days")
    first = [("a", "u", 0), ("a", "v", 0.5), ("a", "w", 0.75), *first]
    config = StepsConfig(session_gap_seconds=gap, drop_duplicates=drop_duplicates)
    before = first_store(tmp_path, first, config)
    appended = append_events(source_of(tmp_path, second), tmp_path / "store").store
    whole = prepare_store(source_of(tmp_path, first + second), tmp_path / "whole", config, SplitConfig()).store
    assert appended.user_keys[: before.n_users].tolist() == before.user_keys.tolist()
    assert appended.item_keys[: before.n_items].tolist() == before.item_keys.tolist()
    assert keyed(appended) == keyed(whole)
    if gap is not None:
        users = {key: place for place, key in enumerate(whole.user_keys.tolist())}
        for u, key in enumerate(appended.user_keys.tolist()):
            theirs = whole.columns["session"][whole.offsets[users[key]] : whole.offsets[users[key] + 1]]
            ours = appended.columns["session"][appended.offsets[u] : appended.offsets[u + 1]]
            np.testing.assert_array_equal(ours, theirs)


def test_a_day_that_is_appended_twice_changes_nothing(tmp_path):
    first_store(tmp_path)
    day = [("c", "new", 70), ("b", "x", 80), ("b", "x", 80)]
    once = append_events(source_of(tmp_path, day), tmp_path / "store")
    again = append_events(source_of(tmp_path, day), tmp_path / "store")
    assert (once.n_new_events, again.n_new_events, again.n_duplicates) == (2, 0, 2)
    assert again.store.content_hash == once.store.content_hash


def test_a_near_duplicate_of_a_stored_event_is_left_out(tmp_path):
    first_store(tmp_path, config=StepsConfig(duplicate_gap_seconds=5.0))
    appended = append_events(source_of(tmp_path, [("a", "z", 65), ("b", "z", 46), ("a", "z", 71)]), tmp_path / "store")
    # z of a is 5 seconds after the stored one, z of b 6 seconds; the last is 6 after the one left out.
    assert (appended.n_duplicates, appended.n_new_events) == (1, 2)


def test_columns_are_carried_on_and_must_be_given(tmp_path):
    header = "user_id,item_id,timestamp,rating"
    first_store(tmp_path, [(*row, 1.5) for row in FIRST], header=header)
    with pytest.raises(InputError, match=r"no column 'rating', which .*store has"):
        append_events(source_of(tmp_path, FIRST), tmp_path / "store")
    grown = append_events(source_of(tmp_path, [("b", "x", 11, 4)], header=header), tmp_path / "store").store
    np.testing.assert_array_equal(grown.columns["rating"], [1.5, 1.5, 1.5, 1.5, 4, 1.5, 1.5])


def test_new_items_bring_their_attributes(tmp_path):
    def attributes(**known):
        return pa.table({"item_id": list(known), "attributes": list(known.values())})

    source = source_of(tmp_path, FIRST)._replace(attributes=attributes(x=["rock"]))
    prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig())
    day = source_of(tmp_path, [("c", "new", 70), ("c", "newer", 71)])
    grown = append_events(day._replace(attributes=attributes(x=["pop"], new=["jazz", "live"])), tmp_path / "store")
    # What is known of an item stays as it was.
    assert grown.store.attributes.to_pylist() == [["rock"], [], [], ["jazz", "live"], []]
    again = append_events(source_of(tmp_path, [("c", "last", 80)]), tmp_path / "store")
    assert again.store.attributes.to_pylist() == [*grown.store.attributes.to_pylist(), []]


def test_what_cannot_go_on_is_refused(tmp_path):
    first_store(tmp_path, config=StepsConfig(collapse_repeats=True))
    with pytest.raises(InputError, match="prepared with collapse_repeats"):
        append_events(source_of(tmp_path, FIRST), tmp_path / "store")
    first_store(tmp_path, config=StepsConfig(session_gap_seconds=1e6, sessions_as_users=True))
    with pytest.raises(InputError, match="prepared with sessions_as_users"):
        append_events(source_of(tmp_path, FIRST), tmp_path / "store")
    first_store(tmp_path)
    untimed = read_source("events", tmp_path / "day.csv", columns=Columns(time="none"))
    with pytest.raises(InputError, match="has no times, which the store has"):
        append_events(untimed, tmp_path / "store")
    with pytest.raises(InputError, match="does not exist"):
        append_events(untimed, tmp_path / "nowhere")


def test_ids_of_another_kind_are_refused_or_read_as_text(tmp_path):
    first_store(tmp_path, [(1, 7, 10), (1, 8, 20), (1, 7, 30)])
    with pytest.raises(InputError, match="users are integers in the store and text such as 'x1'"):
        append_events(source_of(tmp_path, [("x1", 7, 40)]), tmp_path / "store")
    first_store(tmp_path, [("u1", "007", 10), ("u1", "8", 20), ("u1", "7", 30)])
    appended = append_events(source_of(tmp_path, [("u1", 8, 40)]), tmp_path / "store")
    assert appended.n_new_items == 0


@pytest.mark.parametrize("call", ["save", "write_table", "rename", "replace"])
def test_a_run_that_dies_while_it_writes_leaves_the_store_as_it_was(tmp_path, monkeypatch, call):
    before = first_store(tmp_path)

    class KilledError(BaseException):
        pass

    def die(*args, **kwargs):
        raise KilledError

    module = {"save": store_module.np, "write_table": store_module.pq, "rename": os, "replace": os}[call]
    with monkeypatch.context() as patch:
        patch.setattr(module, call, die)
        with pytest.raises(KilledError):
            append_events(source_of(tmp_path, [("c", "new", 70)]), tmp_path / "store")
    after = open_store(tmp_path / "store")
    assert after.content_hash == before.content_hash
    assert keyed(after) == keyed(before)


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5), st.integers(0, 4))
def test_sessions_are_those_of_a_walk_over_the_events(times, gap):
    times = [sorted(history) for history in times]
    expected = []
    for history in times:
        session = 0
        for place, time in enumerate(history):
            session += place > 0 and time - history[place - 1] > gap
            expected.append(session)
    flat = np.array([time for history in times for time in history], np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in times])]).astype(np.int64)
    assert session_numbers(flat, offsets, gap_us=gap).tolist() == expected


def test_codes_of_texts_keep_their_meaning(tmp_path):
    (tmp_path / "first.csv").write_text("user_id,item_id,device\n1,1,tv\n1,2,car\n1,3,tv\n")
    (tmp_path / "next.csv").write_text("user_id,item_id,device\n2,1,bike\n2,2,tv\n2,3,\n")
    columns = Columns("user_id", "item_id", "none")
    source = read_source("events", tmp_path / "first.csv", columns=columns, categories={"device": ()})
    prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig())
    fresh = read_source("events", tmp_path / "next.csv", columns=columns, categories={"device": ()})
    with pytest.raises(InputError, match="has other codes for 'device'"):
        append_events(fresh, tmp_path / "store")
    known = read_preparation(tmp_path / "store")["categories"]
    assert known == {"device": ["car", "tv"]}
    fresh = read_source("events", tmp_path / "next.csv", columns=columns, categories=known)
    store = append_events(fresh, tmp_path / "store").store
    assert read_preparation(tmp_path / "store")["categories"] == {"device": ["car", "tv", "bike"]}
    assert store.columns["device"].tolist() == [1, 0, 1, 2, 1, -1]


def test_a_store_that_grew_opens_as_it_was_before_each_append(tmp_path):
    first_store(tmp_path)
    # The second day has a late event, before stored ones; the third a user and an item that are new.
    days = [[("b", "x", 80)], [("a", "z", 15), ("b", "y", 90)], [("c", "new", 70), ("a", "new", 25)]]
    stores = [keyed_copy(open_store(tmp_path / "store"))]
    for day in days:
        append_events(source_of(tmp_path, day), tmp_path / "store")
        stores.append(keyed_copy(open_store(tmp_path / "store")))
    assert len({store.content_hash for store in stores}) == 4
    for store in stores:
        opened = open_store(tmp_path / "store", as_of=store.content_hash, verify=True)
        assert opened.content_hash == store.content_hash
        assert keyed(opened) == keyed(store)
        assert split_store(opened, SplitConfig()).content_hash == split_store(store, SplitConfig()).content_hash
    with pytest.raises(InputError, match="never held the events with the content hash 123"):
        open_store(tmp_path / "store", as_of="123")


def keyed_copy(store):
    """The store in memory: its files give way to those of the next append."""
    return store._replace(items=store.items.copy(), columns={name: each.copy() for name, each in store.columns.items()})


@examples(5)
@given(rows_strategy, st.lists(rows_strategy, min_size=1, max_size=3), st.sampled_from([None, 2.0]))
def test_any_history_of_appends_can_be_opened(tmp_path_factory, first, days, gap):
    tmp_path = tmp_path_factory.mktemp("history")
    first = [("a", "u", 0), ("a", "v", 0.5), ("a", "w", 0.75), *first]
    hashes = [first_store(tmp_path, first, StepsConfig(session_gap_seconds=gap)).content_hash]
    hashes += [append_events(source_of(tmp_path, day), tmp_path / "store").store.content_hash for day in days]
    for content_hash in hashes:
        assert open_store(tmp_path / "store", as_of=content_hash, verify=True).content_hash == content_hash


def files_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_an_append_is_a_shard_and_touches_nothing_but_the_manifest(tmp_path):
    store = tmp_path / "store"
    first_store(tmp_path)
    before = {name: content for name, content in files_of(store).items() if not name.startswith("splits/")}
    append_events(source_of(tmp_path, [("b", "x", 80), ("c", "new", 70)]), store)
    after = files_of(store)
    changed = {name for name, content in after.items() if before.get(name) != content}
    assert {name.rpartition("/")[0].partition("/")[0] for name in changed} == {"", "shards", "splits"}
    assert {name for name in changed if "/" not in name} == {"manifest.json"}
    assert before.keys() <= after.keys()
    # In the shard lie the histories of b, whole, and of c.
    shard = store / "shards" / "000001"
    assert np.load(shard / "rows.npy").tolist() == [1, 2]
    assert np.diff(np.load(shard / "offsets.npy")).tolist() == [4, 1]
    assert pq.read_table(shard / "users.parquet")["key"].to_pylist() == ["c"]
    assert pq.read_table(shard / "items.parquet").to_pylist() == [{"key": "new", "n_events": 1}]


def test_appended_stores_hold_what_the_same_arrays_do_in_one_piece(tmp_path):
    first_store(tmp_path)
    for day in ([("b", "x", 80), ("a", "z", 15)], [("c", "new", 70), ("b", "new", 5)], [("a", "x", 99)]):
        grown = append_events(source_of(tmp_path, day), tmp_path / "store").store
        arrays = [np.asarray(grown.items), grown.offsets, grown.item_keys, grown.user_keys]
        columns = {name: np.asarray(values) for name, values in grown.columns.items()}
        assert sequence_store(*arrays, columns=columns).content_hash == grown.content_hash
        assert open_store(tmp_path / "store", verify=True).content_hash == grown.content_hash


def test_what_a_killed_append_has_left_is_removed_by_the_next(tmp_path):
    first_store(tmp_path)
    for name in ("000001", ".000001.abcdefgh"):
        (tmp_path / "store" / "shards" / name).mkdir(parents=True)
        (tmp_path / "store" / "shards" / name / "items.npy").write_bytes(b"half of")
    assert open_store(tmp_path / "store", verify=True).n_events == len(FIRST)
    append_events(source_of(tmp_path, [("c", "new", 70)]), tmp_path / "store")
    assert [path.name for path in (tmp_path / "store" / "shards").iterdir()] == ["000001"]
    assert open_store(tmp_path / "store", verify=True).n_events == len(FIRST) + 1


def test_a_damaged_shard_is_refused_and_the_store_before_it_opens(tmp_path):
    before = first_store(tmp_path).content_hash
    append_events(source_of(tmp_path, [("a", "z", 15), ("b", "y", 90)]), tmp_path / "store")
    file = tmp_path / "store" / "shards" / "000001" / "items.npy"
    np.save(file, np.ones_like(np.load(file)))
    with pytest.raises(InputError, match="do not have its content hash"):
        open_store(tmp_path / "store", verify=True)
    np.save(file.with_name("rows.npy"), np.array([1, 0]))
    with pytest.raises(InputError, match=r"rows.npy does not name 2 of 2 users and then new ones"):
        open_store(tmp_path / "store")
    assert open_store(tmp_path / "store", as_of=before, verify=True).n_events == len(FIRST)


def test_a_store_that_grew_before_there_were_shards_opens_as_it_was(tmp_path):
    """Appends rewrote all arrays then, and noted which append each event came with."""
    first = [("a", "u", 10), ("a", "v", 30), ("a", "v", 35), ("b", "u", 10)]
    day = [("a", "w", 20), ("c", "u", 40)]
    before, grown = (
        prepare_store(source_of(tmp_path, rows), tmp_path / name, StepsConfig(), SplitConfig()).store
        for name, rows in (("store", first), ("grown", [*first, *day]))
    )
    # What such an append left: the order of the keys is that of the days, and a's new event lies between old ones.
    sizes = {name: getattr(before, name) for name in ("content_hash", "n_users", "n_items", "n_events")}
    version = {**sizes, "columns": {"timestamp_us": "<i8"}, "session_gap_us": None, "n_categories": {}}
    manifest = json.loads((tmp_path / "grown" / "manifest.json").read_text())
    (tmp_path / "grown" / "manifest.json").write_text(json.dumps(manifest | {"versions": [version]}))
    np.save(tmp_path / "grown" / "event_versions.npy", np.array([0, 1, 0, 0, 0, 1], np.int32))
    hashes = [before.content_hash, grown.content_hash]
    hashes += [append_events(source_of(tmp_path, [("b", "w", 50)]), tmp_path / "grown").store.content_hash]
    for content_hash, n_events in zip(hashes, (4, 6, 7), strict=True):
        opened = open_store(tmp_path / "grown", as_of=content_hash, verify=True)
        assert (opened.content_hash, opened.n_events) == (content_hash, n_events)
    (tmp_path / "grown" / "event_versions.npy").unlink()
    with pytest.raises(InputError, match=r"event_versions.npy is missing"):
        open_store(tmp_path / "grown", as_of=hashes[0])


def test_categories_are_those_that_the_store_had(tmp_path):
    columns = Columns("user_id", "item_id", "none")
    (tmp_path / "first.csv").write_text("user_id,item_id,device\n1,1,tv\n1,2,car\n1,3,tv\n")
    (tmp_path / "next.csv").write_text("user_id,item_id,device\n2,1,bike\n2,2,tv\n2,3,\n")
    source = read_source("events", tmp_path / "first.csv", columns=columns, categories={"device": ()})
    before = prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig()).store.content_hash
    known = read_preparation(tmp_path / "store")["categories"]
    fresh = read_source("events", tmp_path / "next.csv", columns=columns, categories=known)
    after = append_events(fresh, tmp_path / "store").store.content_hash
    assert read_preparation(tmp_path / "store", as_of=before)["categories"] == known
    assert read_preparation(tmp_path / "store", as_of=after)["categories"] == {"device": ["car", "tv", "bike"]}


def test_of_two_appends_at_once_one_is_refused_and_no_day_is_lost(tmp_path):
    first_store(tmp_path)
    days = [[("c", "new", 70)], [("d", "newer", 71)]]
    sources = [source_of(tmp_path, day, name=f"{number}.csv") for number, day in enumerate(days)]
    refused = []

    def meanwhile(count):
        if not refused:
            refused.append("")
            with pytest.raises(InputError, match="store is in use by another process") as caught:
                append_events(sources[1], tmp_path / "store")
            refused[0] = str(caught.value)

    assert append_events(sources[0], tmp_path / "store", report=meanwhile).n_new_users == 1
    assert "\n" not in refused[0]
    assert append_events(sources[1], tmp_path / "store").store.user_keys.tolist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "preparation",
    [{"steps": {"earliest": 5}}, {"steps": {"min_user_events": "two"}}, {"split": {"n_out": "one"}}, {"steps": [1]}],
)
def test_a_store_whose_preparation_is_damaged_takes_no_events(tmp_path, preparation):
    first_store(tmp_path)
    file = tmp_path / "store" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["preparation"].update(preparation)
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="prepare"):
        append_events(source_of(tmp_path, [("c", "new", 70)]), tmp_path / "store")
