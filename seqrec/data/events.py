"""From a table of events to a sequence store: expressions that any engine behind narwhals can run."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data.directories import replacing_directory
from seqrec.data.engines import Engine, Parts, SortedEvents, collect, engine_of
from seqrec.data.key_tables import KeyTable
from seqrec.data.shard_writing import ShardPlan, at_root, event_column
from seqrec.data.sources import Source
from seqrec.data.steps import ItemOrder, column_names, n_rows, number_items, require_times, time_order
from seqrec.data.store import ATTRIBUTES_TYPE, SequenceStore, open_store, sharded_store, write_files
from seqrec.data.user_ranges import place_users, ranges_of
from seqrec.files import JsonObject
from seqrec.types import InputError

__all__ = ["event_column", "gathered_store", "prepare", "sequences"]
EVENTS_PER_SHARD = 50_000_000
ALL_IN_ONE = 2**62
NO_KEYS: Mapping[str, nw.LazyFrame] = MappingProxyType({})

logger = logging.getLogger(__name__)


def sequences(
    source: Source, *, keep_times: bool = False, columns: Sequence[str] = (), directory: Path | None = None
) -> SequenceStore:
    """The events of `source` as a store: users and items by sorted key, events by time.

    Repeated events all stay. With `keep_times` the column timestamp_us stands beside the items, and so do `columns`.
    See `gathered_store` for `directory`.
    """
    if keep_times:
        require_times(source.events, "a temporal split or a model that reads times")
    n_found = n_rows(source.events)
    required = [name for name in column_names(source.events) if name in ("user_id", "item_id", "timestamp_us")]
    events = source.events.drop_nulls(required)
    n_complete = n_rows(events)
    if n_complete == 0:
        raise InputError(f"{source.name}: each of {n_found:,} events lacks user, item or time; check the columns")
    if n_complete < n_found:
        logger.warning("dropped %s of %s events that lack user, item or time", n_found - n_complete, n_found)
    engine, columns = engine_of(source), [*["timestamp_us"] * keep_times, *columns]
    if source.parts:
        parted = Parts(source.events, source.parts).map(lambda part: part.drop_nulls(required))
    else:
        parted = engine.partition(events, n_complete)
    return gathered_store(parted, engine, source, columns=columns, directory=directory)


def gathered_store(
    events: Parts,
    engine: Engine,
    source: Source,
    *,
    columns: Sequence[str],
    item_order: ItemOrder = "key",
    keys: Mapping[str, nw.LazyFrame] = NO_KEYS,
    session_gap_us: int | None = None,
    directory: Path | None = None,
    events_per_shard: int = EVENTS_PER_SHARD,
) -> SequenceStore:
    """The store of `events`, which lack neither user nor item: users by sorted id, items in `item_order`.

    With `session_gap_us`, a pause that parts sessions, timestamp_us is among the `columns` and `session` is one more.
    Titles and attributes are those of `source`; `keys` are the tables of `with_keys`. With a `directory` the arrays
    over events are files of a store there, written batch by batch and memory-mapped: in shards of consecutive users,
    of about `events_per_shard` events each, if there are more. Without, they are in memory.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="seqrec-store-") as folder:
            return _in_memory(
                gathered_store(
                    events,
                    engine,
                    source,
                    columns=columns,
                    item_order=item_order,
                    keys=keys,
                    session_gap_us=session_gap_us,
                    directory=Path(folder),
                    events_per_shard=ALL_IN_ONE,
                )
            )
    item_numbers = engine.keep(number_items(events.whole, item_order, keep=engine.keep))
    item_keys = collect(with_keys(item_numbers, "item_id", keys).sort("item"))["item_id"].to_numpy()
    users = engine.keep(place_users(events.whole, events_per_shard))
    ranges = ranges_of(users)
    order = ["user_id", *time_order(events.whole)]
    names = list(dict.fromkeys([*order, "item", *columns]))
    table = events.map(lambda part: part.join(item_numbers, on="item_id", how="inner").select(names))
    missing = frozenset(_with_missing(events.whole, columns))
    n_events = tuple(each.n_events for each in ranges)
    plan = ShardPlan(str(directory.absolute()), tuple(columns), missing, n_events, session_gap_us)
    shards = engine.write_shards(SortedEvents(table, order, users, keys.get("user_id")), ranges, plan)
    for held in (item_numbers, users):
        engine.forget(held)
    return sharded_store(
        directory,
        shards if len(shards) > 1 else [at_root(directory, shards[0])],
        item_keys=item_keys,
        titles=None if source.titles is None else titles_of(item_keys, source.titles),
        attributes=None if source.attributes is None else attributes_of(item_keys, source.attributes),
    )


def _in_memory(store: SequenceStore) -> SequenceStore:
    return store._replace(
        items=np.array(store.items),
        offsets=np.array(store.offsets),
        user_table=KeyTable({"key": store.user_keys}),
        columns={name: np.array(values) for name, values in store.columns.items()},
        shards=(),
        directory=None,
    )


def with_keys(table: nw.LazyFrame, column: str, keys: Mapping[str, nw.LazyFrame]) -> nw.LazyFrame:
    """The table with the data's own names in `column`, where it has numbers of them (`column` and `key` of `keys`)."""
    if column not in keys:
        return table
    names = column_names(table)
    named = table.join(keys[column], on=column, how="inner")
    return named.drop(column).rename({"key": column}).select(names)


def titles_of(item_keys: np.ndarray, titles: pa.Table | None) -> np.ndarray:
    """The title of each item, "" where `titles` has none."""
    known = _by_item(titles, "title")
    return np.array([known.get(key) or "" for key in item_keys.tolist()], dtype=object)


def attributes_of(item_keys: np.ndarray, attributes: pa.Table | None) -> pa.Array:
    """The attributes of each item, an empty list where `attributes` has none."""
    known = _by_item(attributes, "attributes")
    return pa.array([known.get(key) or [] for key in item_keys.tolist()], ATTRIBUTES_TYPE)


def _by_item(table: pa.Table | None, name: str) -> dict[Any, Any]:
    return {} if table is None else dict(zip(table["item_id"].to_pylist(), table[name].to_pylist(), strict=True))


def prepare(
    source: Source, directory: Path | str, *, keep_times: bool = False, columns: Sequence[str] = ()
) -> SequenceStore:
    """The store of `source`, written to `directory` and opened there."""
    with replacing_directory(directory) as fresh:
        store = sequences(source, keep_times=keep_times, columns=columns, directory=fresh)
        write_files(fresh, store, preparation=source_facts(source) or None)
    return open_store(directory)


def source_facts(source: Source) -> JsonObject:
    """What a store's `preparation` keeps of its source: the texts of codes, and how ties in time are ordered."""
    categories = {"categories": dict(source.categories)} if source.categories else {}
    return categories | ({} if source.ties is None else {"ties": source.ties.to_json()})


def _with_missing(events: nw.LazyFrame, columns: Sequence[str]) -> set[str]:
    """Which of the columns lack a value."""
    if not columns:
        return set()
    counts = collect(events.select(*(nw.col(name).is_null().cast(nw.Int64).sum().alias(name) for name in columns)))
    return {name for name in columns if counts[name][0].as_py()}
