from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import NO_TIMES, microseconds, refusal, rows_of

from seqrec.data.sources import Columns, read_source

MOMENT = (2021, 3, 4, 5, 6, 7)
SECONDS = microseconds(*MOMENT) // 10**6


def parquet(tmp_path, **columns):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_keeps_order_and_types(tmp_path):
    path = parquet(tmp_path, **{'us"er': ["b", "a", "b"], "extra": [1, 2, 3], "item": [3, None, 1]})
    source = read_source("events", path, columns=Columns('us"er', "item", ""))
    assert rows_of(source) == [("b", 3), ("a", None), ("b", 1)]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([SECONDS * 1000], pa.timestamp("ms")),
        pa.array([microseconds(*MOMENT)], pa.timestamp("us", tz="Europe/Paris")),
        pa.array([SECONDS * 10**9], pa.timestamp("ns")),
        pa.array([SECONDS], pa.int32()),
        pa.array([SECONDS], pa.uint64()),
        pa.array([float(SECONDS)], pa.float64()),
        pa.array(["2021-03-04T05:06:07"]),
    ],
)
def test_parquet_times_of_any_type_are_the_same_moment(tmp_path, times):
    path = parquet(tmp_path, user_id=[1], item_id=[2], timestamp=times)
    assert rows_of(read_source("events", path)) == [(1, 2, microseconds(*MOMENT))]


def test_parquet_dates_and_missing_times(tmp_path):
    times = [date(2021, 3, 4), None]
    path = parquet(tmp_path, user_id=[1, 1], item_id=[2, 3], timestamp=times)
    assert rows_of(read_source("events", path)) == [(1, 2, microseconds(2021, 3, 4)), (1, 3, None)]


def test_whole_floats_are_integers_and_nan_is_missing(tmp_path):
    path = parquet(tmp_path, user_id=[1.0, float("nan"), 2.0**53 - 1], item_id=[1, 2, 3])
    users = [user for user, _ in rows_of(read_source("events", path, columns=NO_TIMES))]
    assert users == [1, None, 2**53 - 1]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([1.0, 1.5], ", row 2: user_id 1.5 is a DOUBLE that is no integer"),
        ([1.0, 2.0**60], ", row 2: user_id 1.15"),
        ([1.0, float("inf")], ", row 2: user_id inf"),
        ([[1], [2]], "row 1: user_id is a BIGINT[], an id is an integer or text"),
        ([b"a", b"b"], "row 1: user_id is a BLOB"),
        ([{"a": 1}, {"a": 2}], "row 1: user_id is a STRUCT"),
    ],
)
def test_parquet_ids_that_are_none_are_refused(tmp_path, users, message):
    path = parquet(tmp_path, user_id=users, item_id=[1, 2])
    assert message in refusal("events", path, columns=NO_TIMES)


def test_parquet_without_the_column_without_rows_or_cut_short_is_refused(tmp_path):
    path = parquet(tmp_path, user_id=[1], items=[2])
    assert "did you mean 'items'? it has 'user_id', 'items'" in refusal("events", path, columns=NO_TIMES)
    path.write_bytes(path.read_bytes()[:-10])
    assert "cannot be read" in refusal("events", path)
    path = parquet(tmp_path, user_id=pa.array([], pa.int64()), item_id=pa.array([], pa.int64()))
    assert "holds no rows" in refusal("events", path, columns=NO_TIMES)
