"""Malformed input: each is refused in one line that says where, or dropped and counted; nothing half is left."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.event_tables import ReadOptions
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import Columns, read_source
from seqrec.data.split_config import SplitConfig
from seqrec.types import InputError

HEADER = "user_id,item_id,timestamp\n"
GOOD = "1,2,1600000000\n"
NO_TIMES = {"columns": Columns("user_id", "item_id", "none")}
DROP = {"options": ReadOptions(bad_rows="drop")}


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def long_text(n_rows: int) -> bytes:
    return (HEADER + "".join(f"{number},2,1600000000\n" for number in range(n_rows))).encode()


class Refused(NamedTuple):
    """Files to write, and the words of the complaint, of which the first follows the directory's name."""

    name: str
    files: dict[str, str | bytes]
    words: tuple[str, ...]
    options: Mapping[str, Any] = MappingProxyType({})
    dataset: str = "events"
    path: str | None = None
    """What is read in the directory; by default the first file."""


def text_case(name: str, content: str | bytes, *words: str, **options: Any) -> Refused:
    return Refused(name, {"log.csv": content}, words, options)


REFUSED = [
    # Files that are not whole
    Refused("truncated gzip", {"log.csv.gz": packed(long_text(5000))[:-300]}, ("log.csv.gz is cut short or damaged",)),
    Refused("gzip with a wrong sum", {"log.gz": packed(b"1,2")[:-8] + bytes(8)}, ("log.gz is cut short or damaged",)),
    Refused("gzip of nothing", {"log.csv.gz": packed(b"")}, ("log.csv.gz is empty",)),
    Refused("truncated zstd", {"log.csv.zst": zstd(long_text(5000))[:-300]}, ("log.csv.zst is cut short or damaged",)),
    Refused(
        "truncated Parquet",
        {"log.parquet": parquet(user_id=[1], item_id=[2], timestamp=[1_600_000_000])[:-7]},
        ("log.parquet cannot be read",),
    ),
    Refused(
        "Parquet with a damaged page",
        {"log.parquet": parquet(user_id=list(range(9)), item_id=[2] * 9)[:4] + bytes(60)
         + parquet(user_id=list(range(9)), item_id=[2] * 9)[64:]},
        ("log.parquet cannot be read",),
        NO_TIMES,
    ),
    Refused("gzip'd Parquet", {"log": packed(parquet(user_id=[1]))}, ("log is a gzip'd Parquet file; unpack it",)),
    Refused("zip archive", {"log.csv": b"PK\x03\x04" + bytes(40)}, ("log.csv is a zip archive; unpack it",)),
    Refused("empty file", {"log.csv": b""}, ("log.csv is empty",)),
    text_case("header alone", HEADER, "log.csv holds no rows"),
    text_case("byte order mark alone", b"\xef\xbb\xbf", "log.csv:1: the first line is empty"),
    text_case("random bytes", bytes(range(256)) * 8, "log.csv has no column"),
    # Rows and fields
    text_case("too few fields", HEADER + GOOD + "1,2\n", "log.csv:3: '1,2' has 2 fields, 3 are due"),
    text_case("too many fields", HEADER + GOOD + "1,2,3,4\n", "log.csv:3: '1,2,3,4' has 4 fields, 3 are due"),
    text_case("mixed delimiters", HEADER + GOOD + "1;2;1600000000\n", "log.csv:3: '1;2;1600000000' has 1 field"),
    text_case("other delimiter than the header", HEADER + "1\t2\t1600000000\n", "has 1 field, 3 are due"),
    text_case("unclosed quote", HEADER + GOOD + '1,"2,1600000000\n' + GOOD, "log.csv:3: "),
    text_case("quote inside a field", HEADER + GOOD + '1,"a"b",1600000000\n', "log.csv"),
    text_case("mixed line ends", HEADER + "1,2,1600000000\r\n" + GOOD, "log.csv cannot be read"),
    text_case("very long line", HEADER + GOOD + "1," + "x" * 5_000_000 + ",1600000000\n", "log.csv:3: "),
    text_case("line longer than a buffer", HEADER + GOOD + "x" * (40 << 20) + "\n" + GOOD,
              "log.csv:3: the line is longer than 8 MB"),
    Refused("packed line longer than a buffer",
            {"log.csv.gz": packed((HEADER + "x" * (40 << 20) + "\n" + GOOD).encode())},
            ("log.csv.gz:2: the line is longer than 8 MB",)),
    text_case("very long header", "x" * 200_000 + ",user_id\n" + GOOD, "log.csv:1: the first line is no header"),
    text_case("thousands of columns", ",".join(map(str, range(5000))) + "\n", "'19', ...; name the user"),
    text_case("CSV of one column", "user_id\n1\n", "log.csv has no column 'item_id'"),
    # Headers
    text_case("duplicated header", "user_id,item_id,item_id,timestamp\n1,2,3,4\n", "log.csv has 2 columns 'item_id'"),
    text_case("missing header", "1,2,1600000000\n", "log.csv has no column 'user_id'; it has '1', '2'"),
    text_case("header in other case", "USER_ID,item_id,timestamp\n" + GOOD, "did you mean 'USER_ID'?"),
    text_case("header of spaces", " user_id, item_id, timestamp\n" + GOOD, "did you mean ' user_id'?"),
    text_case("no such extra column", HEADER + GOOD, "log.csv has no column 'rating'", extra=["rating"]),
    text_case("blank first line", "\n" + HEADER + GOOD, "log.csv:1: the first line is empty"),
    # Encodings
    text_case("Latin-1", HEADER.encode() + b"1,caf\xe9,1600000000\n", "log.csv:2: bytes that are not UTF-8"),
    text_case("Latin-1 header", b"user_id,caf\xe9\n1,2\n", "log.csv:1: byte 0xe9 is not UTF-8"),
    text_case("UTF-16", (HEADER + GOOD).encode("utf-16"), "log.csv:1: byte 0xff is not UTF-8"),
    text_case("UTF-16 without a mark", (HEADER + GOOD).encode("utf-16-le"), "log.csv"),
    # Times
    text_case("negative time", HEADER + GOOD + "1,2,-5\n", "log.csv:3: time '-5' in s is outside the years 1980"),
    text_case("time 2^63", HEADER + GOOD + f"1,2,{2**63}\n", f"log.csv:3: time '{2**63}' in s is outside"),
    text_case("time beyond decimals", HEADER + GOOD + "1,2,1" + "0" * 40 + "\n", "log.csv:3: time '1000000"),
    text_case(
        "seconds among microseconds",
        HEADER + "1,2,1600000000000000\n" * 3 + GOOD,
        "log.csv:5: time '1600000000' in us is outside the years 1980 to 2100; give time_unit",
    ),
    text_case("microseconds among seconds", HEADER + GOOD * 3 + "1,2,1600000000000000\n", "log.csv:5: time '16000"),
    text_case("infinite time", HEADER + GOOD + "1,2,inf\n", "log.csv:3: time 'inf' is not a number"),
    text_case("date among numbers", HEADER + GOOD + "1,2,2020-01-01\n", "log.csv:3: time '2020-01-01' is not"),
    text_case("American date", HEADER + "1,2,01/31/2020\n", "log.csv:2: time '01/31/2020' is not an ISO date"),
    text_case("thirty-first of February", HEADER + "1,2,2020-02-31\n", "log.csv:2: time '2020-02-31' is not"),
    text_case("zone without a sense", HEADER + "1,2,2020-01-01 00:00:00 Nowhere\n", "log.csv:2"),
    text_case("milliseconds where seconds are said to be", HEADER + "1,2,16000000000000\n",
              "log.csv:2: time '16000000000000' in s is outside the years 1900 to 2200", time_unit="s"),
    # Ids and numbers
    Refused("fractional ids", {"log.parquet": parquet(user_id=[1.0, 1.5], item_id=[1, 2])},
            ("log.parquet, row 2: user_id 1.5 is a DOUBLE that is no integer",), NO_TIMES),
    Refused("ids that are lists", {"log.parquet": parquet(user_id=[[1]], item_id=[1])},
            ("log.parquet, row 1: user_id is a BIGINT[]",), NO_TIMES),
    text_case("rating of words", "user_id,item_id,rating\n1,2,5\n1,2,good\n",
              "log.csv:3: rating 'good' is not a number", extra=["rating"], **NO_TIMES),
    Refused("names that differ in case alone",
            {"log.parquet": parquet(user_id=[1], USER_ID=[2], item_id=[3])},
            ("log.parquet has 2 columns 'user_id', in any case; rename one",), NO_TIMES),
    Refused("a name that DuckDB keeps", {"log.parquet": parquet(user_id=[1], item_id=[3], file_row_number=[4])},
            ("log.parquet has a column 'file_row_number'",), NO_TIMES),
    # JSON
    Refused("JSON broken in the middle",
            {"log.json": '{"user_id": 1, "item_id": 2}\n{"user_id": 1, "it\n{"user_id": 1, "item_id": 2}\n'},
            ("log.json:2: the line is no JSON object",), NO_TIMES),
    Refused("JSON of wrong types", {"log.json": '{"user_id": 1, "item_id": 2}\n{"user_id": {}, "item_id": [2]}\n'},
            ("log.json:2: one of item_id, user_id is an object or a list",), NO_TIMES),
    Refused("JSON list", {"log.json": '[{"user_id": 1, "item_id": 2}]\n'},
            ("log.json:1: ", "begins a list of JSON; write one JSON object a line"), NO_TIMES),
    Refused("JSON without the key", {"log.json": '{"user_id": 1}\n'}, ("log.json has no column 'item_id'",), NO_TIMES),
    Refused("JSON over several lines", {"log.json": json.dumps({"user_id": 1, "item_id": 2}, indent=1)},
            ("log.json:1: the line is no JSON object",), NO_TIMES),
    # Directories and patterns
    Refused("directory without files", {"log/_SUCCESS": b""}, ("log holds no files",), path="log"),
    Refused("directory of empty partitions", {"log/a.csv": b"", "log/b.csv": b""}, ("log holds no files",), path="log"),
    Refused("pattern without a match", {"log.csv": HEADER}, ("*.tsv matches no file",), path="*.tsv"),
    Refused("other columns in one part", {"log/a.csv": HEADER + GOOD, "log/b.csv": "user_id,item_id\n1,2\n"},
            ("b.csv:1: the header 'user_id,item_id' is not that of",), path="log/*.csv"),
    Refused("other columns in one Parquet part",
            {"log/a.parquet": parquet(user_id=[1], item_id=[2]), "log/b.parquet": parquet(user=[1], item_id=[2])},
            ("b.parquet has no column 'user_id', ", "a.parquet has one; give files"), NO_TIMES, path="log"),
    Refused("text beside Parquet", {"log/a.csv": HEADER, "log/b.parquet": parquet(user_id=[1])},
            ("b.parquet is of another kind than",), path="log"),
    Refused("a bad row in a later part", {"log/a.csv": HEADER + GOOD, "log/b.csv": HEADER + GOOD + "1,2\n"},
            ("b.csv:3: '1,2' has 2 fields",), path="log"),
    Refused("a part that is cut off", {"log/a.csv": HEADER + GOOD, "log/b.csv.gz": packed(long_text(999))[:-9]},
            ("b.csv.gz is cut short",), path="log"),
    Refused("a directory for a file", {"log.txt/x": b"1 2\n"}, ("log.txt is a directory",), {}, "sasrec", "log.txt"),
    Refused("no such file", {"log.csv": HEADER}, ("gone.csv does not exist",), path="gone.csv"),
    # Databases
    Refused("no database", {"log.duckdb": HEADER + GOOD}, ("log.duckdb is no DuckDB database",),
            {"options": ReadOptions(table="t")}),
    Refused("damaged database", {"log.duckdb": b"\0" * 8 + b"DUCK" + b"\x40" * 9000}, ("log.duckdb cannot be read",),
            {"options": ReadOptions(table="t")}),
    # Names from users
    text_case("column name of SQL", HEADER + GOOD, "log.csv has no column 'x\"; DROP TABLE found; --'",
              columns=Columns('x"; DROP TABLE found; --', "item_id", "timestamp")),
    Refused("file name of SQL", {"a'); DROP TABLE found; --.csv": HEADER + "1,2\n"},
            ("a'); DROP TABLE found; --.csv:2: '1,2' has 2 fields",)),
]  # fmt: skip


def write_files(directory: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory / next(iter(files))


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name.replace(" ", "-"))
def test_what_cannot_be_read_is_refused_in_one_line_and_leaves_nothing(case, tmp_path):
    first = write_files(tmp_path / "given", case.files)
    path = first if case.path is None else tmp_path / "given" / case.path
    with pytest.raises(InputError) as caught:
        prepare_store(
            read_source(case.dataset, path, **case.options), tmp_path / "stores" / "log", StepsConfig(), SplitConfig()
        )
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "given")) or case.name in ("no such file",) or str(path) in message
    for word in case.words:
        assert word in message
    # A remedy follows what is wrong.
    assert ";" in message
    assert not (tmp_path / "stores").exists() or not list((tmp_path / "stores").iterdir())


class Dropped(NamedTuple):
    """A file whose bad events the first step drops, and how many there are of each reason."""

    name: str
    file: str
    content: str | bytes
    reasons: dict[str, int]
    options: Mapping[str, Any] = MappingProxyType({})


THREE = [(1, 2, 1_600_000_000), (1, 3, 1_600_000_001), (1, 4, 1_600_000_002)]
GOOD_ROWS = "".join(f"{user},{item},{time}\n" for user, item, time in THREE)
GOOD_JSON = "".join(json.dumps({"user_id": user, "item_id": item}) + "\n" for user, item, _ in THREE)
DROPPED = [
    Dropped("empty ids", "log.csv", HEADER + GOOD_ROWS + ',2,1600000000\n1,"",1600000000\n',
            {"no user": 1, "no item": 1}),
    Dropped("empty times", "log.csv", HEADER + GOOD_ROWS + "1,2,\n", {"no time": 1}),
    Dropped("null ids", "log.parquet", parquet(user_id=[1, 1, 1, None], item_id=[1, 2, 3, 4]),
            {"no user": 1}, NO_TIMES),
    Dropped("NaN ids", "log.parquet", parquet(user_id=[1.0, 1.0, 1.0, float("nan")], item_id=[1, 2, 3, 4]),
            {"no user": 1}, NO_TIMES),
    Dropped("null in JSON", "log.json", GOOD_JSON + '{"user_id": null, "item_id": 2}\n{}\n', {"no user": 2}, NO_TIMES),
    Dropped("infinite dates", "log.parquet",
            parquet(user_id=[1, 1, 1, 2], item_id=[1, 2, 3, 4], timestamp=["2020-01-01"] * 3 + ["infinity"]),
            {"no time": 1}, DROP),
    Dropped("rows of other lengths", "log.csv", HEADER + GOOD_ROWS + "1,2\n1,2,3,4\n", {"no user": 2}, DROP),
    Dropped("other delimiters", "log.csv", HEADER + GOOD_ROWS + "1;2;1600000000\n", {"no user": 1}, DROP),
    Dropped("unclosed quote", "log.csv", HEADER + GOOD_ROWS + '1,"2,1600000000\n' + GOOD * 5000,
            {"no user": 5001}, DROP),
    Dropped("line longer than a buffer", "log.csv", HEADER + "x" * (40 << 20) + "\n" + GOOD_ROWS + "1,2\n",
            {"no user": 2}, DROP),
    Dropped("words for nothing", "log.csv", HEADER + GOOD_ROWS + "NULL,2,1600000000\n1, NA ,1600000000\n1,2,NaN\n",
            {"no user": 1, "no item": 1, "no time": 1}),
    Dropped("unreadable times", "log.csv", HEADER + "1,2,noon\n" + GOOD_ROWS + f"1,2,{2**63}\n1,2,-5\n1,2,nan\n",
            {"no time": 4}, DROP),
    Dropped("dates among numbers", "log.csv", HEADER + GOOD_ROWS + "1,2,2020-01-01\n", {"no time": 1}, DROP),
    Dropped("seconds among microseconds", "log.csv", HEADER + GOOD_ROWS.replace("\n", "000000\n") + GOOD,
            {"no time": 1}, DROP),
    Dropped("fractional ids", "log.parquet", parquet(user_id=[1.0, 1.0, 1.0, 1.5], item_id=[1, 2, 3, 4]),
            {"no user": 1}, {**NO_TIMES, **DROP}),
    Dropped("broken JSON", "log.json", GOOD_JSON + '{"user_id": 1, "it\n', {"no user": 1}, {**NO_TIMES, **DROP}),
    Dropped("JSON of wrong types", "log.json", GOOD_JSON + '{"user_id": {"a": 1}, "item_id": [2]}\n',
            {"no user": 1}, {**NO_TIMES, **DROP}),
    Dropped("bytes that are no text", "log.csv", (HEADER + GOOD_ROWS).encode() + b"1,\xff,1600000000\n",
            {"no user": 1}, DROP),
]  # fmt: skip


@pytest.mark.parametrize("case", DROPPED, ids=lambda case: case.name.replace(" ", "-"))
def test_what_may_be_missing_is_dropped_and_counted_with_its_reason(case, tmp_path):
    path = write_files(tmp_path, {case.file: case.content})
    source = read_source("events", path, **case.options)
    prepared = prepare_store(source, tmp_path / "stores" / "log", StepsConfig(), SplitConfig())
    rejected = pq.read_table(tmp_path / "stores" / "log" / "rejected.parquet")["reason"].to_pylist()
    assert {reason: rejected.count(reason) for reason in rejected} == case.reasons
    assert [count.n_removed for count in prepared.counts if count.step == "valid"] == [sum(case.reasons.values())]
    assert prepared.store.n_events == len(THREE)
    assert [entry.name for entry in (tmp_path / "stores").iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("byte order mark", b"\xef\xbb\xbf" + (HEADER + GOOD).encode(), {}, [(1, 2)]),
        ("CRLF", (HEADER + GOOD).replace("\n", "\r\n"), {}, [(1, 2)]),
        ("lone CR", (HEADER + GOOD + "1,3,1600000001\n").replace("\n", "\r"), {}, [(1, 2), (1, 3)]),
        ("quoted quotes", HEADER + '1,"say ""hi""",1600000000\n', {}, [(1, 'say "hi"')]),
        ("ids with spaces", HEADER + " 7 ,a b,1600000000\n7,a b,1600000000\n", {}, [(" 7 ", "a b"), ("7", "a b")]),
        ("leading zeros", HEADER + "1,007,1600000000\n1,7,1600000000\n", {}, [(1, "007"), (1, "7")]),
        ("NUL in an id", HEADER + "1,a\0b,1600000000\n", {}, [(1, "a\0b")]),
        ("no last line end", (HEADER + GOOD)[:-1], {}, [(1, 2)]),
        ("zones", HEADER + "1,2,2020-01-01T00:00:00Z\n1,3,2020-01-01 01:00:00+01\n", {}, [(1, 2), (1, 3)]),
        ("words of SQL", HEADER + "1,'); DROP TABLE found; --,1600000000\n", {}, [(1, "'); DROP TABLE found; --")]),
        ("words for nothing", HEADER + "1,NULL,1600000000\n1,nan,1600000000\n", {}, [(1, None), (1, None)]),
        (
            "words that are kept",
            HEADER + "1,NULL,1600000000\n1,3,1600000000\n",
            {"options": ReadOptions(missing_values=())},
            [(1, "NULL"), (1, "3")],
        ),
        (
            "infinite rating",
            "user_id,item_id,rating\n1,2,inf\n1,3,5\n",
            {"extra": ["rating"], **NO_TIMES},
            [(1, 2), (1, 3)],
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and "," not in value else "",
)
def test_what_is_only_odd_is_read_as_it_is(tmp_path, name, content, options, expected):
    path = write_files(tmp_path, {"log.csv": content})
    source = read_source("events", path, **options)
    table = source.events.sort("event_index").collect("pyarrow").to_native()
    assert list(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)) == expected
    if name == "zones":
        assert len(set(table["timestamp_us"].to_pylist())) == 1


def test_a_user_with_a_million_events_is_one_user(tmp_path):
    n_events = 1_000_000
    times = pa.array(range(1_600_000_000, 1_600_000_000 + n_events))
    pq.write_table(
        pa.table({"user_id": pa.array(["a"] * n_events).dictionary_encode(), "item_id": times, "timestamp": times}),
        tmp_path / "log.parquet",
    )
    source = read_source("events", tmp_path / "log.parquet")
    with pytest.raises(InputError, match="'implausible users' leaves none of 1,000,000 events"):
        prepare_store(source, tmp_path / "stores" / "log", StepsConfig(max_events_per_day=1000), SplitConfig())
    assert not (tmp_path / "stores").exists() or not list((tmp_path / "stores").iterdir())
    prepared = prepare_store(source, tmp_path / "stores" / "log", StepsConfig(), SplitConfig())
    assert (prepared.store.n_users, prepared.store.n_events) == (1, n_events)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = write_files(tmp_path, {"log.csv": HEADER + GOOD})
    path.chmod(0)
    with pytest.raises(InputError, match=r"log\.csv cannot be read"):
        read_source("events", path)


def test_a_full_disk_leaves_no_store_and_says_so(tmp_path):
    """A limit on the size of files stands for the full disk: writing beyond it fails in the same way."""
    path = write_files(tmp_path, {"log.csv": long_text(100_000) + GOOD_ROWS.encode()})
    code = """
import resource, signal, sys
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.types import InputError
source = read_source("events", sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    prepare_store(source, sys.argv[2], StepsConfig(), SplitConfig())
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "stores" / "log")], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert f"{tmp_path / 'stores' / 'log'} cannot be written" in done.stdout
    assert not list((tmp_path / "stores").iterdir())


def test_a_locked_database_is_refused(tmp_path):
    path = tmp_path / "log.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS user_id, 2 AS item_id")
        with pytest.raises(InputError, match=r"log\.duckdb cannot be read"):
            read_source("events", path, options=ReadOptions(table="t"), **NO_TIMES)


def test_the_corpus_is_large_enough():
    assert len(REFUSED) + len(DROPPED) >= 40
