"""The order of one user's events at equal times: that of the file, or where it only follows item ids, one by hash."""

from typing import Literal

import narwhals as nw

from seqrec.data.engines import Engine, collect, engine_of
from seqrec.data.event_tables import Source, TieOrder, Ties
from seqrec.data.event_values import follow_ids
from seqrec.data.user_ranges import parts_of, ranges_at_once
from seqrec.types import InputError

TIE_HASH = "_tie_hash"
"""Column of events that are ordered by hash where times tie."""


def count_ties(events: nw.LazyFrame, engine: Engine) -> TieOrder:
    """The ties of events that have times, in the order of the file, and the order that they should have."""
    complete = events.drop_nulls(["user_id", "item_id", "timestamp_us"])
    users = complete.group_by("user_id").agg(n=nw.len().cast(nw.Int64))
    n_events, n_users = _sums(users.select(nw.col("n").sum(), n_users=nw.len()))
    # To find them hashes all events, so it is done once, and in ranges of users where that exceeds the memory.
    parts = parts_of(complete, ranges_at_once(complete, n_events, engine.n_rows_at_once(complete)))
    moments = engine.keep_parts(
        [
            part.group_by("user_id", "timestamp_us").agg(n=nw.len().cast(nw.Int64)).filter(nw.col("n") > 1)
            for part in parts
        ]
    )
    [n_tied] = _sums(moments.select(n=(nw.col("n") - 1).sum()))
    n_distinct = n_rising = 0
    if n_tied:
        tied = complete.join(moments, on=["user_id", "timestamp_us"], how="semi")
        previous = nw.col("item_id").shift(1).over("user_id", "timestamp_us", order_by="event_index")
        pairs = tied.with_columns(_previous=previous).filter(~nw.col("_previous").is_null())
        n_distinct, n_rising = _sums(
            pairs.select(
                n_distinct=(nw.col("item_id") != nw.col("_previous")).cast(nw.Int64).sum(),
                n_rising=(nw.col("item_id") > nw.col("_previous")).cast(nw.Int64).sum(),
            )
        )
    engine.forget(moments)
    order: Literal["file", "hash"] = "hash" if follow_ids(n_rising, n_distinct) else "file"
    return TieOrder(order, n_events - n_users, n_tied, n_distinct, n_rising)


def _sums(table: nw.LazyFrame) -> list[int]:
    """The numbers of the only row; the sum over no rows is 0."""
    return [int(value or 0) for value in collect(table).to_pylist()[0].values()]


def order_ties(source: Source, ties: Ties) -> Source:
    """The source, its events a table of DuckDB, with what was counted and, where ties are ordered by hash, `TIE_HASH`.

    The hash is of user, time and item alone, so that it depends neither on the order of rows nor on the engine that
    the table is moved to. Events without times keep the order of the file.
    """
    events = source.events
    if "timestamp_us" not in events.collect_schema():
        if ties == "hash":
            raise InputError(
                f"{source.name} has no times, so that nothing ties; leave ties=hash out, or name the time column"
            )
        return source
    counts = count_ties(events, engine_of(source))
    if ties != "auto":
        counts = counts._replace(order=ties)
    if counts.order == "hash":
        # 60 bits, as a positive int64. chr(31) parts what would otherwise run together.
        text = "concat_ws(chr(31), user_id, timestamp_us, item_id)"
        hashed = events.to_native().project(f"*, CAST('0x' || substr(md5({text}), 1, 15) AS BIGINT) AS {TIE_HASH}")
        events = nw.from_native(hashed)
    return source._replace(events=events, ties=counts)
