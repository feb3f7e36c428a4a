"""Directories in a bucket: what a copy brings back, in what order, and what is taken for whole."""

import json
import shutil
import tempfile
import threading
from pathlib import Path

import fsspec
import narwhals as nw
import numpy as np
import polars as pl
import pytest

from seqrec.data import buckets
from seqrec.data.append import append_events
from seqrec.data.bucket_files import PARTS
from seqrec.data.buckets import (
    Part,
    fetch_chunks,
    fetch_descriptions,
    original,
    working_copy,
    write_back,
)
from seqrec.data.paths import data_files, is_in_bucket
from seqrec.data.sources import Source
from seqrec.data.store import open_store, store_from_sequences, write_store
from seqrec.data.store_copies import local_store
from seqrec.files import address_of
from seqrec.types import InputError

STORE = store_from_sequences([[1, 2, 3], [2, 3]])


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """fsspec's file system in memory, with nothing in it."""
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(type(files), "store", {})
    monkeypatch.setattr(type(files), "pseudo_dirs", [""])
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return files


def names(bucket, directory: str) -> set[str]:
    return {name.removeprefix(f"/b/{directory}/") for name in bucket.find(f"memory://b/{directory}")}


def write(copy: Path, *files: str) -> None:
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(name)


def edit(place: str, change) -> None:
    """Does something to a working copy."""
    with working_copy(Path(place)) as copy:
        change(copy)


CHECKPOINT = ("checkpoints/2/state/a", "checkpoints/2/state/b", "checkpoints/2/_CHECKPOINT_METADATA")


def test_an_address_survives_pathlib():
    assert address_of(Path("s3://bucket/a/b")) == "s3://bucket/a/b"
    assert is_in_bucket(Path("gs://bucket/a"))
    assert not any(map(is_in_bucket, ("runs/a", "/runs/a", "a:b", "./s3:/a")))


def test_what_is_done_to_a_copy_is_done_to_the_bucket(bucket):
    with working_copy(Path("memory://b/run")) as copy:
        write(copy, "a.txt", "deep/b.txt", ".hidden", "c.partial", "checkpoints/1.orbax-checkpoint-tmp/x")
        assert original(copy) == "memory://b/run"
    assert not copy.exists()
    assert names(bucket, "run") == {"a.txt", "deep/b.txt"}
    with working_copy(Path("memory://b/run")) as copy:
        assert (copy / "deep/b.txt").read_text() == "deep/b.txt"
        (copy / "a.txt").unlink()
        write(copy, "d.txt")
    assert names(bucket, "run") == {"deep/b.txt", "d.txt"}


def test_a_copy_to_read_changes_nothing_and_a_local_path_is_no_copy(bucket, tmp_path):
    with working_copy(Path("memory://b/run")) as copy:
        write(copy, "a.txt", "b.txt")
    with working_copy(Path("memory://b/run"), read_only=True, fetch="b") as copy:
        assert [file.name for file in copy.iterdir()] == ["b.txt"]
        (copy / "b.txt").unlink()
    assert names(bucket, "run") == {"a.txt", "b.txt"}
    with working_copy(tmp_path) as same:
        assert same == tmp_path
        assert original(same) == str(tmp_path)


def test_the_bucket_gets_what_was_done_before_an_error_and_the_error_speaks_of_the_bucket(bucket):
    def fail(copy):
        write(copy, "a.txt")
        raise InputError(f"{copy / 'a.txt'} is bad")

    with pytest.raises(InputError, match=r"^memory://b/run/a\.txt is bad$"):
        edit("memory://b/run", fail)
    assert names(bucket, "run") == {"a.txt"}


def earlier(names):
    return [name.replace("/2/", "/1/") for name in names]


def stopping_after(bucket, monkeypatch, n_calls: int, call: str) -> None:
    """Lets the bucket fail after `n_calls` of a kind, as if its machine had gone."""
    works, done = getattr(bucket, call), []

    def fail_later(*arguments, **options):
        if len(done) == n_calls:
            raise ConnectionError("gone")
        done.append(arguments)
        return works(*arguments, **options)

    monkeypatch.setattr(bucket, call, fail_later)


@pytest.mark.parametrize("n_sent", range(len(CHECKPOINT)))
def test_a_checkpoint_sent_in_part_is_not_taken_for_whole_and_the_one_before_stays(bucket, monkeypatch, n_sent):
    edit("memory://b/run", lambda copy: write(copy, *earlier(CHECKPOINT)))
    copies = []

    def replace(copy):
        for name in earlier(CHECKPOINT):
            (copy / name).unlink()
        write(copy, *CHECKPOINT)
        copies.append(copy)

    with monkeypatch.context() as patch:
        stopping_after(bucket, patch, n_sent, "put_file")
        with pytest.raises(InputError, match=r"gone.*; all of it lies in .*run"):
            edit("memory://b/run", replace)
    assert (copies[0] / CHECKPOINT[0]).exists()
    assert len(names(bucket, "run")) == len(CHECKPOINT) + n_sent
    with working_copy(Path("memory://b/run")) as copy:
        copied = {file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()}
    assert copied == {*earlier(CHECKPOINT)}
    assert names(bucket, "run") == {*earlier(CHECKPOINT)}


def test_a_checkpoint_loses_its_marker_before_its_files(bucket, monkeypatch):
    edit("memory://b/run", lambda copy: write(copy, *CHECKPOINT))
    with monkeypatch.context() as patch:
        stopping_after(bucket, patch, 1, "rm")
        with pytest.raises(InputError, match="gone"):
            edit("memory://b/run", lambda copy: [(copy / name).unlink() for name in CHECKPOINT])
    assert names(bucket, "run") == {*CHECKPOINT[:2]}


def test_a_checkpoint_that_is_being_removed_keeps_its_files_until_its_marker_has_gone(bucket):
    edit("memory://b/run", lambda copy: write(copy, *CHECKPOINT))
    edit("memory://b/run", lambda copy: (copy / CHECKPOINT[0]).unlink())
    assert names(bucket, "run") == {*CHECKPOINT}


def test_a_store_that_is_replaced_is_not_whole_in_between(bucket, monkeypatch):
    edit("memory://b/store", lambda copy: write_store(copy, STORE))
    assert "manifest.json" in names(bucket, "store")
    longer = store_from_sequences([[1, 2, 3, 4], [2, 3]])
    with monkeypatch.context() as patch:
        stopping_after(bucket, patch, 1, "put_file")
        with pytest.raises(InputError, match="gone"):
            edit("memory://b/store", lambda copy: write_store(copy, longer))
    with pytest.raises(InputError, match=r"memory://b/store holds no manifest\.json, so no whole store"):
        open_store("memory://b/store")


def test_a_store_is_fetched_once_and_kept_by_its_hash(bucket, tmp_path):
    place = Path("memory://b/store")
    edit("memory://b/store", lambda copy: write_store(copy, STORE))
    opened = open_store(place)
    np.testing.assert_array_equal(opened.items, STORE.items)
    assert isinstance(opened.items, np.memmap)
    kept = local_store(place)
    assert kept == tmp_path / "cache" / "stores" / STORE.content_hash
    (kept / "mine").touch()
    assert (local_store(place) / "mine").exists()
    edit("memory://b/store", lambda copy: write_store(copy, store_from_sequences([[3, 2, 1]])))
    assert open_store(place).items.tolist() == [3, 2, 1]


def a_day(*events):
    users, items, times = zip(*events, strict=True)
    columns = {"user_id": users, "item_id": items, "timestamp_us": times, "event_index": range(len(users))}
    return Source("a day", nw.from_native(pl.DataFrame(columns)).lazy(), titles=None)


def test_an_append_sends_and_fetches_what_is_new(bucket, monkeypatch):
    """The store in the bucket is whole all the while, as it was or as it is."""
    place = Path("memory://b/store")
    steps = {"preparation": {"steps": {}, "split": {"split": "leave-last-out"}}}
    edit("memory://b/store", lambda copy: write_store(copy, STORE, **steps))
    assert open_store(place).n_events == STORE.n_events
    sent, fetched, put, get = [], [], bucket.put, bucket.get

    def put_and_note(local, remote, **options):
        sent.extend(name.partition("/store/")[2] for name in remote)
        assert "manifest.json" in names(bucket, "store")
        put(local, remote, **options)

    monkeypatch.setattr(bucket, "put", put_and_note)
    edit("memory://b/store", lambda copy: append_events(a_day((2, 1, 5), (9, 8, 6)), copy))
    assert {name.split("/")[0] for name in sent} == {"shards", "splits", "manifest.json"}
    assert sent[-1] == "manifest.json"
    bucket.pipe_file("memory://b/store/shards/000002/items.npy", b"of an append that goes on")
    monkeypatch.setattr(bucket, "get", lambda remote, local, **options: (fetched.extend(remote), get(remote, local)))
    grown = open_store(place, verify=True)
    assert grown.items.tolist() == [1, 2, 3, 2, 3, 1, 4]
    kinds = {name.partition("/store/")[2].split("/")[0] for name in fetched}
    assert kinds == {"shards", "splits", "manifest.json"}
    assert not any("000002" in name for name in fetched)


def test_a_store_that_is_replaced_while_it_is_fetched_is_not_kept(bucket, monkeypatch, tmp_path):
    edit("memory://b/store", lambda copy: write_store(copy, STORE))
    get = bucket.get

    def get_late(*arguments, **options):
        get(*arguments, **options)
        bucket.pipe_file("memory://b/store/manifest.json", b"another")

    monkeypatch.setattr(bucket, "get", get_late)
    with pytest.raises(InputError, match="was replaced while it was read; start again"):
        open_store("memory://b/store")
    assert not any((tmp_path / "cache" / "stores").iterdir())


@pytest.mark.parametrize("manifest", ["{", "[]", json.dumps({"content_hash": "../../mine"})])
def test_a_manifest_may_not_name_a_place_of_its_own(bucket, manifest):
    bucket.pipe_file("memory://b/store/manifest.json", manifest.encode())
    with pytest.raises(InputError, match="is not a sequence store's manifest"):
        open_store("memory://b/store")


def test_followed_copies_are_brought_back_meanwhile(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "SECONDS_BETWEEN_LOOKS", 0.01)
    arrived = threading.Event()
    put = bucket.put_file

    def put_and_tell(local, remote, **options):
        put(local, remote, **options)
        if remote.endswith(CHECKPOINT[-1]):
            arrived.set()

    monkeypatch.setattr(bucket, "put_file", put_and_tell)
    with working_copy(Path("memory://b/run"), follow=True) as copy:
        write(copy, "metrics.jsonl", *CHECKPOINT)
        assert arrived.wait(60)
        assert names(bucket, "run") == {"metrics.jsonl", *CHECKPOINT}


def test_a_bucket_that_fails_meanwhile_is_tried_again(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "SECONDS_BETWEEN_LOOKS", 0.01)
    warned, put = threading.Event(), bucket.put_file
    monkeypatch.setattr(buckets.logger, "warning", lambda *message: warned.set())

    def fail_until_warned(*arguments, **options):
        if not warned.is_set():
            raise ConnectionError("gone")
        put(*arguments, **options)

    monkeypatch.setattr(bucket, "put_file", fail_until_warned)
    with working_copy(Path("memory://b/run"), follow=True) as copy:
        write(copy, "a.txt")
        assert warned.wait(60)
    assert names(bucket, "run") == {"a.txt"}


def test_of_two_processes_the_first_completes_a_checkpoint_once_the_others_part_is_there(bucket, monkeypatch):
    monkeypatch.setattr(buckets, "SECONDS_FOR_PARTS", 0.0)
    monkeypatch.setattr(buckets, "SECONDS_BETWEEN_LOOKS", 0.0)
    table, whole = "checkpoints/2/state/table", "checkpoints/2/_CHECKPOINT_METADATA"
    ours, theirs = {f"{table}/.zarray", f"{table}/0.0"}, {f"{table}/1.0", "checkpoints/2/digests-x-1.json"}
    place = Path("memory://b/run")
    bucket.pipe_file(f"memory://b/run/{table}/1.0", b"of a process that was killed")
    with working_copy(place, part=Part(0, 2)) as first, working_copy(place, part=Part(1, 2)) as second:
        assert names(bucket, "run") == set()
        write(first, *ours, whole, "metrics.json")
        (first / "checkpoints/2" / PARTS).write_text('["digests-x-1.json"]')
        with pytest.raises(InputError, match=r"checkpoints/2/digests-x-1\.json does not arrive"):
            write_back(first)
        assert names(bucket, "run") == {*ours, f"checkpoints/2/{PARTS}", "metrics.json"}
        write(second, *theirs, whole, "checkpoints/2/metrics/metrics", "metrics.json")
        (second / whole).write_text("of the second")
        write_back(second)
        assert whole not in names(bucket, "run")
        write_back(first)
        assert names(bucket, "run") == {*ours, *theirs, whole, f"checkpoints/2/{PARTS}", "metrics.json"}

        # Each fetches what describes a checkpoint, as the first has it, and of arrays what it asks for.
        fetch_descriptions(second)
        assert (second / whole).read_text() == whole
        assert not (second / f"{table}/0.0").exists()
        assert fetch_chunks(second, {f"{table}/0.0", f"{table}/1.0"})
        assert not fetch_chunks(second, {f"{table}/0.0"})
        with pytest.raises(InputError, match=r"table/2\.0 is missing"):
            fetch_chunks(second, {f"{table}/2.0"})
    with working_copy(place, part=Part(0, 2)) as first, working_copy(place, fetch="checkpoints/") as whole_copy:
        assert not list(first.rglob("[01].0"))
        assert len(list(whole_copy.rglob("[01].0"))) == 2
        shutil.rmtree(first / "checkpoints/2")
    assert names(bucket, "run") == {"metrics.json"}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gcs://b/run", "has the protocol 'gcs'; known are s3:// and gs://"),
        ("s3://b", "names a whole bucket; name a directory in it, such as s3://b/run-1"),
    ],
)
def test_an_address_that_is_none_is_refused(address, message):
    with pytest.raises(InputError, match=message), working_copy(Path(address)):
        pass


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_without_its_package_the_extra_is_named(protocol, extra, monkeypatch):
    def missing(name):
        raise ImportError(f"install {name}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(InputError, match=rf'{protocol}://b/run needs.*; pip install "seqrec\[{extra}\]"'):
        open_store(f"{protocol}://b/run")


def test_events_in_a_bucket_and_a_store_written_to_one_are_refused():
    with pytest.raises(InputError, match=r"s3://b/events\.csv is in a bucket.*copy the file here first"):
        data_files(Path("s3://b/events.csv"))
    with pytest.raises(InputError, match=r"s3://b/store is in a bucket; write the store to a buckets\.working_copy"):
        write_store("s3://b/store", STORE)
