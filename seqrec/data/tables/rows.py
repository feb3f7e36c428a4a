"""Rows of a table of the user's in a database, as they are written, each with its place for error messages."""

import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from seqrec.config import check_at_least, check_fields
from seqrec.data.event_values import MISSING_VALUES
from seqrec.data.paths import as_input_error
from seqrec.files import JsonObject
from seqrec.types import InputError

BadRows = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Limits:
    """Resources that the embedded database, DuckDB, may use."""

    memory_limit: str | None = None
    """Memory limit such as 4GB; more than that is written to disk. The default is 80% of the machine's memory."""
    spill_directory: Path | None = None
    """Directory for data that exceeds the memory limit; the default is the system's temporary directory."""
    n_threads: int | None = None
    """Number of threads; the default is one per core."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_threads")
        if self.memory_limit is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", self.memory_limit):
            raise ValueError(
                f"memory_limit={self.memory_limit} is no number with a unit of KB, MB, GB, TB, KiB, MiB, GiB or TiB; "
                "try memory_limit=4GB"
            )


NO_LIMITS = Limits()
BITS_OF_COUNTED_IDS = 22
"""Groups by an integer that spans at most 2 to this power have places in an array: a thread takes 8 bytes a place and
aggregate, 32 MiB for a count."""


class Destination(NamedTuple):
    """Where rows are loaded to, and what becomes of those that cannot be read."""

    connection: duckdb.DuckDBPyConnection
    view: str = "raw_rows"
    bad_rows: BadRows = "refuse"


@dataclass(frozen=True)
class RawRows:
    """A view in a database: event_index, the number of the row from 0, and columns as the files have them."""

    connection: duckdb.DuckDBPyConnection
    view: str
    place: Callable[[int], str]
    """File and line of the row of an event_index; may be slow."""
    bad_rows: BadRows = "refuse"
    """Whether a value that cannot be read is refused, or becomes null and is counted later."""
    table: str | None = None
    """The table that holds the rows; None where the view reads them from the file each time."""
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Texts that mean a missing value, in addition to empty text."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """For each further column how many values cannot be read and are missing, where bad rows are dropped."""

    def count(self, column: str, condition: str) -> tuple[int, str, str]:
        """How many rows meet the condition, and (place, value as text) of the first, "" where none does."""
        # Not by ORDER BY and LIMIT, which DuckDB 1.3 cannot run on a table of Arrow's.
        [(n_rows, row, text)] = self.connection.execute(
            f"SELECT count(*), min(event_index), arg_min(coalesce(CAST({column} AS VARCHAR), ''), event_index) "
            f"FROM {self.view} WHERE {condition}"
        ).fetchall()
        return (n_rows, self.place(row), text) if n_rows else (0, "", "")

    def first_bad(self, column: str, condition: str) -> tuple[str, str] | None:
        """(place, value as text) of the first row that meets the condition, None where bad rows are dropped."""
        if self.bad_rows == "drop":
            return None
        n_rows, place, text = self.count(column, condition)
        return (place, text) if n_rows else None

    def type_of(self, column: str) -> str:
        """DuckDB's name of a column's type."""
        return self.connection.execute(f"SELECT typeof({column}) FROM {self.view} LIMIT 1").fetchall()[0][0]

    def one(self, expressions: str) -> tuple:
        """The only row of a query of these expressions over all rows."""
        [row] = self.connection.execute(f"SELECT {expressions} FROM {self.view}").fetchall()
        return row

    def drop(self) -> None:
        """Deletes the view, and the table where there is one."""
        self.connection.execute(f"DROP VIEW {self.view}")
        if self.table:
            self.connection.execute(f"DROP TABLE {self.table}")


def connect(limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A database of its own, in memory; times without a zone are UTC in it."""
    connection = duckdb.connect()
    for name, value in settings_of(limits).items():
        connection.execute(f"SET {name} = $value", {"value": value})
    connection.execute("SET TimeZone = 'UTC'")
    # It would be drawn among the lines that a script prints.
    connection.execute("SET enable_progress_bar = false")
    # Ids that lie close together are counted in an array, by place: hash tables of millions of ids leave the cache.
    connection.execute(f"SET perfect_ht_threshold = {BITS_OF_COUNTED_IDS}")
    return connection


def settings_of(limits: Limits) -> JsonObject:
    """DuckDB's names for what is limited, and their values."""
    # What exceeds its memory limit is spilt, by default into the current directory. DuckDB removes the files.
    parent = Path(tempfile.gettempdir()) if limits.spill_directory is None else limits.spill_directory.absolute()
    with as_input_error(
        f"spill_directory {parent} cannot be made ({{error}}); name a directory you may write to", OSError
    ):
        parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "temp_directory": str(parent / f"seqrec-duckdb-{uuid.uuid4().hex}"),
        "memory_limit": limits.memory_limit,
        "threads": limits.n_threads,
    }
    return {name: value for name, value in settings.items() if value is not None}


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def without_nan(expression: str, kind: str) -> str:
    """The SQL of a column of type `kind` with null for NaN.

    The statistics of a Parquet file leave NaN out, and DuckDB 2.0 believes them: `isnan(column)` and `column > 1e9` are
    false, and a column of one number and NaN is a constant even as text. It has no statistics of what is in a list.
    """
    if kind not in ("FLOAT", "DOUBLE"):
        return expression
    return f"CASE WHEN NOT isnan(list_value({expression})[1]) THEN {expression} END"


def text_literal(text: str) -> str:
    """`text` as an SQL string, whatever it holds; for views, which take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def literal_path(path: Path) -> str:
    """`path` for DuckDB, which would otherwise read *, ? and [ in it as a pattern over file names."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


def columns_without_nan(connection: duckdb.DuckDBPyConnection, take: Mapping[str, str], table: str) -> str:
    """The select list for the columns of `take` (our name -> the table's name), with null for NaN."""
    chosen = ", ".join(f"{quoted(name)} AS {quoted(key)}" for key, name in take.items())
    kinds = {key: kind for key, kind, *_ in connection.execute(f"DESCRIBE SELECT {chosen} FROM {table}").fetchall()}
    return ", ".join(f"{without_nan(quoted(name), kinds[key])} AS {quoted(key)}" for key, name in take.items())


def rows_of_table(to: Destination, name: Path | str, place: Callable[[int], str]) -> RawRows:
    """The rows of the table that is called as the view with _table behind it, in the order of insertion."""
    table = f"{to.view}_table"
    to.connection.execute(f"CREATE TEMP VIEW {to.view} AS SELECT rowid AS event_index, * FROM {table}")
    return not_empty(RawRows(to.connection, to.view, place, to.bad_rows, table), name)


def not_empty(rows: RawRows, name: Path | str) -> RawRows:
    if rows.one("count(*)") == (0,):
        raise InputError(f"{name} holds no rows; give a table with at least one row")
    return rows


def load_arrow(table: pa.Table, *, name: str, take: Mapping[str, str], to: Destination) -> RawRows:
    """The rows of a table in memory; `take` gives its name of each column of ours."""
    columns = {key: table[table.column_names.index(column)] for key, column in take.items()}
    given = f"{to.view}_given"
    with as_input_error(f"{name} cannot be read ({{error}}); cast its columns", duckdb.Error, pa.ArrowException):
        to.connection.register(given, pa.table({"event_index": np.arange(table.num_rows), **columns}))
        chosen = columns_without_nan(to.connection, {key: key for key in take}, given)
        to.connection.execute(f"CREATE TEMP VIEW {to.view} AS SELECT event_index, {chosen} FROM {given}")
        to.connection.execute(f"SELECT bit_xor(hash({', '.join(take)})) FROM {to.view}")
    return not_empty(RawRows(to.connection, to.view, lambda row: f"{name}, row {row + 1}", to.bad_rows), name)


def unreadable(path: Path) -> str:
    """The complaint about a file that its reader cannot read, for `as_input_error`."""
    return (
        f"{path} cannot be read ({{error}}); "
        "check that it is whole, of one kind of line end, and CSV, TSV, JSON lines or Parquet"
    )
