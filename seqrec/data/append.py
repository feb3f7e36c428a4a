"""Adds new events to an existing store: every id keeps its meaning, and new users and items get the next ids."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from seqrec.data import steps
from seqrec.data.directories import extending_directory
from seqrec.data.engines import collect, engine_of
from seqrec.data.events import attributes_of, event_column, titles_of
from seqrec.data.key_tables import KeyTable, write_keys
from seqrec.data.manifest import MANIFEST, Contents, contents_of, contents_record, read_manifest, versions_of
from seqrec.data.paths import as_input_error
from seqrec.data.preparation import StepCount, StepsConfig, clean_events
from seqrec.data.ragged import first_between, ranges, session_numbers
from seqrec.data.shards import ROWS_FILE, Shard, files_hash, new_shard, shard_directory, values_at
from seqrec.data.sources import Source, SourceConfig
from seqrec.data.split_config import SplitConfig, make_split, split_store, stored_split
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore, hash_of, item_counts, open_contents, open_store, read_preparation
from seqrec.data.store_files import column_dtype, write_arrays
from seqrec.data.stored_splits import remove_other_splits, with_training_counts
from seqrec.files import JsonObject, write_json
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

    What is appended is one more shard, of the whole histories of the users that have new events. Earlier shards stay as
    they are, and `open_store(directory, as_of=...)` still opens the store as it was.

    Raises:
      InputError: the events do not fit the store, or another process is changing it.
    """
    directory = Path(directory)
    read_preparation(directory)  # where there is no store, that is what the error says
    with extending_directory(directory):
        try:
            return _append(source, directory, report=report)
        finally:
            _remove_remains(directory)


def _append(source: Source, directory: Path, *, report: Callable[[StepCount], None]) -> Appended:
    _remove_remains(directory)
    store, preparation = open_store(directory), read_preparation(directory)
    config = _steps_to_repeat(directory, preparation)
    _check_fits(source, store, directory, preparation)
    fresh, rejected, counts = _clean(source, config, report)
    derived = {"timestamp_us"} if config.session_gap_seconds is None else {"timestamp_us", "session"}
    for name in store.columns:
        if name not in fresh and name not in derived:
            raise InputError(
                f"{source.name} has no column {name!r}, which {directory} has; name it among the extra columns"
            )
    user_keys, users = _numbered(store.user_table, fresh.pop("user_id"), f"{directory}: users")
    item_keys, items = _numbered(store.item_table, fresh.pop("item_id"), f"{directory}: items")
    histories = _grown_histories(store, users, items + 1, fresh, config)
    manifest = read_manifest(directory)
    contents = contents_of(manifest, directory)
    versions = versions_of(manifest, directory)
    split_config, split = stored_split(preparation), None
    if histories.n_new_events or rejected.num_rows:
        shard = _write_shard(directory, len(contents.shards), store, histories, user_keys, item_keys, source, rejected)
        earlier = _version_of(contents, preparation)
        contents = _with_shard(contents, shard, histories)
        grown = open_contents(directory, contents)
        with ThreadPoolExecutor(1) as pool:  # both go through all events
            hashing = pool.submit(hash_of, grown)
            if split_config is not None:
                split = with_training_counts(grown, make_split(grown, split_config))
            contents = contents._replace(content_hash=hashing.result())
        if contents.content_hash != store.content_hash:
            versions = [*versions, earlier]
        store = grown._replace(content_hash=contents.content_hash)
    n_new = (histories.n_new_events, len(user_keys), len(item_keys))
    appended = Appended(store, *n_new, len(users) - histories.n_new_events, counts)
    record = contents_record(contents) | ({"versions": versions} if versions else {})
    noted = _record_append(preparation, appended, source, split_config, made=split)
    write_json(directory / MANIFEST, {**manifest, **record, "preparation": noted})
    remove_other_splits(directory, contents.content_hash)
    return appended


def _steps_to_repeat(directory: Path, preparation: Mapping[str, Any]) -> StepsConfig:
    complaint = f"{directory} was prepared by another version ({{error}}); prepare all events again"
    with as_input_error(complaint, TypeError, ValueError, AttributeError):
        config = StepsConfig(**preparation.get("steps", {}))
    for option in ("collapse_repeats", "sessions_as_users"):
        if getattr(config, option):
            raise InputError(
                f"{directory} was prepared with {option}, which no append can go on with; prepare all events again"
            )
    return config


def _check_fits(source: Source, store: SequenceStore, directory: Path, preparation: Mapping[str, Any]) -> None:
    for name, texts in preparation.get("categories", {}).items():
        if list(source.categories.get(name, texts)[: len(texts)]) != texts:
            raise InputError(f"{directory} has other codes for {name!r}; read the events with categories that it knows")
    if "timestamp_us" in store.columns and "timestamp_us" not in steps.column_names(source.events):
        raise InputError(f"{source.name} has no times, which the store has; name the time column")


class _Histories(NamedTuple):
    """The histories of all users that have new events, old events and new ones."""

    rows: Int[np.ndarray, " users"]
    """Places of the users in the store's order; those of new users come behind."""
    offsets: Int[np.ndarray, " users_plus_1"]
    items: Int[np.ndarray, " n"]
    columns: dict[str, np.ndarray]
    n_new_events: int


def _grown_histories(
    store: SequenceStore,
    users: Int[np.ndarray, " n_new"],
    items: Int[np.ndarray, " n_new"],
    fresh: Mapping[str, np.ndarray],
    config: StepsConfig,
) -> _Histories:
    times = fresh.get("timestamp_us", np.zeros(len(users), np.int64))
    order = np.lexsort((times, users))
    users, items, times = users[order], items[order], times[order]
    known = np.unique(users[users < store.n_users])
    lengths = store.offsets[known + 1] - store.offsets[known]
    ends = np.append(0, np.cumsum(lengths))
    stored = ranges(store.offsets[known], lengths)
    columns = {name: values_at(values, stored) for name, values in store.columns.items() if name in fresh}
    # What is stored keeps its order, and comes first at equal times; without times it all comes first.
    place = np.searchsorted(known, users)
    low, high = ends[place], ends[np.minimum(place + (users < store.n_users), len(known))]
    stored_times = columns.get("timestamp_us", np.zeros(len(stored), np.int64))
    places = first_between(stored_times, low, high, times + 1)
    is_new = np.insert(np.zeros(len(stored), bool), places, True)
    items = np.insert(values_at(store.items, stored), places, items)
    users = np.insert(np.repeat(known, lengths), places, users)
    columns = {name: _inserted(values, places, fresh[name][order]) for name, values in columns.items()}
    gap_seconds = config.duplicate_gap_seconds
    kept = np.ones(len(users), bool)
    if "timestamp_us" in columns and (config.drop_duplicates or gap_seconds is not None):
        gap_us = steps.seconds_to_us(gap_seconds or 0.0)
        kept = ~_is_repeated(users, items, columns["timestamp_us"], is_new, gap_us=gap_us)
    # A user all of whose events were there already is left where it lies.
    rows = np.unique(users[is_new & kept])
    kept &= np.isin(users, rows)
    offsets = np.searchsorted(users[kept], np.append(rows, np.iinfo(np.int64).max))
    columns = {name: values[kept] for name, values in columns.items()}
    if "session" in store.columns and config.session_gap_seconds is not None:
        gap_us = steps.seconds_to_us(config.session_gap_seconds)
        columns["session"] = session_numbers(columns["timestamp_us"], offsets, gap_us=gap_us)
    return _Histories(rows, offsets, items[kept], columns, int(is_new[kept].sum()))


def _inserted(values: np.ndarray, places: Int[np.ndarray, " n_new"], new: np.ndarray) -> np.ndarray:
    """`values` with the new ones before these places, in a type that holds both."""
    return np.insert(values.astype(np.result_type(values, new), copy=False), places, new)


def _write_shard(
    directory: Path,
    number: int,
    store: SequenceStore,
    histories: _Histories,
    user_keys: pa.Array,
    item_keys: pa.Array,
    source: Source,
    rejected: pa.Table,
) -> Shard:
    """Writes the histories as the shard of this number, with what is new of users and items."""
    new_items: dict[str, Any] = {"key": item_keys.to_numpy(zero_copy_only=False)}
    if "title" in store.item_table:
        new_items["title"] = titles_of(new_items["key"], source.titles)
    if "attributes" in store.item_table:
        new_items["attributes"] = attributes_of(new_items["key"], source.attributes)
    n_events = item_counts(histories.items, store.n_items + len(item_keys))[store.n_items :]
    with new_shard(directory, number) as fresh:
        types = write_arrays(fresh, histories.items, histories.offsets, histories.columns)
        np.save(fresh / ROWS_FILE, histories.rows, allow_pickle=False)
        write_keys(fresh / "users.parquet", KeyTable({"key": user_keys.to_numpy(zero_copy_only=False)}))
        write_keys(fresh / "items.parquet", KeyTable(new_items), n_events=n_events)
        pq.write_table(rejected, fresh / "rejected.parquet")
    place = shard_directory(number)
    sizes = (len(histories.rows), len(histories.items))
    return Shard(place, *sizes, types, files_hash(directory / place), True, len(user_keys), len(item_keys))


def _with_shard(contents: Contents, shard: Shard, histories: _Histories) -> Contents:
    """The contents of the store with one more shard; the content hash is still the earlier one."""
    return contents._replace(
        n_users=contents.n_users + shard.n_new_users,
        n_items=contents.n_items + shard.n_new_items,
        n_events=contents.n_events + histories.n_new_events,
        columns={
            name: column_dtype(name, np.result_type(dtype, shard.columns[name]))
            for name, dtype in contents.columns.items()
        },
        shards=(*contents.shards, shard),
    )


def _remove_remains(directory: Path) -> None:
    """Removes shards that the manifest does not list, which an append that was killed has left."""
    shards = {shard.directory for shard in contents_of(read_manifest(directory), directory).shards}
    for place in (directory / "shards").glob("*"):
        if f"shards/{place.name}" not in shards:
            shutil.rmtree(place, ignore_errors=True)


def _version_of(contents: Contents, preparation: Mapping[str, Any]) -> JsonObject:
    """What the manifest keeps of a store that grows, so that it can be told from what it has become."""
    return {
        "content_hash": contents.content_hash,
        "n_users": contents.n_users,
        "n_items": contents.n_items,
        "n_events": contents.n_events,
        "columns": contents.columns,
        "n_shards": len(contents.shards),
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
    cleaned = clean_events(source.events, by_itself, engine_of(source), parts=source.parts, report=report)
    table = collect(cleaned.events.sort(*steps.time_order(cleaned.events)))
    columns = {
        name: table[name] if name in ("user_id", "item_id") else event_column(name, table[name])
        for name in table.column_names
    }
    return columns, collect(cleaned.rejected.sort("event_index")), cleaned.counts


def _numbered(stored: KeyTable, keys: pa.ChunkedArray, what: str) -> tuple[pa.Array, Int[np.ndarray, " n_new_events"]]:
    """The keys that are not stored, in the order of `keys`, and the place of each of `keys` in the stored and these.

    The stored keys are passed through once; what is held is what there is of new ones.
    """
    known_type = next(stored.batches("key")).type
    if known_type == pa.int64() and not pa.types.is_integer(keys.type):
        raise InputError(
            f"{what} are integers in the store and text such as {keys[0].as_py()!r} in the new events; "
            "correct them, or prepare all events again"
        )
    # A day whose ids all happen to be integers may meet a store whose ids are text.
    keys = keys.cast(known_type).combine_chunks()
    distinct = pc.unique(keys)
    places = np.full(len(distinct), -1, np.int64)
    n_stored = 0
    for batch in stored.batches("key"):
        places_in_distinct = pc.index_in(batch, value_set=distinct)
        places[places_in_distinct.drop_null().to_numpy()] = n_stored + np.flatnonzero(places_in_distinct.is_valid())
        n_stored += len(batch)
    is_new = places < 0
    places[is_new] = n_stored + np.arange(np.sum(is_new))
    return distinct.filter(pa.array(is_new)), places[pc.index_in(keys, value_set=distinct).to_numpy()]


def _is_repeated(
    users: Int[np.ndarray, " n"],
    items: Int[np.ndarray, " n"],
    times: Int[np.ndarray, " n"],
    is_new: Bool[np.ndarray, " n"],
    *,
    gap_us: int,
) -> Bool[np.ndarray, " n"]:
    """Which new events come at most `gap_us` after the same user's previous event with that item."""
    # Of events with other pairs of user and item than new ones have, none can matter.
    pairs = users * (items.max(initial=0) + 1) + items
    new_pairs = np.unique(pairs[is_new])
    near = np.flatnonzero(new_pairs[np.searchsorted(new_pairs[:-1], pairs)] == pairs) if len(new_pairs) else pairs
    # Stable, so that the events of a user and item stay in time order, stored ones first.
    order = near[np.argsort(pairs[near], kind="stable")]
    repeated = np.zeros(len(users), bool)
    repeated[order[1:]] = (np.diff(pairs[order]) == 0) & (np.diff(times[order]) <= gap_us)
    return repeated & is_new


def _record_append(
    preparation: Mapping[str, Any],
    appended: Appended,
    source: Source,
    split_config: SplitConfig | None,
    *,
    made: Split | None,
) -> JsonObject:
    """`preparation` with the append and the split of the grown store, which may be `made` already."""
    noted = dict(preparation)
    if "categories" in noted:
        noted["categories"] = {**noted["categories"], **source.categories}
    counts = [count._asdict() for count in appended.counts]
    facts = {
        field: getattr(appended, field) for field in ("n_new_events", "n_new_users", "n_new_items", "n_duplicates")
    }
    noted["appended"] = [*noted.get("appended", []), {"source": source.name, **facts, "counts": counts}]
    if split_config is not None:
        split = split_store(appended.store, split_config, made=made)
        described = {"description": split.description, "hash": split.content_hash}
        noted["split"] = {**dataclasses.asdict(split_config), **described}
    return noted
