"""Logs of an experiment, checked and put into tables whose names and columns are fixed, so that SQL can be too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from seqrec.abtest.plan import MICROSECONDS_PER_DAY, Plan
from seqrec.data.files import connect
from seqrec.data.paths import check_file
from seqrec.types import InputError

_MOST_SEGMENT_VALUES = 50
_UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Logs:
    """Files, Parquet or CSV (also gzip'd), with times in microseconds since 1970 as whole numbers."""

    assignments: Path
    """Columns user_id, arm, timestamp_us, and any for segments."""
    events: Path
    """Columns user_id, timestamp_us and seconds (listened), skipped and liked (0 or 1); optionally sequence, the
    player's own number of the event, by which losses show. Events before the start serve as covariates."""
    exposures: Path | None = None
    """Columns user_id and timestamp_us: when the user met what differs, or in the control would have; by default
    every assigned user is exposed at once."""


def load_logs(logs: Logs, plan: Plan) -> duckdb.DuckDBPyConnection:
    """A database with the tables assignments, exposures, events, segment_values and settings.

    No name or value of a file becomes part of a statement but as a quoted identifier or a parameter. User ids are
    compared as text, unless they are whole numbers in all files.

    Raises:
      InputError: a file lacks a column or has a value that cannot be, which is named with its row.
    """
    connection = connect()
    files = {"assignments": logs.assignments, "events": logs.events}
    if logs.exposures is not None:
        files["exposures"] = logs.exposures
    texts = ("user_id", "arm", *plan.segments)
    columns = {name: _load(connection, file, f"raw_{name}", texts=texts) for name, file in files.items()}
    needed = {
        "assignments": ("user_id", "arm", "timestamp_us", *plan.segments),
        "exposures": ("user_id", "timestamp_us"),
        "events": ("user_id", "timestamp_us", "seconds", "skipped", "liked"),
    }
    for name, file in files.items():
        missing = [column for column in needed[name] if column not in columns[name]]
        if missing:
            raise InputError(
                f"{file} lacks the column {missing[0]!r}, only {', '.join(columns[name])}; add or rename it"
            )
    id_type = "BIGINT" if all(_is_whole(found["user_id"]) for found in columns.values()) else "VARCHAR"
    for name, file in files.items():
        _check_times(connection, file, f"raw_{name}", columns[name])
    _take_assignments(connection, logs.assignments, plan, id_type)
    source = "raw_exposures" if "exposures" in files else "raw_assignments"
    connection.execute(
        f"CREATE TABLE exposures AS SELECT CAST(user_id AS {id_type}) AS user_id, timestamp_us FROM {source}"
    )
    _take_events(connection, logs.events, columns["events"], id_type)
    for name in files:
        connection.execute(f"DROP TABLE raw_{name}")
    return connection


def set_period(connection: duckdb.DuckDBPyConnection, plan: Plan, *, n_days: int) -> None:
    """Makes the one-row table `settings`: the plan's first `n_days`, and what else the SQL asks of the plan."""
    connection.execute(
        """
        CREATE OR REPLACE TABLE settings AS
        SELECT CAST($start AS BIGINT) AS start_us, CAST($until AS BIGINT) AS until_us,
               CAST($before AS BIGINT) AS before_us, CAST($gap AS BIGINT) AS session_gap_us,
               CAST($plays AS BIGINT) AS max_plays_per_day
        """,
        {
            "start": plan.start_us,
            "until": plan.start_us + n_days * MICROSECONDS_PER_DAY,
            "before": plan.start_us - plan.days_before * MICROSECONDS_PER_DAY,
            "gap": round(plan.session_gap_minutes * 60e6),
            "plays": plan.max_plays_per_day,
        },
    )


def days_logged(connection: duckdb.DuckDBPyConnection, plan: Plan) -> int:
    """Whole or begun days from the plan's start to the last with events, 0 to the planned number.

    A day counts as logged with a hundredth of the busiest day's events, so that a few clocks that run ahead do not make
    an experiment look finished.
    """
    found = connection.execute(
        """
        SELECT CAST(FLOOR((timestamp_us - $start) / 86400000000e0) AS BIGINT) AS day, COUNT(*) AS n_events
        FROM events
        WHERE timestamp_us >= $start AND timestamp_us < $end
        GROUP BY day
        """,
        {"start": plan.start_us, "end": plan.start_us + plan.n_days * MICROSECONDS_PER_DAY},
    ).fetchall()
    busiest = max((n_events for _, n_events in found), default=0)
    return max((day + 1 for day, n_events in found if 100 * n_events >= busiest), default=0)


def _load(connection: duckdb.DuckDBPyConnection, file: Path, table: str, *, texts: Sequence[str]) -> dict[str, str]:
    """Makes the table and returns its columns' types; `texts` names columns that a text file is to keep as written."""
    head = check_file(file)
    # Otherwise *, ? and [ in a path would be a pattern over file names.
    path = re.sub(r"([*?\[])", r"[\1]", str(file.absolute()))
    try:
        if head.startswith(b"PAR1"):
            connection.execute(f"CREATE TABLE {table} AS SELECT * FROM read_parquet($path)", {"path": path})
        else:
            described = connection.execute(
                "DESCRIBE SELECT * FROM read_csv($path, header = true, all_varchar = true)", {"path": path}
            ).fetchall()
            # Otherwise 007 would be 7 in a file of numbers and 007 in one that has other words too.
            types = {row[0]: "VARCHAR" for row in described if row[0] in texts}
            parameters = {"path": path, "types": types} if types else {"path": path}
            options = ", types = $types" if types else ""
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * FROM read_csv($path, header = true, sample_size = -1{options})",
                parameters,
            )
    except duckdb.Error as error:
        raise InputError(f"{file} cannot be read ({str(error).splitlines()[0]}); give Parquet or CSV") from error
    found = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $table", {"table": table}
    ).fetchall()
    return dict(found)


def _is_whole(kind: str) -> bool:
    return kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


def _refuse_where(
    connection: duckdb.DuckDBPyConnection, file: Path, table: str, column: str, condition: str, *, remedy: str
) -> None:
    # Columns named here are this module's own; a table keeps its file's order.
    if not connection.execute(f"SELECT COUNT(*) FROM {table} WHERE {condition}").fetchall()[0][0]:
        return
    row, value = connection.execute(
        f"SELECT row, CAST({column} AS VARCHAR) FROM (SELECT *, row_number() OVER () AS row FROM {table}) "
        f"WHERE {condition} ORDER BY row LIMIT 1"
    ).fetchall()[0]
    shown = "missing" if value is None else repr(value[:40])
    raise InputError(f"{file}, row {row}: {column} is {shown}; {remedy}")


def _check_times(connection: duckdb.DuckDBPyConnection, file: Path, table: str, columns: dict[str, str]) -> None:
    if not _is_whole(columns["timestamp_us"]):
        raise InputError(
            f"{file}: timestamp_us is of type {columns['timestamp_us']}, not whole numbers; "
            "give microseconds since 1970 as int64"
        )
    _refuse_where(connection, file, table, "user_id", "user_id IS NULL", remedy="every row needs its user")
    _refuse_where(
        connection,
        file,
        table,
        "timestamp_us",
        # Before 2001 or after 2200 a number of microseconds is one of seconds or milliseconds.
        "timestamp_us IS NULL OR timestamp_us < 1000000000000000 OR timestamp_us > 7258118400000000",
        remedy="give microseconds since 1970, of 2001 to 2200",
    )


def _take_assignments(connection: duckdb.DuckDBPyConnection, file: Path, plan: Plan, id_type: str) -> None:
    table = "raw_assignments"
    _refuse_where(connection, file, table, "arm", "arm IS NULL", remedy="every row needs its arm")
    unknown = connection.execute(
        f"SELECT DISTINCT CAST(arm AS VARCHAR) AS arm FROM {table} "
        "WHERE NOT list_contains($arms, CAST(arm AS VARCHAR)) ORDER BY arm",
        {"arms": list(plan.arms)},
    ).fetchall()
    if unknown:
        raise InputError(
            f"{file} has the arm {unknown[0][0][:60]!r}, the plan {', '.join(map(repr, plan.arms))}; "
            "give the plan of this experiment"
        )
    connection.execute(
        f"CREATE TABLE assignments AS SELECT CAST(user_id AS {id_type}) AS user_id, CAST(arm AS VARCHAR) AS arm, "
        f"timestamp_us FROM {table}"
    )
    connection.execute(f"CREATE TABLE segment_values (user_id {id_type}, segment VARCHAR, value VARCHAR)")
    for segment in plan.segments:
        quoted = '"' + segment.replace('"', '""') + '"'
        connection.execute(
            f"INSERT INTO segment_values SELECT CAST(user_id AS {id_type}), $segment, "
            f"coalesce(CAST({quoted} AS VARCHAR), $unknown) FROM {table}",
            {"segment": segment, "unknown": _UNKNOWN},
        )
        n_values = connection.execute(
            "SELECT COUNT(DISTINCT value) FROM segment_values WHERE segment = $segment", {"segment": segment}
        ).fetchall()[0][0]
        if n_values > _MOST_SEGMENT_VALUES:
            raise InputError(
                f"{file}: segment {segment!r} has {n_values} values, more than {_MOST_SEGMENT_VALUES}; group them first"
            )


def _take_events(connection: duckdb.DuckDBPyConnection, file: Path, columns: dict[str, str], id_type: str) -> None:
    table = "raw_events"
    for column in ("seconds", "skipped", "liked"):
        if columns[column] == "VARCHAR":
            raise InputError(f"{file}: {column} is text in some row; give numbers")
        # NaN is above every number.
        limit = 1e7 if column == "seconds" else 1
        allowed = "0 or more, below 1e7" if column == "seconds" else "0 or 1"
        number = f"CAST({column} AS DOUBLE)"
        condition = f"{column} IS NULL OR {number} < 0 OR {number} > {limit}"
        if column != "seconds":
            condition += f" OR {number} <> FLOOR({number})"
        _refuse_where(connection, file, table, column, condition, remedy=f"give {allowed}")
    sequence = "CAST(sequence AS BIGINT)" if "sequence" in columns else "CAST(NULL AS BIGINT)"
    if "sequence" in columns:
        if not _is_whole(columns["sequence"]):
            raise InputError(f"{file}: sequence is of type {columns['sequence']}; give whole numbers, or leave it out")
        _refuse_where(
            connection, file, table, "sequence", "sequence IS NULL OR sequence < 0", remedy="count from 0 or 1"
        )
    connection.execute(
        f"CREATE TABLE events AS SELECT CAST(user_id AS {id_type}) AS user_id, timestamp_us, "
        f"CAST(seconds AS DOUBLE) AS seconds, CAST(skipped AS INTEGER) AS skipped, CAST(liked AS INTEGER) AS liked, "
        f"{sequence} AS sequence FROM {table}"
    )
