"""Steps from raw events towards sequences: each an expression that any engine behind narwhals runs to the same rows.

Events have user_id and item_id (integers or text), event_index (int64, each once: the place in the log) and, where
times are known, timestamp_us (int64). Inside a user they are ordered by time and, where times tie, by the column
`TIE_HASH` if it is there, else by event_index. Other columns are carried along.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import narwhals as nw

from seqrec.data.engines import Engine, collect, n_rows, null_for_nan
from seqrec.data.ties import TIE_HASH
from seqrec.types import InputError

MICROSECONDS_PER_SECOND = 1_000_000
MICROSECONDS_PER_DAY = 24 * 3600 * MICROSECONDS_PER_SECOND
ItemOrder = Literal["key", "first-time", "count"]
Change = Callable[[nw.LazyFrame], nw.LazyFrame]
"""From events, of all or of some users, to those that a step leaves of them."""


class Sizes(NamedTuple):
    """How many events there are, of how many users and items."""

    n_events: int
    n_users: int
    n_items: int


class Tally(NamedTuple):
    """What a k-core reads of events, held by an engine."""

    pairs: nw.LazyFrame
    """user_id and item_id of each event."""
    totals: Mapping[str, nw.LazyFrame]
    """Those of `totals_of`."""


@dataclass(frozen=True)
class Core:
    """The change that keeps a k-core. It may be applied to all of the events that it was found in or to some."""

    filters: Sequence[tuple[str, nw.LazyFrame, Literal["semi", "anti"]]]
    """Columns of ids, tables to join the events with by them, and how."""
    sizes: Sizes
    """Those of the core."""

    def __call__(self, part: nw.LazyFrame) -> nw.LazyFrame:
        for key, table, how in self.filters:
            part = part.join(table, on=key, how=how)
        return part


def column_names(events: nw.LazyFrame) -> list[str]:
    return events.collect_schema().names()


def totals_of(events: nw.LazyFrame) -> dict[str, nw.LazyFrame]:
    """For user_id and item_id a table of each id, once, and its `total` of events."""
    return {key: events.group_by(key).agg(total=nw.len().cast(nw.Int64)) for key in ("user_id", "item_id")}


def sizes_of(totals: Mapping[str, nw.LazyFrame]) -> Sizes:
    """The sizes of events with these totals; a missing id is no user and no item."""
    # By way of totals, which takes half the time of counting what is distinct.
    n_ids: dict[str, int] = {}
    n_events = 0
    for key, table in totals.items():
        sums = table.select(n_events=nw.col("total").sum(), n_ids=(~nw.col(key).is_null()).cast(nw.Int64).sum())
        n_events, n_ids[key] = (int(value or 0) for value in collect(sums).to_pylist()[0].values())
    return Sizes(n_events, n_ids["user_id"], n_ids["item_id"])


def tally(events: nw.LazyFrame, engine: Engine) -> Tally:
    """The user and item of each event, and the totals of each id, computed once and held by the engine."""
    # In memory, where the events themselves may have been spilt.
    pairs = engine.keep(events.select("user_id", "item_id"))
    return Tally(pairs, {key: engine.keep(table) for key, table in totals_of(pairs).items()})


def time_order(events: nw.LazyFrame) -> list[str]:
    """The columns that order the events of a user.

    With `TIE_HASH` the place in the file counts only between events that are equal in all their columns.
    """
    names = column_names(events)
    if TIE_HASH not in names:
        return [name for name in ("timestamp_us", "event_index") if name in names]
    others = [name for name in names if name not in ("user_id", "item_id", "timestamp_us", "event_index")]
    return ["timestamp_us", TIE_HASH, *(name for name in others if not name.startswith("_")), "event_index"]


def require_times(events: nw.LazyFrame, option: str) -> nw.LazyFrame:
    """The events, which have times."""
    if "timestamp_us" not in column_names(events):
        raise InputError(f"{option} needs times, and the events have none; leave it out, or name a time column")
    return events


def with_reason(events: nw.LazyFrame, *, earliest_us: int | None = None, latest_us: int | None = None) -> nw.LazyFrame:
    """The events with a column `reason`: why the event cannot be used, null where it can.

    The first that applies: user, item or time is missing ("" is), or the time is before `earliest_us` or after
    `latest_us`, both of which are still good.
    """
    schema = events.collect_schema()
    reasons: list[tuple[nw.Expr, str]] = []
    for name, called in (("user_id", "user"), ("item_id", "item"), ("timestamp_us", "time")):
        if name in schema:
            missing = nw.col(name).is_null()
            if schema[name] == nw.String:
                missing = missing | (nw.col(name) == "")
            reasons.append((missing, f"no {called}"))
    if earliest_us is not None:
        require_times(events, "earliest time")
        reasons.append((nw.col("timestamp_us") < earliest_us, "too early"))
    if latest_us is not None:
        require_times(events, "latest time")
        reasons.append((nw.col("timestamp_us") > latest_us, "too late"))
    reason = nw.lit(None, dtype=nw.String)
    for condition, text in reversed(reasons):
        # A condition that is null, as a comparison with a missing time is, does not hold.
        reason = nw.when(condition.fill_null(False)).then(nw.lit(text)).otherwise(reason)
    return events.with_columns(reason=reason)


def drop_duplicates(events: nw.LazyFrame, *, keep_gaps: bool = False) -> nw.LazyFrame:
    """Of the events of one user, item and moment the first in `time_order`; without times nothing is a duplicate."""
    is_timed = "timestamp_us" in column_names(events)
    return drop_near_duplicates(events, gap_us=0, keep_gaps=keep_gaps) if is_timed else events


def drop_near_duplicates(events: nw.LazyFrame, *, gap_us: int, keep_gaps: bool = False) -> nw.LazyFrame:
    """The events but those at most `gap_us` after the same user's previous event of that item.

    The previous one counts whether or not it is dropped itself, so a chain of such gaps leaves its first event. To find
    the gaps sorts all events; with `keep_gaps` they stay, as `_gap_us`, and events that have them are judged by them.
    """
    require_times(events, "duplicate gap")
    if "_gap_us" not in column_names(events):
        previous = nw.col("timestamp_us").shift(1).over("user_id", "item_id", order_by=time_order(events))
        events = events.with_columns(_gap_us=nw.col("timestamp_us") - previous)
    distinct = events.filter(nw.col("_gap_us").is_null() | (nw.col("_gap_us") > gap_us))
    return distinct if keep_gaps else distinct.drop("_gap_us")


def drop_implausible_users(events: nw.LazyFrame, *, max_events_per_day: int, engine: Engine) -> Change:
    """The change that keeps events of users who have no day, of UTC, with more than `max_events_per_day` of `events`.

    It may be applied to all of these or to some.
    """
    require_times(events, "events per day")
    # Few have so many events at all; only theirs are grouped by days.
    totals = events.group_by("user_id").agg(n=nw.len())
    active = engine.keep(totals.filter(nw.col("n") > max_events_per_day).select("user_id"))
    # By remainder: engines differ in how they divide, and floating point is off by one around midnight.
    days = events.join(active, on="user_id", how="semi").select(
        "user_id", day=nw.col("timestamp_us") - nw.col("timestamp_us") % MICROSECONDS_PER_DAY
    )
    busy = days.group_by("user_id", "day").agg(n=nw.len()).filter(nw.col("n") > max_events_per_day)
    # Computed once, for whatever is built on the events would compute it again.
    users = engine.keep(busy.select("user_id").unique())
    engine.forget(active)
    if n_rows(users) == 0:
        engine.forget(users)
        return lambda part: part
    return lambda part: part.join(users, on="user_id", how="anti")


def keep_at_least(events: nw.LazyFrame, column: str, minimum: float, *, share_of: str | None = None) -> nw.LazyFrame:
    """The events whose `column`, or its share of column `share_of`, is at least `minimum`; missing or NaN is less.

    A share of a whole that is not positive, such as what was played of a track of no length, is less, too.
    """
    for name in (column, share_of):
        if name is not None and name not in column_names(events):
            raise InputError(f"the events have no column {name!r}; they have {', '.join(column_names(events))}")
    # NaN is greater than every number to DuckDB and Spark.
    events = null_for_nan(events, [name for name in (column, share_of) if name is not None])
    if share_of is None:
        return events.filter(nw.col(column).cast(nw.Float64) >= minimum)
    whole = nw.col(share_of).cast(nw.Float64)
    # Multiplied, for engines do not agree on what a number divided by zero is.
    return events.filter((whole > 0.0) & (nw.col(column).cast(nw.Float64) >= whole * minimum))


def collapse_repeats(events: nw.LazyFrame) -> nw.LazyFrame:
    """Of each run of one item in a user's events the first, with `run_length`, the number of events of the run."""
    order = time_order(events)
    previous = nw.col("item_id").shift(1).over("user_id", order_by=order)
    starts = (previous.is_null() | (previous != nw.col("item_id"))).cast(nw.Int64)
    marked = events.with_columns(_starts=starts)
    numbered = marked.with_columns(_run=nw.col("_starts").cum_sum().over("user_id", order_by=order).cast(nw.Int64))
    lengths = numbered.group_by("user_id", "_run").agg(run_length=nw.len().cast(nw.Int64))
    firsts = numbered.filter(nw.col("_starts") == 1)
    return firsts.join(lengths, on=["user_id", "_run"], how="inner").drop("_starts", "_run")


def k_core(
    events: nw.LazyFrame, *, min_user_events: int, min_item_events: int, engine: Engine, tallied: Tally | None = None
) -> Core:
    """The largest subset of `events` in which every user and every item has at least so many, repeats counted.

    There is one largest subset, whichever is dropped first; it may be empty. The tally of the events, if there is one
    already, is let go of.
    """
    minima = {"user_id": min_user_events, "item_id": min_item_events}
    # The events each user and item that is not dropped still has. Only these small tables are written anew in a
    # round, and by the events of what it drops alone: rewriting the pairs took four times as long.
    pairs, totals = tallied or tally(events, engine)
    dropped: dict[str, list[nw.LazyFrame]] = {key: [] for key in minima}
    n_dropped, n_quiet = dict.fromkeys(minima, 0), 0
    turns = itertools.cycle([("user_id", "item_id"), ("item_id", "user_id")])
    while n_quiet < len(minima):
        key, other = next(turns)
        few = engine.keep(totals[key].filter(nw.col("total") < minima[key]).select(key))
        n_few = n_rows(few)
        n_quiet = n_quiet + 1 if n_few == 0 else 0
        if n_quiet == 0:
            dropped[key].append(few)
            n_dropped[key] += n_few
            # Some of them are dropped already; the join with what is left passes over these.
            lost = pairs.join(few, on=key, how="semi").group_by(other).agg(lost=nw.len().cast(nw.Int64))
            left = nw.col("total") - nw.col("lost").fill_null(0)
            fewer = {
                key: totals[key].filter(nw.col("total") >= minima[key]),
                other: totals[other].join(lost, on=other, how="left").select(other, total=left),
            }
            fewer = {name: engine.keep(table) for name, table in fewer.items()}
            for table in totals.values():
                engine.forget(table)
            totals = fewer
        else:
            engine.forget(few)
    engine.forget(pairs)
    sizes = sizes_of(totals)
    filters: list[tuple[str, nw.LazyFrame, Literal["semi", "anti"]]] = []
    for key, table in totals.items():
        # By the smaller table, which may stay in the cache; what is joined is held until the events are asked for.
        if n_dropped[key] > n_rows(table):
            filters.append((key, table.select(key), "semi"))
            unused = dropped[key]
        else:
            unused = [table]
            if dropped[key]:
                filters.append((key, nw.concat(dropped[key]), "anti"))
        for each in unused:
            engine.forget(each)
    return Core(filters, sizes)


def number_sessions(events: nw.LazyFrame, *, gap_us: int) -> nw.LazyFrame:
    """The events with `session` (int32): 0 for a user's first, one more after each pause of more than `gap_us`."""
    require_times(events, "session gap")
    order = time_order(events)
    previous = nw.col("timestamp_us").shift(1).over("user_id", order_by=order)
    pause = ((nw.col("timestamp_us") - previous) > gap_us).fill_null(False)
    marked = events.with_columns(_pause=pause.cast(nw.Int64))
    session = nw.col("_pause").cum_sum().over("user_id", order_by=order).cast(nw.Int32)
    return marked.with_columns(session=session).drop("_pause")


def sessions_as_users(events: nw.LazyFrame) -> nw.LazyFrame:
    """The events that have a `session` with each session as a user of its own: "ann:0" is the first of user "ann"."""
    parts = [nw.col(name).cast(nw.String) for name in ("user_id", "session")]
    return events.with_columns(user_id=nw.concat_str(parts, separator=":")).drop("session")


def number_items(
    events: nw.LazyFrame, order: ItemOrder, *, keep: Callable[[nw.LazyFrame], nw.LazyFrame] = lambda table: table
) -> nw.LazyFrame:
    """item_id, each once, and `item`, its number from 1: by key, by first event, or by falling count.

    Items of one count go by their first event; first events are ordered by time, then by hash or event_index. `keep` is
    that of an engine, for a table of the items that several others are made of.
    """
    if order == "key":
        items, by = events.select("item_id").unique(), ["item_id"]
    else:
        names = column_names(events)
        moment, *place = [name for name in ("timestamp_us", TIE_HASH, "event_index") if name in names][:2]
        items = keep(events.group_by("item_id").agg(_moment=nw.col(moment).min(), _count=-nw.len().cast(nw.Int64)))
        # Times of first events may tie; their hashes, or places in the log, do not. Few items tie, so only the events
        # of these are looked at again.
        for name in place:
            alike = ["_moment"] + ["_count"] * (order == "count")
            tied = items.filter(nw.len().over(*alike) > 1)
            firsts = events.join(tied, on="item_id", how="inner").filter(nw.col(moment) == nw.col("_moment"))
            places = firsts.group_by("item_id").agg(_place=nw.col(name).min())
            items = items.join(places, on="item_id", how="left")
        by = ["_count"] * (order == "count") + ["_moment"] + ["_place"] * len(place)
    numbered = items.with_row_index("item", order_by=by)
    return numbered.select("item_id", item=(nw.col("item") + 1).cast(nw.Int32))


def seconds_to_us(seconds: float) -> int:
    """Microseconds, rounded."""
    return round(seconds * MICROSECONDS_PER_SECOND)
