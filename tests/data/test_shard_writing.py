"""Shards from batches: what is written does not depend on where batches end."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.shard_writing import ShardPlan, at_root, write_batches, write_sorted
from seqrec.data.shards import Shard, write_shard
from seqrec.types import InputError

USERS, ITEMS, RATINGS = [4, 4, 6, 9, 9, 9], [2, 1, 2, 3, 3, 1], [1.5, None, 2.0, 1.0, 2.0, 3.0]


def rows(*bounds, **further):
    table = pa.table({"user_id": USERS, "item": pa.array(ITEMS, pa.int32()), "rating": RATINGS, **further})
    parts = [table.slice(start, end - start) for start, end in itertools.pairwise(bounds)]
    return [batch for part in parts for batch in part.to_batches()]


def plan_of(store, *n_events):
    return ShardPlan(str(store), ("rating",), frozenset({"rating"}), n_events)


def files_of(store, shard):
    return {file.name: file.read_bytes() for file in (store / shard.directory).iterdir()}


@pytest.mark.parametrize("bounds", [(0, 6), (0, 1, 2, 3, 4, 5, 6), (0, 0, 2, 5, 6), (0, 4, 4, 6)])
def test_a_shard_of_batches_is_that_of_the_arrays(bounds, tmp_path):
    shard = write_batches(plan_of(tmp_path / "batches", 6, 0), 0, rows(*bounds))
    whole = write_shard(
        tmp_path / "arrays",
        0,
        items=np.array(ITEMS),
        offsets=np.array([0, 2, 3, 6]),
        user_keys=np.array([4, 6, 9]),
        columns={"rating": np.array([1.5, np.nan, 2, 1, 2, 3])},
    )
    assert shard == whole
    assert files_of(tmp_path / "batches", shard) == files_of(tmp_path / "arrays", whole)


def test_numbers_that_stand_for_users_become_their_keys(tmp_path):
    names = pa.array([f"user {number}" for number in range(10)], pa.large_string())
    shard = write_batches(plan_of(tmp_path, 6), 0, rows(0, 5, 6), names)
    keys = pq.read_table(tmp_path / shard.directory / "users.parquet")["key"]
    assert keys.to_pylist() == ["user 4", "user 6", "user 9"]


def test_events_that_come_or_go_meanwhile_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(InputError, match=r"6 events of 7 came"):
        write_batches(plan_of(tmp_path, 7), 0, rows(0, 6))
    assert not list((tmp_path / "shards").iterdir())


def test_the_only_shard_becomes_the_store_itself(tmp_path):
    shard = write_batches(plan_of(tmp_path, 6), 0, rows(0, 6))
    before = files_of(tmp_path, shard)
    assert files_of(tmp_path, at_root(tmp_path, shard)) == before


def test_each_place_is_a_shard_though_batches_hold_parts_of_several(tmp_path):
    places = {"_place": pa.array([70, 70, 70, 20, 20, 20])}
    plan = ShardPlan(str(tmp_path), ("rating",), frozenset({"rating"}), (3, 3))
    written = [batch.to_pylist()[0] for batch in write_sorted(plan, {20: 0, 70: 1}, rows(0, 2, 5, 6, **places))]
    assert [row["number"] for row in written] == [1, 0]
    shards = [Shard(**json.loads(row["shard"])) for row in written]
    assert [(shard.directory, shard.n_users, shard.n_events) for shard in shards] == [
        ("shards/000001", 2, 3),
        ("shards/000000", 1, 3),
    ]
    assert np.load(tmp_path / "shards/000001/items.npy").tolist() == ITEMS[:3]
    assert np.load(tmp_path / "shards/000000/offsets.npy").tolist() == [0, 3]
