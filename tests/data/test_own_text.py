import gzip
import logging
from datetime import timedelta, timezone

import pytest
from source_rows import BOM, NO_TIMES, microseconds, refusal, rows_of

from seqrec.data.sources import Columns, read_source

MOMENT = (2021, 3, 4, 5, 6, 7)
SECONDS = microseconds(*MOMENT) // 10**6


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f"{SECONDS}", microseconds(*MOMENT)),
        (f"{SECONDS}.277", microseconds(*MOMENT, 277_000)),
        (f"{SECONDS}123", microseconds(*MOMENT, 123_000)),
        (f"{SECONDS}123456", microseconds(*MOMENT, 123_456)),
        (f"{SECONDS}123456000", microseconds(*MOMENT, 123_456)),
        ("2021-03-04", microseconds(2021, 3, 4)),
        ("2021-03-04 05:06:07", microseconds(*MOMENT)),
        ("2021-03-04T05:06:07Z", microseconds(*MOMENT)),
        (
            "2021-03-04T05:06:07.123456+02:00",
            microseconds(*MOMENT, 123_456, zone=timezone(timedelta(hours=2))),
        ),
    ],
)
def test_times_are_understood_by_their_form_and_size(write, caplog, written, expected):
    caplog.set_level(logging.INFO)
    source = read_source("events", write(f"user_id,item_id,timestamp\n1,2,{written}\n"))
    assert rows_of(source) == [(1, 2, expected)]
    assert written in caplog.text


def test_a_named_unit_is_taken_at_its_word(write):
    path = write("user_id,item_id,timestamp\n1,2,1\n1,3,2\n")
    assert "outside the years 1980 to 2100" in refusal("events", path)
    assert rows_of(read_source("events", path, time_unit="s")) == [(1, 2, 10**6), (1, 3, 2 * 10**6)]
    as_text = write("user_id,item_id,timestamp\n1,2,1970-01-01T00:00:01Z\n1,3,1970-01-01T00:00:02Z\n")
    assert rows_of(read_source("events", as_text, time_unit="s")) == [(1, 2, 10**6), (1, 3, 2 * 10**6)]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            ["1600000000", "2020-01-01"],
            ":3: time '2020-01-01' is not a number as the first time, '1600000000'",
        ),
        (["2020-01-01", "1600000000"], ":3: time '1600000000' is not an ISO date"),
        (["01/02/2020"], ":2: time '01/02/2020' is not an ISO date and time nor a number"),
        (["1600000000", "12"], ":3: time '12' in s is outside the years 1980 to 2100; give time_unit"),
        (["20200101"], ":2: time '20200101' in s is outside"),
        (["-5"], ":2: time '-5' in s is outside"),
        (["0202-01-01"], ":2: time '0202-01-01' is outside the years 1980 to 2100; give time_unit"),
        (["1970-01-01T00:00:00Z"], ":2: time '1970-01-01T00:00:00Z' is outside the years 1980 to 2100; give time_unit"),
        (["0"], ":2: time '0' in s is outside the years 1980 to 2100; give time_unit"),
        (["1" + "0" * 30], ":2: time '1000000000000000000000000000000' is not"),
        (["inf"], ":2: time 'inf' is"),
        (["infinity"], ":2: time 'infinity' is"),
    ],
)
def test_times_that_cannot_be_meant_are_refused(write, times, message):
    path = write("user_id,item_id,timestamp\n" + "".join(f"1,2,{time}\n" for time in times))
    assert f"{path}{message}" in refusal("events", path)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_delimiters_quotes_and_columns_in_any_order(write, delimiter):
    names = ["rating", 'my "item"', "when; x", "who"]
    path = write(
        BOM
        + "\r\n".join(
            delimiter.join('"' + field.replace('"', '""') + '"' for field in row)
            for row in [names, ["4", "a\nb", "2020-01-01", "u'; DROP TABLE found; --"]]
        ).encode()
    )
    source = read_source("events", path, columns=Columns("who", 'my "item"', "when; x"))
    assert rows_of(source) == [("u'; DROP TABLE found; --", "a\nb", microseconds(2020, 1, 1))]


@pytest.mark.parametrize("name", ["a*b?[1].csv", "it's.csv", "no suffix", 'quo"te.csv.gz'])
def test_any_file_name_is_just_a_name(write, name):
    write("user_id,item_id\n8,8\n", "aXbY1.csv")
    path = write("user_id,item_id\n1,2\n", name)
    assert rows_of(read_source("events", path, columns=NO_TIMES)) == [(1, 2)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["3", "-1", "0"], [3, -1, 0]),
        (["3", "", "4"], [3, None, 4]),
        (["7", "007"], ["7", "007"]),
        (["7", "+7"], ["7", "+7"]),
        (["7", "7.0"], ["7", "7.0"]),
        (["1", "18446744073709551615"], ["1", "18446744073709551615"]),
        (["1", "B00X", ""], ["1", "B00X", None]),
    ],
)
def test_ids_become_integers_only_where_that_loses_nothing(write, written, expected):
    path = write("user_id,item_id\n" + "".join(f"1,{item}\n" for item in written))
    assert [item for _, item in rows_of(read_source("events", path, columns=NO_TIMES))] == expected


def test_events_that_lack_an_id_are_kept_as_nulls_for_cleaning_to_count(write):
    path = write('user_id,item_id,timestamp\n,2,1600000000\n1,"",1600000001\n1,3,\n')
    assert rows_of(read_source("events", path)) == [
        (None, 2, 1_600_000_000_000_000),
        (1, None, 1_600_000_001_000_000),
        (1, 3, None),
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"user_id,item_id,when\n1,2,3\n", " has no column 'timestamp'; it has 'user_id', 'item_id', 'when'"),
        (b"userid,item_id,timestamp\n1,2,3\n", " has no column 'user_id'; did you mean 'userid'?"),
        (b"USER_ID,item_id,timestamp\n1,2,3\n", " has no column 'user_id'; did you mean 'USER_ID'?"),
        (b"user_id,item_id,item_id,timestamp\n1,2,3,4\n", " has 2 columns 'item_id'"),
        (b"user_id,item_id,timestamp\n1,2\n", ":2: '1,2' has 2 fields, 3 are due"),
        (b'user_id,item_id,timestamp\n1,"a\nb",1600000000\n1\n', ":4: '1' has 1 field, 3 are due"),
        (b"user_id,item_id,timestamp\n1,2,1600000000\n1,\xe9,1600000000\n", ":3: bytes that are not UTF-8"),
        (b"user_id,\xe9,timestamp\n1,2,3\n", ":1: byte 0xe9 is not UTF-8"),
        (b"user_id,item_id,timestamp\n", " holds no rows"),
        (b"\nuser_id,item_id,timestamp\n1,2,3\n", ":1: the first line is empty"),
        (b"user_id,item_id,timestamp\n1,2,1600000000\r\n1,3,1600000000\n", " cannot be read"),
        (b'user_id,item_id,timestamp\n1,"2,1600000000\n', ":2: "),
    ],
)
def test_own_files_that_cannot_be_read_are_refused_with_their_line(write, pack, content, message):
    path = write(pack(content))
    assert refusal("events", path).startswith(f"{path}{message}")


def test_bytes_in_a_column_nobody_asked_for_do_no_harm(write):
    path = write(b"user_id,item_id,city\n1,2,Orl\xe9ans\n")
    assert rows_of(read_source("events", path, columns=NO_TIMES)) == [(1, 2)]
