"""The files of a sequence store: NumPy arrays over events, Parquet tables of items and users."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from seqrec.data.paths import as_input_error
from seqrec.types import InputError

REMEDY = "prepare the data again"
COLUMN_DTYPES = ("|b1", "<i4", "<i8", "<f8")
"""Types of the event columns, each followed by those that can hold it."""


def array_files(directory: Path, columns: Iterable[str]) -> dict[str, Path]:
    """Where a store holds its arrays over events: `item`, and each event column."""
    # By number: a column's name may hold what a file's name may not.
    places = {name: directory / f"event_column_{place}.npy" for place, name in enumerate(sorted(columns))}
    return {"item": directory / "items.npy", **places}


def rises(offsets: Int[np.ndarray, " n_users_plus_1"], n_events: int) -> bool:
    """Whether these are the offsets of `n_events` events."""
    return bool(offsets[0] == 0 and offsets[-1] == n_events and np.all(np.diff(offsets) >= 0))


def check_offsets(offsets: Int[np.ndarray, " n_users_plus_1"], n_events: int) -> None:
    """Refuses offsets that are not those of `n_events` events."""
    if not rises(offsets, n_events):
        raise InputError(f"offsets must rise from 0 to n_events={n_events}; build them with np.cumsum")


def write_arrays(
    directory: Path,
    items: Int[np.ndarray, " n_events"],
    offsets: Int[np.ndarray, " n_users_plus_1"],
    columns: Mapping[str, np.ndarray],
) -> dict[str, str]:
    """Writes the arrays of a store or a shard, and returns the columns' types; arrays over events there are kept."""
    files = array_files(directory, columns)
    types = {name: column_dtype(name, values.dtype) for name, values in columns.items()}
    for name, values in {"item": items, **columns}.items():
        if not files[name].exists():
            np.save(files[name], np.asarray(values, types.get(name, "<i4")), allow_pickle=False)
    np.save(directory / "offsets.npy", np.asarray(offsets, "<i8"), allow_pickle=False)
    return types


def column_dtype(name: str, dtype: np.dtype) -> str:
    """The type in which a store holds an event column of this type."""
    wider = next((wide for wide in COLUMN_DTYPES if np.can_cast(dtype, wide)), None)
    if wider is None or dtype == np.uint64:
        raise InputError(f"event column {name!r} is {dtype}, a store holds numbers and booleans; number its values")
    return wider


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


def key_column(values: np.ndarray) -> pa.Array:
    """Keys or titles as a column of a table."""
    return pa.array(values, pa.int64() if values.dtype.kind in "iu" else pa.large_string())


def keys_of(column: pa.ChunkedArray) -> np.ndarray:
    """Keys or titles from a column of a table."""
    if column.null_count or column.type not in (pa.int64(), pa.string(), pa.large_string()):
        raise InputError(f"keys or titles are {column.type} with {column.null_count} missing; {REMEDY}")
    return column.combine_chunks().to_numpy(zero_copy_only=False)
