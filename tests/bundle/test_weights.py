"""Weights come back as they were, or as near as their type allows."""

import json
import struct

import numpy as np
import pytest

from seqrec.bundle.weights import map_item_table, read_weights, write_weights
from seqrec.types import InputError

RANDOM = np.random.default_rng(0)
PARAMS = {
    "item_table": RANDOM.normal(size=(64, 8)).astype(np.float32),
    "blocks": [{"scale": np.ones(8, np.float32)}, {"scale": np.full(8, 2, np.float32)}],
}


def test_names_are_paths_in_the_tree_and_readable_by_anybody(tmp_path):
    write_weights(tmp_path / "w", PARAMS, item_table="float32")
    content = (tmp_path / "w").read_bytes()
    (n_bytes,) = struct.unpack("<Q", content[:8])
    described = json.loads(content[8 : 8 + n_bytes])
    assert described.keys() - {"__metadata__"} == {"item_table", "blocks.0.scale", "blocks.1.scale"}
    assert described["item_table"]["shape"] == [64, 8]


def test_float32_weights_return_unchanged(tmp_path):
    write_weights(tmp_path / "w", PARAMS, item_table="float32")
    weights = read_weights(tmp_path / "w")
    np.testing.assert_array_equal(weights["item_table"], PARAMS["item_table"])
    assert [block["scale"][0] for block in weights["blocks"]] == [1, 2]


def test_an_int8_row_is_off_by_at_most_half_its_scale(tmp_path):
    write_weights(tmp_path / "w", PARAMS, item_table="int8")
    table, restored = PARAMS["item_table"], read_weights(tmp_path / "w")["item_table"]
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(restored - table) <= 0.5001 * scale)
    assert not np.array_equal(restored, table)


def test_a_bfloat16_table_keeps_eight_bits_of_each_number(tmp_path):
    write_weights(tmp_path / "w", PARAMS, item_table="bfloat16")
    weights = read_weights(tmp_path / "w")
    np.testing.assert_allclose(weights["item_table"], PARAMS["item_table"], rtol=2**-8)
    assert weights["item_table"].dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\x10\x00\x00\x00\x00\x00\x00\x00{"])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    (tmp_path / "w").write_bytes(content)
    for read in (read_weights, map_item_table):
        with pytest.raises(InputError, match="w holds no weights of a bundle; export the run again"):
            read(tmp_path / "w")


@pytest.mark.parametrize("item_table", ["float32", "bfloat16", "int8"])
def test_a_mapped_table_has_the_rows_that_are_read_with_the_rest(item_table, tmp_path):
    write_weights(tmp_path / "w", PARAMS, item_table=item_table)
    whole, wanted = read_weights(tmp_path / "w")["item_table"], np.array([5, 0, 63])
    mapped = map_item_table(tmp_path / "w")
    np.testing.assert_array_equal(mapped.read(wanted), whole[wanted])
    np.testing.assert_array_equal(mapped.read(slice(2, 9)), whole[2:9])
    assert read_weights(tmp_path / "w", without="item_table").keys() == {"blocks"}
