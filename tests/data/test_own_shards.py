"""Processes that read their own shards alone: together they learn from, and ask about, what one process does."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest
from part_of_batches import CONFIG, N_STEPS, SEED, TEMPORAL, figures_of, sums_of

from seqrec.baselines.popularity import training_counts
from seqrec.data import key_tables
from seqrec.data.append import append_events
from seqrec.data.batches import Share, Windows, make_queries, training_batches
from seqrec.data.buckets import working_copy
from seqrec.data.shards import INDEX_FILES, write_shard
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import target_positions
from seqrec.data.store import (
    check_content,
    open_store,
    sharded_store,
    store_from_sequences,
    write_files,
    write_store,
)
from seqrec.data.user_samples import sampled_users
from seqrec.run.data import make_task
from seqrec.types import InputError, Part

N_USERS = 60
BOUNDS = [0, 1, 8, 20, 20, 31, 45, 59, N_USERS]
"""First user of each of eight shards, of which one is empty, and the number of users."""
USER_KEYS = np.array([f"user {number}" for number in range(N_USERS)], object)
DAYS = (
    [("user 3", 960), ("user 25", 100), ("user 60", 961), ("user 60", 962)],
    [("user 3", 970), ("user 44", 5), ("user 61", 971), ("user 60", 972), ("user 61", 973)],
    [("user 0", 980), ("user 50", 981), ("user 50", 982), ("user 62", 983)],
)
"""User and second of what is appended to these shards, a day a shard; nothing counts of shard 0 any more."""


def write_own(directory):
    """A store in which each event has an item of its own, so that items tell which events a batch holds."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, N_USERS)
    offsets = np.append(0, np.cumsum(lengths))
    times = np.concatenate([np.sort(rng.integers(0, 10**9, length)) for length in lengths]).astype(np.int64)
    shards = []
    for number, (first, last) in enumerate(itertools.pairwise(BOUNDS)):
        start, stop = offsets[first], offsets[last]
        shards.append(
            write_shard(
                directory,
                number,
                items=np.arange(start, stop) + 1,
                offsets=offsets[first : last + 1] - start,
                user_keys=USER_KEYS[first:last],
                columns={"timestamp_us": times[start:stop]},
            )
        )
    store = sharded_store(directory, shards, item_keys=np.arange(offsets[-1]))
    write_files(directory, store, preparation={"split": dataclasses.asdict(TEMPORAL)})
    return open_store(directory)


def source_of(directory, rows):
    """Events of these users, items and seconds."""
    lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
    (directory / "day.csv").write_text("\n".join(lines))
    return read_source("events", directory / "day.csv", time_unit="s")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """That store, which keeps its split."""
    directory = tmp_path_factory.mktemp("own") / "store"
    directory.mkdir()
    store = write_own(directory)
    split_store(store, TEMPORAL)
    return store


@pytest.fixture(scope="module")
def grown(whole, tmp_path_factory):
    """That store with the days appended; here too each event has an item of its own."""
    directory = shutil.copytree(whole.directory, tmp_path_factory.mktemp("grown") / "store")
    for day, events in enumerate(DAYS):
        rows = [(user, 10_000 + 100 * day + number, second) for number, (user, second) in enumerate(events)]
        append_events(source_of(directory.parent, rows), directory)
    return open_store(directory)


@pytest.fixture(params=["whole", "grown"])
def either(request):
    return request.getfixturevalue(request.param)


def shards_of_users(store):
    """The number of the shard that has the history of each user, by the user's key, in the order of the store."""
    shard_of = {
        key: number for number, bounds in enumerate(itertools.pairwise(BOUNDS)) for key in USER_KEYS[slice(*bounds)]
    }
    days = DAYS[: len(store.shards) - 8]
    return shard_of | {user: 8 + day for day, events in enumerate(days) for user, _ in events}


def of_parts(whole, n_parts, make):
    """`make(store, split, share)` of each part, all at once, as they gather."""
    given, barrier = [None] * n_parts, threading.Barrier(n_parts, timeout=20)

    def gather(number, array):
        given[number] = array
        barrier.wait()
        arrays = list(given)
        barrier.wait()
        return arrays

    def of_part(number):
        store = open_store(whole.directory, part=Part(number, n_parts))
        return make(store, split_store(store, TEMPORAL), Share(n_parts, number, n_parts, partial(gather, number)))

    with ThreadPoolExecutor(n_parts) as pool:
        return list(pool.map(of_part, range(n_parts)))


def pairs_of(batches):
    """How often the batches hold each pair of an item and the next."""
    held = [(batch.items[batch.items > 0], batch.next_items[batch.items > 0]) for batch in batches]
    return Counter(itertools.chain.from_iterable(zip(*map(np.ndarray.tolist, each), strict=True) for each in held))


@pytest.mark.parametrize(("n_parts", "windows"), [(2, Windows(whole=True)), (8, Windows(whole=True, random=True))])
def test_an_epoch_of_all_parts_holds_the_pairs_of_one_process_equally_often(either, n_parts, windows):
    options = {"max_length": 6, "batch_size": 5, "seed": 3, "windows": windows}
    alone = training_batches(either, split_store(either, TEMPORAL), **options)
    make = partial(training_batches, **options)
    parts = of_parts(either, n_parts, lambda store, split, share: make(store, split, share=share))
    n_steps = {part.steps_per_epoch for part in parts}
    assert len(n_steps) == 1
    assert len({part.batch(0).items.shape for part in parts}) == 1
    # Until every part has come to the end of an epoch of its own rows at once: each of these has each pair once.
    n_steps = sum(part.packed.n_rows for part in parts)
    held = pairs_of(part.batch(step) for part in parts for step in range(n_steps))
    expected = pairs_of(alone.batch(step) for step in range(alone.packed.n_rows))
    assert held.keys() == expected.keys()
    assert set(held.values()) == {parts[0].n_rows}
    if not windows.random:  # after one epoch's steps every pair has been seen
        held = pairs_of(part.batch(step) for part in parts for step in range(parts[0].steps_per_epoch))
        assert held.keys() == expected.keys()


def test_parts_give_rows_in_proportion_to_what_they_have(whole):
    options = {"max_length": 6, "batch_size": 8, "seed": 0}
    parts = of_parts(whole, 3, lambda store, split, share: training_batches(store, split, share=share, **options))
    rates = [part.n_rows * part.packed.n_rows / sum(part.n_packed) for part in parts]
    for part, rate in zip(parts, rates, strict=True):
        n_rows = [np.count_nonzero(part.batch(step).items.any(axis=1)) for step in range(40)]
        assert set(n_rows) <= {int(rate), int(rate) + 1}
        assert abs(sum(n_rows) - 40 * rate) < 1


def test_parts_draw_orders_of_their_own_which_follow_from_seed_and_step(whole):
    def batches(seed):
        options = {"max_length": 6, "batch_size": 8, "seed": seed}
        return of_parts(whole, 2, lambda store, split, share: training_batches(store, split, share=share, **options))

    once, again, other = batches(0), batches(0), batches(1)
    for step in (0, 7, 23):
        for one, two in zip(once, again, strict=True):
            np.testing.assert_array_equal(one.batch(step).items, two.batch(step).items)
    assert any(np.any(one.batch(0).items != two.batch(0).items) for one, two in zip(once, other, strict=True))


def test_parts_ask_what_one_process_asks(either):
    options = {"max_length": 5, "batch_size": 7, "mask_seen": True}
    split = split_store(either, TEMPORAL)
    alone = make_queries(either, target_positions(either, split)[1], **options)

    parts = of_parts(
        either,
        8,
        lambda store, split, share: make_queries(store, target_positions(store, split)[1], share=share, **options),
    )
    # Side by side, as they lie on the mesh.
    batches = [
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *of_each)
        for of_each in zip(*(queries.batches() for queries in parts), strict=True)
    ]
    expected = query_facts(alone.batches(), alone.packed.length)
    assert query_facts(batches, alone.packed.length) == expected
    assert expected.keys() == set(range(len(alone.users)))
    for queries in parts:
        for name in ("users", "targets", "history_lengths"):
            np.testing.assert_array_equal(getattr(queries.of_all, name), getattr(alone, name))


def query_facts(batches, length):
    """Of each query, by its number: the items that the encoder reads, the target, and the excluded ones."""
    queries = {}
    for each in batches:
        for last, target, excluded, query in zip(each.last, each.targets, each.excluded, each.query, strict=True):
            if query >= 0:
                row, place = divmod(int(last), length)
                segment = each.batch.segment_ids[row] == each.batch.segment_ids[row, place]
                read = each.batch.items[row][segment].tolist()
                queries[int(query)] = read, int(target), set(excluded.tolist()) - {0}
    return queries


@pytest.mark.parametrize("n", [1, 7, N_USERS])
def test_parts_choose_the_users_that_one_process_samples(either, n):
    def make(store, split, share):
        return store.own.rows[sampled_users(store, np.arange(store.n_users), n=n, gather=share.of_all)]

    expected = sampled_users(either, np.arange(either.n_users), n=n)
    assert sorted(np.concatenate(of_parts(either, 3, make)).tolist()) == expected.tolist()


def test_each_part_knows_its_users_and_the_training_counts_of_all(either, monkeypatch):
    monkeypatch.setattr(key_tables, "ROWS_PER_BATCH", 5)

    def make(store, split, share):
        return store.user_keys.tolist(), training_counts(store, split), split.content_hash, store.content_hash

    split = split_store(either, TEMPORAL)
    keys, counts, *hashes = zip(*of_parts(either, 3, make), strict=True)
    shard_of = shards_of_users(either)
    assert either.user_keys.tolist() == list(shard_of)
    assert keys == tuple([key for key, shard in shard_of.items() if shard % 3 == number] for number in range(3))
    for each in counts:
        np.testing.assert_array_equal(each, split.training_counts)
    assert [set(each) for each in hashes] == [{split.content_hash}, {either.content_hash}]


@pytest.fixture
def bucket(monkeypatch, tmp_path, either):
    """That store in a bucket in memory; lists the names of files that are fetched from it."""
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(type(files), "store", {})
    monkeypatch.setattr(type(files), "pseudo_dirs", [""])
    monkeypatch.setenv("SEQREC_CACHE", str(tmp_path / "cache"))
    with working_copy(Path("memory://b/store")) as copy:
        shutil.copytree(either.directory, copy, dirs_exist_ok=True)
    fetched, get = [], files.get_file
    monkeypatch.setattr(
        files, "get_file", lambda source, *rest, **options: (fetched.append(source), get(source, *rest, **options))
    )
    return fetched


def test_two_processes_without_each_others_shards_make_the_batches_and_the_ranks_of_one(grown, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*free.getsockname())
    about = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    processes = []
    for number in range(2):
        directory = shutil.copytree(grown.directory, tmp_path / str(number))
        for other in range(1 - number, len(grown.shards), 2):
            for file in (directory / f"shards/{other:06d}").iterdir():
                if file.name not in INDEX_FILES:
                    file.unlink()
        command = [sys.executable, str(Path(__file__).with_name("part_of_batches.py")), directory, str(number), address]
        processes.append(subprocess.Popen(command, env=about, text=True, stdout=-1, stderr=-1))
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (json.loads(printed.splitlines()[-1]) for printed, _ in outputs)
    assert first["found"] == second["found"]

    task = make_task(CONFIG, grown, seed=SEED)
    keys = grown.user_keys[task.test.users].tolist()
    n_trained = (task.split.train_stop - grown.offsets[:-1])[task.test.users].tolist()
    options = {"max_length": CONFIG.max_length, "batch_size": CONFIG.batch_size, "seed": SEED, "windows": Windows(True)}
    parts = of_parts(grown, 2, lambda store, split, share: training_batches(store, split, share=share, **options))
    together = [
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.batch(step) for part in parts))
        for step in range(N_STEPS)
    ]
    sums = [sums_of(batch).tolist() for batch in together]
    assert first["found"] == {**figures_of(task), "keys": keys, "user_events": n_trained, "sums": sums}
    one_epoch = pairs_of(task.train.batch(step) for step in range(task.train.steps_per_epoch))
    assert {*first["held"], *second["held"]} == {item for item, _ in one_epoch}


def shards_in(names):
    return {int(match[1]) for name in names if (match := re.search(r"/shards/(\d+)/", str(name)))}


def test_of_a_bucket_a_part_fetches_its_own_shards_and_what_lies_beside_all(bucket, either):
    n_shards, keys = len(either.shards), []
    of_others = {"offsets.npy", "rows.npy", "users.parquet", "items.parquet"} if n_shards > 8 else set()
    for number in range(3):
        bucket.clear()
        store = open_store("memory://b/store", part=Part(number, 3), verify=True)
        own = set(range(number, n_shards, 3))
        assert shards_in(store.directory.rglob("items.npy")) == own
        assert {Path(name).name for name in bucket if shards_in([name]) - own} == of_others
        assert split_store(store, TEMPORAL).content_hash == split_store(either, TEMPORAL).content_hash
        keys += store.user_keys.tolist()
        bucket.clear()
        assert open_store("memory://b/store", part=Part(number, 3)).directory == store.directory
        assert not bucket
    assert sorted(keys) == sorted(either.user_keys)
    everything = open_store("memory://b/store")
    assert open_store("memory://b/store", part=Part(0, 4)).directory == everything.directory


@pytest.mark.parametrize("either", ["grown"], indirect=True)
def test_a_part_fetches_no_events_of_a_shard_beside_the_manifest_unless_it_is_its_own(bucket, tmp_path):
    with working_copy(Path("memory://b/days")) as copy:
        write_store(copy / "store", store_from_sequences([[1, 2], [2, 1, 2]]))
        append_events(source_of(tmp_path, [(2, 1, 7), (3, 9, 8)]), copy / "store")
    fetched = []
    for number, keys in enumerate(([1], [2, 3])):
        bucket.clear()
        store = open_store("memory://b/days/store", part=Part(number, 2))
        assert store.user_keys.tolist() == keys
        fetched.append({name.partition("/store/")[2] for name in bucket})
    assert [name for name in sorted(fetched[0]) if name.endswith("items.npy")] == ["items.npy"]
    assert [name for name in sorted(fetched[1]) if name.endswith("items.npy")] == ["shards/000001/items.npy"]


def test_a_flipped_byte_in_an_own_shard_is_found_and_in_another_is_not_read(whole, tmp_path):
    directory = shutil.copytree(whole.directory, tmp_path / "store")
    file = directory / "shards/000002/event_column_0.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    check_content(open_store(directory, part=Part(1, 2)))
    with pytest.raises(InputError, match=r"is damaged.*files of shards/000002 are not"):
        check_content(open_store(directory, part=Part(0, 2)))


def test_what_cannot_be_shared_out_is_refused_in_one_line(whole, grown):
    with pytest.raises(InputError, match=r"has 8 shards for 9 processes.*--shards all, or .*--events-per-shard \d+$"):
        open_store(whole.directory, part=Part(0, 9))
    own = open_store(whole.directory, part=Part(0, 2))
    with pytest.raises(InputError, match=r"keeps no split by split=users of .*; prepare.*or use --shards all$"):
        split_store(own, SplitConfig(split="users"))
    before = open_store(grown.directory, as_of=whole.content_hash, part=Part(0, 2))
    assert before.user_keys.tolist() == own.user_keys.tolist()
    with pytest.raises(InputError, match=r"keeps no split by split=temporal.* or use --shards all$"):
        split_store(before, TEMPORAL)


def test_a_part_whose_users_are_all_in_shards_of_others_has_none(grown):
    part = open_store(grown.directory, part=Part(0, len(grown.shards)))
    assert (part.own.shards[0].n_users, part.n_users, part.n_events, len(part.user_keys)) == (1, 0, 0, 0)
