"""From a table of events to a sequence store: expressions that any engine behind narwhals can run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data.directories import replacing_directory
from seqrec.data.engines import Engine, collect, engine_of
from seqrec.data.paths import as_input_error
from seqrec.data.sources import Source
from seqrec.data.steps import ItemOrder, column_names, n_rows, number_items, ordered_events, require_times
from seqrec.data.store import ATTRIBUTES_TYPE, SequenceStore, open_store, sequence_store, write_files
from seqrec.data.store_files import array_files, column_dtype
from seqrec.files import JsonObject
from seqrec.types import InputError

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
    columns = [*["timestamp_us"] * keep_times, *columns]
    return gathered_store(events, engine_of(source), source, columns=columns, directory=directory)


def gathered_store(
    events: nw.LazyFrame,
    engine: Engine,
    source: Source,
    *,
    columns: Sequence[str],
    item_order: ItemOrder = "key",
    keys: Mapping[str, nw.LazyFrame] = NO_KEYS,
    directory: Path | None = None,
) -> SequenceStore:
    """The store of `events`, which lack neither user nor item: users by sorted id, items in `item_order`.

    Titles and attributes are those of `source`; `keys` are the tables of `with_keys`. With a `directory` the arrays
    over events are files of a store there, written batch by batch and memory-mapped; without, they are in memory.
    """
    item_numbers = engine.keep(number_items(events, item_order))
    item_keys = collect(with_keys(item_numbers, "item_id", keys).sort("item"))["item_id"].to_numpy()
    lengths = events.group_by("user_id").agg(n_events=nw.len())
    users = collect(with_keys(lengths, "user_id", keys).sort("user_id"))
    offsets = np.zeros(users.num_rows + 1, np.int64)
    np.cumsum(users["n_events"].to_numpy(), out=offsets[1:])
    missing = _with_missing(events, columns)
    files = {} if directory is None else array_files(directory, columns)
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for batch in engine.batches(ordered_events(events, item_numbers, list(columns))):
        for name in batch.schema.names:
            values = event_column(name, pa.chunked_array([batch[name]]), has_missing=name in missing)
            if start == 0:
                shape, dtype = (int(offsets[-1]),), column_dtype(name, values.dtype)
                arrays[name] = (
                    np.lib.format.open_memmap(files[name], mode="w+", dtype=dtype, shape=shape)
                    if name in files
                    else np.empty(shape, dtype)
                )
            arrays[name][start : start + len(values)] = values
        start += batch.num_rows
    engine.forget(item_numbers)
    items = arrays.pop("item")
    return sequence_store(
        items,
        offsets,
        item_keys=item_keys,
        user_keys=users["user_id"].to_numpy(),
        titles=None if source.titles is None else titles_of(item_keys, source.titles),
        columns=arrays,
        attributes=None if source.attributes is None else attributes_of(item_keys, source.attributes),
    )


def with_keys(table: nw.LazyFrame, column: str, keys: Mapping[str, nw.LazyFrame]) -> nw.LazyFrame:
    """The table with the data's own names in `column`, where it has numbers of them (`column` and `key` of `keys`)."""
    if column not in keys:
        return table
    names = column_names(table)
    named = table.join(keys[column], on=column, how="inner")
    return named.drop(column).rename({"key": column}).select(names)


def event_column(name: str, values: pa.ChunkedArray, *, has_missing: bool = False) -> np.ndarray:
    """The column as a store holds it: where values are missing, here or elsewhere, float64 with NaN for them."""
    if has_missing or values.null_count:
        if not (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        ):
            raise InputError(f"event column {name!r} is {values.type}, a store holds numbers; leave the column out")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        with as_input_error(
            f"event column {name!r} has missing values and integers beyond 2^53; fill in what is missing",
            pa.ArrowInvalid,
        ):
            return values.cast(pa.float64()).to_numpy()
    return values.to_numpy()


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
