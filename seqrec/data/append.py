"""Adds new events to an existing store: every id keeps its meaning, and new users and items get the next ids."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from seqrec.data import steps
from seqrec.data.directories import replacing_directory
from seqrec.data.engines import collect, engine_of
from seqrec.data.events import attributes_of, event_column, titles_of
from seqrec.data.paths import as_input_error
from seqrec.data.preparation import StepCount, StepsConfig, clean_events, seconds_to_us
from seqrec.data.ragged import session_numbers
from seqrec.data.sources import Source, SourceConfig
from seqrec.data.split_config import split_store, stored_split
from seqrec.data.store import (
    AppendHistory,
    SequenceStore,
    open_store,
    read_history,
    read_preparation,
    sequence_store,
    write_files,
)
from seqrec.data.store_files import key_column
from seqrec.files import JsonObject
from seqrec.types import InputError


class Appended(NamedTuple):
    """A store after an append, as it is on disk, and what was added."""

    store: SequenceStore
    n_new_events: int
    n_new_users: int
    n_new_items: int
    n_duplicates: int
    """Events left out because the store has them already, or has one within the duplicate gap before them."""
    counts: list[StepCount]


def continued(config: SourceConfig, store: Path, preparation: Mapping[str, Any]) -> SourceConfig:
    """How to read events that are to be appended to a `store` of this preparation: with ties in its order."""
    order: Literal["file", "hash"] = "hash" if preparation.get("ties", {}).get("order") == "hash" else "file"
    if config.ties not in ("auto", order):
        raise InputError(f"{store} was prepared with ties={order}; leave ties={config.ties} out")
    return dataclasses.replace(config, ties=order)


def append_events(
    source: Source, directory: Path | str, *, report: Callable[[StepCount], None] = lambda count: None
) -> Appended:
    """Adds the events of `source` to the store in `directory`, whole or not at all, and returns it.

    Existing users and items keep their ids; new ones get the next ids in the order of their first events. Events are in
    time order, late ones too; at equal times stored events come first. New events go through those steps of the store's
    preparation that look at one event (validity, duplicates, thresholds), and sessions are numbered again. K-core and
    events per day, which look at the whole log, are not applied: prepare the whole log again from time to time.
    `open_store(directory, as_of=...)` still opens the store as it was.

    Raises:
      InputError: the events do not fit the store, or another process is changing it.
    """
    directory = Path(directory)
    read_preparation(directory)  # before anything is made beside what is no store
    with replacing_directory(directory) as fresh:
        appended = _append(source, directory, fresh, report=report)
    return appended._replace(store=open_store(directory))


def _append(source: Source, directory: Path, target: Path, *, report: Callable[[StepCount], None]) -> Appended:
    """The store in `directory` with the events of `source`, written to `target`."""
    store, preparation = open_store(directory), read_preparation(directory)
    complaint = f"{directory} was prepared by another version ({{error}}); prepare all events again"
    with as_input_error(complaint, TypeError, ValueError, AttributeError):
        config = StepsConfig(**preparation.get("steps", {}))
    for option in ("collapse_repeats", "sessions_as_users"):
        if getattr(config, option):
            raise InputError(
                f"{directory} was prepared with {option}, which no append can go on with; prepare all events again"
            )
    for name, texts in preparation.get("categories", {}).items():
        if list(source.categories.get(name, texts)[: len(texts)]) != texts:
            raise InputError(f"{directory} has other codes for {name!r}; read the events with categories that it knows")
    if "timestamp_us" in store.columns and "timestamp_us" not in steps.column_names(source.events):
        raise InputError(f"{source.name} has no times, which the store has; name the time column")
    fresh, rejected, counts = _clean(source, config, report)
    derived = {"timestamp_us"} if config.session_gap_seconds is None else {"timestamp_us", "session"}
    for name in store.columns:
        if name not in fresh and name not in derived:
            raise InputError(
                f"{source.name} has no column {name!r}, which {directory} has; name it among the extra columns"
            )
    user_keys, users = _extend(store.user_keys, fresh.pop("user_id"), f"{directory}: users")
    item_keys, items = _extend(store.item_keys, fresh.pop("item_id"), f"{directory}: items")
    lengths = np.diff(store.offsets)
    users = np.concatenate([np.repeat(np.arange(store.n_users), lengths), users])
    items = np.concatenate([store.items, items + 1])
    columns = {name: np.concatenate([values, fresh[name]]) for name, values in store.columns.items() if name in fresh}
    # Sorting is stable and the stored events stand first, so what is stored never changes its order.
    times = columns.get("timestamp_us", np.zeros(len(users), np.int64))
    order = np.lexsort((times, users))
    is_new = np.arange(len(users)) >= store.n_events
    gap_seconds = config.duplicate_gap_seconds
    if "timestamp_us" in columns and (config.drop_duplicates or gap_seconds is not None):
        gap_us = seconds_to_us(gap_seconds or 0.0)
        order = order[~_is_repeated(users[order], items[order], times[order], is_new[order], gap_us=gap_us)]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users[order], minlength=len(user_keys)))])
    columns = {name: values[order] for name, values in columns.items()}
    if "session" in store.columns and config.session_gap_seconds is not None:
        gap_us = seconds_to_us(config.session_gap_seconds)
        columns["session"] = session_numbers(columns["timestamp_us"], offsets, gap_us=gap_us)
    # Each new key keeps its first event: that cannot be a duplicate, because a duplicate has the same key.
    titles = attributes = None
    new_keys = item_keys[store.n_items :]
    if store.titles is not None:
        titles = np.concatenate([store.titles, titles_of(new_keys, source.titles)])
    if store.attributes is not None:
        attributes = pa.concat_arrays([store.attributes, attributes_of(new_keys, source.attributes)])
    grown = sequence_store(items[order], offsets, item_keys, user_keys, titles, columns, attributes)
    appended = Appended(
        grown,
        grown.n_events - store.n_events,
        grown.n_users - store.n_users,
        grown.n_items - store.n_items,
        len(users) - len(order),
        counts,
    )
    versions, came_with = read_history(directory, store)
    if grown.content_hash != store.content_hash:
        versions = [*versions, _version_of(store, config, preparation)]
    came_with = np.concatenate([came_with, np.full(len(users) - store.n_events, len(versions), np.int32)])
    write_files(
        target,
        grown,
        preparation=_record_append(preparation, appended, source),
        side_tables={"rejected": _with_earlier(directory / "rejected.parquet", rejected)},
        history=AppendHistory(versions, came_with[order]),
    )
    return appended


def _version_of(store: SequenceStore, config: StepsConfig, preparation: Mapping[str, Any]) -> JsonObject:
    """What the manifest keeps of a store that grows, so that it can be told from what it has become."""
    gap_seconds = config.session_gap_seconds if "session" in store.columns else None
    return {
        "content_hash": store.content_hash,
        "n_users": store.n_users,
        "n_items": store.n_items,
        "n_events": store.n_events,
        "columns": {name: values.dtype.str for name, values in store.columns.items()},
        "session_gap_us": None if gap_seconds is None else seconds_to_us(gap_seconds),
        "n_categories": {name: len(texts) for name, texts in preparation.get("categories", {}).items()},
    }


def _clean(
    source: Source, config: StepsConfig, report: Callable[[StepCount], None]
) -> tuple[JsonObject, pa.Table, list[StepCount]]:
    """The columns of the new events, in time order, after the steps that look at one event."""
    by_itself = dataclasses.replace(
        config,
        duplicate_gap_seconds=None,
        max_events_per_day=None,
        min_user_events=1,
        min_item_events=1,
        session_gap_seconds=None,
    )
    cleaned = clean_events(source.events, by_itself, engine_of(source), report=report)
    table = collect(cleaned.events.sort(*steps.time_order(cleaned.events)))
    columns = {
        name: table[name] if name in ("user_id", "item_id") else event_column(name, table[name])
        for name in table.column_names
    }
    return columns, collect(cleaned.rejected.sort("event_index")), cleaned.counts


def _extend(
    stored: np.ndarray, keys: pa.ChunkedArray, what: str
) -> tuple[np.ndarray, Int[np.ndarray, " n_new_events"]]:
    """The stored keys followed by the new ones, and the 0-based place in them of each of `keys`."""
    known = key_column(stored)
    if known.type == pa.int64() and not pa.types.is_integer(keys.type):
        raise InputError(
            f"{what} are integers in the store and text such as {keys[0].as_py()!r} in the new events; "
            "correct them, or prepare all events again"
        )
    # A day whose ids all happen to be integers may meet a store whose ids are text.
    keys = keys.cast(known.type).combine_chunks()
    distinct = pc.unique(keys)
    new = distinct.filter(pc.invert(pc.is_in(distinct, value_set=known)))
    extended = pa.concat_arrays([known, new])
    places = pc.index_in(keys, value_set=extended).to_numpy(zero_copy_only=False).astype(np.int64)
    return extended.to_numpy(zero_copy_only=False), places


def _is_repeated(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    times: Int[np.ndarray, " n"],
    is_new: Bool[np.ndarray, " n"],
    *,
    gap_us: int,
) -> Bool[np.ndarray, " n"]:
    """Which new events come at most `gap_us` after the same user's previous event with that item."""
    # Stable, so that the events of a user and item stay in time order, stored ones first.
    order = np.lexsort((items, users))
    same = (np.diff(users[order]) == 0) & (np.diff(items[order]) == 0)
    repeated = np.zeros(len(users), bool)
    repeated[order[1:]] = same & (np.diff(times[order]) <= gap_us)
    return repeated & is_new


def _record_append(preparation: Mapping[str, Any], appended: Appended, source: Source) -> JsonObject:
    """`preparation` with the append added and the split computed again."""
    noted = dict(preparation)
    if "categories" in noted:
        noted["categories"] = {**noted["categories"], **source.categories}
    counts = [count._asdict() for count in appended.counts]
    facts = {
        field: getattr(appended, field) for field in ("n_new_events", "n_new_users", "n_new_items", "n_duplicates")
    }
    noted["appended"] = [*noted.get("appended", []), {"source": source.name, **facts, "counts": counts}]
    split_config = stored_split(noted)
    if split_config is not None:
        split = split_store(appended.store, split_config)
        described = {"description": split.description, "hash": split.content_hash}
        noted["split"] = {**dataclasses.asdict(split_config), **described}
    return noted


def _with_earlier(path: Path, rejected: pa.Table) -> pa.Table:
    if not path.is_file():
        return rejected
    damaged = f"{path} is damaged ({{error}}); remove it, or prepare all again"
    with as_input_error(damaged, OSError, ValueError, MemoryError, pa.ArrowException):
        earlier = pq.read_table(path)
    for place, name in enumerate(rejected.column_names):
        # Ids of a day that happen to be integers, beside earlier ones that are text.
        is_id = name in ("user_id", "item_id") and name in earlier.column_names
        if is_id and not pa.types.is_integer(earlier[name].type):
            rejected = rejected.set_column(place, name, rejected[name].cast(earlier[name].type))
    misfit = f"{path} does not fit the new events ({{error}}); prepare all again"
    with as_input_error(misfit, pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.concat_tables([earlier, rejected], promote_options="permissive")
