"""Lists and vectors as files, written part by part, whole or not at all."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from seqrec.files import make_directory, replacing

WriteTable = Callable[[pa.Table], None]

WriteLists = Callable[[pa.Array, Int[np.ndarray, "users k"], Float[np.ndarray, "users k"]], None]
"""`write(users, ids, scores)` adds lists: a key for each, and as `evaluation.TopItems` has them."""

WriteVectors = Callable[[pa.Array | pa.ChunkedArray, Float[np.ndarray, "rows d_model"]], None]
"""`write(keys, vectors)` adds rows."""


def list_table(
    users: pa.Array, item_keys: pa.Array, ids: Int[np.ndarray, "users k"], scores: Float[np.ndarray, "users k"]
) -> pa.Table:
    """One row for each place of each user's list: the keys of user and item, the 1-based rank and the score.

    `item_keys` are in the order of ids; places of id 0 are empty.

    >>> keys = pa.array(["a", "b", "c"])
    >>> list_table(pa.array([7]), keys, np.array([[3, 1, 0]]), np.array([[0.5, 0.25, -np.inf]])).to_pylist()[1]
    {'user': 7, 'item': 'a', 'rank': 2, 'score': 0.25}
    """
    is_listed = ids > 0
    row, place = np.nonzero(is_listed)
    return pa.table(
        {
            "user": users.take(pa.array(row)),
            "item": item_keys.take(pa.array(ids[is_listed] - 1)),
            "rank": pa.array(place + 1, pa.int32()),
            "score": pa.array(scores[is_listed]),
        }
    )


@contextlib.contextmanager
def table_writer(file: Path) -> Iterator[WriteTable]:
    """Writes tables of one schema one after another, at least one, as CSV if `file` ends in .csv, else as Parquet."""
    with replacing(file) as partial, contextlib.ExitStack() as stack:
        writer: Any = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if writer is None:
                make = pc.CSVWriter if file.suffix == ".csv" else pq.ParquetWriter
                writer = stack.enter_context(make(partial, table.schema))
            writer.write_table(table)

        yield write


@contextlib.contextmanager
def vectors_writer(directory: Path, *, n_rows: int, d_model: int) -> Iterator[WriteVectors]:
    """Writes `vectors.npy`, a row for each key in float32, and `keys.parquet`, whose column `key` names each row."""
    make_directory(directory)
    with (
        replacing(directory / "vectors.npy") as partial,
        table_writer(directory / "keys.parquet") as write_keys,
        partial.open("wb") as stream,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, d_model)}
        np.lib.format.write_array_header_1_0(stream, header)

        def write(keys: pa.Array | pa.ChunkedArray, vectors: np.ndarray) -> None:
            write_keys(pa.table({"key": keys}))
            stream.write(np.ascontiguousarray(vectors, np.float32).data)

        yield write
