"""Parquet files of one column with differing types, and with NaN, which their statistics leave out."""

import logging
from datetime import date, datetime
from decimal import Decimal

import duckdb
import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import NO_TIMES, microseconds, rows_of

from seqrec.data.sources import read_source
from seqrec.data.steps import keep_at_least
from seqrec.types import InputError

N_EVENTS = 22_000
"""Enough for statistics by which DuckDB leaves row groups out."""


def write_parts(directory, name, *parts):
    """A Parquet file for each of the arrays, which is the column `name`; users, items and times are all alike."""
    for number, values in enumerate(parts):
        columns = {
            "user_id": [1] * len(values),
            "item_id": [2] * len(values),
            "timestamp": [1_600_000_000] * len(values),
        }
        pq.write_table(pa.table({**columns, name: values}), directory / f"part-{number}.parquet")
    return directory


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([pa.array([1], pa.int32()), pa.array([2**40], pa.int64())], [1, 2**40]),
        ([pa.array([1], pa.int8()), pa.array([3], pa.uint32())], [1, 3]),
        ([pa.array([1, 2]), pa.array([3.0, None])], [1, 2, 3, None]),
        ([pa.array([3.0]), pa.array([2**53 - 1])], [3, 2**53 - 1]),
        ([pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.array(["a"]).dictionary_encode()], ["a", "b", "a"]),
        ([pa.array([None], pa.null()), pa.array([7])], [None, 7]),
        ([pa.array([1]).cast(pa.decimal128(38, 19)), pa.array([10**18]).cast(pa.decimal128(19, 0))], [1, 10**18]),
    ],
)
def test_ids_of_types_that_fit_into_one_keep_their_values(tmp_path, parts, expected):
    source = read_source("events", write_parts(tmp_path, "item_id", *parts), columns=NO_TIMES)
    assert [item for _, item in rows_of(source)] == expected


def test_dates_and_times_of_several_parts_keep_the_time_of_day(tmp_path):
    noon = datetime(2020, 1, 2, 12)
    parts = [
        pa.array([date(2020, 1, 1)]),
        pa.array([noon], pa.timestamp("ms")),
        pa.array([noon], pa.timestamp("us", "UTC")),
    ]
    source = read_source("events", write_parts(tmp_path, "timestamp", *parts))
    times = [microseconds(2020, 1, 1), microseconds(2020, 1, 2, 12), microseconds(2020, 1, 2, 12)]
    assert [time for _, _, time in rows_of(source)] == times


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (pa.array([date(2020, 1, 2), None]), "DATE"),
        (pa.array([datetime(2020, 1, 2), None], pa.timestamp("ns")), "TIMESTAMP_NS"),
        (pa.array([datetime(2020, 1, 2), None], pa.timestamp("s", "UTC")), "TIMESTAMP WITH TIME ZONE"),
    ],
)
def test_times_of_a_type_for_times_are_called_by_it_and_not_text(tmp_path, caplog, times, kind):
    caplog.set_level(logging.INFO)
    source = read_source("events", write_parts(tmp_path, "timestamp", times))
    assert rows_of(source) == [(1, 2, microseconds(2020, 1, 2)), (1, 2, None)]
    assert f"times are of the type {kind}" in caplog.text
    assert "text" not in caplog.text


def test_times_of_a_type_for_times_have_the_years_of_text_and_numbers(tmp_path):
    path = write_parts(tmp_path, "timestamp", pa.array([datetime(1970, 1, 1)], pa.timestamp("us")))
    with pytest.raises(
        InputError, match=r"part-0\.parquet, row 1: time '1970-01-01 00:00:00' is outside the years 1980"
    ):
        read_source("events", path)
    assert rows_of(read_source("events", path, time_unit="us")) == [(1, 2, 0)]


def test_integers_and_floats_of_an_extra_column_keep_their_fractions(tmp_path):
    path = write_parts(tmp_path, "rating", pa.array([4, 5]), pa.array([3.5]))
    assert [row[-1] for row in rows_of(read_source("events", path, extra=["rating"]), "rating")] == [4.0, 5.0, 3.5]


@pytest.mark.parametrize(
    ("parts", "types"),
    [
        ([pa.array([7]), pa.array(["007"])], ("int64", "string")),
        ([pa.array([True]), pa.array([3])], ("bool", "int64")),
        ([pa.array([2**53]), pa.array([1.0])], ("int64 with values from 9,007,199,254,740,992 on", "double")),
        ([pa.array([1.0]), pa.array([2.0**24], pa.float32())], ("float with values from 16,777,216 on", "double")),
        ([pa.array([1]), pa.array([date(2020, 1, 1)])], ("int64", "date32[day]")),
        # A type with all digits of both would have 48.
        (
            [pa.array([Decimal("1.5")], pa.decimal128(20, 10)), pa.array([Decimal(1)], pa.decimal128(38, 0))],
            ("decimal128(20, 10)", "decimal128(38, 0)"),
        ),
    ],
)
def test_types_that_no_common_type_holds_are_refused_with_files_column_and_types(tmp_path, parts, types):
    with pytest.raises(InputError) as refusal:
        read_source("events", write_parts(tmp_path, "item_id", *parts), columns=NO_TIMES)
    message = str(refusal.value)
    for word in ("part-0.parquet", "part-1.parquet", "'item_id'", *types):
        assert word in message
    assert "\n" not in message


def test_fractional_ids_of_a_later_part_are_refused_and_not_rounded(tmp_path):
    path = write_parts(tmp_path, "user_id", pa.array([1]), pa.array([1.5]))
    with pytest.raises(InputError, match=r"part-1\.parquet, row 1: user_id 1\.5 is a DOUBLE"):
        read_source("events", path, columns=NO_TIMES)


def log_with_nan(path, name, *, sign=1.0, dtype=float, constant=False):
    """Many events, of which the 778th has NaN in the column `name`, and the others one value if it is `constant`."""
    columns = {
        "user_id": np.arange(N_EVENTS) % 100,
        "item_id": np.arange(N_EVENTS) % 7,
        "timestamp": np.full(N_EVENTS, 1.6e9),
        "rating": np.arange(N_EVENTS) % 5 + 1.0,
    }
    columns[name] = np.where(constant, columns[name][:1], columns[name]).astype(dtype)
    columns[name][777] = np.copysign(np.nan, sign)
    pq.write_table(pa.table(columns), path)
    statistics = pq.read_metadata(path).row_group(0).column(list(columns).index(name)).statistics
    assert statistics.null_count == 0
    assert not np.isnan(statistics.max)
    return path


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["user_id", "item_id", "timestamp", "rating"])
def test_nan_of_a_parquet_file_is_missing_whatever_its_statistics_say(tmp_path, name, sign, constant):
    log = log_with_nan(tmp_path / "log.parquet", name, sign=sign, constant=constant)
    source = read_source("events", log, extra=["rating"])
    ours = {"timestamp": "timestamp_us"}.get(name, name)
    missing = source.events.filter(nw.col(ours).is_null()).select("event_index").collect("pyarrow").to_native()
    assert missing["event_index"].to_pylist() == [777]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("minimum", "constant"), [(0.0, False), (3.0, False), (1.0, True)])
def test_a_threshold_drops_nan_of_a_parquet_file_that_is_no_source_of_ours(tmp_path, minimum, constant, dtype):
    path = log_with_nan(tmp_path / "log.parquet", "rating", constant=constant, dtype=dtype)
    with duckdb.connect() as connection:
        log = nw.from_native(connection.read_parquet(str(path)))
        kept = keep_at_least(log, "rating", minimum).select(n=nw.len()).collect("pyarrow")["n"][0]
    # Each of 1 to 5 stands for a fifth of the events; the one that is NaN would have been 777 % 5 + 1 = 3.
    assert int(kept) == (3 * N_EVENTS // 5 if minimum == 3.0 else N_EVENTS) - 1
