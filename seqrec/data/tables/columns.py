"""SQL expressions that give columns their types: ids, numbers, codes of categories, microseconds.

Each function takes loaded rows and the name of one of their columns, and checks its values. One that cannot be read is
refused with its place or, where bad rows are dropped, null.
"""

import logging
import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from seqrec.data.event_values import MISSING_TIMES, PLAUSIBLE_YEARS, POSSIBLE_YEARS, years_us
from seqrec.data.tables.rows import RawRows, text_literal
from seqrec.types import InputError

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
TIME_UNITS: tuple[str, ...] = get_args(TimeUnit)
MICROSECONDS_PER_UNIT = {"s": "1000000", "ms": "1000", "us": "1", "ns": "0.001"}
EXACT_BITS = {"FLOAT": 24, "DOUBLE": 53, "DECIMAL": 63}
"""Below 2 to which power each integer is itself in a type of numbers with fractions."""
SPACES = "' ' || chr(9) || chr(10) || chr(13)"
"""What is trimmed from text, in SQL."""
INTEGER_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""Those whose every value is an int64, so that none needs to be read as text and compared."""
N_TIMES_FOR_UNIT = 100_000
"""Times of which the middle one tells the unit."""
MAX_CATEGORIES = 10_000
"""Distinct texts of a column of categories; more are free text, or ids."""

logger = logging.getLogger(__name__)


def positive_integer(value: str, column: str, place: str) -> int:
    # int() alone would also take "1_000" and digits of other scripts.
    if not re.fullmatch("[0-9]{1,19}", value) or not 0 < int(value) < 2**63:
        raise InputError(f"{place}: {column} {value[:40]!r} is not an integer from 1 to 2^63 - 1; correct the line")
    return int(value)


def positive_id(rows: RawRows, column: str) -> str:
    """The SQL expression of a column of text of ids that must all be positive integers."""
    value = f"CASE WHEN regexp_full_match({column}, '[0-9]{{1,19}}') THEN nullif(TRY_CAST({column} AS BIGINT), 0) END"
    if bad := rows.first_bad(column, f"{value} IS NULL"):
        positive_integer(bad[1], column, bad[0])  # refuses it
    return value


def present_text(rows: RawRows, column: str, name: str, *, also: Sequence[str] = ()) -> str:
    """The SQL expression of a column as text, null where it is empty, blank, or a word for a missing value.

    `also` are words that are none in other columns. How often which word stands for a missing value is logged.
    """
    if rows.type_of(column) != "VARCHAR":
        return f"CAST({column} AS VARCHAR)"
    words = ", ".join(map(text_literal, ("", *rows.missing_values, *also)))
    trimmed = f"trim({column}, {SPACES})"
    counts = rows.connection.execute(
        f"SELECT {trimmed} AS word, count(*) FROM {rows.view} WHERE {column} <> '' "
        f"AND ({column} IN ({words}) OR ({_is_spaced(column)} AND {trimmed} IN ({words}))) GROUP BY word ORDER BY word"
    ).fetchall()
    if not counts:
        return f"nullif({column}, '')"
    logger.warning(
        "%s: %s are read as missing; missing_values says which words are",
        name,
        ", ".join(f"{count:,} values {word!r}" for word, count in counts),
    )
    return f"CASE WHEN {trimmed} NOT IN ({words}) THEN {column} END"


def _is_spaced(text: str) -> str:
    # By its ends, which takes a quarter of the time of trimming every text.
    return f"({text} < '!' OR right({text}, 1) <= ' ')"


def free_id(rows: RawRows, column: str, name: str | None = None) -> str:
    """The SQL expression of a column of ids of any kind, as int64 where that loses nothing, else as text.

    Messages call it by `name`, by default as the column.
    """
    name = name or column
    kind = rows.type_of(column)
    if kind in INTEGER_TYPES:
        return f"CAST({column} AS BIGINT)"
    exact_bits = EXACT_BITS.get(kind.partition("(")[0])
    if exact_bits is not None:
        # What pandas writes for integers with gaps. An integer beyond these bits may have been rounded to another.
        whole = f"({column} = floor({column}) AND abs(CAST({column} AS DOUBLE)) < {2**exact_bits})"
        if bad := rows.first_bad(column, f"NOT {whole}"):
            raise InputError(
                f"{bad[0]}: {name} {bad[1]} is a {kind} that is no integer below 2^{exact_bits}; "
                "write ids as integers or text"
            )
        return f"CASE WHEN {whole} THEN TRY_CAST({column} AS BIGINT) END"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")) or kind in ("BLOB", "BOOLEAN"):
        raise InputError(f"{rows.place(0)}: {name} is a {kind}, an id is an integer or text; cast the column")
    text = present_text(rows, column, name)
    # "007" or "+7" read as integers would merge with "7"; what exceeds 2^63 - 1 fits text alone.
    if _are_integers(rows, text):
        return f"TRY_CAST({text} AS BIGINT)"
    _warn_of_similar_ids(rows, column, name, text)
    return text


def required_id(rows: RawRows, column: str, name: str | None = None) -> str:
    """As `free_id`, of a column in which no id may be missing."""
    expression = free_id(rows, column, name)
    if bad := rows.first_bad(column, f"{expression} IS NULL"):
        raise InputError(f"{bad[0]}: the {name or column} is missing; fill it in or remove the line")
    return expression


def _warn_of_similar_ids(rows: RawRows, column: str, name: str, text: str) -> None:
    """Logs what makes two ids of one: spaces around it, and 1.0 in one place where 1 is in another; and line ends.

    An id with a line end in it probably is many rows, between two quotes of which each lacks its other one.
    """
    spaced = f"({_is_spaced(text)} OR contains({text}, chr(10)))"
    fraction = f"contains({text}, '.0') AND regexp_full_match({text}, '-?[0-9]+[.]0+')"
    n_spaced, n_fractions = rows.one(f"count(*) FILTER ({spaced}), count(*) FILTER ({fraction})")
    if n_spaced:
        _, place, example = rows.count(column, spaced)
        logger.warning(
            "%s: %s ids have spaces around or line ends in them, such as %r at %s; without them they are other ids",
            *(name, f"{n_spaced:,}", example[:40], place),
        )
    integer = f"regexp_full_match({text}, '-?[0-9]+')"
    n_integers, _, other = rows.count(column, integer) if n_fractions else (0, "", "")
    if n_integers:
        _, place, example = rows.count(column, fraction)
        logger.warning(
            "%s: %s ids are written such as %r (%s), %s such as %r; 1.0 and 1 are two ids, so write them alike",
            *(name, f"{n_fractions:,}", example[:40], place, f"{n_integers:,}", other[:40]),
        )


def _are_integers(rows: RawRows, text: str) -> bool:
    """Whether every text that is there is written as int64 writes it."""
    [(is_other,)] = rows.connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM {rows.view} WHERE {text} IS NOT NULL "
        f"AND CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) IS DISTINCT FROM {text})"
    ).fetchall()
    return not is_other


def number(rows: RawRows, column: str, name: str, *, booleans: bool = True, remedy: str = "correct the line") -> str:
    """The SQL expression of a column of numbers: int64 where every value is one, else float64.

    A column of true and false is boolean, or where there may be no `booleans`, refused; `remedy` ends the refusal.
    """
    kind = rows.type_of(column)
    if kind == "BOOLEAN" and booleans:
        return column
    if kind in INTEGER_TYPES:
        return f"CAST({column} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE"):
        return f"CAST({column} AS DOUBLE)"
    text = present_text(rows, column, name)
    if kind == "VARCHAR" and booleans and _are_booleans(rows, text):
        return f"CAST(trim({text}) AS BOOLEAN)"
    is_bad = f"{text} IS NOT NULL AND TRY_CAST({text} AS DOUBLE) IS NULL"
    is_fraction = f"NOT regexp_full_match({text}, '-?[0-9]{{1,18}}')"
    n_bad, n_fractions = rows.one(f"count(*) FILTER ({is_bad}), count({text}) FILTER ({is_fraction})")
    if n_bad:
        _, place, value = rows.count(column, is_bad)
        if rows.bad_rows == "refuse":
            raise InputError(f"{place}: {name} {value[:40]!r} is not a number; {remedy}")
        shown = f"{n_bad:,} values are not numbers, such as {value[:40]!r} at {place}"
        logger.warning("%s: %s; they are missing", name, shown)
        rows.unreadable[name] = n_bad
    if not n_fractions:
        return f"TRY_CAST({text} AS BIGINT)"
    return f"nullif(TRY_CAST({text} AS DOUBLE), CAST('nan' AS DOUBLE))"


def _are_booleans(rows: RawRows, text: str) -> bool:
    is_boolean = f"lower(trim({text})) IN ('true', 'false')"
    first = rows.connection.execute(f"SELECT {is_boolean} FROM {rows.view} WHERE {text} IS NOT NULL LIMIT 1").fetchall()
    return first == [(True,)] and rows.one(f"count({text}) FILTER (NOT {is_boolean})") == (0,)


def category(rows: RawRows, column: str, name: str, known: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """The SQL expression of a column of texts as int32 codes, -1 where it is missing, and the text of each code.

    Texts that are `known` keep their codes; the others follow, sorted.
    """
    text = present_text(rows, column, name)
    texts = rows.connection.execute(
        f"SELECT DISTINCT {text} FROM {rows.view} WHERE {text} IS NOT NULL LIMIT {MAX_CATEGORIES + 1}"
    ).fetchall()
    values = (*known, *sorted({value for (value,) in texts} - set(known)))
    if len(values) > MAX_CATEGORIES:
        raise InputError(
            f"{name} has more than {MAX_CATEGORIES:,} distinct values, too many for categories; leave it out"
        )
    if not values:
        return "CAST(-1 AS INTEGER)", values
    rows.connection.execute(f"CREATE TYPE codes_of_{column} AS ENUM (SELECT unnest($values))", {"values": list(values)})
    return f"coalesce(CAST(enum_code(TRY_CAST({text} AS codes_of_{column})) AS INTEGER), -1)", values


def microseconds(rows: RawRows, unit: str) -> str:
    """The SQL expression of the column `time` as microseconds since 1970 UTC."""
    kind = rows.type_of("time")
    if kind in INTEGER_TYPES:
        return _number_microseconds(rows, "time", "CAST(time AS BIGINT)", unit, are_integers=True)
    if kind == "FLOAT":
        raise InputError(
            f"{rows.place(0)}: time is a float32, which rounds seconds since 1970 to multiples of 128; "
            "write times as int64 or float64"
        )
    years = PLAUSIBLE_YEARS if unit == "auto" else POSSIBLE_YEARS
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        logger.info("times are of the type %s, in UTC where they name no zone", kind)
        moment = f"epoch_us(CAST(time AS {'TIMESTAMPTZ' if 'TZ' in kind or 'ZONE' in kind else 'TIMESTAMP'}))"
        return _within(rows, "time", f"CASE WHEN isfinite(time) THEN {moment} END", years, None)
    # By way of text, so that 1.1 is eleven tenths exactly and every other type takes one path.
    text = present_text(rows, "time", "time", also=MISSING_TIMES)
    if _are_integers(rows, text):
        return _number_microseconds(rows, text, f"TRY_CAST({text} AS BIGINT)", unit, are_integers=True)
    number = f"TRY_CAST({text} AS DECIMAL(28, 9))"
    # With a zone: the cast to a plain TIMESTAMP drops "+02:00" in DuckDB 2.0 (and heeds it in 1.x).
    moment = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    # The first that is either, where bad rows are dropped.
    readable = f"({number} IS NOT NULL OR {moment} IS NOT NULL)" if rows.bad_rows == "drop" else "true"
    [(first_value, is_number)] = rows.connection.execute(
        f"SELECT arg_min({text}, event_index), arg_min({number} IS NOT NULL, event_index) FROM {rows.view} "
        f"WHERE {text} IS NOT NULL AND {readable}"
    ).fetchall()
    if first_value is None:
        return "CAST(NULL AS BIGINT)"
    value, due = (number, "a number") if is_number else (moment, "an ISO date and time")
    if bad := rows.first_bad("time", f"{text} IS NOT NULL AND {value} IS NULL"):
        raise InputError(
            f"{bad[0]}: time {bad[1][:40]!r} is not {due}"
            + (f" as the first time, {first_value!r}, is" if bad[1] != first_value else " nor a number")
            + "; correct the line or name another time column"
        )
    if is_number:
        return _number_microseconds(rows, text, number, unit, are_integers=False)
    logger.info("times are text such as %s, read as UTC where they name no zone", first_value)
    expression = f"CASE WHEN isfinite({moment}) THEN epoch_us({moment}) END"
    return _within(rows, text, expression, years, None)


def _number_microseconds(rows: RawRows, given: str, number: str, unit: str, *, are_integers: bool) -> str:
    """The same of a column of numbers, where `given` is null where there is none."""
    # By the middle one of the first times: one that is absurd would make all the others look wrong.
    [(middle, example)] = rows.connection.execute(
        "SELECT quantile_disc(abs(CAST(number AS DOUBLE)), 0.5), arg_min(number, event_index) FROM "
        f"(SELECT {number} AS number, event_index FROM {rows.view} WHERE {number} IS NOT NULL LIMIT {N_TIMES_FOR_UNIT})"
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
        low, high = (start // per_unit for start in years_us(years))
        expression = f"CASE WHEN {number} >= {low} AND {number} < {high} THEN {number} * {per_unit} END"
    else:
        expression = f"TRY_CAST(round(CAST({number} AS DECIMAL(28, 9)) * {MICROSECONDS_PER_UNIT[unit]}) AS BIGINT)"
    return _within(rows, given, expression, years, unit)


def _within(rows: RawRows, given: str, expression: str, years: tuple[int, int], unit: str | None) -> str:
    """`expression`, once it is found to be within the years; null where it is not and bad rows are dropped."""
    low, high = years_us(years)
    within = f"coalesce({expression} >= {low} AND {expression} < {high}, false)"
    if bad := rows.first_bad("time", f"{given} IS NOT NULL AND NOT {within}"):
        raise InputError(
            f"{bad[0]}: time {bad[1][:40]!r}{f' in {unit}' if unit else ''} is outside the years {years[0]} to "
            f"{years[1]}; give time_unit as s, ms, us or ns, which allows {POSSIBLE_YEARS[0]} to {POSSIBLE_YEARS[1]}, "
            "or correct the line"
        )
    return expression if rows.bad_rows == "refuse" else f"CASE WHEN {within} THEN {expression} END"
