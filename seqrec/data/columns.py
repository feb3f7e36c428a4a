"""Columns as files hold them -> SQL expressions of ids and of microseconds, once every value is found to be one.

A table `found` with the columns and `event_index`, the place in the file, is what they are asked of; `place` names
the line of an event in a complaint.
"""

import logging
import re
from collections.abc import Callable

import duckdb
import numpy as np

from seqrec.types import InputError

TIME_UNITS = ("auto", "s", "ms", "us", "ns")
MICROSECONDS_PER_UNIT = {"s": "1000000", "ms": "1000", "us": "1", "ns": "0.001"}
PLAUSIBLE_YEARS = (1980, 2100)
"""Where numbers whose unit nobody named must fall."""
POSSIBLE_YEARS = (1900, 2200)
INTEGER_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""Those whose every value is an int64, so that none needs to be read as text and compared."""

logger = logging.getLogger(__name__)


def _first_where(connection: duckdb.DuckDBPyConnection, column: str, condition: str) -> tuple[int, str] | None:
    """(event_index, value as text) of the first row that meets the condition."""
    rows = connection.execute(
        f"SELECT event_index, coalesce(CAST({column} AS VARCHAR), '') FROM found WHERE {condition} "
        "ORDER BY event_index LIMIT 1"
    ).fetchall()
    return rows[0] if rows else None


def _type_of(connection: duckdb.DuckDBPyConnection, column: str) -> str:
    return connection.execute(f"SELECT typeof({column}) FROM found LIMIT 1").fetchall()[0][0]


def _not_an_id(place: str, column: str, value: str) -> str:
    return f"{place}: {column} {value[:40]!r} is not an integer from 1 to 2^63 - 1; correct the line"


def positive_integer(value: str, column: str, place: str) -> int:
    # int() alone would also take "1_000" and digits of other scripts.
    if not re.fullmatch("[0-9]{1,19}", value) or not 0 < int(value) < 2**63:
        raise InputError(_not_an_id(place, column, value))
    return int(value)


def positive_id(connection: duckdb.DuckDBPyConnection, column: str, place: Callable[[int], str]) -> str:
    """The SQL expression of a column of ids that must all be positive integers."""
    bad = _first_where(
        connection,
        column,
        f"{column} IS NULL OR NOT regexp_full_match({column}, '[0-9]{{1,19}}') "
        f"OR coalesce(TRY_CAST({column} AS BIGINT), 0) = 0",
    )
    if bad:
        raise InputError(_not_an_id(place(bad[0]), column, bad[1]))
    return f"CAST({column} AS BIGINT)"


def free_id(connection: duckdb.DuckDBPyConnection, column: str, place: Callable[[int], str]) -> str:
    """The SQL expression of a column of ids of any kind, as int64 where that loses nothing, else as text."""
    kind = _type_of(connection, column)
    if kind in INTEGER_TYPES:
        return f"CAST({column} AS BIGINT)"
    as_text = f"nullif(CAST({column} AS VARCHAR), '')"
    as_integer = f"TRY_CAST({as_text} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        # What pandas writes for integers with gaps; a float holds each integer up to 2^53.
        whole = f"{column} = floor({column}) AND abs({column}) <= 9007199254740992"
        bad = _first_where(connection, column, f"NOT isnan(CAST({column} AS DOUBLE)) AND NOT ({whole})")
        if bad:
            raise InputError(
                f"{place(bad[0])}: {column} {bad[1]} is a {kind} that is no integer within 2^53; "
                "write ids as integers or text"
            )
        return as_integer
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")) or kind == "BLOB":
        raise InputError(f"{place(0)}: {column} is a {kind}, an id is an integer or text; cast the column")
    # "007" or "+7" read as integers would merge with "7"; what exceeds 2^63 - 1 fits text alone.
    lossy = _first_where(
        connection,
        column,
        f"{as_text} IS NOT NULL AND CAST({as_integer} AS VARCHAR) IS DISTINCT FROM {as_text}",
    )
    return as_integer if lossy is None else as_text


def number(connection: duckdb.DuckDBPyConnection, column: str, name: str, place: Callable[[int], str]) -> str:
    """The SQL expression of a column of numbers, int64 where every value is one, else float64; booleans stay."""
    kind = _type_of(connection, column)
    if kind == "BOOLEAN":
        return column
    if kind in ("FLOAT", "DOUBLE"):
        return f"CAST({column} AS DOUBLE)"
    text = f"nullif(CAST({column} AS VARCHAR), '')"
    bad = _first_where(connection, column, f"{text} IS NOT NULL AND TRY_CAST({text} AS DOUBLE) IS NULL")
    if bad:
        raise InputError(f"{place(bad[0])}: {name} {bad[1][:40]!r} is not a number; correct the line or leave it out")
    fraction = _first_where(
        connection, column, f"{text} IS NOT NULL AND NOT regexp_full_match({text}, '-?[0-9]{{1,18}}')"
    )
    return f"CAST({text} AS {'BIGINT' if fraction is None else 'DOUBLE'})"


def microseconds(connection: duckdb.DuckDBPyConnection, unit: str, place: Callable[[int], str]) -> str:
    """The SQL expression of the column `time` as microseconds since 1970 UTC."""
    if _type_of(connection, "time") in INTEGER_TYPES:
        return _integer_microseconds(connection, unit, place)
    # By way of text, so that 1.1 is eleven tenths exactly and every other type takes one path.
    text = "nullif(nullif(CAST(time AS VARCHAR), ''), 'nan')"
    number = f"TRY_CAST({text} AS DECIMAL(28, 9))"
    # With a zone: the cast to a plain TIMESTAMP drops "+02:00" in DuckDB 2.0 (and heeds it in 1.x).
    moment = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    found = connection.execute(
        f"SELECT {text}, {number} IS NOT NULL FROM found WHERE {text} IS NOT NULL ORDER BY event_index LIMIT 1"
    ).fetchall()
    if not found:
        return "CAST(NULL AS BIGINT)"
    first_value, is_number = found[0]
    value, due = (number, "a number") if is_number else (moment, "an ISO date and time")
    bad = _first_where(connection, "time", f"{text} IS NOT NULL AND {value} IS NULL")
    if bad:
        raise InputError(
            f"{place(bad[0])}: time {bad[1][:40]!r} is not {due}"
            + (f" as the first time, {first_value!r}, is" if bad[1] != first_value else " nor a number")
            + "; correct the line or name another time column"
        )
    years = POSSIBLE_YEARS
    if is_number:
        if unit == "auto":
            ((largest,),) = connection.execute(f"SELECT max(abs({number})) FROM found").fetchall()
            unit, years = _plausible_unit(float(largest), first_value), PLAUSIBLE_YEARS
        expression = f"TRY_CAST(round({number} * {MICROSECONDS_PER_UNIT[unit]}) AS BIGINT)"
    else:
        expression = f"CASE WHEN isfinite({moment}) THEN epoch_us({moment}) END"
        logger.info("times are text such as %s, read as UTC where they name no zone", first_value)
    low, high = _year_starts(years)
    bad = _first_where(
        connection,
        "time",
        f"{text} IS NOT NULL AND NOT coalesce({expression} >= {low} AND {expression} < {high}, false)",
    )
    if bad:
        raise InputError(_outside(place(bad[0]), bad[1], unit if is_number else None, years))
    return expression


def _integer_microseconds(connection: duckdb.DuckDBPyConnection, unit: str, place: Callable[[int], str]) -> str:
    """The same for a column of integers: compared as they are, for turning ten million into text takes seconds."""
    ((least, largest),) = connection.execute("SELECT min(time), max(time) FROM found").fetchall()
    if least is None:
        return "CAST(NULL AS BIGINT)"
    years = POSSIBLE_YEARS
    if unit == "auto":
        unit, years = _plausible_unit(float(max(abs(least), abs(largest))), largest), PLAUSIBLE_YEARS
    low, high = _year_starts(years)
    if unit == "ns":
        expression = "CAST(round(CAST(time AS DECIMAL(28, 9)) * 0.001) AS BIGINT)"
        beyond = f"{expression} < {low} OR {expression} >= {high}"
    else:
        per_unit = int(MICROSECONDS_PER_UNIT[unit])
        expression = f"CAST(time AS BIGINT) * {per_unit}"
        # The years begin at whole seconds, so that the bounds divide, and nothing overflows.
        beyond = f"time < {low // per_unit} OR time >= {high // per_unit}"
    bad = _first_where(connection, "time", beyond)
    if bad:
        raise InputError(_outside(place(bad[0]), bad[1], unit, years))
    return expression


def _year_starts(years: tuple[int, int]) -> tuple[int, int]:
    """Microseconds since 1970 at which these years begin."""
    low, high = (int(np.datetime64(f"{year}-01-01", "us").astype(np.int64)) for year in years)
    return low, high


def _outside(place: str, value: str, unit: str | None, years: tuple[int, int]) -> str:
    return (
        f"{place}: time {value[:40]!r}{f' in {unit}' if unit else ''} is outside the years {years[0]} to {years[1]}; "
        + ("give time_unit as s, ms, us or ns, or " if unit else "")
        + "correct the line"
    )


def _plausible_unit(largest: float, example: object) -> str:
    """The unit in which the largest number is a moment of our age: now is 1.8e9 s, 1.8e12 ms and so on."""
    unit = TIME_UNITS[1:][int(np.searchsorted([1e11, 1e14, 1e17], largest, side="right"))]
    logger.info("times are numbers such as %s, read as %s since 1970", example, unit)
    return unit
