"""From a table of events to a sequence store: expressions that any engine behind narwhals can run."""

import logging
from collections.abc import Mapping
from pathlib import Path

import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data.engines import collect
from seqrec.data.sources import Source
from seqrec.data.steps import column_names, number_items, ordered_events, require_times
from seqrec.data.store import SequenceStore, sequence_store, write_store
from seqrec.types import InputError

logger = logging.getLogger(__name__)


def complete_events(events: nw.LazyFrame) -> nw.LazyFrame:
    """The events that lack neither user nor item nor, where times are known, their time."""
    return events.drop_nulls([name for name in ("user_id", "item_id", "timestamp_us") if name in column_names(events)])


def history_lengths(events: nw.LazyFrame) -> nw.LazyFrame:
    """Columns user_id and n_events, sorted by user."""
    return events.group_by("user_id").agg(n_events=nw.len()).sort("user_id")


def sequences(source: Source, *, keep_times: bool = False) -> SequenceStore:
    """The events of `source` as an in-memory store: users and items by sorted key, events by time.

    Repeated events all stay. With `keep_times` the column timestamp_us stands beside the items.
    """
    columns = ["timestamp_us"] * keep_times
    if keep_times:
        require_times(source.events, "a temporal split")
    n_found = _count(source.events)
    events = complete_events(source.events)
    n_complete = _count(events)
    if n_complete == 0:
        raise InputError(f"{source.name}: each of {n_found:,} events lacks user, item or time; check the columns")
    if n_complete < n_found:
        logger.warning("dropped %s of %s events that lack user, item or time", n_found - n_complete, n_found)
    item_numbers = number_items(events, "key")
    vocabulary = collect(item_numbers.sort("item"))
    users = collect(history_lengths(events))
    ordered = collect(ordered_events(events, item_numbers, columns))
    return gathered_store(
        vocabulary, users, ordered, source.titles, columns={name: ordered[name].to_numpy() for name in columns}
    )


def gathered_store(
    vocabulary: pa.Table,
    users: pa.Table,
    ordered: pa.Table,
    titles: pa.Table | None,
    *,
    columns: Mapping[str, np.ndarray],
) -> SequenceStore:
    """The store of collected tables: items by number, users with `n_events`, and each event's `item` in order."""
    offsets = np.zeros(users.num_rows + 1, np.int64)
    np.cumsum(users["n_events"].to_numpy(), out=offsets[1:])
    item_keys = vocabulary["item_id"].to_numpy()
    return sequence_store(
        ordered["item"].to_numpy(),
        offsets,
        item_keys=item_keys,
        user_keys=users["user_id"].to_numpy(),
        titles=None if titles is None else titles_of(item_keys, titles),
        columns=columns,
    )


def titles_of(item_keys: np.ndarray, titles: pa.Table) -> np.ndarray:
    """The title of each item, "" where `titles` has none."""
    known = dict(zip(titles["item_id"].to_pylist(), titles["title"].to_pylist(), strict=True))
    return np.array([known.get(key) or "" for key in item_keys.tolist()], dtype=object)


def prepare(source: Source, directory: Path | str, *, keep_times: bool = False) -> SequenceStore:
    """The store of `source`, written to `directory` and opened there."""
    return write_store(directory, sequences(source, keep_times=keep_times))


def _count(events: nw.LazyFrame) -> int:
    return int(collect(events.select(nw.len()))[0][0].as_py())
