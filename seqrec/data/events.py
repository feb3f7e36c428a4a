"""From a table of events to a sequence store: expressions that any engine behind narwhals can run."""

import logging
from pathlib import Path

import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data.sources import Source
from seqrec.data.store import SequenceStore, sequence_store, write_store
from seqrec.types import InputError

logger = logging.getLogger(__name__)


def complete_events(events: nw.LazyFrame) -> nw.LazyFrame:
    """The events that lack neither user nor item nor, where times are known, their time."""
    return events.drop_nulls([name for name in ("user_id", "item_id", "timestamp_us") if name in _names(events)])


def number_keys(events: nw.LazyFrame, key: str, number: str) -> nw.LazyFrame:
    """Each value of column `key` once, with its place, from 1, among the sorted values in column `number`."""
    numbered = events.select(key).unique().with_row_index(number, order_by=key)
    return numbered.with_columns((nw.col(number) + 1).cast(nw.Int32))


def ordered_items(events: nw.LazyFrame, item_numbers: nw.LazyFrame) -> nw.LazyFrame:
    """Columns user_id and item, sorted by user, time and place in the file; repeated events all stay."""
    order = [name for name in ("user_id", "timestamp_us", "event_index") if name in _names(events)]
    return events.join(item_numbers, on="item_id", how="inner").sort(order).select("user_id", "item")


def history_lengths(events: nw.LazyFrame) -> nw.LazyFrame:
    """Columns user_id and n_events, sorted by user."""
    return events.group_by("user_id").agg(n_events=nw.len()).sort("user_id")


def sequences(source: Source) -> SequenceStore:
    """The events of `source` as an in-memory store: users and items by sorted key, events by time."""
    n_found = _count(source.events)
    events = complete_events(source.events)
    n_complete = _count(events)
    if n_complete == 0:
        raise InputError(f"{source.name}: each of {n_found:,} events lacks user, item or time; check the columns")
    if n_complete < n_found:
        logger.warning("dropped %s of %s events that lack user, item or time", n_found - n_complete, n_found)
    item_numbers = number_keys(events, "item_id", "item")
    vocabulary = _collect(item_numbers.sort("item"))
    users = _collect(history_lengths(events))
    items = _collect(ordered_items(events, item_numbers))["item"]
    offsets = np.zeros(users.num_rows + 1, np.int64)
    np.cumsum(users["n_events"].to_numpy(), out=offsets[1:])
    item_keys = vocabulary["item_id"].to_numpy()
    return sequence_store(
        items.to_numpy(),
        offsets,
        item_keys=item_keys,
        user_keys=users["user_id"].to_numpy(),
        titles=None if source.titles is None else titles_of(item_keys, source.titles),
    )


def titles_of(item_keys: np.ndarray, titles: pa.Table) -> np.ndarray:
    """The title of each item, "" where `titles` has none."""
    known = dict(zip(titles["item_id"].to_pylist(), titles["title"].to_pylist(), strict=True))
    return np.array([known.get(key) or "" for key in item_keys.tolist()], dtype=object)


def prepare(source: Source, directory: Path | str) -> SequenceStore:
    """The store of `source`, written to `directory` and opened there."""
    return write_store(directory, sequences(source))


def _names(events: nw.LazyFrame) -> list[str]:
    return events.collect_schema().names()


def _count(events: nw.LazyFrame) -> int:
    return int(_collect(events.select(nw.len()))[0][0].as_py())


def _collect(table: nw.LazyFrame) -> pa.Table:
    return table.collect(backend="pyarrow").to_native()
