import gzip

import pytest
from source_rows import BOM, attributes_of, refusal, rows_of

from seqrec.data.events import sequences
from seqrec.data.sources import read_source


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
        (b"\n\n", "holds no rows"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused_with_their_line(write, pack, content, message):
    path = write(pack(content))
    assert f"{path}{message}" in refusal("ml-1m", path).replace(f"{path} ", str(path))


def test_the_largest_id_is_kept_exactly(write):
    assert rows_of(read_source("ml-1m", write(f"1 {2**63 - 1}\n"))) == [(1, 2**63 - 1)]


# One user a line


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


def test_attributes_come_from_the_json_beside_the_lists(write):
    path = write("1 2 3\n2 3 4\n", "Toys.txt")
    assert read_source("s3rec", path).attributes is None
    write(gzip.compress(b'{"2": [5, 1, 5], "3": []}', mtime=0), "item2attributes.json.gz")
    assert attributes_of(read_source("s3rec", path)) == {2: ["5", "1"], 3: []}
    write('{"2": [9]}', "Toys_item2attributes.json")
    assert attributes_of(read_source("s3rec", path)) == {2: ["9"]}


NO_OBJECTS = ('{"2": [5', "[1]", '{"2": 5}', "null", "[" * 100_000, b"\xff")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((text, "is no JSON object of items") for text in NO_OBJECTS),
        ('{"x": [5]}', "item 'x' is not an integer from 1"),
        ('{"2": ["\\ud800"]}', "hold what is no text"),
    ],
)
def test_attributes_that_are_none_are_refused(write, content, message):
    path = write("1 2 3\n", "Toys.txt")
    write(content, "item2attributes.json")
    assert message in refusal("s3rec", path)


# Sessions


def test_each_line_is_a_session_and_the_publishers_parts_stay_apart(write):
    train = write("5 3 5\n\n3\n", "train_sessions.txt")
    write(gzip.compress(b"7 5\n", mtime=0), "test_sessions.txt.gz")
    assert rows_of(read_source("sessions", train)) == [(1, 5), (1, 3), (1, 5), (2, 3)]
    source = read_source("sessions", train.parent)
    assert source.categories == {"part": ("train", "test")}
    assert rows_of(source, "part") == [(1, 5, 0), (1, 3, 0), (1, 5, 0), (2, 3, 0), (3, 7, 1), (3, 5, 1)]


def test_sessions_that_cannot_be_read_are_refused(write):
    path = write("1 2\n3 x\n", "train_sessions.txt")
    assert f"{path}:2: id 'x' is not an integer" in refusal("sessions", path)
    assert "does not hold train_sessions.txt and test_sessions.txt" in refusal("sessions", path.parent)
    assert "holds no events" in refusal("sessions", write("\n"))
    assert "sessions has no columns beside user and item" in refusal("sessions", path, extra=["rating"])


def test_the_form_of_sasrec_has_a_name_of_its_own(write):
    path = write("7 30\n2 10\n")
    assert rows_of(read_source("sasrec", path)) == rows_of(read_source("ml-1m", path)) == [(7, 30), (2, 10)]


def test_genres_of_an_items_csv_are_attributes(write):
    path = write("1 2\n")
    write("item,title,genres\n2,Two,Drama|War\n", "items.csv")
    assert attributes_of(read_source("sasrec", path)) == {2: ["Drama", "War"]}
