"""The user's own events that are more than one file, or none: directories, patterns, databases, frames; and codes."""

import gzip

import duckdb
import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import NO_TIMES, microseconds, refusal, rows_of

from seqrec.data.event_tables import ReadOptions
from seqrec.data.sources import Columns, read_source
from seqrec.data.tables.rows import Limits
from seqrec.types import InputError

PAIRS = [(1, 10), (2, 20), (3, 30), (4, 40)]


def csv_of(pairs):
    return "user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in pairs)


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def test_a_directory_of_parts_is_read_in_the_order_of_their_names(write):
    write(gzip.compress(csv_of(PAIRS[2:3]).encode(), mtime=0), "out/part-00002.csv.gz")
    write(csv_of(PAIRS[1:2]), "out/part-00001.csv")
    write(zstd(csv_of(PAIRS[3:]).encode()), "out/part-00003.csv.zst")
    path = write(csv_of(PAIRS[:1]), "out/part-00000.csv").parent
    for name in ("_SUCCESS", "_committed_17", ".part-00000.csv.crc", "_temporary/0/part-9.csv", "part-00004.csv"):
        write("" if name.startswith("part") else "x", f"out/{name}")
    assert rows_of(read_source("events", path, columns=NO_TIMES)) == PAIRS
    assert rows_of(read_source("events", path / "part-0000[12]*", columns=NO_TIMES)) == PAIRS[1:3]


def test_parquet_parts_keep_their_order_and_say_their_rows(tmp_path):
    sizes = (3, 0, 400_000, 2)
    start = 0
    for part, size in enumerate(sizes):
        users = np.arange(start, start + size)
        pq.write_table(
            pa.table({"user_id": users, "item_id": users * 2}), tmp_path / f"{part}.parquet", row_group_size=1000
        )
        start += size
    for n_threads in (1, 4):
        source = read_source(
            "events", tmp_path, columns=NO_TIMES, options=ReadOptions(limits=Limits(n_threads=n_threads))
        )
        table = source.events.sort("event_index").collect("pyarrow").to_native()
        np.testing.assert_array_equal(table["user_id"], np.arange(start))
        np.testing.assert_array_equal(table["event_index"], np.arange(start))
    bad = pa.table({"user_id": [1.0, 1.5], "item_id": [1, 2]})
    other = tmp_path / "fractions"
    other.mkdir()
    pq.write_table(bad.slice(0, 1), other / "a.parquet")
    pq.write_table(bad, other / "b.parquet")
    assert "b.parquet, row 2: user_id 1.5" in refusal("events", other, columns=NO_TIMES)


def test_names_of_hive_partitions_are_columns(tmp_path):
    for day, user in (("2020-01-01", 1), ("2020-01-02", 2)):
        folder = tmp_path / f"day={day}" / "country=007"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user_id": [user], "item_id": [5]}), folder / "part-0.parquet")
    source = read_source("events", tmp_path, columns=Columns("user_id", "item_id", "day"), categories={"country": ()})
    expected = [(1, 5, microseconds(2020, 1, 1), 0), (2, 5, microseconds(2020, 1, 2), 0)]
    assert rows_of(source, "country") == expected
    assert source.categories == {"country": ("007",)}


def test_text_parts_packed_or_not_keep_their_order_on_many_threads(tmp_path):
    n_rows = 300_000
    lines = [b"%d,1\n" % number for number in range(n_rows)]
    for part in range(3):
        content = b"user_id,item_id\n" + b"".join(lines[part * n_rows // 3 : (part + 1) * n_rows // 3])
        (tmp_path / f"{part}.csv").write_bytes(zstd(content) if part == 1 else content)
    source = read_source("events", tmp_path, columns=NO_TIMES, options=ReadOptions(limits=Limits(n_threads=4)))
    table = source.events.sort("event_index").collect("pyarrow").to_native()
    np.testing.assert_array_equal(table["user_id"], np.arange(n_rows))


def test_json_lines_are_events_too(write):
    path = write(
        '{"user_id": "ann", "item_id": 7, "timestamp": 1600000000.5, "n": 1}\n\n'
        '{"item_id": "7", "user_id": null, "timestamp": 1600000001, "x": {"y": 1}}\n',
        "events.jsonl",
    )
    expected = [("ann", 7, 1_600_000_000_500_000, 1), (None, 7, 1_600_000_001_000_000, None)]
    assert rows_of(read_source("events", path, extra=["n"]), "n") == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": 1, "it', "the line is no JSON object"),
        ('{"user_id": [1], "item_id": 2}', "is an object or a list"),
    ],
)
def test_lines_of_json_that_are_dropped_are_counted_and_named(write, caplog, line, message):
    path = write(f'{{"user_id": 1, "item_id": 2}}\n{line}\n{line}\n', "events.jsonl")
    source = read_source("events", path, columns=NO_TIMES, options=ReadOptions("drop"))
    assert rows_of(source) == [(1, 2), *[(None, None)] * 2]
    assert f"2 rows cannot be read and are dropped, such as {path}:2" in caplog.text
    assert message in caplog.text


# Databases


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "events.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute('CREATE TABLE "odd ""name""; --" (user_id BIGINT, "the item" VARCHAR, moment TIMESTAMP)')
        connection.execute(
            """INSERT INTO "odd ""name""; --" VALUES (2, 'b', '2020-01-01'), (1, 'a', '2020-01-02'), (3, NULL, NULL)"""
        )
        connection.execute('DELETE FROM "odd ""name""; --" WHERE user_id = 2')
        connection.execute("CREATE SCHEMA s; CREATE TABLE s.plays AS SELECT 5 AS user_id, 'z' AS item_id")
    return path


def test_a_table_of_a_database_is_read_by_any_name(database):
    columns = Columns("user_id", "the item", "moment")
    expected = [(1, "a", microseconds(2020, 1, 2)), (3, None, None)]
    options = ReadOptions(table='odd "name"; --')
    assert rows_of(read_source("events", database, columns=columns, options=options)) == expected
    for table in ("plays", "s.plays"):
        source = read_source("events", database, columns=NO_TIMES, options=ReadOptions(table=table))
        assert rows_of(source) == [(5, "z")]


def test_a_query_gives_its_rows_in_its_order(database):
    query = "SELECT range AS user_id, range % 7 AS item_id FROM range(300000) ORDER BY range DESC"
    source = read_source("events", database, columns=NO_TIMES, options=ReadOptions(query=query))
    assert rows_of(source) == [(number, number % 7) for number in range(299_999, -1, -1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ReadOptions(), "is a DuckDB database; name a table in it, or give a query"),
        (ReadOptions(table="plays; DROP TABLE s.plays"), "has 0 tables 'plays; DROP TABLE s.plays'; its tables are"),
        (ReadOptions(table="plays", query="SELECT 1"), "give one"),
        (ReadOptions(query="DROP TABLE s.plays"), "is not one SELECT"),
        (ReadOptions(query="SELECT 1 AS user_id, 2 AS item_id; DROP TABLE s.plays"), "is not one SELECT"),
        (ReadOptions(query="SELECT * FROM read_csv('/etc/passwd')"), "the query fails"),
        (ReadOptions(query="SELECT user_id FROM nowhere"), "the query fails"),
        (ReadOptions(query="SELECT FROM WHERE"), "the query fails"),
        (ReadOptions(query="SELECT 1 AS user_id"), "has no column 'item_id'; did you mean 'user_id'?"),
        (ReadOptions(query="SELECT 1 AS user_id, 2 AS item_id WHERE false"), "holds no rows"),
        (ReadOptions(query="SELECT error('oh') AS user_id, 2 AS item_id"), "the query fails"),
    ],
)
def test_queries_only_read(database, options, message):
    before = database.read_bytes()
    assert message in refusal("events", database, columns=NO_TIMES, options=options)
    assert database.read_bytes() == before


def test_what_is_no_database_is_refused(write):
    for content in ("user_id,item_id\n1,2\n", b"12345678DUCK" + bytes(5000)):
        path = write(content)
        assert str(path) in refusal("events", path, columns=NO_TIMES, options=ReadOptions(table="plays"))
    assert "is read from files" in refusal("movielens", path, options=ReadOptions(table="plays"))


# Frames


def frames():
    columns = {
        "user_id": ["b", "a", "b"],
        "item_id": [3, 1, 2],
        "timestamp": [1.5e9, 1.5e9 + 0.5, 1.6e9],
        "n": [1, 2, 3],
    }
    yield pa.table(columns)
    for module in ("pandas", "polars"):
        try:
            yield __import__(module).DataFrame(columns)
        except ImportError:
            continue


def test_frames_of_any_kind_are_the_same_events():
    for frame in frames():
        rows = rows_of(read_source("events", frame, extra=["n"]), "n")
        assert rows == [
            ("b", 3, 1_500_000_000_000_000, 1),
            ("a", 1, 1_500_000_000_500_000, 2),
            ("b", 2, 1_600_000_000_000_000, 3),
        ]


def test_frames_that_cannot_be_read_are_refused():
    pandas = pytest.importorskip("pandas")
    for frame, message in [
        (pandas.DataFrame({"user_id": [1, "a"], "item_id": [1, 2]}), "mixed types"),
        (pandas.DataFrame({"user_id": [1, 2]}), "frame has no column 'item_id'"),
        (pandas.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "item_id"]), "frame"),
        (pa.table({"user_id": pa.array([], pa.int64()), "item_id": pa.array([], pa.int64())}), "holds no rows"),
        (pa.table({"user_id": [1], "item_id": [0.5]}), "frame, row 1: item_id 0.5"),
        ([1, 2], "frame is list; give a table of pandas, Polars or Arrow"),
    ]:
        with pytest.raises(InputError, match=message):
            read_source("events", frame, columns=NO_TIMES)


# Codes


def test_columns_of_text_become_codes_in_sorted_order(write):
    path = write("user_id,item_id,device\n1,1,phone\n1,2,\n1,3,Äpple\n1,4,car\n1,5,phone\n")
    source = read_source("events", path, columns=NO_TIMES, categories={"device": ()})
    assert [code for *_, code in rows_of(source, "device")] == [1, -1, 2, 0, 1]
    assert source.categories == {"device": ("car", "phone", "Äpple")}
    assert source.events.collect_schema()["device"] == nw.Int32


def test_known_codes_stay_and_new_texts_follow(write):
    path = write("user_id,item_id,device\n1,1,watch\n1,2,phone\n1,3,car\n")
    source = read_source("events", path, columns=NO_TIMES, categories={"device": ("phone", "tv")})
    assert source.categories == {"device": ("phone", "tv", "car", "watch")}
    assert [code for *_, code in rows_of(source, "device")] == [3, 0, 2]


def test_a_column_of_nothing_has_no_codes_and_one_of_free_text_is_refused(write):
    path = write("user_id,item_id,note\n1,1,\n1,2,\n")
    source = read_source("events", path, columns=NO_TIMES, categories={"note": ()})
    assert source.categories == {"note": ()}
    assert [code for *_, code in rows_of(source, "note")] == [-1, -1]
    path = write("user_id,item_id,note\n" + "".join(f"1,1,text {number}\n" for number in range(10_001)))
    assert "note has more than 10,000 distinct values" in refusal(
        "events", path, columns=NO_TIMES, categories={"note": ()}
    )
    assert "is given twice" in refusal("events", path, columns=NO_TIMES, extra=["note"], categories={"note": ()})
