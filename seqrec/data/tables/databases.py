"""Databases: a table of a DuckDB file or the result of a query, and tables of a database that is attached."""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from seqrec.data.paths import as_input_error, check_file, first_line
from seqrec.data.tables.rows import (
    NO_LIMITS,
    Destination,
    Limits,
    RawRows,
    columns_without_nan,
    not_empty,
    quoted,
    rows_of_table,
    settings_of,
    text_literal,
    unreadable,
)
from seqrec.types import InputError

DUCKDB_MAGIC = b"DUCK"
"""Stands behind the first eight bytes."""


def _open_database(path: Path, limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A DuckDB file to read from: nothing in it can be changed, nor any other file be touched."""
    if check_file(path)[8:12] != DUCKDB_MAGIC:
        raise InputError(f"{path} is no DuckDB database; name one, or leave table and query out")
    with as_input_error(unreadable(path), duckdb.Error):
        connection = duckdb.connect(str(path), read_only=True, config=settings_of(limits))
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false; SET enable_external_access = false")
    return connection


def _table_query(database: duckdb.DuckDBPyConnection, path: Path, table: str) -> str:
    """The query for all of a table, or view, that is named alone or with its schema before a dot."""
    tables = database.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_catalog = current_database() ORDER BY ALL"
    ).fetchall()
    matches = [(schema, name) for schema, name in tables if table in (name, f"{schema}.{name}")]
    if len(matches) != 1:
        known = ", ".join(repr(name if schema == "main" else f"{schema}.{name}") for schema, name in tables) or "none"
        raise InputError(f"{path} has {len(matches)} tables {table!r}; its tables are {known}; name one")
    return f"SELECT * FROM {quoted(matches[0][0])}.{quoted(matches[0][1])}"


def database_columns(path: Path, *, table: str | None, query: str | None, limits: Limits = NO_LIMITS) -> list[str]:
    """The names of the columns of a table, or of a query, which must be one SELECT."""
    if table is not None and query is not None:
        raise InputError(f"both table {table!r} and a query are given; give one")
    with _open_database(path, limits) as database, as_input_error(_failed(path), duckdb.Error):
        query = query or _table_query(database, path, str(table))
        statements = database.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InputError(f"{path}: the query {query[:60]!r} is not one SELECT; give one")
        return database.sql(query).columns


def _failed(path: Path) -> str:
    return f"{path}: the query fails ({{error}}); correct it"


def load_database(
    path: Path,
    *,
    table_name: str | None,
    query: str | None,
    take: Mapping[str, str],
    to: Destination,
    limits: Limits = NO_LIMITS,
) -> RawRows:
    """The rows of a table or query, in the order in which it gives them; `take` gives its name of each of ours.

    A query runs where nothing can be written.
    """
    given = f"{to.view}_given"
    kinds = (duckdb.Error, pa.ArrowException, OSError)
    with _open_database(path, limits) as database, as_input_error(_failed(path), *kinds):
        sql = query or _table_query(database, path, str(table_name))
        to.connection.register(given, pa.RecordBatchReader.from_stream(database.sql(sql)))
        chosen = columns_without_nan(to.connection, take, given)
        to.connection.execute(f"CREATE TABLE {to.view}_table AS SELECT {chosen} FROM {given}")
        to.connection.unregister(given)
    return rows_of_table(to, path, lambda row: f"{path}, row {row + 1}")


# Databases that are attached, whose tables stay where they are


def is_postgres(address: str) -> bool:
    return address.startswith(("postgres://", "postgresql://"))


def attach(connection: duckdb.DuckDBPyConnection, address: str) -> None:
    """Attaches a DuckDB file, or PostgreSQL by its address, as the database `attached`, to be read only."""
    if not is_postgres(address):
        check_file(Path(address))
    try:
        if is_postgres(address):
            # Only what is installed: an analysis fetches nothing from the network.
            connection.execute("SET autoinstall_known_extensions = false")
            connection.execute("LOAD postgres")
        kind = ", TYPE postgres" if is_postgres(address) else ""
        connection.execute(f"ATTACH {text_literal(address)} AS attached (READ_ONLY{kind})")
    except duckdb.Error as error:
        is_ours = is_postgres(address)
        remedy = "install DuckDB's postgres extension, and check the address" if is_ours else "give a DuckDB file"
        shown = "the PostgreSQL database" if is_ours else address
        # The address may hold a password, and the error the address.
        reason = first_line(error).replace(address, shown)
        raise InputError(f"{shown} cannot be opened ({reason}); {remedy}") from None


def _attached(name: str) -> str:
    return ".".join(quoted(part) for part in ("attached", *name.split(".")))


def attached_columns(connection: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """The names of the columns of a table of the database that is attached, named alone or with its schema."""
    with as_input_error(_no_table(name), duckdb.Error):
        return [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {_attached(name)}").fetchall()]


def _no_table(name: str) -> str:
    return f"table {name} cannot be read ({{error}}); name a table of the database"


def load_attached(name: str, *, copied: bool, take: Mapping[str, str], to: Destination) -> RawRows:
    """The rows of a table of the database that is attached, `copied` once or read anew each time."""

    def place(row: int) -> str:
        return f"{name}, row {row + 1}"

    source = _attached(name)
    with as_input_error(_no_table(name), duckdb.Error):
        chosen = columns_without_nan(to.connection, take, source)
        if copied:
            to.connection.execute(f"CREATE TABLE {to.view}_table AS SELECT {chosen} FROM {source}")
            return rows_of_table(to, name, place)
        rows = f"SELECT row_number() OVER () - 1 AS event_index, {chosen} FROM {source}"
        to.connection.execute(f"CREATE TEMP VIEW {to.view} AS {rows}")
        return not_empty(RawRows(to.connection, to.view, place, to.bad_rows), name)
