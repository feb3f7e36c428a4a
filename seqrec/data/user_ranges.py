"""Ranges of consecutive users with about as many events each, so that a log is sorted and written part by part."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import narwhals as nw
import pyarrow as pa


class UserRange(NamedTuple):
    """The users from `first` to `last`, both with it, in the order of their ids."""

    place: int
    """What `place_users` gives these users."""
    first: Any
    last: Any
    n_users: int
    n_events: int


def place_users(events: nw.LazyFrame, n_events: int) -> nw.LazyFrame:
    """Each user_id, its `_n` events, and `_place`: the same number for all users of a range of about `n_events`.

    Without events that lack a user. A range has fewer than `n_events` events and those of one more user.
    """
    users = events.drop_nulls("user_id").group_by("user_id").agg(_n=nw.len().cast(nw.Int64))
    start = nw.col("_n").cum_sum().over(order_by="user_id").cast(nw.Int64) - nw.col("_n")
    # By remainder: engines differ in how they divide.
    return users.with_columns(_start=start).select(
        "user_id", "_n", _place=nw.col("_start") - nw.col("_start") % n_events
    )


def ranges_of(users: nw.LazyFrame) -> list[UserRange]:
    """The ranges of a table of `place_users`, by rising user id."""
    user, n_events = nw.col("user_id"), nw.col("_n")
    ranges = users.group_by("_place").agg(
        _first=user.min(), _last=user.max(), _n_users=nw.len().cast(nw.Int64), _n_events=n_events.sum().cast(nw.Int64)
    )
    table: pa.Table = ranges.sort("_place").collect("pyarrow").to_native()
    return [UserRange(*row.values()) for row in table.to_pylist()]


def events_of(events: nw.LazyFrame, users: UserRange) -> nw.LazyFrame:
    """The events of these users."""
    return events.filter((nw.col("user_id") >= users.first) & (nw.col("user_id") <= users.last))


def number_of(ranges: Sequence[UserRange], first: int = 0) -> nw.Expr:
    """The number of the range, from `first` on, in which a user_id lies; the last where it is missing.

    By halves: a comparison for each doubling of the ranges.
    """
    if len(ranges) == 1:
        return nw.lit(first)
    half = len(ranges) // 2
    below = nw.when(nw.col("user_id") < ranges[half].first).then(number_of(ranges[:half], first))
    return below.otherwise(number_of(ranges[half:], first + half))
