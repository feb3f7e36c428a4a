"""Logs of an experiment, checked and put into tables whose names and columns are fixed, so that SQL can be too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from seqrec.abtest.plan import MICROSECONDS_PER_DAY, ExperimentPlan
from seqrec.data.files import NO_LIMITS, Limits, connect, quoted
from seqrec.data.paths import check_file
from seqrec.types import InputError

_MOST_SEGMENT_VALUES = 50
_UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Logs:
    """Files, Parquet or CSV (also gzip'd), or tables of a database, with times in microseconds since 1970 as whole
    numbers. The plan's `unit` names the column of ids, by default user_id."""

    assignments: Path
    """Columns user_id, arm, timestamp_us, and any for segments."""
    events: Path
    """Columns user_id, timestamp_us and seconds (listened), skipped and liked (0 or 1); optionally sequence, the
    player's own number of the event, by which losses show. Events before the start serve as covariates."""
    exposures: Path | None = None
    """Columns user_id and timestamp_us: when the user met what differs, or in the control would have; by default
    every assigned user is exposed at once."""
    database: str | None = None
    """A DuckDB file, or postgresql://... where DuckDB's postgres extension is installed; the three above are then
    names of its tables, such as events or logs.events."""
    drop_repeated: bool = False
    """Count repeated events once: events of a user with the same sequence number, or without such numbers, equal rows.
    By default they block the verdict."""


def load_logs(logs: Logs, plan: ExperimentPlan, *, limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A database with the tables assignments, exposures, events, segment_values and dropped_events.

    Their user_id is the plan's unit. Events of Parquet files and DuckDB tables stay where they are and are read when
    they are asked for. No name or value of a file becomes part of a statement but as a quoted identifier, a quoted
    literal or a parameter. Ids are compared as text, unless they are whole numbers in all logs.

    Raises:
      InputError: a log lacks a column or has a value that cannot be, which is named with its row.
    """
    connection = connect(limits)
    if logs.database is not None:
        _attach(connection, logs.database)
    paths = {"assignments": logs.assignments, "events": logs.events}
    if logs.exposures is not None:
        paths["exposures"] = logs.exposures
    texts = (plan.unit, "arm", *plan.segments)
    columns = {
        name: _load(connection, path, f"raw_{name}", texts=texts)
        if logs.database is None
        else _load_table(connection, path, f"raw_{name}", database=logs.database)
        for name, path in paths.items()
    }
    needed = {
        "assignments": (plan.unit, "arm", "timestamp_us", *plan.segments),
        "exposures": (plan.unit, "timestamp_us"),
        "events": (plan.unit, "timestamp_us", "seconds", "skipped", "liked"),
    }
    for name, path in paths.items():
        missing = [column for column in needed[name] if column not in columns[name]]
        if missing:
            raise InputError(
                f"{path} lacks the column {missing[0]!r}, only {', '.join(columns[name])}; add or rename it"
            )
    id_type = "BIGINT" if all(_is_whole(found[plan.unit]) for found in columns.values()) else "VARCHAR"
    user_id = f"CAST({quoted(plan.unit)} AS {id_type}) AS user_id"
    for name, path in paths.items():
        _check(connection, path, f"raw_{name}", columns[name], plan.unit)
    _take_assignments(connection, logs.assignments, plan, user_id)
    source = "raw_exposures" if "exposures" in paths else "raw_assignments"
    connection.execute(f"CREATE TABLE exposures AS SELECT {user_id}, timestamp_us FROM {source}")
    sequence = "CAST(sequence AS BIGINT)" if "sequence" in columns["events"] else "CAST(NULL AS BIGINT)"
    events = "events_with_repeats" if logs.drop_repeated else "events"
    connection.execute(
        f"CREATE VIEW {events} AS SELECT {user_id}, timestamp_us, CAST(seconds AS DOUBLE) AS seconds, "
        f"CAST(skipped AS INTEGER) AS skipped, CAST(liked AS INTEGER) AS liked, {sequence} AS sequence FROM raw_events"
    )
    _drop_repeated(connection, logs, by_sequence="sequence" in columns["events"])
    return connection


def _drop_repeated(connection: duckdb.DuckDBPyConnection, logs: Logs, *, by_sequence: bool) -> None:
    """Creates the one-row table `dropped_events` and, with `drop_repeated`, the table `events` without repeats."""
    if not logs.drop_repeated:
        connection.execute("CREATE TABLE dropped_events AS SELECT 0 AS n_events")
        return
    values = "timestamp_us, seconds, skipped, liked"
    key = "user_id, sequence" if by_sequence else f"user_id, {values}"
    try:
        connection.execute(
            f"CREATE TABLE events AS SELECT DISTINCT ON ({key}) * FROM events_with_repeats ORDER BY {key}, {values}"
        )
        connection.execute(
            "CREATE TABLE dropped_events AS SELECT "
            "(SELECT COUNT(*) FROM events_with_repeats) - (SELECT COUNT(*) FROM events) AS n_events"
        )
    except duckdb.Error as error:
        raise InputError(
            f"repeated events of {logs.events} cannot be dropped ({_first_line(error)}); set a memory limit and a "
            "spill directory with room"
        ) from error


def set_period(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, *, n_days: int) -> None:
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


def days_logged(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan) -> int:
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
        {"start": plan.start_us, "end": plan.end_us},
    ).fetchall()
    busiest = max((n_events for _, n_events in found), default=0)
    return max((day + 1 for day, n_events in found if 100 * n_events >= busiest), default=0)


def _load(connection: duckdb.DuckDBPyConnection, file: Path, name: str, *, texts: Sequence[str]) -> dict[str, str]:
    """Makes a view of a Parquet file or a table of a text file, and returns its columns' types; `texts` names columns
    that a text file is to keep as written."""
    head = check_file(file)
    # Otherwise *, ? and [ in a path would be a pattern over file names.
    path = re.sub(r"([*?\[])", r"[\1]", str(file.absolute()))
    try:
        if head.startswith(b"PAR1"):
            # A view takes no parameters.
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({_literal(path)})")
        else:
            described = connection.execute(
                "DESCRIBE SELECT * FROM read_csv($path, header = true, all_varchar = true)", {"path": path}
            ).fetchall()
            # Otherwise 007 would be 7 in a file of numbers and 007 in one that has other words too.
            types = {row[0]: "VARCHAR" for row in described if row[0] in texts}
            parameters = {"path": path, "types": types} if types else {"path": path}
            options = ", types = $types" if types else ""
            connection.execute(
                f"CREATE TABLE {name} AS SELECT * FROM read_csv($path, header = true, sample_size = -1{options})",
                parameters,
            )
    except duckdb.Error as error:
        raise InputError(f"{file} cannot be read ({_first_line(error)}); give Parquet or CSV") from error
    return _types(connection, name)


def _attach(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    is_postgres = _is_postgres(database)
    if not is_postgres:
        check_file(Path(database))
    try:
        if is_postgres:
            # Only what is installed: an analysis fetches nothing from the network.
            connection.execute("SET autoinstall_known_extensions = false")
            connection.execute("LOAD postgres")
        kind = ", TYPE postgres" if is_postgres else ""
        connection.execute(f"ATTACH {_literal(database)} AS logged (READ_ONLY{kind})")
    except duckdb.Error as error:
        remedy = "install DuckDB's postgres extension, and check the address" if is_postgres else "give a DuckDB file"
        shown = "the PostgreSQL database" if is_postgres else database
        # The address may hold a password, and the error the address.
        reason = _first_line(error).replace(database, shown)
        raise InputError(f"{shown} cannot be opened ({reason}); {remedy}") from None


def _load_table(connection: duckdb.DuckDBPyConnection, table: Path, name: str, *, database: str) -> dict[str, str]:
    place = ".".join(quoted(part) for part in ("logged", *str(table).split(".")))
    # Each step reads the events anew, so those of another machine are fetched once.
    kind = "TABLE" if _is_postgres(database) else "VIEW"
    try:
        connection.execute(f"CREATE {kind} {name} AS SELECT * FROM {place}")
    except duckdb.Error as error:
        raise InputError(
            f"table {table} cannot be read ({_first_line(error)}); name a table of the database"
        ) from error
    return _types(connection, name)


def _is_postgres(database: str) -> bool:
    return database.startswith(("postgres://", "postgresql://"))


def _types(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()}


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _is_whole(kind: str) -> bool:
    return kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")


def _check(connection: duckdb.DuckDBPyConnection, file: Path, table: str, columns: dict[str, str], unit: str) -> None:
    """Refuses a log with a value that cannot be; columns named here are this module's own, but for the unit's."""
    # Before 2001 or after 2200 a number of microseconds is one of seconds or milliseconds.
    bad_time = "timestamp_us IS NULL OR timestamp_us < 1000000000000000 OR timestamp_us > 7258118400000000"
    rules = [
        (quoted(unit), unit, f"{quoted(unit)} IS NULL", f"every row needs its {unit}"),
        ("timestamp_us", "timestamp_us", bad_time, "give microseconds since 1970, of 2001 to 2200"),
    ]
    if not _is_whole(columns["timestamp_us"]):
        raise InputError(
            f"{file}: timestamp_us is of type {columns['timestamp_us']}, not whole numbers; "
            "give microseconds since 1970 as int64"
        )
    if table == "raw_assignments":
        rules.append(("arm", "arm", "arm IS NULL", "every row needs its arm"))
    if table == "raw_events":
        for column in ("seconds", "skipped", "liked"):
            if columns[column] == "VARCHAR":
                raise InputError(f"{file}: {column} is text in some row; give numbers")
            number = f"CAST({column} AS DOUBLE)"
            limit, allowed = (1e7, "0 or more, below 1e7") if column == "seconds" else (1, "0 or 1")
            # NaN is above every number, but not by a Parquet file's statistics, which leave it out.
            condition = f"{column} IS NULL OR {number} < 0 OR {number} > {limit} OR isnan({number})"
            if column != "seconds":
                condition += f" OR {number} <> FLOOR({number})"
            rules.append((column, column, condition, f"give {allowed}"))
        if "sequence" in columns:
            if not _is_whole(columns["sequence"]):
                raise InputError(
                    f"{file}: sequence is of type {columns['sequence']}; give whole numbers, or leave it out"
                )
            rules.append(("sequence", "sequence", "sequence IS NULL OR sequence < 0", "count from 0 or 1"))
    # One pass over the file for all of them.
    counts = ", ".join(f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)" for _, _, condition, _ in rules)
    try:
        n_bad = connection.execute(f"SELECT {counts} FROM {table}").fetchall()[0]
    except duckdb.Error as error:
        raise InputError(f"{file} cannot be read ({_first_line(error)}); check that it is whole") from error
    for n, (column, name, condition, remedy) in zip(n_bad, rules, strict=True):
        if n:
            # A table keeps its file's order.
            row, value = connection.execute(
                f"SELECT row, CAST({column} AS VARCHAR) FROM (SELECT *, row_number() OVER () AS row FROM {table}) "
                f"WHERE {condition} ORDER BY row LIMIT 1"
            ).fetchall()[0]
            shown = "missing" if value is None else repr(value[:40])
            raise InputError(f"{file}, row {row}: {name} is {shown}; {remedy}")


def _take_assignments(connection: duckdb.DuckDBPyConnection, file: Path, plan: ExperimentPlan, user_id: str) -> None:
    table = "raw_assignments"
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
        f"CREATE TABLE assignments AS SELECT {user_id}, CAST(arm AS VARCHAR) AS arm, timestamp_us FROM {table}"
    )
    connection.execute(
        "CREATE TABLE segment_values AS SELECT user_id, CAST('' AS VARCHAR) AS segment, CAST('' AS VARCHAR) AS value "
        "FROM assignments LIMIT 0"
    )
    for segment in plan.segments:
        connection.execute(
            f"INSERT INTO segment_values SELECT {user_id}, $segment, "
            f"coalesce(CAST({quoted(segment)} AS VARCHAR), $unknown) FROM {table}",
            {"segment": segment, "unknown": _UNKNOWN},
        )
        n_values = connection.execute(
            "SELECT COUNT(DISTINCT value) FROM segment_values WHERE segment = $segment", {"segment": segment}
        ).fetchall()[0][0]
        if n_values > _MOST_SEGMENT_VALUES:
            raise InputError(
                f"{file}: segment {segment!r} has {n_values} values, more than {_MOST_SEGMENT_VALUES}; group them first"
            )
