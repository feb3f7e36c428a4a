"""The order of one user's events at equal times: that of the file, or where it only follows item ids, one by hash."""

from typing import Literal

import narwhals as nw

from seqrec.data.engines import Engine, Parts, collect, engine_of, n_rows
from seqrec.data.event_tables import Source, TieOrder, Ties
from seqrec.data.event_values import follow_ids
from seqrec.types import InputError

TIE_HASH = "_tie_hash"
"""Column of events that are ordered by hash where times tie."""


def count_ties(events: Parts, engine: Engine) -> TieOrder:
    """The ties of events that have times, in the order of the file, and the order that they should have."""
    required = ["user_id", "item_id", "timestamp_us"]
    users = events.whole.drop_nulls(required).group_by("user_id").agg(n=nw.len().cast(nw.Int64))
    n_events, n_users = _sums(users.select(nw.col("n").sum(), n_users=nw.len()))
    n_tied = n_distinct = n_rising = 0
    for part in events.parts:
        complete = part.drop_nulls(required)
        moments = complete.group_by("user_id", "timestamp_us").agg(n=nw.len().cast(nw.Int64))
        # Computed once, for it hashes all events.
        tied_moments = engine.keep(moments.filter(nw.col("n") > 1))
        [n_tied_here] = _sums(tied_moments.select(n=(nw.col("n") - 1).sum()))
        if n_tied_here:
            tied = complete.join(tied_moments, on=["user_id", "timestamp_us"], how="semi")
            previous = nw.col("item_id").shift(1).over("user_id", "timestamp_us", order_by="event_index")
            pairs = tied.with_columns(_previous=previous).filter(~nw.col("_previous").is_null())
            n_distinct_here, n_rising_here = _sums(
                pairs.select(
                    n_distinct=(nw.col("item_id") != nw.col("_previous")).cast(nw.Int64).sum(),
                    n_rising=(nw.col("item_id") > nw.col("_previous")).cast(nw.Int64).sum(),
                )
            )
            n_tied, n_distinct, n_rising = n_tied + n_tied_here, n_distinct + n_distinct_here, n_rising + n_rising_here
        engine.forget(tied_moments)
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
    engine = engine_of(source)
    parted = engine.partition(events, n_rows(events))
    counts = count_ties(parted, engine)
    if ties != "auto":
        counts = counts._replace(order=ties)
    if counts.order == "hash":
        parted = parted.map(_with_hash)
    return source._replace(events=parted.whole, parts=parted.parts if len(parted.parts) > 1 else (), ties=counts)


def _with_hash(events: nw.LazyFrame) -> nw.LazyFrame:
    # 60 bits, as a positive int64. chr(31) parts what would otherwise run together.
    text = "concat_ws(chr(31), user_id, timestamp_us, item_id)"
    hashed = f"*, CAST('0x' || substr(md5({text}), 1, 15) AS BIGINT) AS {TIE_HASH}"
    return nw.from_native(events.to_native().project(hashed))
