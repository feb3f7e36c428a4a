"""The keys, titles and attributes of a store's items and users, read from disk by whoever needs them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from seqrec.data.paths import as_input_error
from seqrec.data.store_files import REMEDY, key_column, keys_of
from seqrec.types import InputError

ROWS_PER_BATCH = 1 << 16
DAMAGE = (OSError, ValueError, KeyError, MemoryError, pa.ArrowException)


class KeyTable:
    """Columns of one length, in memory or in Parquet files; a column on disk is read when it is first used.

    >>> table = KeyTable({"key": np.array([7, 9]), "title": np.array(["a", "b"], object)})
    >>> len(table), "title" in table, table["key"].tolist(), [batch.to_pylist() for batch in table.batches("title")]
    (2, True, [7, 9], [['a', 'b']])
    """

    def __init__(self, columns: Mapping[str, Any]):
        self._columns, self._names, self._length = dict(columns), frozenset(columns), len(columns["key"])
        self._files: Sequence[Path] = ()
        self._rows: Int[np.ndarray, " n"] | None = None

    @classmethod
    def of_files(cls, n_rows: Mapping[Path, int], names: Sequence[str]) -> "KeyTable":
        """The columns of these files, one file after another; each has been found to have so many rows.

        Raises:
          InputError: a file is missing, cut short, or has another number of rows.
        """
        for file, expected in n_rows.items():
            with as_input_error(f"{file} is missing or damaged; {REMEDY}", *DAMAGE):
                n_stored = pq.read_metadata(file).num_rows
            if n_stored != expected:
                raise InputError(f"{file} holds {n_stored} rows, the manifest says {expected}; {REMEDY}")
        table = cls({"key": ()})
        table._columns, table._names, table._files = {}, frozenset(names), list(n_rows)
        table._length = sum(n_rows.values())
        return table

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        """The column: a NumPy array of integers or text; attributes are an Arrow array of lists.

        Raises:
          InputError: a file is damaged.
        """
        if name not in self._columns:
            column = pa.chunked_array(list(self.batches(name)))
            self._columns[name] = column.combine_chunks() if name == "attributes" else keys_of(column)
        return self._columns[name]

    def get(self, name: str) -> Any:
        """The column, or None where there is none of this name."""
        return self[name] if name in self._names else None

    def batches(self, name: str) -> Iterator[pa.Array]:
        """The column in batches, at least one, of which those on disk are not kept.

        Raises:
          InputError: a file is damaged.
        """
        if name in self._columns:
            column = self._columns[name]
            for start in range(0, max(1, self._length), ROWS_PER_BATCH):
                part = column[start : start + ROWS_PER_BATCH]
                yield part if isinstance(part, pa.Array) else key_column(part)
            return
        n_before = 0
        for file in self._files:
            with as_input_error(f"{file} is missing or damaged; {REMEDY}", *DAMAGE):
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                yield pa.array([], parquet.schema_arrow.field(name).type)
                for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=[name]):
                    values, first = batch.column(0), n_before
                    n_before += len(values)
                    if self._rows is not None:
                        low, high = np.searchsorted(self._rows, (first, n_before))
                        values = values.take(pa.array(self._rows[low:high] - first))
                    yield values

    def at(self, rows: Int[np.ndarray, " n"]) -> "KeyTable":
        """Of a table on disk these rows, which rise; they too are read when they are first used."""
        table = KeyTable({"key": rows})
        table._columns, table._names, table._files, table._rows = {}, self._names, self._files, rows
        return table

    def first(self, n_rows: int) -> "KeyTable":
        """The first rows, in memory."""
        return KeyTable({name: self[name][:n_rows] for name in self._names})


def write_keys(file: Path, table: KeyTable, *, n_events: Int[np.ndarray, " n"] | None = None) -> None:
    """Writes the table to a Parquet file, with a column of numbers of events where they are given."""
    columns = {name: table[name] for name in ("key", "title", "attributes") if name in table}
    written = {name: each if name == "attributes" else key_column(each) for name, each in columns.items()}
    if n_events is not None:
        written["n_events"] = pa.array(n_events)
    pq.write_table(pa.table(written), file, write_page_checksum=True)
