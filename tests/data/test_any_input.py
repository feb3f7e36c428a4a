"""Whatever a file holds, a reader gives events or one line of complaint; whatever a table holds, it comes back."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import at_night, examples
from hypothesis import example, given
from hypothesis import strategies as st
from source_rows import NO_TIMES, rows_of

from seqrec.data.event_tables import ReadOptions
from seqrec.data.event_values import MISSING_VALUES
from seqrec.data.paths import first_file
from seqrec.data.sources import DATASETS, read_source
from seqrec.types import InputError

FILE_DATASETS = [name for name in DATASETS if name != "movielens-demo"]
SAMPLES = {
    "csv": b'user_id,item_id,timestamp\n1,2,1600000000\nann,"b ""c"", d",1600000001.5\n',
    "pairs": b"1 2\n1 3\n",
    "ratings.dat": b"1::2::5::978300760\n",
    "u.data": b"196\t242\t3\t881250949\n",
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,2,.5,978300760\n",
    "inter": b"user_id:token\titem_id:token\ttimestamp:float\n1\t2\t978300760\n",
    "amazon": b"A2CX7LUOHB2NDG,B00002243X,5.0,1356048000\n",
    "reviews": b'{"reviewerID": "A2", "asin": "B00002243X", "unixReviewTime": 1356048000}\n',
    "json": b'{"user_id": "a", "item_id": 2, "timestamp": "2020-01-01T00:00:00Z"}\n',
    "lastfm": b"user_000001\t2009-05-04T23:08:57Z\ta\tDeep Dish\t\tFuture\n",
    "clicks": b"1,2014-04-07T10:51:09.277Z,214536502,0\n",
}
TABLE = pa.table({"uid": [1], "item_id": [2], "timestamp": [5], "user_id": ["a"]})
sink = pa.BufferOutputStream()
pq.write_table(TABLE, sink)
SAMPLES["parquet"] = sink.getvalue().to_pybytes()
SAMPLES["gzip"] = gzip.compress(SAMPLES["csv"], mtime=0)
SAMPLES["zstd"] = pa.compress(SAMPLES["csv"], codec="zstd", asbytes=True)


def complaint_of(read):
    """What an InputError says; any other exception is a failure."""
    try:
        read()
    except InputError as error:
        return str(error)
    return None


@st.composite
def spoilt(draw):
    """A good file of some kind of which a stretch is replaced by other bytes."""
    content = draw(st.sampled_from(sorted(SAMPLES.values())))
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, len(content)))
    likely = st.sampled_from(
        [b"", b"\0", b'"', b"\r", b"\n", b",", b"\t", b"::", b"\xff", b"{", b"9" * 30, b"\xef\xbb\xbf"]
    )
    return content[:start] + draw(st.one_of(likely, st.binary(max_size=20))) + content[end:]


@examples(100)
@given(
    content=st.one_of(st.binary(max_size=200), spoilt()),
    dataset=st.sampled_from(FILE_DATASETS),
    bad_rows=st.sampled_from(["refuse", "drop"]),
)
def test_any_bytes_are_events_or_refused_in_one_line(content, dataset, bad_rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        complaint = complaint_of(lambda: rows_of(read_source(dataset, path, options=ReadOptions(bad_rows))))
        assert complaint is None or ("\n" not in complaint and ";" in complaint)


@examples(40)
@given(
    content=st.one_of(st.binary(max_size=100), spoilt()),
    beside=st.sampled_from(["movies.csv", "movies.dat", "u.item", "u.genre", "items.csv", "item2attributes.json"]),
)
def test_any_bytes_in_a_file_of_items_are_titles_or_refused_in_one_line(content, beside):
    events = {"movies": ("movielens", "ratings.csv"), "u": ("movielens", "ratings.csv"), "items": ("sasrec", "pairs")}
    dataset, sample = events.get(beside.split(".")[0], ("s3rec", "pairs"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / sample
        path.write_bytes(SAMPLES[sample])
        if beside == "u.genre":
            (Path(folder) / "u.item").write_text("2|Two|1995||x|1|0\n")
        (Path(folder) / beside).write_bytes(content)
        complaint = complaint_of(lambda: read_source(dataset, path))
        assert complaint is None or ("\n" not in complaint and ";" in complaint)


# What is written comes back


def expected_ids(texts):
    """Integers where every one that is there is written as an int64 is, else texts; nothing where there is none."""
    texts = ["" if text.strip(" \t\r\n") in ("", *MISSING_VALUES) else text for text in texts]
    there = [text for text in texts if text]
    are_integers = all(text.lstrip("-").isascii() and text.lstrip("-").isdecimal() for text in there)
    if are_integers and all(str(int(text)) == text and -(2**63) <= int(text) < 2**63 for text in there):
        return [int(text) if text else None for text in texts]
    return [text or None for text in texts]


def written_csv(pairs, delimiter, quoting):
    stream = io.StringIO(newline="")
    # Python quotes a lone \r of a field only where it is part of the line's end, or all is quoted.
    line_end = "\n" if quoting == csv.QUOTE_ALL else "\r\n"
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([("user_id", "item_id"), *pairs])
    return stream.getvalue().encode()


def written_parquet(pairs):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]}), sink)
    return sink.getvalue().to_pybytes()


FORMS = ("csv", "tsv", "quoted", "gzip", "json", "parquet", "frame")
odd_ids = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.integers(-(2**64), 2**64).map(str),
    st.sampled_from(
        ["007", "+7", "1e3", "1.0", " 7", "NULL", "nan", "'; DROP TABLE found; --", "{}", "[1]", "a,b\t;|"]
    ),
)


# Other delimiters and gzip are what test_own_text.py has too.
@pytest.mark.parametrize("form", at_night(FORMS, quick=set(FORMS) - {"tsv", "gzip"}))
@examples(12)
@given(pairs=st.lists(st.tuples(odd_ids, odd_ids), min_size=1, max_size=6))
@example(pairs=[("7", ""), ("", "-0"), ("9223372036854775808", "\r\n"), ('"', "\0")])
def test_ids_come_back_as_they_were_written(form, pairs):
    expected = list(zip(*(expected_ids(column) for column in zip(*pairs, strict=True)), strict=True))
    if form == "frame":
        table = pa.table({"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]})
        assert rows_of(read_source("events", table, columns=NO_TIMES)) == expected
        return
    as_json = "".join(json.dumps({"user_id": user, "item_id": item}) + "\n" for user, item in pairs)
    content = {
        "csv": lambda: written_csv(pairs, ",", csv.QUOTE_MINIMAL),
        "tsv": lambda: written_csv(pairs, "\t", csv.QUOTE_MINIMAL),
        "quoted": lambda: written_csv(pairs, ";", csv.QUOTE_ALL),
        "gzip": lambda: gzip.compress(written_csv(pairs, ",", csv.QUOTE_ALL), mtime=0),
        "json": as_json.encode,
        "parquet": lambda: written_parquet(pairs),
    }[form]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        assert rows_of(read_source("events", path, columns=NO_TIMES)) == expected


def test_packed_names_are_found_after_plain_ones(tmp_path):
    for name in ("a.csv.gz", "b.csv.zst"):
        (tmp_path / name).touch()
    assert first_file(tmp_path, ("a.csv", "b.csv")) == tmp_path / "a.csv.gz"
    assert first_file(tmp_path, ("b.csv",)) == tmp_path / "b.csv.zst"
    assert first_file(tmp_path, ("c.csv",)) is None
