"""Codes on disk: our own directory, and what others write."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.semantic_ids.codes import semantic_ids
from seqrec.semantic_ids.files import read_semantic_ids, write_semantic_ids
from seqrec.types import InputError

CODES = np.array([[0, 0], [3, 0], [1, 2], [0, 1]])
IDS = semantic_ids(CODES, (5, 4))
KEYS = np.array(["b", "a", "c"], object)
NUMBERS = np.array([1, 2, 3])


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "codes").mkdir()
    return tmp_path / "codes"


def test_a_directory_is_read_by_key_with_the_sizes_of_its_codebooks(directory):
    write_semantic_ids(directory, IDS, KEYS, {"method": "by hand"})
    ids = read_semantic_ids(directory, KEYS[[2, 0]])
    np.testing.assert_array_equal(ids.codes, CODES[[0, 3, 1]])
    assert ids.n_codes == (5, 4)
    assert json.loads((directory / "manifest.json").read_text())["method"] == "by hand"


@pytest.mark.parametrize(("method", "theirs", "n_warnings"), [("rq-vae", "a", 0), ("rq-vae", "b", 1), ("file", "b", 0)])
def test_codes_made_of_another_split_are_warned_of(directory, method, theirs, n_warnings, caplog):
    """Not those of a file, of which nobody knows what they were made of."""
    write_semantic_ids(directory, IDS, KEYS, {"method": method, "split_hash": theirs})
    read_semantic_ids(directory, KEYS, split_hash="a")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * n_warnings


def test_a_damaged_file_is_refused(directory):
    write_semantic_ids(directory, IDS, KEYS, {})
    file = directory / "codes.parquet"
    file.write_bytes(file.read_bytes().replace(b"item", b"itex"))
    with pytest.raises(InputError, match="is damaged"):
        read_semantic_ids(directory, KEYS)


def as_json(content):
    return json.dumps(content)


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (as_json({"a": [1, 2], "b": [3, 0], "c": [0, 1], "d": [4, 3]}), KEYS),
        (
            gzip.compress(as_json({"2": ["<a_1>", "<b_2>"], "1": ["<a_3>", "<b_0>"], "3": ["x0", "1"]}).encode()),
            NUMBERS,
        ),
        (as_json({"1": [1, 2], "0": [3, 0], "2": [0, 1]}), NUMBERS),  # from 0 on
        (as_json([[3, 0], [1, 2], [0, 1]]), NUMBERS),
    ],
    ids=["keys", "tokens", "from 0", "list"],
)
def test_json_of_others(write, content, keys):
    ids = read_semantic_ids(write(content, "codes.json"), keys)
    np.testing.assert_array_equal(ids.codes, CODES)
    assert ids.n_codes == ((5, 4) if keys is KEYS else (4, 3))  # item d has the largest codes


def test_parquet_of_others(tmp_path):
    table = pa.table({"code_1": [2, 0, 1], "item_id": ["a", "b", "c"], "code_0": pa.array([1, 3, 0], pa.uint8())})
    pq.write_table(table, tmp_path / "codes.parquet")
    np.testing.assert_array_equal(read_semantic_ids(tmp_path / "codes.parquet", KEYS).codes, CODES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"1": [1, 2], "2": [3, 0]}, "lacks the codes of 1 of 3 items, the first 3"),
        ({"1": [1, 2], "2": [3, 0, 4], "3": [1, 1]}, "item '2' has 3 codes, the first has 2"),
        ({"1": [1, 2], "2": 7, "3": [1, 1]}, "item '2' has 7, the first has 2 codes"),
        ({"1": [1, 2], "2": [3, -1], "3": [1, 1]}, "1 of 3 items lack a code, the first item 2"),
        ({"1": [1, 2], "2": [3, 1.5], "3": [1, 1]}, "item '2' has the code 1.5"),
        ({"1": [1, 2], "2": [3, "<b>"], "3": [1, 1]}, "item '2' has the code '<b>'"),
        ({"1": [1, 2], "2": [1, 2], "3": [1, 2]}, "all 3 items have the codes"),
        ({"1": [1], "01": [2], "2": [1], "3": [4]}, "1 items more than once"),
        ({"x": [1], "y": [2]}, "has items such as 'x', the data has 1"),
        ({}, "holds no codes"),
        ({"1": [], "2": [], "3": []}, "item '1' has no codes"),
        ([[1], [2]], "lists the codes of 2 items, the data has 3"),
        (7, "holds no codes"),
    ],
)
def test_codes_that_no_model_can_read_are_refused_in_one_line(write, content, words):
    with pytest.raises(InputError, match=words) as caught:
        read_semantic_ids(write(as_json(content), "codes.json"), NUMBERS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"item": [1, 2, 3], "code_1": [1, 2, 3]}, "codes are a column item, and code_0"),
        ({"item": [1, 2, 3], "code_0": [1, None, 3]}, "code_0 is int64 with 1 missing"),
        ({"item": [1, 2, 3], "code_0": [1.0, 2.0, 3.0]}, "code_0 is double"),
        ({"code_0": [1, 2, 3]}, "codes are a column item"),
        ({"item": [1, 2, None], "code_0": [1, 2, 3]}, "3 rows, 1 without an item"),
        ({"item": pa.array([], pa.int64()), "code_0": pa.array([], pa.int64())}, "has no rows"),
    ],
)
def test_tables_without_codes_are_refused(tmp_path, table, words):
    pq.write_table(pa.table(table), tmp_path / "codes.parquet")
    with pytest.raises(InputError, match=words):
        read_semantic_ids(tmp_path / "codes.parquet", NUMBERS)


def test_text_and_lists_for_text_keys_are_refused(write):
    with pytest.raises(InputError, match="no JSON that can be read"):
        read_semantic_ids(write("item,code\n", "codes.csv"), NUMBERS)
    with pytest.raises(InputError, match="is a list, and the data's items have keys such as 'b'"):
        read_semantic_ids(write("[[1], [2], [3]]", "codes.json"), KEYS)
    with pytest.raises(InputError, match="1 items stand there more than once"):
        read_semantic_ids(write('{"1": [1], "2": [2], "3": [0], "2": [0]}', "codes.json"), NUMBERS)
