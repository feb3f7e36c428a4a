"""The hash of what a store holds, however it lies on disk."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqrec.data.key_tables import KeyTable
from seqrec.data.shards import event_blocks


def content_hash(
    items: Any,
    offsets: np.ndarray,
    item_table: KeyTable,
    user_table: KeyTable,
    columns: Mapping[str, Any],
    *,
    report: Callable[[int], None] = lambda n_values: None,
) -> str:
    """sha256 of a store's content, in one pass that holds a block of it at a time.

    It does not depend on how the users lie in shards, on the store's path or on the time of writing. `report` is told
    of each block of items and of event columns how many values it had.
    """
    digest = hashlib.sha256(b"seqrec sequence store 1\n")
    digest.update(f"items int {len(items)}\n".encode())
    _add_array(digest, items, "<i4", report)
    digest.update(f"offsets int {len(offsets)}\n".encode())
    _add_array(digest, offsets, "<i8")
    _add_keys(digest, "item_keys", item_table, "key")
    _add_keys(digest, "user_keys", user_table, "key")
    if "title" in item_table:
        _add_keys(digest, "titles", item_table, "title")
    # After all else and only where there are any: a store without them hashes as it did before there were any.
    for name, values in sorted(columns.items()):
        # The name's length first, so that no name can pass for another name and what follows it.
        digest.update(f"event column {len(name)} {name} {values.dtype.str} {len(values)}\n".encode())
        _add_array(digest, values, values.dtype, report)
    if "attributes" in item_table:
        digest.update(f"attributes {len(item_table)}\n[".encode())
        separator = ""
        for batch in item_table.batches("attributes"):
            for texts in batch.to_pylist():
                digest.update((separator + json.dumps(texts, ensure_ascii=False, separators=(",", ":"))).encode())
                separator = ","
        digest.update(b"]")
    return digest.hexdigest()


def _add_array(digest: Any, array: Any, dtype: Any, report: Callable[[int], None] = lambda n_values: None) -> None:
    for block in event_blocks(array):
        digest.update(np.ascontiguousarray(block, dtype).view(np.uint8).data)
        report(len(block))


def _add_keys(digest: Any, name: str, table: KeyTable, column: str) -> None:
    kind = "int" if pa.types.is_integer(next(table.batches(column)).type) else "str"
    digest.update(f"{name} {kind} {len(table)}\n".encode())
    if kind == "int":
        for batch in table.batches(column):
            digest.update(np.ascontiguousarray(batch.to_numpy(zero_copy_only=False), "<i8").data)
        return
    # Ends and characters apart: "ab", "c" and "a", "bc" must differ.
    end = 0
    digest.update(np.zeros(1, "<i8").data)
    for batch in table.batches(column):
        ends = end + np.cumsum(pc.binary_length(batch).to_numpy(zero_copy_only=False), dtype="<i8")
        digest.update(ends.data)
        end = int(ends[-1]) if len(ends) else end
    for batch in table.batches(column):
        texts = batch.cast(pa.large_string())
        ends = np.frombuffer(texts.buffers()[1], "<i8", len(texts) + 1, 8 * texts.offset)
        digest.update(np.frombuffer(texts.buffers()[2] or b"", np.uint8)[ends[0] : ends[-1]].data)
