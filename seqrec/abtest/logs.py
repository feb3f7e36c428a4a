"""Reads and checks the logs of an experiment into tables with fixed names and columns, so that the SQL is fixed too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from seqrec.abtest.plan import MICROSECONDS_PER_DAY, ExperimentPlan
from seqrec.config import check_fields
from seqrec.data.paths import first_line
from seqrec.data.tables.columns import number, required_id
from seqrec.data.tables.databases import attach, attached_columns, is_postgres, load_attached
from seqrec.data.tables.rows import NO_LIMITS, Destination, Limits, RawRows, connect, text_literal
from seqrec.data.tables.user_table import UserTable, open_table
from seqrec.types import InputError

RULES = {
    # Before 2001 or after 2200 a number of microseconds is one of seconds or milliseconds.
    "timestamp_us": (
        "{0} < 1e15 OR {0} > 7258118400000000 OR {0} <> floor({0})",
        "give microseconds since 1970, of 2001 to 2200, as whole numbers",
    ),
    "seconds": ("{0} < 0 OR {0} > 1e7", "give 0 or more, below 1e7"),
    "skipped": ("{0} NOT IN (0, 1)", "give 0 or 1"),
    "liked": ("{0} NOT IN (0, 1)", "give 0 or 1"),
    "sequence": ("{0} < 0 OR {0} <> floor({0})", "count from 0 or 1, or leave the column out"),
}
"""For each column of numbers the condition, of its values, that none may meet, and the remedy where one does."""
_MOST_SEGMENT_VALUES = 50
_UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class Logs:
    """Files or directories of Parquet, CSV, TSV or JSON lines (text may be compressed), or tables of a database, with
    times in microseconds since 1970 as whole numbers. The plan's `unit` names the column of ids, by default user_id."""

    assignments: Path
    """Log of assignments: columns user_id, arm and timestamp_us, and one for each segment of the plan."""
    events: Path
    """Log of plays: columns user_id, timestamp_us, seconds (listened), skipped and liked (0 or 1); optionally sequence,
    the client's number of the event, which reveals lost events. Events before the start serve as covariates."""
    exposures: Path | None = None
    """Log of exposures: columns user_id and timestamp_us, when the user was exposed to the change, or would have been
    in the control. By default all users are exposed when they are assigned."""
    database: str | None = None
    """A DuckDB file, or postgresql://... if DuckDB's postgres extension is installed. The flags of assignments, events
    and exposures then name its tables, such as events or logs.events."""
    drop_repeated: bool = False
    """Count repeated events once: events of a user with the same sequence number, or without such numbers, equal rows.
    By default they block the verdict."""

    def __post_init__(self):
        check_fields(self)


def load_logs(logs: Logs, plan: ExperimentPlan, *, limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A database with the tables assignments, exposures, events, segment_values and dropped_events.

    Their user_id is the plan's unit. Events of Parquet files and DuckDB tables stay where they are and are read when
    they are asked for. No name or value of a file becomes part of a statement but as a quoted identifier, a quoted
    literal or a parameter. Ids are compared as text, unless they are whole numbers in all logs, of
    whatever type: 7, 7.0 and a decimal 7.00 are one user.

    Raises:
      InputError: a log lacks a column or has a value that cannot be, which is named with its row.
    """
    connection = connect(limits)
    if logs.database is not None:
        attach(connection, logs.database)
    paths = {"assignments": logs.assignments, "events": logs.events}
    if logs.exposures is not None:
        paths["exposures"] = logs.exposures
    segments = {f"segment_{place}": name for place, name in enumerate(plan.segments)}
    numbers = ("timestamp_us", "seconds", "skipped", "liked")
    columns = {
        "assignments": {"user_id": plan.unit, "arm": "arm", "timestamp_us": "timestamp_us", **segments},
        "exposures": {"user_id": plan.unit, "timestamp_us": "timestamp_us"},
        "events": {"user_id": plan.unit, **{name: name for name in numbers}},
    }
    rows = {}
    for name, path in paths.items():
        table = _open(logs, connection, path, likely=tuple(columns[name].values()))
        take = {key: table.required(column, remedy="add or rename it") for key, column in columns[name].items()}
        if name == "events" and "sequence" in table.columns:
            take["sequence"] = "sequence"
        rows[name] = (table.load(take, Destination(connection, f"raw_{name}")), take)
    try:
        typed = {name: _typed_columns(each, take, plan.unit) for name, (each, take) in rows.items()}
    except duckdb.Error as error:
        raise InputError(f"the logs cannot be read ({first_line(error)}); check that the files are whole") from error
    id_types = {each.one(f"any_value(typeof({typed[name]['user_id']}))")[0] for name, (each, _) in rows.items()}
    for expressions in typed.values():
        id_type = "BIGINT" if id_types == {"BIGINT"} else "VARCHAR"
        expressions["user_id"] = f"CAST({expressions['user_id']} AS {id_type})"
    _take_assignments(rows["assignments"][0], typed["assignments"], logs.assignments, plan)
    by = "exposures" if "exposures" in rows else "assignments"
    connection.execute(
        f"CREATE TABLE exposures AS SELECT {typed[by]['user_id']} AS user_id, "
        f"{typed[by]['timestamp_us']} AS timestamp_us FROM {rows[by][0].view}"
    )
    events = rows["events"][0]
    casts = {"seconds": "DOUBLE", "skipped": "INTEGER", "liked": "INTEGER", "sequence": "BIGINT"}
    chosen = {name: f"CAST({typed['events'].get(name, 'NULL')} AS {kind})" for name, kind in casts.items()}
    chosen = {"user_id": typed["events"]["user_id"], "timestamp_us": typed["events"]["timestamp_us"], **chosen}
    # Rows of text would be turned into numbers by every step.
    kind = "TABLE" if events.table else "VIEW"
    connection.execute(
        f"CREATE {kind} {'events_with_repeats' if logs.drop_repeated else 'events'} AS SELECT "
        f"{', '.join(f'{each} AS {name}' for name, each in chosen.items())} FROM {events.view}"
    )
    _drop_repeated(connection, logs, by_sequence="sequence" in typed["events"])
    return connection


def _open(logs: Logs, connection: duckdb.DuckDBPyConnection, path: Path, *, likely: Sequence[str]) -> UserTable:
    if logs.database is None:
        return open_table(path, likely=likely)
    # Each step reads the events anew, so those of another machine are fetched once.
    loader = partial(load_attached, str(path), copied=is_postgres(logs.database))
    return UserTable(path, tuple(attached_columns(connection, str(path))), loader, "database")


def _typed_columns(rows: RawRows, take: Mapping[str, str], unit: str) -> dict[str, str]:
    """The SQL expression of each column of a log that is not a segment, after checking all values."""
    typed = {"user_id": required_id(rows, "user_id", unit)}
    conditions = {"user_id": "false"}
    if "arm" in take:
        typed["arm"] = "nullif(CAST(arm AS VARCHAR), '')"
        conditions["arm"] = f"{typed['arm']} IS NULL"
    for name in [name for name in RULES if name in take]:
        is_bad, remedy = RULES[name]
        if name == "timestamp_us" and rows.type_of(name) == "FLOAT":
            raise InputError(f"{rows.place(0)}: timestamp_us is a float32, which rounds it by minutes; {remedy}")
        typed[name] = number(rows, name, name, remedy=remedy)
        value = f"CAST({typed[name]} AS DOUBLE)"
        conditions[name] = f"{value} IS NULL OR {is_bad.format(value)}"
    # One pass over the log for all of them.
    n_bad = rows.one(", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values()))
    for name, n in zip(conditions, n_bad, strict=True):
        if n:
            _, place, value = rows.count(name, conditions[name])
            remedy = RULES[name][1] if name in RULES else f"every row needs its {name}"
            raise InputError(f"{place}: {name} is {repr(value[:40]) if value else 'missing'}; {remedy}")
    return {name: f"CAST({each} AS BIGINT)" if name == "timestamp_us" else each for name, each in typed.items()}


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
            f"repeated events of {logs.events} cannot be dropped ({first_line(error)}); set a memory limit and a "
            "spill directory with room"
        ) from error


def set_period(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, *, n_days: int) -> None:
    """Makes the one-row table `settings`: the plan's first `n_days`, and other values that the SQL reads."""
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
    counts_by_day = connection.execute(
        """
        SELECT CAST(FLOOR((timestamp_us - $start) / 86400000000e0) AS BIGINT) AS day, COUNT(*) AS n_events
        FROM events
        WHERE timestamp_us >= $start AND timestamp_us < $end
        GROUP BY day
        """,
        {"start": plan.start_us, "end": plan.end_us},
    ).fetchall()
    busiest = max((n_events for _, n_events in counts_by_day), default=0)
    return max((day + 1 for day, n_events in counts_by_day if 100 * n_events >= busiest), default=0)


def _take_assignments(rows: RawRows, typed: Mapping[str, str], file: Path, plan: ExperimentPlan) -> None:
    connection, arms = rows.connection, ", ".join(map(text_literal, plan.arms))
    unknown = rows.first_bad("arm", f"{typed['arm']} NOT IN ({arms})")
    if unknown:
        raise InputError(
            f"{unknown[0]}: {file} has the arm {unknown[1][:60]!r}, the plan {', '.join(map(repr, plan.arms))}; "
            "give the plan of this experiment"
        )
    connection.execute(
        f"CREATE TABLE assignments AS SELECT {', '.join(f'{each} AS {name}' for name, each in typed.items())} "
        f"FROM {rows.view}"
    )
    connection.execute(
        "CREATE TABLE segment_values AS SELECT user_id, CAST('' AS VARCHAR) AS segment, CAST('' AS VARCHAR) AS value "
        "FROM assignments LIMIT 0"
    )
    for place, segment in enumerate(plan.segments):
        connection.execute(
            f"INSERT INTO segment_values SELECT {typed['user_id']}, $segment, "
            f"coalesce(nullif(CAST(segment_{place} AS VARCHAR), ''), $unknown) FROM {rows.view}",
            {"segment": segment, "unknown": _UNKNOWN},
        )
        n_values = connection.execute(
            "SELECT COUNT(DISTINCT value) FROM segment_values WHERE segment = $segment", {"segment": segment}
        ).fetchall()[0][0]
        if n_values > _MOST_SEGMENT_VALUES:
            raise InputError(
                f"{file}: segment {segment!r} has {n_values} values, more than {_MOST_SEGMENT_VALUES}; group them first"
            )
