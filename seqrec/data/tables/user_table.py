"""A table that the user gives, in any form: opening it reads its columns' names, loading it reads its rows."""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import narwhals as nw
import pyarrow as pa

from seqrec.data.paths import as_input_error, check_file, data_files
from seqrec.data.tables.databases import DUCKDB_MAGIC, database_columns, load_database
from seqrec.data.tables.delimited import TextFile, fields_of, first_line_of, load_text, same_header, shown_names
from seqrec.data.tables.json_lines import json_keys, load_json_lines
from seqrec.data.tables.parquet import load_parquet, parquet_columns
from seqrec.data.tables.rows import NO_LIMITS, Destination, Limits, RawRows, load_arrow
from seqrec.types import InputError


@runtime_checkable
class TableLoader(Protocol):
    """Reads the rows of one table."""

    def __call__(self, *, take: Mapping[str, str], to: Destination, **options: Any) -> RawRows:
        """`take` has our name -> the table's column; `options` is `as_json`, of JSON lines."""


class UserTable(NamedTuple):
    """A table whose columns are known and whose rows are not read yet."""

    name: Path | str
    columns: tuple[str, ...]
    loader: TableLoader
    kind: Literal["text", "json", "parquet", "database", "frame"] = "text"

    def find(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a column, whatever its case and the spaces around it; None where none is.

        >>> UserTable("lists.csv", ("User_ID", " item"), load_text).find(("user", "user_id"))
        'User_ID'
        """
        known = {name.strip().lower(): name for name in reversed(self.columns)}
        return next((known[name.lower()] for name in names if name.lower() in known), None)

    def required(self, *names: str, any_case: bool = False, remedy: str = "name a column that it has") -> str:
        """The first of `names` that is a column, which must be there once."""
        name = self.find(names) if any_case else next((name for name in names if name in self.columns), None)
        if name is None:
            near = [other for other in self.columns if other.lower() == names[0].lower()]
            near += difflib.get_close_matches(names[0], self.columns, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{self.name} has no column {' or '.join(map(repr, names))}; {hint}"
                f"it has {shown_names(self.columns)}; {remedy}"
            )
        if self.columns.count(name) > 1:
            raise InputError(f"{self.name} has {self.columns.count(name)} columns {name!r}; rename all but one")
        return name

    def load(self, take: Mapping[str, str], to: Destination, *, as_json: Sequence[str] = ()) -> RawRows:
        """The rows, with our name -> the table's column; of JSON lines our columns `as_json` stay JSON."""
        return self.loader(take=take, to=to, **({"as_json": as_json} if self.kind == "json" else {}))


def open_table(
    source: Any,
    *,
    likely: Sequence[str] = (),
    table: str | None = None,
    query: str | None = None,
    limits: Limits = NO_LIMITS,
    name: str = "frame",
) -> UserTable:
    """The table at a path, or a pandas, Polars or Arrow frame, which messages call by `name`.

    A path names a file of CSV, TSV, JSON lines (all three may be compressed) or Parquet, told apart by content; a
    directory or glob pattern, whose files are the parts of one table in the order of their names; or a DuckDB file, of
    which a `table` or `query` says what to take. Text is split at the delimiter under which the header has most of the
    `likely` columns, or most columns.
    """
    if not isinstance(source, str | Path):
        return _frame_table(source, name)
    path = Path(source)
    if table is not None or query is not None:
        columns = database_columns(path, table=table, query=query, limits=limits)
        loader: TableLoader = partial(load_database, path, table_name=table, query=query, limits=limits)
        return UserTable(path, tuple(columns), loader, "database")
    files = data_files(path)
    head = check_file(files[0])
    for other in files[1:]:
        if check_file(other).startswith(b"PAR1") != head.startswith(b"PAR1"):
            raise InputError(f"{other} is of another kind than {files[0]}; name files of one kind, such as by *.csv")
    if head.startswith(b"PAR1"):
        return UserTable(files[0], tuple(parquet_columns(files)), partial(load_parquet, files), "parquet")
    if head[8:12] == DUCKDB_MAGIC:
        raise InputError(f"{path} is a DuckDB database; name a table in it, or give a query")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return json_table(files)
    line = first_line_of(files[0])
    if line.startswith("["):
        raise InputError(f"{files[0]}:1: {line[:60]!r} begins a list of JSON; write one JSON object a line")
    headers = {delimiter: fields_of(line, delimiter, files[0]) for delimiter in ",\t;|"}
    delimiter = max(headers, key=lambda key: (len(set(likely) & set(headers[key])), len(headers[key])))
    return text_table(files, headers[delimiter], delimiter=delimiter)


def json_table(files: Sequence[Path]) -> UserTable:
    """The table of files of JSON lines."""
    return UserTable(files[0], tuple(json_keys(files[0])), partial(load_json_lines, files), "json")


def text_table(
    files: Sequence[Path], columns: Sequence[str], *, delimiter: str, quote: str = '"', header: bool = True
) -> UserTable:
    """The table of files of text with these columns."""
    if header:
        same_header(files, first_line_of(files[0]))
    texts = [TextFile(path, delimiter, quote, header) for path in files]
    return UserTable(files[0], tuple(columns), partial(load_text, texts, columns))


def _frame_table(frame: Any, name: str) -> UserTable:
    with as_input_error(
        f"{name} is {type(frame).__name__}; give a table of pandas, Polars or Arrow", TypeError, ValueError
    ):
        given = nw.from_native(frame)
    columns = tuple(str(column) for column in given.collect_schema().names())

    def load(*, take: Mapping[str, str], to: Destination, **options: Any) -> RawRows:
        chosen = given.select(*dict.fromkeys(take.values()))
        mixed = f"{name} has a column of mixed types ({{error}}); give each one type"
        with as_input_error(mixed, pa.ArrowException, TypeError):
            table = chosen.collect("pyarrow").to_native() if isinstance(chosen, nw.LazyFrame) else chosen.to_arrow()
        return load_arrow(table, name=name, take=take, to=to)

    return UserTable(name, columns, load, "frame")
