"""Values as files write them: words for missing ones, ids that only look alike, floats that are too short."""

import io
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import NO_TIMES, refusal, rows_of

from seqrec.data.event_tables import ReadOptions
from seqrec.data.event_values import MISSING_VALUES
from seqrec.data.sources import read_source
from seqrec.types import InputError


def items_of(path, **options):
    return [item for _, item in rows_of(read_source("events", path, columns=NO_TIMES, **options))]


@pytest.mark.parametrize("word", [*MISSING_VALUES, "  ", " NA "])
def test_a_word_for_a_missing_value_is_no_id_and_leaves_the_others_integers(write, caplog, word):
    path = write(f"user_id,item_id\n1,7\n1,{word}\n1,{word}\n1,8\n")
    assert items_of(path) == [7, None, None, 8]
    assert f"item_id: 2 values {word.strip()!r} are read as missing" in caplog.text


@pytest.mark.parametrize("word", ["none", "Null", "na", "Nan", "NONE", "N.A.", "NaT"])
def test_other_spellings_are_names(write, caplog, word):
    assert items_of(write(f"user_id,item_id\n1,a\n1,{word}\n")) == ["a", word]
    assert "missing" not in caplog.text


def test_what_pandas_reads_as_missing_is_missing():
    pandas = pytest.importorskip("pandas")
    for word in MISSING_VALUES:
        read = pandas.read_csv(io.StringIO(f"item\n{word}\nx\n"))["item"]
        assert read.isna().tolist() == [word != "\\N", False], word


@pytest.mark.parametrize("missing", ["NaT", " NaT", "", "NA"])
@pytest.mark.parametrize("time", ["1600000000", "2020-09-13 12:26:40"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_missing_time_is_missing_whatever_the_file(tmp_path, form, time, missing):
    path, columns = tmp_path / f"events.{form}", {"user_id": [1, 2], "item_id": [3, 4], "timestamp": [missing, time]}
    if form == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        lines = map(json.dumps, rows) if form == "jsonl" else [",".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([*[",".join(columns)] * (form == "csv"), *lines]) + "\n")
    for words in (MISSING_VALUES, ("NA",)):
        source = read_source("events", path, options=ReadOptions(missing_values=words))
        assert rows_of(source) == [(1, 3, None), (2, 4, 1_600_000_000_000_000)]


def test_the_words_for_missing_values_can_be_named(write):
    path = write("user_id,item_id\n1,NA\n1,-1\n1,\n")
    assert items_of(path, options=ReadOptions(missing_values=("-1",))) == ["NA", None, None]
    assert items_of(path, options=ReadOptions(missing_values=())) == ["NA", "-1", None]


def test_words_for_missing_values_stand_in_every_kind_of_column(write):
    path = write(
        "user_id,item_id,timestamp,rating,device\n1,2,NULL,NA,nan\n1,3,1600000000,2.5,tv\n1,4,1600000001,4,None\n"
    )
    source = read_source("events", path, extra=["rating"], categories={"device": ()})
    assert rows_of(source, "rating", "device") == [
        (1, 2, None, None, -1),
        (1, 3, 1_600_000_000_000_000, 2.5, 0),
        (1, 4, 1_600_000_001_000_000, 4.0, -1),
    ]
    assert source.categories == {"device": ("tv",)}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["7", " 7", "7 "], "item_id: 2 ids have spaces around or line ends in them, such as ' 7'"),
        (["7", '"7\n"'], "item_id: 1 ids have spaces around or line ends in them"),
        # Two quotes without their others make one id of two rows.
        (["7", '"8\n1,9"'], "item_id: 1 ids have spaces around or line ends in them, such as '8\\n1,9'"),
        (["1.0", "2.0", "1"], "item_id: 2 ids are written such as '1.0'"),
    ],
)
def test_ids_that_only_look_alike_stay_apart_and_are_warned_of(write, caplog, items, words):
    path = write("user_id,item_id\n" + "".join(f"1,{item}\n" for item in items))
    assert items_of(path) == [item.strip('"') for item in items]
    assert words in caplog.text


def test_ids_written_alike_are_not_warned_of(write, caplog):
    caplog.set_level(logging.WARNING)
    assert items_of(write("user_id,item_id\n1,1.0\n1,b c\n")) == ["1.0", "b c"]
    assert not caplog.records


@pytest.mark.parametrize("bad_rows", ["refuse", "drop"])
def test_float32_ids_are_exact_below_two_to_the_24th_and_refused_from_there(bad_rows):
    # 2^24 + 1 rounds to 2^24.
    assert np.float32(2**24 + 1) == 2**24
    frame = pa.table({"user_id": [1, 1], "item_id": pa.array([2**24 - 1, 2**24], pa.float32())})
    assert rows_of(read_source("events", frame[:1], columns=NO_TIMES)) == [(1, 2**24 - 1)]
    if bad_rows == "drop":
        source = read_source("events", frame, columns=NO_TIMES, options=ReadOptions("drop"))
        assert rows_of(source) == [(1, 2**24 - 1), (1, None)]
        return
    with pytest.raises(InputError, match=r"row 2: item_id 16777216\.0 is a FLOAT that is no integer below 2\^24"):
        read_source("events", frame, columns=NO_TIMES)


def test_booleans_are_no_ids():
    with pytest.raises(InputError, match="row 1: item_id is a BOOLEAN, an id is an integer or text"):
        read_source("events", pa.table({"user_id": [1], "item_id": [True]}), columns=NO_TIMES)


def test_decimal_ids_are_exact_up_to_the_largest_integer():
    frame = pa.table({"user_id": [1], "item_id": pa.array([10**18 + 1]).cast(pa.decimal128(38, 2))})
    assert rows_of(read_source("events", frame, columns=NO_TIMES)) == [(1, 10**18 + 1)]


def test_float32_times_are_refused():
    # Neighbours of float32 around 1.6e9 are 128 seconds apart.
    assert np.spacing(np.float32(1.6e9)) == 128
    frame = pa.table({"user_id": [1], "item_id": [2], "timestamp": pa.array([1.6e9], pa.float32())})
    with pytest.raises(InputError, match="time is a float32, which rounds seconds since 1970 to multiples of 128"):
        read_source("events", frame)


@pytest.mark.parametrize("written", [("True", "False"), ("true", "false"), ("TRUE", "FALSE")])
def test_a_column_of_true_and_false_is_one_of_booleans(write, written):
    yes, no = written
    path = write(f"user_id,item_id,skipped\n1,2,{yes}\n1,3,{no}\n1,4,\n")
    source = read_source("events", path, columns=NO_TIMES, extra=["skipped"])
    assert rows_of(source, "skipped") == [(1, 2, True), (1, 3, False), (1, 4, None)]


def test_true_among_numbers_is_no_number(write):
    path = write("user_id,item_id,skipped\n1,2,1\n1,3,True\n")
    assert ":3: skipped 'True' is not a number" in refusal("events", path, columns=NO_TIMES, extra=["skipped"])


def test_values_of_an_extra_column_that_cannot_be_read_are_counted_and_named(write, caplog):
    path = write("user_id,item_id,seconds\n1,2,30\n1,3,half\n1,4,\n1,5,ten\n")
    options = {"columns": NO_TIMES, "extra": ["seconds"]}
    assert ":3: seconds 'half' is not a number" in refusal("events", path, **options)
    source = read_source("events", path, options=ReadOptions("drop"), **options)
    assert rows_of(source, "seconds") == [(1, 2, 30), (1, 3, None), (1, 4, None), (1, 5, None)]
    assert source.unreadable == {"seconds": 2}
    assert f"seconds: 2 values are not numbers, such as 'half' at {path}:3" in caplog.text
