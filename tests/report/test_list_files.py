"""Lists and vectors as files: whole or not at all, the same whatever parts they came in."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.report.list_files import list_table, table_writer, vectors_writer


def test_a_list_has_a_row_for_each_item_and_none_for_an_empty_place():
    ids, scores = np.array([[2, 1], [3, 0], [0, 0]]), np.array([[0.5, 0.25], [2.0, -np.inf], [-np.inf] * 2])
    table = list_table(pa.array(["u", "v", "w"]), pa.array([10, 20, 30]), ids, scores)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("u", 20, 1, 0.5),
        ("u", 10, 2, 0.25),
        ("v", 30, 1, 2.0),
    ]


def test_vectors_and_keys_of_parts_are_one_file_each(tmp_path):
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    with vectors_writer(tmp_path / "v", n_rows=5, d_model=3) as write:
        write(pa.array(["a", "b"]), vectors[:2])
        write(pa.array(["c", "d", "e"]), vectors[2:])
    np.testing.assert_array_equal(np.load(tmp_path / "v" / "vectors.npy", allow_pickle=False), vectors)
    assert pq.read_table(tmp_path / "v" / "keys.parquet")["key"].to_pylist() == list("abcde")


@pytest.mark.parametrize("name", ["lists.parquet", "lists.csv"])
def test_what_stops_halfway_leaves_what_was_there(tmp_path, name):
    def write_all(values, *, stop=False):
        with table_writer(tmp_path / name) as write:
            for value in values:
                write(pa.table({"a": [value]}))
            if stop:
                raise KeyboardInterrupt

    write_all([1, 2])
    before = (tmp_path / name).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_all([3], stop=True)
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
