"""Columns as files hold them -> SQL expressions of ids and of microseconds, once every value is found to be one.

Each takes what was found in files and the name of one of its columns. A value that cannot be read is refused with its
place or, where bad rows are dropped, null.
"""

import logging
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from seqrec.data.files import Found
from seqrec.types import InputError

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
TIME_UNITS: tuple[str, ...] = get_args(TimeUnit)
MICROSECONDS_PER_UNIT = {"s": "1000000", "ms": "1000", "us": "1", "ns": "0.001"}
PLAUSIBLE_YEARS = (1980, 2100)
"""Where numbers whose unit nobody named must fall."""
POSSIBLE_YEARS = (1900, 2200)
INTEGER_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""Those whose every value is an int64, so that none needs to be read as text and compared."""
N_TIMES_FOR_UNIT = 100_000
"""Times of which the middle one tells the unit."""
MAX_CATEGORIES = 10_000
"""Distinct texts of a column of categories; more are free text, or ids."""

logger = logging.getLogger(__name__)


def type_of(found: Found, column: str) -> str:
    return found.connection.execute(f"SELECT typeof({column}) FROM found LIMIT 1").fetchall()[0][0]


def _not_an_id(place: str, column: str, value: str) -> str:
    return f"{place}: {column} {value[:40]!r} is not an integer from 1 to 2^63 - 1; correct the line"


def positive_integer(value: str, column: str, place: str) -> int:
    # int() alone would also take "1_000" and digits of other scripts.
    if not re.fullmatch("[0-9]{1,19}", value) or not 0 < int(value) < 2**63:
        raise InputError(_not_an_id(place, column, value))
    return int(value)


def positive_id(found: Found, column: str) -> str:
    """The SQL expression of a column of text of ids that must all be positive integers."""
    value = f"CASE WHEN regexp_full_match({column}, '[0-9]{{1,19}}') THEN nullif(TRY_CAST({column} AS BIGINT), 0) END"
    bad = found.refused(column, f"{value} IS NULL")
    if bad:
        raise InputError(_not_an_id(bad[0], column, bad[1]))
    return value


def free_id(found: Found, column: str) -> str:
    """The SQL expression of a column of ids of any kind, as int64 where that loses nothing, else as text."""
    kind = type_of(found, column)
    if kind in INTEGER_TYPES:
        return f"CAST({column} AS BIGINT)"
    as_text = f"nullif(CAST({column} AS VARCHAR), '')"
    as_integer = f"TRY_CAST({as_text} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        # What pandas writes for integers with gaps; a float holds each integer up to 2^53.
        whole = f"{column} = floor({column}) AND abs({column}) <= 9007199254740992"
        bad = found.refused(column, f"NOT isnan(CAST({column} AS DOUBLE)) AND NOT ({whole})")
        if bad:
            raise InputError(
                f"{bad[0]}: {column} {bad[1]} is a {kind} that is no integer within 2^53; write ids as integers or text"
            )
        return f"CASE WHEN {whole} THEN TRY_CAST({column} AS BIGINT) END"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")) or kind == "BLOB":
        raise InputError(f"{found.place(0)}: {column} is a {kind}, an id is an integer or text; cast the column")
    # "007" or "+7" read as integers would merge with "7"; what exceeds 2^63 - 1 fits text alone.
    return as_integer if _are_integers(found, as_text) else as_text


def _are_integers(found: Found, text: str) -> bool:
    """Whether every text that is there is written as int64 writes it."""
    [(is_other,)] = found.connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM found WHERE {text} IS NOT NULL "
        f"AND CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) IS DISTINCT FROM {text})"
    ).fetchall()
    return not is_other


def number(found: Found, column: str, name: str) -> str:
    """The SQL expression of a column of numbers, int64 where every value is one, else float64; booleans stay."""
    kind = type_of(found, column)
    if kind == "BOOLEAN":
        return column
    if kind in ("FLOAT", "DOUBLE"):
        return f"CAST({column} AS DOUBLE)"
    text = f"nullif(CAST({column} AS VARCHAR), '')"
    bad = found.refused(column, f"{text} IS NOT NULL AND TRY_CAST({text} AS DOUBLE) IS NULL")
    if bad:
        raise InputError(
            f"{bad[0]}: {name} {bad[1][:40]!r} is not a number; correct the line, leave the column out, "
            "or name it as one of categories"
        )
    [(n_other,)] = found.connection.execute(
        f"SELECT count(*) FROM found WHERE {text} IS NOT NULL AND NOT regexp_full_match({text}, '-?[0-9]{{1,18}}')"
    ).fetchall()
    return f"TRY_CAST({text} AS {'DOUBLE' if n_other else 'BIGINT'})"


def category(found: Found, column: str, name: str, known: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """The SQL expression of a column of texts as int32 codes, -1 where it is missing, and the text of each code.

    Texts that are `known` keep their codes; the others follow, sorted.
    """
    text = f"nullif(CAST({column} AS VARCHAR), '')"
    texts = found.connection.execute(
        f"SELECT DISTINCT {text} FROM found WHERE {text} IS NOT NULL LIMIT {MAX_CATEGORIES + 1}"
    ).fetchall()
    values = (*known, *sorted({value for (value,) in texts} - set(known)))
    if len(values) > MAX_CATEGORIES:
        raise InputError(
            f"{name} has more than {MAX_CATEGORIES:,} distinct values, too many for categories; leave it out"
        )
    if not values:
        return "CAST(-1 AS INTEGER)", values
    rows = {"values": list(values)}
    found.connection.execute(f"CREATE TYPE codes_of_{column} AS ENUM (SELECT unnest($values))", rows)
    return f"coalesce(CAST(enum_code(TRY_CAST({text} AS codes_of_{column})) AS INTEGER), -1)", values


def microseconds(found: Found, unit: str) -> str:
    """The SQL expression of the column `time` as microseconds since 1970 UTC."""
    if type_of(found, "time") in INTEGER_TYPES:
        return _number_microseconds(found, "time", "CAST(time AS BIGINT)", unit, are_integers=True)
    # By way of text, so that 1.1 is eleven tenths exactly and every other type takes one path.
    text = "nullif(nullif(CAST(time AS VARCHAR), ''), 'nan')"
    if _are_integers(found, text):
        return _number_microseconds(found, text, f"TRY_CAST({text} AS BIGINT)", unit, are_integers=True)
    number = f"TRY_CAST({text} AS DECIMAL(28, 9))"
    # With a zone: the cast to a plain TIMESTAMP drops "+02:00" in DuckDB 2.0 (and heeds it in 1.x).
    moment = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    # The first that is either, where bad rows are dropped.
    readable = f"({number} IS NOT NULL OR {moment} IS NOT NULL)" if found.bad_rows == "drop" else "true"
    [(first_value, is_number)] = found.connection.execute(
        f"SELECT arg_min({text}, event_index), arg_min({number} IS NOT NULL, event_index) FROM found "
        f"WHERE {text} IS NOT NULL AND {readable}"
    ).fetchall()
    if first_value is None:
        return "CAST(NULL AS BIGINT)"
    value, due = (number, "a number") if is_number else (moment, "an ISO date and time")
    bad = found.refused("time", f"{text} IS NOT NULL AND {value} IS NULL")
    if bad:
        raise InputError(
            f"{bad[0]}: time {bad[1][:40]!r} is not {due}"
            + (f" as the first time, {first_value!r}, is" if bad[1] != first_value else " nor a number")
            + "; correct the line or name another time column"
        )
    if is_number:
        return _number_microseconds(found, text, number, unit, are_integers=False)
    logger.info("times are text such as %s, read as UTC where they name no zone", first_value)
    expression = f"CASE WHEN isfinite({moment}) THEN epoch_us({moment}) END"
    return _within(found, text, expression, POSSIBLE_YEARS, None)


def _number_microseconds(found: Found, given: str, number: str, unit: str, *, are_integers: bool) -> str:
    """The same of a column of numbers, where `given` is null where there is none."""
    # By the middle one of the first times: one that is absurd would make all the others look wrong.
    [(middle, example)] = found.connection.execute(
        "SELECT quantile_disc(abs(CAST(number AS DOUBLE)), 0.5), arg_min(number, event_index) FROM "
        f"(SELECT {number} AS number, event_index FROM found WHERE {number} IS NOT NULL LIMIT {N_TIMES_FOR_UNIT})"
    ).fetchall()
    if middle is None:
        return "CAST(NULL AS BIGINT)"
    likely = TIME_UNITS[1:][int(np.searchsorted([1e11, 1e14, 1e17], float(middle), side="right"))]
    years = PLAUSIBLE_YEARS if unit == "auto" else POSSIBLE_YEARS
    if unit not in ("auto", likely):
        logger.warning("times such as %s are read as %s, as was asked, and look like %s", example, unit, likely)
    unit = likely if unit == "auto" else unit
    logger.info("times are numbers such as %s, read as %s since 1970", example, unit)
    if are_integers and unit != "ns":
        # Compared and multiplied as they are: ten million take seconds by way of decimals. What overflows is null.
        per_unit = int(MICROSECONDS_PER_UNIT[unit])
        low, high = (start // per_unit for start in _starts(years))
        expression = f"CASE WHEN {number} >= {low} AND {number} < {high} THEN {number} * {per_unit} END"
    else:
        expression = f"TRY_CAST(round(CAST({number} AS DECIMAL(28, 9)) * {MICROSECONDS_PER_UNIT[unit]}) AS BIGINT)"
    return _within(found, given, expression, years, unit)


def _within(found: Found, given: str, expression: str, years: tuple[int, int], unit: str | None) -> str:
    """`expression`, once it is found to be within the years; null where it is not and bad rows are dropped."""
    low, high = _starts(years)
    within = f"coalesce({expression} >= {low} AND {expression} < {high}, false)"
    bad = found.refused("time", f"{given} IS NOT NULL AND NOT {within}")
    if bad:
        raise InputError(
            f"{bad[0]}: time {bad[1][:40]!r}{f' in {unit}' if unit else ''} is outside the years {years[0]} to "
            f"{years[1]}; " + ("give time_unit as s, ms, us or ns, or " if unit else "") + "correct the line"
        )
    return expression if found.bad_rows == "refuse" else f"CASE WHEN {within} THEN {expression} END"


def _starts(years: tuple[int, int]) -> tuple[int, int]:
    """Microseconds since 1970 at which these years begin."""
    low, high = (int(np.datetime64(f"{year}-01-01", "us").astype(np.int64)) for year in years)
    return low, high
