"""The user's own events: files of text, JSON lines or Parquet, a DuckDB table or query, a data frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import narwhals as nw
import pyarrow as pa

from seqrec.data.databases import DUCKDB_MAGIC, load_query, open_database, query_columns, table_query
from seqrec.data.event_tables import (
    Request,
    Source,
    find_json,
    find_text,
    has_times,
    typed_source,
    wanted_columns,
)
from seqrec.data.files import (
    Found,
    load_arrow,
    load_parquet,
    parquet_columns,
)
from seqrec.data.paths import check_file, data_files, first_line
from seqrec.data.text_files import fields_of, first_line_of
from seqrec.types import InputError


def read_events(path: Path, request: Request) -> Source:
    """Events from CSV, TSV, JSON lines or Parquet by the names of their columns; text may be gzip'd or zstd'd.

    A directory stands for its files and a pattern for what it matches, in the order of their names. Ids of text are
    int64 where every one is written as int64 writes it, else text ("007" stays "007"). Times are numbers since 1970 in
    `time_unit`, or ISO dates and times (UTC where they name no zone).
    """
    files = data_files(path)
    head = check_file(files[0])
    for other in files[1:]:
        if check_file(other).startswith(b"PAR1") != head.startswith(b"PAR1"):
            raise InputError(f"{other} is of another kind than {files[0]}; name files of one kind, such as by *.csv")
    if head.startswith(b"PAR1"):
        found = _find_parquet(files, request)
    elif head[8:12] == DUCKDB_MAGIC:
        raise InputError(f"{path} is a DuckDB database; name a table in it, or give a query")
    elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        found = find_json(files, request, request.columns)
    else:
        found = _find_text(files, request)
    return _own_source("events", found, request)


def read_database(path: Path, request: Request, *, table: str | None, query: str | None) -> Source:
    """Events from a DuckDB file: a table, or the rows of a query, which is run where nothing can be written."""
    if table is not None and query is not None:
        raise InputError(f"both table {table!r} and a query are given; give one")
    with open_database(path, request.limits) as database:
        sql = query if query is not None else table_query(database, path, str(table))
        take = wanted_columns(path, query_columns(database, path, sql), request.columns, request)
        found = load_query(database, path, sql, take=take, limits=request.limits, bad_rows=request.bad_rows)
    return _own_source("events", found, request)


def read_frame(frame: Any, request: Request, *, name: str) -> Source:
    """Events of a pandas, Polars or Arrow table in memory, by the names of its columns."""
    try:
        given = nw.from_native(frame)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is {type(frame).__name__}; give a table of pandas, Polars or Arrow") from error
    names = [str(column) for column in given.collect_schema().names()]
    take = wanted_columns(name, names, request.columns, request)
    chosen = given.select(*dict.fromkeys(take.values()))
    try:
        table = chosen.collect("pyarrow").to_native() if isinstance(chosen, nw.LazyFrame) else chosen.to_arrow()
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"{name} has a column of mixed types ({first_line(error)}); give each one type") from error
    found = load_arrow(table, name=name, take=take, limits=request.limits, bad_rows=request.bad_rows)
    return _own_source(name, found, request)


def _own_source(name: str, found: Found, request: Request) -> Source:
    return typed_source(name, found, request, time_unit=request.time_unit if has_times(request.columns) else None)


def _find_parquet(files: Sequence[Path], request: Request) -> Found:
    take = wanted_columns(files[0], parquet_columns(files), request.columns, request)
    return load_parquet(files, take=take, limits=request.limits, bad_rows=request.bad_rows)


def _find_text(files: Sequence[Path], request: Request) -> Found:
    line = first_line_of(files[0])
    if line.startswith("["):
        raise InputError(f"{files[0]}:1: {line[:60]!r} begins a list of JSON; write one JSON object a line")
    headers = {delimiter: fields_of(line, delimiter, files[0]) for delimiter in ",\t;|"}
    # The delimiter under which the header names most of the columns that are asked for.
    delimiter = max(headers, key=lambda key: (len(set(request.columns) & set(headers[key])), len(headers[key])))
    return find_text(files, request, headers[delimiter], request.columns, delimiter=delimiter)
