"""The files of a sequence store: NumPy arrays over events, Parquet tables of items and users."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec.data.paths import as_input_error
from seqrec.types import InputError

REMEDY = "prepare the data again"


def array_files(directory: Path, columns: Iterable[str]) -> dict[str, Path]:
    """Where a store holds its arrays over events: `item`, and each event column."""
    # By number: a column's name may hold what a file's name may not.
    places = {name: directory / f"event_column_{place}.npy" for place, name in enumerate(sorted(columns))}
    return {"item": directory / "items.npy", **places}


def open_array(path: Path, dtype: str, length: int) -> np.ndarray:
    """The memory-mapped array in a .npy file, after checking its type and length."""
    with as_input_error(f"{path} is missing or damaged; {REMEDY}", Exception):  # whatever NumPy raises of its header
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.dtype != np.dtype(dtype) or values.shape != (length,):
        raise InputError(
            f"{path} holds {values.shape} of {values.dtype}, "
            f"the manifest says ({length},) of {np.dtype(dtype)}; {REMEDY}"
        )
    return values


def open_table(path: Path, length: int) -> pa.Table:
    """The table in a Parquet file, after checking its length."""
    kinds = (OSError, ValueError, MemoryError, pa.ArrowException)
    with as_input_error(f"{path} is missing or damaged; {REMEDY}", *kinds):
        table = pq.read_table(path, page_checksum_verification=True)
    if table.num_rows != length:
        raise InputError(f"{path} holds {table.num_rows} rows, the manifest says {length}; {REMEDY}")
    return table


def key_column(values: np.ndarray) -> pa.Array:
    """Keys or titles as a column of a table."""
    return pa.array(values, pa.int64() if values.dtype.kind in "iu" else pa.large_string())


def keys_of(column: pa.ChunkedArray) -> np.ndarray:
    """Keys or titles from a column of a table."""
    if column.null_count or column.type not in (pa.int64(), pa.string(), pa.large_string()):
        raise InputError(f"keys or titles are {column.type} with {column.null_count} missing; {REMEDY}")
    return column.combine_chunks().to_numpy(zero_copy_only=False)
