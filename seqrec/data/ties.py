"""The order of one user's events at equal times: that of the file, or where it only follows item ids, one by hash."""

from typing import Literal

import narwhals as nw

from seqrec.data.engines import collect
from seqrec.data.event_tables import TieOrder, Ties
from seqrec.data.event_values import follow_ids
from seqrec.types import InputError

TIE_HASH = "_tie_hash"
"""Column of events that are ordered by hash where times tie."""


def count_ties(events: nw.LazyFrame) -> TieOrder:
    """The ties of events that have times, in the order of the file, and the order that they should have."""
    complete = events.drop_nulls(["user_id", "item_id", "timestamp_us"])
    moments = complete.group_by("user_id", "timestamp_us").agg(n=nw.len().cast(nw.Int64))
    users = moments.group_by("user_id").agg(n=nw.col("n").sum(), n_moments=nw.len().cast(nw.Int64))
    sums = users.select(nw.col("n").sum(), nw.col("n_moments").sum(), n_users=nw.len())
    n_events, n_moments, n_users = (int(value or 0) for value in collect(sums).to_pylist()[0].values())
    n_distinct = n_rising = 0
    if n_moments < n_events:
        tied = complete.join(moments.filter(nw.col("n") > 1), on=["user_id", "timestamp_us"], how="semi")
        previous = nw.col("item_id").shift(1).over("user_id", "timestamp_us", order_by="event_index")
        pairs = tied.with_columns(_previous=previous).filter(~nw.col("_previous").is_null())
        counts = pairs.select(
            n_distinct=(nw.col("item_id") != nw.col("_previous")).cast(nw.Int64).sum(),
            n_rising=(nw.col("item_id") > nw.col("_previous")).cast(nw.Int64).sum(),
        )
        n_distinct, n_rising = map(int, collect(counts).to_pylist()[0].values())
    order: Literal["file", "hash"] = "hash" if follow_ids(n_rising, n_distinct) else "file"
    return TieOrder(order, n_events - n_users, n_events - n_moments, n_distinct, n_rising)


def order_ties(name: str, events: nw.LazyFrame, ties: Ties) -> tuple[nw.LazyFrame, TieOrder | None]:
    """The events, a table of DuckDB, with the column `TIE_HASH` where ties are ordered by hash; and what was counted.

    The hash is of user, time and item alone, so that it depends neither on the order of rows nor on the engine that
    the table is moved to. Events without times keep the order of the file.
    """
    if "timestamp_us" not in events.collect_schema():
        if ties == "hash":
            raise InputError(f"{name} has no times, so that nothing ties; leave ties=hash out, or name the time column")
        return events, None
    found = count_ties(events)
    if ties != "auto":
        found = found._replace(order=ties)
    if found.order == "hash":
        # 60 bits, as a positive int64. chr(31) parts what would otherwise run together.
        text = "concat_ws(chr(31), user_id, timestamp_us, item_id)"
        hashed = events.to_native().project(f"*, CAST('0x' || substr(md5({text}), 1, 15) AS BIGINT) AS {TIE_HASH}")
        events = nw.from_native(hashed)
    return events, found
