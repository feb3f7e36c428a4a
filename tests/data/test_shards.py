"""Stores of several shards against the same data in one."""

import itertools
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from seqrec.baselines.popularity import training_counts
from seqrec.data.batches import EventFields, Windows, make_queries, training_batches
from seqrec.data.shards import Pieces, ShardedArray, write_shard
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import target_positions
from seqrec.data.store import check_content, open_store, sequence_store, sharded_store, write_files, write_store
from seqrec.types import InputError

N_USERS, N_ITEMS = 60, 9


def arrays():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, N_USERS)
    offsets = np.append(0, np.cumsum(lengths))
    times = np.concatenate([np.sort(rng.integers(0, 10**9, length)) for length in lengths]).astype(np.int64)
    columns = {"timestamp_us": times, "rating": rng.random(offsets[-1])}
    return rng.integers(1, N_ITEMS + 1, offsets[-1]), offsets, columns


ITEM_KEYS = np.array([f"item {number}" for number in range(N_ITEMS)], object)
USER_KEYS = np.array([f"user {number}" for number in range(N_USERS)], object)
ATTRIBUTES = pa.array([[str(number)] * (number % 3) for number in range(N_ITEMS)], pa.large_list(pa.large_string()))


def write_sharded(directory, bounds):
    items, offsets, columns = arrays()
    shards = []
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        start, stop = offsets[first], offsets[last]
        shards.append(
            write_shard(
                directory,
                number,
                items=items[start:stop],
                offsets=offsets[first : last + 1] - start,
                user_keys=USER_KEYS[first:last],
                columns={name: values[start:stop] for name, values in columns.items()},
            )
        )
    store = sharded_store(directory, shards, item_keys=ITEM_KEYS, titles=ITEM_KEYS, attributes=ATTRIBUTES)
    write_files(directory, store, preparation={"source": "drawn"})
    return store


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same data in one shard, and in eight of which one is empty."""
    directory = tmp_path_factory.mktemp("stores")
    items, offsets, columns = arrays()
    (directory / "eight").mkdir()
    written = write_sharded(directory / "eight", [0, 1, 8, 20, 20, 31, 45, 59, 60])
    eight = open_store(directory / "eight", verify=True)
    assert written.content_hash == eight.content_hash
    one = sequence_store(items, offsets, ITEM_KEYS, USER_KEYS, ITEM_KEYS, columns, ATTRIBUTES)
    return write_store(directory / "one", one), eight


def test_eight_shards_hold_what_one_does(both):
    one, eight = both
    assert (one.content_hash, len(one.shards), len(eight.shards)) == (eight.content_hash, 0, 8)
    for name in ("items", "offsets", "item_keys", "user_keys", "titles"):
        assert getattr(one, name).tolist() == getattr(eight, name).tolist(), name
    assert one.attributes.equals(eight.attributes)
    for name, values in one.columns.items():
        np.testing.assert_array_equal(values, eight.columns[name])
        assert values.dtype == eight.columns[name].dtype


@pytest.mark.parametrize("split", ["leave-last-out", "temporal", "users"])
def test_eight_shards_give_the_splits_batches_and_queries_of_one(both, split):
    config = SplitConfig(split=split, window_target="every", valid_share=0.2, test_share=0.3)
    seen = []
    for store in both:
        parts = split_store(store, config)
        fields = EventFields(times="query")
        train = training_batches(
            store, parts, max_length=5, batch_size=4, seed=1, windows=Windows(True, True), fields=fields
        )
        queries = make_queries(
            store, target_positions(store, parts)[1], max_length=5, batch_size=4, mask_seen=True, fields=fields
        )
        arrays = [train.batch(step) for step in range(4)], list(queries.batches()), training_counts(store, parts)
        seen.append((parts.content_hash, arrays))
    assert seen[0][0] == seen[1][0]
    for one, eight in zip(*(leaves(arrays) for _, arrays in seen), strict=True):
        np.testing.assert_array_equal(one, eight)


def leaves(tree):
    if isinstance(tree, list | tuple):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [] if tree is None else [tree]


def test_an_array_in_pieces_is_read_as_an_array_is():
    rng = np.random.default_rng(0)
    parts = [np.arange(20, dtype=np.int32), np.arange(100, 107)]
    shards, places, lengths = np.array([1, 0, 0, 1]), np.array([2, 11, 0, 0]), np.array([4, 9, 3, 2])
    whole = np.concatenate([parts[s][p : p + n] for s, p, n in zip(shards, places, lengths, strict=True)])
    array = ShardedArray(Pieces(np.append(0, np.cumsum(lengths)), shards, places), parts, "<f8")
    bounds = [None, 0, 3, 4, 5, 17, 18, -1, -7, 30]
    keys = [slice(start, stop, step) for start in bounds for stop in bounds for step in (1, 2, -1)]
    keys += [3, -1, np.int64(17), [], [0, -1, 5], rng.integers(-18, 18, (3, 4)), whole > 10, np.zeros(18, bool)]
    for key in keys:
        np.testing.assert_array_equal(array[key], whole[key], err_msg=str(key))
        assert array[key].dtype == np.float64
    assert (len(array), array.shape, array.min(), array.max()) == (18, (18,), whole.min(), whole.max())
    assert list(array) == array.tolist() == np.asarray(array).tolist() == whole.tolist()
    for key in ([18], -19, np.ones(17, bool)):
        with pytest.raises(IndexError):
            array[key]


def test_a_shard_that_is_written_twice_stays_the_first(tmp_path):
    facts = {"offsets": np.array([0, 2]), "user_keys": np.array([7])}
    first = write_shard(tmp_path, 0, items=np.array([1, 2]), **facts)
    assert write_shard(tmp_path, 0, items=np.array([1, 2]), **facts) == first
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["000000"]
    with pytest.raises(InputError, match="offsets must rise from 0 to n_events=3"):
        write_shard(tmp_path, 1, items=np.array([1, 2, 1]), **facts)


def edit_shard(root, **changes):
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["shards"][1] |= changes
    (root / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d / "shards" / "000001"), r"000001/items.npy is missing"),
        (lambda d: edit_shard(d, n_events=1), r"000001/items.npy holds"),
        (lambda d: edit_shard(d, directory="../eight"), r"has the shard '../eight'"),
        (lambda d: edit_shard(d, directory="shards/000000"), r"shards/000000/items.npy holds"),
        (lambda d: edit_shard(d, size=1), "not a sequence store's manifest"),
        (lambda d: edit_shard(d, columns={"rating": "|O", "timestamp_us": "<i8"}), r"has the type '\|O' for 'rating'"),
        (lambda d: edit_shard(d, columns={}), "not a sequence store's manifest"),
        (lambda d: edit_shard(d, is_appended=True), r"000001/rows.npy is missing"),
        (lambda d: (d / "shards/000001/users.parquet").unlink(), r"000001/users.parquet is missing"),
    ],
)
def test_a_damaged_shard_is_refused_in_one_line(tmp_path, damage, message):
    write_sharded(tmp_path, [0, 12, 40, N_USERS])
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_store(tmp_path, verify=True)
    assert "\n" not in str(caught.value)


def test_training_reads_no_text(both, monkeypatch):
    for store in both:
        opened = open_store(store.directory)
        for table in (opened.item_table, opened.user_table):
            monkeypatch.setattr(table, "batches", None)
        split = split_store(opened, SplitConfig(split="leave-last-out"))
        training_batches(opened, split, max_length=5, batch_size=4, seed=1).batch(0)
        assert training_counts(opened, split).sum() > 0


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("items.npy", -1),
        ("offsets.npy", -1),
        ("event_column_0.npy", -8),
        ("event_column_1.npy", -8),
        ("users.parquet", 8),
    ],
)
def test_a_flipped_byte_is_found_and_its_shard_named(name, place, tmp_path):
    write_sharded(tmp_path, [0, 12, 40, N_USERS])
    file = tmp_path / "shards" / "000001" / name
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="shards/000001") as caught:
        open_store(tmp_path, verify=True)
    assert "\n" not in str(caught.value)
    assert "shards/000000" not in str(caught.value)


def test_to_check_a_store_goes_through_each_of_its_values(both):
    for store in both:
        done = []
        check_content(store, report=done.append)
        assert sum(done) == store.n_values == store.n_events * 3  # items, times and ratings
