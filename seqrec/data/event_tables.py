"""What every reader of events is asked and gives: a table of typed events, and what is known of the items."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import duckdb
import narwhals as nw
import pyarrow as pa

from seqrec.data.event_values import MISSING_VALUES
from seqrec.data.paths import as_input_error
from seqrec.data.tables.columns import category, free_id, microseconds, number
from seqrec.data.tables.rows import NO_LIMITS, BadRows, Destination, Limits, RawRows, connect, quoted
from seqrec.data.tables.user_table import UserTable
from seqrec.files import JsonObject
from seqrec.types import InputError

Ties = Literal["auto", "file", "hash"]
NO_CATEGORIES: Mapping[str, Sequence[str]] = MappingProxyType({})


class Columns(NamedTuple):
    """Names of the columns of an `events` file."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    """Or "none" (or empty) where the file has no times: its rows are then taken to be in time order."""


class TieOrder(NamedTuple):
    """How ties in time are ordered, and what was counted. Neighbours are two events of a user, one after the other.

    >>> print(TieOrder("hash", n_neighbours=10, n_tied=4, n_distinct=4, n_rising=3))
    40.0% of neighbours have equal times, of these 75.0% in the order of item ids (chance: 50%); ordered by hash
    """

    order: Literal["file", "hash"]
    n_neighbours: int
    n_tied: int
    """Neighbours at equal times, in the order of the file."""
    n_distinct: int
    """Tied neighbours of two different items."""
    n_rising: int
    """Tied neighbours of which the second has the larger item id."""

    @property
    def share_tied(self) -> float | None:
        """None where no user has two events."""
        return self.n_tied / self.n_neighbours if self.n_neighbours else None

    @property
    def share_rising(self) -> float | None:
        """Of tied neighbours of different items; chance gives a half. None where there are none."""
        return self.n_rising / self.n_distinct if self.n_distinct else None

    def __str__(self) -> str:
        if not self.n_tied:
            return "no neighbours have equal times"
        text = f"{100 * self.n_tied / self.n_neighbours:.1f}% of neighbours have equal times"
        if self.share_rising is not None:
            text += f", of these {100 * self.share_rising:.1f}% in the order of item ids (chance: 50%)"
        return f"{text}; ordered by {self.order}"

    def to_json(self) -> JsonObject:
        """What a store's manifest holds."""
        return {**self._asdict(), "share_tied": self.share_tied, "share_rising": self.share_rising}


class Source(NamedTuple):
    """Events as they were rows."""

    name: str
    events: nw.LazyFrame
    """user_id, item_id (int64 or text), event_index (int64, the place in the files from 0) and, where times
    are known, timestamp_us (int64, since 1970 UTC), then further columns of numbers, and of codes (int32), that were
    asked for; what is missing is null, or the code -1."""
    titles: pa.Table | None
    """item_id (of the same type) and title (text), each item once; None where none are known."""
    connection: duckdb.DuckDBPyConnection | None = None
    """Held with `events`, because DuckDB 1.x closes a database when its connection is let go."""
    attributes: pa.Table | None = None
    """item_id (of the same type) and attributes (list of text), such as genres, each item once; None where unknown."""
    categories: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """For each event column of codes the text that each code, from 0, stands for."""
    unreadable: Mapping[str, int] = MappingProxyType({})
    """For each further column how many values could not be read and are missing, where bad rows are dropped."""
    ties: TieOrder | None = None
    """How ties in time are ordered; None where there are no times, or nobody has looked."""
    parts: Sequence[nw.LazyFrame] = ()
    """The events of consecutive ranges of users, where there are too many to sort in memory."""


class ReadOptions(NamedTuple):
    """What of a file is read, and what becomes of rows and values that cannot be read."""

    bad_rows: BadRows = "refuse"
    """Whether a row or value that cannot be read is refused with its file and line, or is missing, so that the first
    step of a preparation drops and counts it."""
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Texts that stand for no value, beside blank ones; how often each occurs is logged."""
    table: str | None = None
    """Table of a DuckDB file."""
    query: str | None = None
    """SQL that only reads, of a DuckDB file."""
    limits: Limits = NO_LIMITS


class Request(NamedTuple):
    """What a reader is asked for beside users, items and times."""

    columns: Columns = Columns()
    time_unit: str = "auto"
    extra: Sequence[str] = ()
    """Columns of numbers."""
    categories: Mapping[str, Sequence[str]] = NO_CATEGORIES
    """Columns of text to be coded, each with the texts whose codes are known already."""
    options: ReadOptions = ReadOptions()


class Items(NamedTuple):
    """What is known of items, by the ids that the files write: text, or integers."""

    titles: Mapping[Any, str] | None = None
    attributes: Mapping[Any, Sequence[str]] | None = None


NO_ITEMS = Items()


def load_events(
    table: UserTable, request: Request, columns: Columns, *, further: Mapping[str, str] | None = None
) -> RawRows:
    """The rows of a table, with user_id, item_id, time, the columns that are asked for, and `further` ones."""
    remedy = "name the user, item and time columns (time is 'none' where there are no times)"
    wanted = {"user_id": columns.user, "item_id": columns.item}
    if has_times(columns):
        wanted["time"] = columns.time
    wanted = {key: table.required(name, remedy=remedy) for key, name in wanted.items()}
    others = {f"extra_{place}": name for place, name in enumerate(request.extra)}
    others |= {f"category_{place}": name for place, name in enumerate(request.categories)}
    wanted |= {key: table.required(name, remedy="name further columns that it has") for key, name in others.items()}
    to = Destination(connect(request.options.limits), bad_rows=request.options.bad_rows)
    rows = table.load(wanted | dict(further or {}), to)
    return dataclasses.replace(rows, missing_values=request.options.missing_values)


def has_times(columns: Columns) -> bool:
    return columns.time.lower() not in ("", "none")


def unit_of(request: Request, columns: Columns) -> str | None:
    """The unit of the times, None where there are none."""
    return request.time_unit if has_times(columns) else None


def refuse_further(name: str, request: Request) -> None:
    """Refuses what is asked of a data set that has users and items alone."""
    for column in (*request.extra, *request.categories):
        raise InputError(f"{name} has no columns beside user and item, got {column!r}; leave it out")


def typed_source(
    name: str,
    rows: RawRows,
    request: Request,
    *,
    time_unit: str | None,
    ids: Callable[[RawRows, str], str] = free_id,
    items: Items = NO_ITEMS,
) -> Source:
    """The source of loaded rows; `time_unit` is None where they have no column `time`."""
    complaint = f"{rows.place(0)} and on: the values cannot be read ({{error}}); correct them, or free memory"
    with as_input_error(complaint, duckdb.Error):
        categories = _type_events(rows, request, ids=ids, time_unit=time_unit)
    events = nw.from_native(rows.connection.table("events"))
    source = Source(name, events, None, rows.connection, categories=categories, unreadable=rows.unreadable)
    return with_items(source, items)


def _type_events(
    rows: RawRows, request: Request, *, ids: Callable[[RawRows, str], str], time_unit: str | None
) -> dict[str, tuple[str, ...]]:
    """Makes the table or view `events` of loaded rows and returns the texts of its columns of codes."""
    typed = {key: ids(rows, key) for key in ("user_id", "item_id")}
    if time_unit is not None:
        typed["timestamp_us"] = microseconds(rows, time_unit)
    remedy = "correct the line, leave the column out, or name it as one of categories"
    typed |= {
        column: number(rows, f"extra_{place}", column, remedy=remedy) for place, column in enumerate(request.extra)
    }
    categories = {}
    for place, (column, known) in enumerate(request.categories.items()):
        typed[column], categories[column] = category(rows, f"category_{place}", column, known)
    chosen = ", ".join(f"{expression} AS {quoted(key)}" for key, expression in typed.items())
    connection = rows.connection
    if rows.table:
        connection.execute(f"CREATE TABLE events AS SELECT {chosen}, event_index FROM {rows.view}")
        rows.drop()
    else:
        # Read anew from the file, or from memory, whenever a step asks.
        connection.execute(f"CREATE TEMP VIEW events AS SELECT {chosen}, event_index FROM {rows.view}")
    return categories


def arrow_source(name: str, events: pa.Table, request: Request, items: Items = NO_ITEMS) -> Source:
    """The source of a table of typed events in memory."""
    connection = connect(request.options.limits)
    return with_items(Source(name, nw.from_native(connection.from_arrow(events)), None, connection), items)


def with_items(source: Source, items: Items) -> Source:
    """`source` with titles and attributes under ids of the type that its own have."""
    is_integer = source.events.collect_schema()["item_id"].is_integer()

    def table(values: Mapping[Any, Any] | None, name: str, kind: pa.DataType) -> pa.Table | None:
        if values is None:
            return None
        if is_integer:
            # What is no integer names none of these items.
            numbers = {key if isinstance(key, int) else _integer(key): value for key, value in values.items()}
            by_id: dict[Any, Any] = {key: value for key, value in numbers.items() if key is not None}
        else:
            by_id = {str(key): value for key, value in values.items()}
        # JSON can write halves of characters.
        complaint = (
            f"{source.name}: {name} of an item hold what is no text ({{error}}); correct the file beside the events"
        )
        with as_input_error(complaint, UnicodeEncodeError):
            keys = pa.array(list(by_id), pa.int64() if is_integer else pa.large_string())
            return pa.table({"item_id": keys, name: pa.array(list(by_id.values()), kind)})

    return source._replace(
        titles=table(items.titles, "title", pa.large_string()),
        attributes=table(items.attributes, "attributes", pa.list_(pa.string())),
    )


def _integer(key: str) -> int | None:
    """The integer that `key` writes, if it is written as integers are and is an int64."""
    is_one = key.removeprefix("-").isascii() and key.removeprefix("-").isdecimal() and str(int(key)) == key
    return int(key) if is_one and -(2**63) <= int(key) < 2**63 else None
