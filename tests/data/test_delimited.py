import gzip

import pytest

from seqrec.data.paths import check_file
from seqrec.data.tables.delimited import TextFile, load_text
from seqrec.data.tables.rows import Destination, connect
from seqrec.types import InputError

CONTENT = b'\xef\xbb\xbfid,text\r\n1,"two\r\nlines, one row"\r\n\r\n2,"say ""hi"""\r\n3,end'


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_rows_know_the_lines_they_begin_at(tmp_path, pack):
    (tmp_path / "file").write_bytes(pack(CONTENT))
    rows = TextFile(tmp_path / "file", delimiter=",", quote='"', header=True).rows()
    assert list(rows) == [
        (1, ["id", "text"]),
        (2, ["1", "two\r\nlines, one row"]),
        (5, ["2", 'say "hi"']),
        (6, ["3", "end"]),
    ]


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_tables_hold_the_rows_in_order_and_their_places_are_right(tmp_path, pack):
    (tmp_path / "file").write_bytes(pack(CONTENT))
    text = TextFile(tmp_path / "file", delimiter=",", quote='"', header=True)
    table = load_text([text], ["id", "text"], take={"text": "text", "id": "id"}, to=Destination(connect()))
    assert table.connection.execute("SELECT event_index, id FROM raw_rows").fetchall() == [(0, "1"), (1, "2"), (2, "3")]
    assert [table.place(row).rsplit(":", 1)[1] for row in range(3)] == ["2", "5", "6"]


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_a_bad_row_deep_in_a_file_is_found_by_its_line(tmp_path, pack):
    # Far beyond the blocks in which files are read.
    n_rows, bad_line = 1_200_000, 1_111_111
    lines = [b"%d,%d" % (number, number * 7) for number in range(1, n_rows + 1)]
    lines[bad_line - 1] = b"17"
    (tmp_path / "file").write_bytes(pack(b"\n".join(lines)))
    text = TextFile(tmp_path / "file", delimiter=",", quote='"', header=False)
    with pytest.raises(InputError, match=f"file:{bad_line}: '17' has 1 field, 2 are due"):
        load_text([text], ["id", "text"], take={"id": "id"}, to=Destination(connect()))


@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress])
def test_big_files_keep_their_order(tmp_path, pack):
    n_rows = 600_000
    (tmp_path / "file").write_bytes(pack(b"".join(b"%d\tx\n" % number for number in range(n_rows))))
    text = TextFile(tmp_path / "file", delimiter="\t", quote='"', header=False)
    table = load_text([text], ["id", "text"], take={"id": "id"}, to=Destination(connect()))
    wrong = table.connection.execute(
        "SELECT count(*), count(*) FILTER (CAST(id AS BIGINT) != event_index) FROM raw_rows"
    )
    assert wrong.fetchall() == [(n_rows, 0)]


def test_rows_that_an_unclosed_quote_swallows_are_counted_line_by_line(tmp_path, caplog):
    # Two rows of three lines, then three lines of which the first opens a quote.
    (tmp_path / "file").write_text('id,text\n1,"two\nlines"\n2,x\n3,"open\n4,y\n\n5,z\n')
    text = TextFile(tmp_path / "file", delimiter=",", quote='"', header=True)
    table = load_text([text], ["id", "text"], take={"id": "id"}, to=Destination(connect(), bad_rows="drop"))
    assert table.connection.execute("SELECT id FROM raw_rows").fetchall() == [("1",), ("2",), *[(None,)] * 3]
    assert f"3 rows cannot be read and are dropped, such as {tmp_path / 'file'}" in caplog.text


def test_rows_between_two_quotes_that_lack_their_others_are_counted_line_by_line(tmp_path, caplog):
    (tmp_path / "file").write_text('id,text\n1,x\n"2,y\n3,z\n4,x\n5,y"\n6,z\n')
    text = TextFile(tmp_path / "file", delimiter=",", quote='"', header=True)
    table = load_text([text], ["id", "text"], take={"id": "id"}, to=Destination(connect(), bad_rows="drop"))
    assert table.connection.execute("SELECT id FROM raw_rows").fetchall() == [("1",), ("6",), *[(None,)] * 4]
    assert f"4 rows cannot be read and are dropped, such as {tmp_path / 'file'}:3" in caplog.text


def test_no_row_of_a_file_of_many_buffers_is_lost_to_an_unclosed_quote_without_being_counted(tmp_path):
    n_before, n_behind = 1000, 2_500_000
    row = b"1,2,1600000000\n"
    (tmp_path / "file").write_bytes(row * n_before + b'1,"2,16\n' + row * n_behind)
    text = TextFile(tmp_path / "file", delimiter=",", quote='"', header=False)
    table = load_text([text], ["id", "item", "time"], take={"id": "id"}, to=Destination(connect(), bad_rows="drop"))
    [(n_rows, n_read)] = table.connection.execute("SELECT count(*), count(id) FROM raw_rows").fetchall()
    assert n_rows == n_before + 1 + n_behind
    assert n_before <= n_read < n_rows


def damaged(content):
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[-8] ^= 1  # the checksum
    return bytes(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(b"1 2\n" * 1000, mtime=0)[:-20], "cut short or damaged"),
        (gzip.compress(b"1 2\n", mtime=0)[:-3], "cut short or damaged"),
        (gzip.compress(b"1 2\n", mtime=0)[:5], "cut short or damaged"),
        (damaged(b"1 2\n"), "cut short or damaged"),
        (b"PK\x03\x04rest", "zip archive"),
        (gzip.compress(b"PAR1rest", mtime=0), "gzip'd Parquet"),
    ],
)
def test_files_that_are_not_whole_are_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        check_file(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(InputError, match="missing does not exist"):
        check_file(tmp_path / "missing")
    with pytest.raises(InputError, match="is a directory"):
        check_file(tmp_path)
