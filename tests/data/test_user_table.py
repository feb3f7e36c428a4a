"""Tables in any form: how their columns are told and their rows loaded."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.data.tables.columns import number, required_id
from seqrec.data.tables.rows import Destination, connect
from seqrec.data.tables.user_table import open_table
from seqrec.types import InputError


def load(table, take):
    return table.load(take, Destination(connect()))


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_the_one_that_makes_most_columns(tmp_path, delimiter):
    (tmp_path / "file").write_text(f'user{delimiter}"a name"\n1{delimiter}"x, y; z"\n')
    file = open_table(tmp_path / "file")
    assert file.columns == ("user", "a name")
    rows = load(file, {"user": "user", "value": "a name"})
    assert rows.connection.execute("SELECT event_index, user, value FROM raw_rows").fetchall() == [(0, "1", "x, y; z")]


def test_parquet_keeps_its_names_whatever_they_hold(tmp_path):
    pq.write_table(pa.table({"user": [1], 'a "b", c': [0.5]}), tmp_path / "file")
    file = open_table(tmp_path / "file")
    rows = load(file, {"user": "user", "value": 'a "b", c'})
    assert rows.connection.execute("SELECT user, value FROM raw_rows").fetchall() == [(1, 0.5)]
    assert load(file, {"user": "user"}).place(0).endswith("file, row 1")


def test_names_are_found_in_the_order_asked_and_in_any_case(tmp_path):
    (tmp_path / "file").write_text("USER_ID,User,item\n1,2,3\n")
    file = open_table(tmp_path / "file")
    assert file.find(("user", "user_id")) == "User"
    assert file.find(("score",)) is None
    assert file.required("item", "item_id", any_case=True) == "item"


def test_numbers_are_doubles_and_nothing_is_null(tmp_path):
    (tmp_path / "file").write_text("user,value\na,1e-3\nb,\nc, -2 \nd,NaN\n")
    file = open_table(tmp_path / "file")
    rows = load(file, {"user": "user", "value": "value"})
    expression = number(rows, "value", "value")
    values = rows.connection.execute(f"SELECT {expression} FROM raw_rows ORDER BY event_index").fetchall()
    assert values == [(0.001,), (None,), (-2.0,), (None,)]


@pytest.mark.parametrize(
    ("keys", "kind"), [(["1", "20"], "BIGINT"), (["1", "u2"], "VARCHAR"), (["1", "02"], "VARCHAR")]
)
def test_keys_are_integers_where_that_loses_nothing(tmp_path, keys, kind):
    (tmp_path / "file").write_text("user,value\n" + "".join(f"{key},x\n" for key in keys))
    file = open_table(tmp_path / "file")
    rows = load(file, {"user": "user"})
    expression = required_id(rows, "user")
    assert rows.connection.execute(f"SELECT DISTINCT typeof({expression}) FROM raw_rows").fetchall() == [(kind,)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"user,item\n", "holds no rows"),
        (b"\x1f\x8bbroken", "cut short or damaged"),
        (b"user,item\n1,2,3\n", "file:2: '1,2,3' has 3 fields, 2 are due"),
        (b"user,item\n1,\xff\n", "file:2: bytes that are not UTF-8"),
        (b"PAR1 broken", "cannot be read"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        load(open_table(tmp_path / "file"), {"user": "user", "item": "item"})
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_table(tmp_path / "nothing")
