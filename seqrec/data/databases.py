"""DuckDB files of the user's: a table, or what a query gives, as rows that were found."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from seqrec.data.files import NO_LIMITS, BadRows, Found, Limits, connect, held_rows, quoted, settings_of, unreadable
from seqrec.data.paths import check_file, first_line
from seqrec.types import InputError

DUCKDB_MAGIC = b"DUCK"
"""Stands behind the first eight bytes."""


def open_database(path: Path, limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A DuckDB file to read from: nothing in it can be changed, nor any other file be touched."""
    if check_file(path)[8:12] != DUCKDB_MAGIC:
        raise InputError(f"{path} is no DuckDB database; name one, or leave table and query out")
    try:
        connection = duckdb.connect(str(path), read_only=True, config=settings_of(limits))
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET enable_external_access = false")
    except duckdb.Error as error:
        raise InputError(unreadable(path, error)) from error
    return connection


def table_query(database: duckdb.DuckDBPyConnection, path: Path, table: str) -> str:
    """The query for all of a table, or view, that is named alone or with its schema before a dot."""
    tables = database.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_catalog = current_database() ORDER BY ALL"
    ).fetchall()
    found = [(schema, name) for schema, name in tables if table in (name, f"{schema}.{name}")]
    if len(found) != 1:
        known = ", ".join(repr(name if schema == "main" else f"{schema}.{name}") for schema, name in tables) or "none"
        raise InputError(f"{path} has {len(found)} tables {table!r}; its tables are {known}; name one")
    return f"SELECT * FROM {quoted(found[0][0])}.{quoted(found[0][1])}"


def query_columns(database: duckdb.DuckDBPyConnection, path: Path, query: str) -> list[str]:
    """The names of the columns of a query, which must be one SELECT."""
    try:
        statements = database.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError(f"{path}: the query {query[:60]!r} is not one SELECT; give one")
        return database.sql(query).columns
    except duckdb.Error as error:
        raise InputError(f"{path}: the query fails ({first_line(error)}); correct it") from error


def load_query(
    database: duckdb.DuckDBPyConnection,
    path: Path,
    query: str,
    *,
    take: Mapping[str, str],
    limits: Limits = NO_LIMITS,
    bad_rows: BadRows = "refuse",
) -> Found:
    """The rows of a query, in the order in which it gives them."""
    connection = connect(limits)
    chosen = ", ".join(f"{quoted(name)} AS {key}" for key, name in take.items())
    try:
        rows = pa.RecordBatchReader.from_stream(database.sql(query))
        connection.register("rows_given", rows)
        connection.execute(f"CREATE TABLE rows_found AS SELECT {chosen} FROM rows_given")
        connection.unregister("rows_given")
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: the query fails ({first_line(error)}); correct it") from error
    return held_rows(connection, path, lambda row: f"{path}, row {row + 1}", bad_rows)
