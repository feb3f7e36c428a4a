"""The sequence store: every user's items in flat arrays with offsets; on disk NumPy, Parquet and JSON."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int32, Int64

from seqrec.data.content_hash import content_hash
from seqrec.data.directories import replacing_directory
from seqrec.data.key_tables import KeyTable, write_keys
from seqrec.data.manifest import (
    MANIFEST,
    Contents,
    contents_of,
    contents_record,
    earlier_version,
    read_manifest,
    versions_of,
)
from seqrec.data.manifest import read_preparation as read_preparation
from seqrec.data.own_shards import OwnShards, open_own_shards, user_table_of
from seqrec.data.paths import as_input_error
from seqrec.data.ragged import session_numbers
from seqrec.data.shards import NO_COLUMNS, ROOT, Shard, changed_shards, event_blocks, open_shards
from seqrec.data.store_copies import WHOLE, local_store
from seqrec.data.store_files import REMEDY, check_offsets, column_dtype, open_array, write_arrays
from seqrec.files import JsonObject, write_json
from seqrec.types import InputError, Part

VERSIONS_FILE = "event_versions.npy"
"""Of a store that grew when appends rewrote it: the number of appends before the one that brought each event."""
ATTRIBUTES_TYPE = pa.large_list(pa.large_string())


class SequenceStore(NamedTuple):
    """Interactions of users with items, in order: user u's items are `items[offsets[u]:offsets[u + 1]]`.

    >>> store = store_from_sequences([[1, 2, 3], [2, 3]])
    >>> store.items.tolist(), store.offsets.tolist()
    ([1, 2, 3, 2, 3], [0, 3, 5])
    >>> store.n_users, store.n_items, store.n_events
    (2, 3, 5)
    """

    items: Int32[np.ndarray, " n_events"]
    """Item ids 1..n_items, user by user, each user's in time order; of several shards a `ShardedArray`."""
    offsets: Int64[np.ndarray, " n_users_plus_1"]
    item_table: KeyTable
    """Of each item its `key`, and where the data has them its `title` and `attributes`."""
    user_table: KeyTable
    """Of each user the `key`."""
    content_hash: str
    """sha256 of the fields above and the columns; it does not depend on how they lie on disk or when they were written.
    """
    columns: Mapping[str, np.ndarray] = NO_COLUMNS
    """Further values of each event, such as timestamp_us, rating or session; may be empty."""
    shards: tuple[Shard, ...] = ()
    """The shards on disk, if there are several."""
    directory: Path | None = None
    """Where the store lies; None in memory."""
    own: OwnShards | None = None
    """Where the users and events stand in the whole store, if only some of its shards were opened; the items and the
    content hash are those of the whole store all the same."""

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_table)

    @property
    def n_events(self) -> int:
        return len(self.items)

    @property
    def n_values(self) -> int:
        """Item ids, and values of event columns."""
        return self.n_events * (1 + len(self.columns))

    @property
    def item_keys(self) -> np.ndarray:
        """The keys of the items in the data, int64 or str: that of item id i is `item_keys[i - 1]`."""
        return self.item_table["key"]

    @property
    def user_keys(self) -> np.ndarray:
        """The keys of the users in the data, int64 or str."""
        return self.user_table["key"]

    @property
    def titles(self) -> np.ndarray | None:
        """A title for each item, "" if it has none; None if the data has no titles."""
        return self.item_table.get("title")

    @property
    def attributes(self) -> pa.Array | None:
        """A list of texts for each item, such as its genres; None if the data has none."""
        return self.item_table.get("attributes")


def sequence_store(
    items: Int[np.ndarray, " n_events"],
    offsets: Int[np.ndarray, " n_users_plus_1"],
    item_keys: np.ndarray,
    user_keys: np.ndarray,
    titles: np.ndarray | None = None,
    columns: Mapping[str, np.ndarray] = NO_COLUMNS,
    attributes: pa.Array | None = None,
) -> SequenceStore:
    """The store of these arrays, after checking that they fit together.

    An event column is int64, int32, float64 or bool; other number types are widened if that loses nothing.
    """
    if len(offsets) != len(user_keys) + 1:
        raise InputError(
            f"{len(offsets)} offsets for {len(user_keys)} users; give one more offset than there are users"
        )
    check_offsets(offsets, len(items))
    item_table = _item_table(item_keys, titles, attributes)
    _check_ids(items, len(item_table), "{what}; 0 is padding, number items from 1")
    columns = {name: _event_column(name, values, len(items)) for name, values in sorted(columns.items())}
    items, offsets = np.ascontiguousarray(items, np.int32), np.ascontiguousarray(offsets, np.int64)
    return _hashed(SequenceStore(items, offsets, item_table, KeyTable({"key": user_keys}), "", columns))


def sharded_store(
    directory: Path,
    shards: Sequence[Shard],
    *,
    item_keys: np.ndarray,
    titles: np.ndarray | None = None,
    attributes: pa.Array | None = None,
) -> SequenceStore:
    """The store of shards that `write_shard` has written below `directory`, in their order; `write_files` completes it.

    Raises:
      InputError: the shards do not fit together or do not fit the items.
    """
    if not shards or len({frozenset(shard.columns) for shard in shards}) > 1:
        raise InputError(f"{directory}: there are no shards, or their columns differ; give all the same columns")
    types = {name: np.result_type(*(shard.columns[name] for shard in shards)) for name in shards[0].columns}
    arrays = open_shards(directory, shards, {name: column_dtype(name, dtype) for name, dtype in types.items()})
    item_table = _item_table(item_keys, titles, attributes)
    _check_ids(arrays.items, len(item_table), f"{directory}: {{what}}; number items before shards are written")
    items, offsets, columns = arrays
    user_table = user_table_of(directory, shards)
    return _hashed(SequenceStore(items, offsets, item_table, user_table, "", columns, tuple(shards), directory))


def _item_table(item_keys: np.ndarray, titles: np.ndarray | None, attributes: pa.Array | None) -> KeyTable:
    if not 1 <= len(item_keys) < 2**31 - 1:
        raise InputError(f"{len(item_keys)} items; a store holds 1 to 2^31 - 2, so that item ids fit int32")
    if titles is not None and len(titles) != len(item_keys):
        raise InputError(f"{len(titles)} titles for {len(item_keys)} items; give one each, '' where unknown")
    if attributes is not None and len(attributes) != len(item_keys):
        raise InputError(f"{len(attributes)} lists of attributes for {len(item_keys)} items; give one each")
    columns = {"key": item_keys, "title": titles, "attributes": attributes}
    return KeyTable({name: values for name, values in columns.items() if values is not None})


def _check_ids(items: Any, n_items: int, complaint: str) -> None:
    for block in itertools.chain(*(event_blocks(part) for part in getattr(items, "parts", [items]))):
        low, high = int(block.min()), int(block.max())
        if low < 1 or high > n_items:
            what = f"item id {low if low < 1 else high} is outside 1..n_items={n_items}"
            raise InputError(complaint.format(what=what))


def _hashed(store: SequenceStore) -> SequenceStore:
    return store._replace(content_hash=hash_of(store))


def hash_of(store: SequenceStore, *, report: Callable[[int], None] = lambda n_values: None) -> str:
    """The content hash of what the store holds now; `report` is told of blocks of its `n_values`."""
    tables = store.item_table, store.user_table
    return content_hash(store.items, store.offsets, *tables, store.columns, report=report)


def _event_column(name: str, values: np.ndarray, n_events: int) -> np.ndarray:
    if len(values) != n_events:
        raise InputError(f"event column {name!r} has {len(values)} values for {n_events} events; give one each")
    return np.ascontiguousarray(values, dtype=column_dtype(name, values.dtype))


def store_from_sequences(sequences: Sequence[Sequence[int]], *, n_items: int | None = None) -> SequenceStore:
    """An in-memory store of one sequence of item ids for each user; the keys of items and users are 1, 2, ...

    >>> store_from_sequences([[3, 1], [2]], n_items=9).n_items
    9
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    items = np.array([item for sequence in sequences for item in sequence], dtype=np.int64)
    if n_items is None:
        n_items = int(items.max(initial=0))
    return sequence_store(
        items,
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        item_keys=np.arange(1, n_items + 1),
        user_keys=np.arange(1, len(sequences) + 1),
    )


def write_store(
    directory: Path | str,
    store: SequenceStore,
    *,
    preparation: Mapping[str, Any] | None = None,
    side_tables: Mapping[str, pa.Table] = MappingProxyType({}),
) -> SequenceStore:
    """Writes the store whole or not at all, and returns it memory-mapped from `directory`.

    An existing store is replaced; a directory that holds anything else is refused. `preparation`, JSON that describes
    how the data was made, goes into the manifest; `side_tables` become Parquet files of these names.
    """
    with replacing_directory(directory) as fresh:
        write_files(fresh, store, preparation=preparation, side_tables=side_tables)
    return open_store(directory)


def write_files(
    directory: Path,
    store: SequenceStore,
    *,
    preparation: Mapping[str, Any] | None = None,
    side_tables: Mapping[str, pa.Table] = MappingProxyType({}),
) -> None:
    """Writes the files of a store into a directory, but arrays over events and shards that are already there."""
    contents = contents_of_store(store)
    if store.directory != directory or not store.shards:
        types = write_arrays(directory, store.items, store.offsets, store.columns)
        write_keys(directory / "users.parquet", store.user_table)
        contents = contents._replace(shards=(Shard(ROOT, store.n_users, store.n_events, types),))
    write_keys(directory / "items.parquet", store.item_table, n_events=item_counts(store.items, store.n_items))
    for name, table in side_tables.items():
        pq.write_table(table, directory / f"{name}.parquet")
    record = contents_record(contents) | ({"preparation": dict(preparation)} if preparation else {})
    write_json(directory / MANIFEST, record)


def contents_of_store(store: SequenceStore) -> Contents:
    """What a manifest says that the store holds."""
    item_columns = tuple(name for name in ("key", "title", "attributes") if name in store.item_table)
    columns = {name: values.dtype.str for name, values in store.columns.items()}
    shards = store.shards or (Shard(ROOT, store.n_users, store.n_events, columns),)
    return Contents(store.n_users, store.n_items, store.n_events, store.content_hash, item_columns, columns, shards)


def item_counts(items: Any, n_items: int) -> Int64[np.ndarray, " n_items"]:
    """The number of events of each item."""
    counts = np.zeros(n_items + 1, np.int64)
    for block in event_blocks(items):
        add_counts(counts, block)
    return counts[1:]


def add_counts(counts: Int64[np.ndarray, " n_items_plus_1"], items: Int[np.ndarray, " n"]) -> None:
    """Adds the number of times that each id is among `items` to `counts`."""
    if len(items) < len(counts):  # to go through a whole catalogue would cost more than the items
        np.add.at(counts, items, 1)
    else:
        counts += np.bincount(items, minlength=len(counts))


def open_store(
    directory: Path | str, *, as_of: str | None = None, verify: bool = False, part: Part = WHOLE
) -> SequenceStore:
    """The store in `directory`; arrays and keys are read from disk as they are used, a bucket's from a copy.

    Item ids and offsets are checked to be in range; with `verify` all is read and hashed. `as_of` is the content hash
    that the store had before appends: what was appended since is left out. Of several parts, one has the users of every
    `n_parts`-th shard: no events of another shard are opened, or fetched from a bucket.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = write_store(f"{directory}/store", store_from_sequences([[1, 2, 3], [2, 3]]))
    ...     open_store(f"{directory}/store").items.tolist()
    [1, 2, 3, 2, 3]

    Raises:
      InputError: there is no store, it is damaged, it never had the content hash `as_of`, or its shards cannot be
        shared out.
    """
    directory = local_store(Path(directory), part)
    manifest = read_manifest(directory)
    contents = contents_of(manifest, directory)
    if as_of not in (None, contents.content_hash):
        number, version = earlier_version(manifest, directory, str(as_of))
        if "n_shards" not in version:
            return _before_appends_in_place(directory, manifest, number, version)
        contents = _earlier_contents(contents, version, directory)
    store = open_contents(directory, contents, part)
    if verify:
        check_content(store)
    return store


def check_content(store: SequenceStore, *, report: Callable[[int], None] = lambda n_values: None) -> None:
    """Reads all of a store on disk, and refuses one that does not have its content hash.

    `report` is told of each block how many of the store's `n_values` it had. Of shards that were opened without the
    others the hashes of their files are compared, which are kept in the manifest.
    """
    if store.own is not None:
        if store.directory is not None and changed_shards(store.directory, store.own.shards):
            raise InputError(_damaged(store.directory, store.content_hash, store.own.shards))
        report(store.n_values)
    elif hash_of(store, report=report) != store.content_hash:
        raise InputError(_damaged(store.directory, store.content_hash, store.shards))


def open_contents(directory: Path, contents: Contents, part: Part = WHOLE) -> SequenceStore:
    """The store of these contents, which a manifest lists or will list, or the part of it in a part's own shards."""
    shards, n_items = contents.shards, contents.n_items
    own = None
    if part.n_parts == 1:
        arrays, user_table = open_shards(directory, shards, contents.columns), user_table_of(directory, shards)
        n_users, n_events = len(user_table), len(arrays.items)
    else:
        arrays, user_table, own = open_own_shards(directory, contents, part)
        n_users, n_events = own.n_users, own.n_events
    if (n_users, n_events) != (contents.n_users, contents.n_events):
        raise InputError(
            f"{directory}: the shards hold {n_users} users and {n_events} events, the manifest says "
            f"{contents.n_users} and {contents.n_events}; {REMEDY}"
        )
    items_of = {directory / "items.parquet": n_items - sum(shard.n_new_items for shard in shards)}
    items_of |= {
        directory / shard.directory / "items.parquet": shard.n_new_items for shard in shards[1:] if shard.is_appended
    }
    item_table = KeyTable.of_files(items_of, contents.item_columns)
    shards = shards if own is None else own.shards
    for values, shard in zip(getattr(arrays.items, "parts", [arrays.items]), shards, strict=True):
        file = directory / shard.directory / "items.npy"
        _check_ids(values, n_items, f"{file} holds ids outside 1..n_items={n_items}; {REMEDY}")
    several = shards if len(shards) > 1 else ()
    items, offsets, columns = arrays
    content_hash = contents.content_hash
    return SequenceStore(items, offsets, item_table, user_table, content_hash, columns, several, directory, own)


def _damaged(directory: Path | None, due: str, shards: Sequence[Shard] = ()) -> str:
    changed = ", ".join(changed_shards(directory, shards)) if directory else ""
    where = f" (files of {changed} are not those that were written)" if changed else ""
    return f"{directory} is damaged: its arrays do not have its content hash {due}{where}; {REMEDY}"


def _earlier_contents(now: Contents, version: JsonObject, directory: Path) -> Contents:
    """What a store held before an append: its first shards."""
    with as_input_error(_unknown(directory), ValueError, KeyError, TypeError, AttributeError):
        return now._replace(
            n_users=int(version["n_users"]),
            n_items=int(version["n_items"]),
            n_events=int(version["n_events"]),
            content_hash=str(version["content_hash"]),
            columns=dict(version["columns"]),
            shards=now.shards[: int(version["n_shards"])],
        )


def _before_appends_in_place(directory: Path, manifest: JsonObject, number: int, version: JsonObject) -> SequenceStore:
    """The store before an append of the time when appends rewrote it, and noted which one each event came with.

    These appends gave new users and items ids behind the known ones, and never changed the order of stored events.
    """
    contents = contents_of(manifest, directory)
    in_shards = [each for each in versions_of(manifest, directory) if "n_shards" in each]
    if in_shards:
        contents = _earlier_contents(contents, in_shards[0], directory)
    store = open_contents(directory, contents)
    is_earlier = open_array(directory / VERSIONS_FILE, "<i4", store.n_events) <= number
    users = np.repeat(np.arange(store.n_users), np.diff(store.offsets))[is_earlier]
    with as_input_error(_unknown(directory), InputError, ValueError, KeyError, TypeError, AttributeError):
        n_users, n_items = int(version["n_users"]), int(version["n_items"])
        columns = {name: store.columns[name][is_earlier].astype(dtype) for name, dtype in version["columns"].items()}
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
        gap_us = version["session_gap_us"]
        if gap_us is not None:
            columns["session"] = session_numbers(columns["timestamp_us"], offsets, gap_us=gap_us)
        items, user_table = store.items[is_earlier], store.user_table.first(n_users)
        earlier = _hashed(SequenceStore(items, offsets, store.item_table.first(n_items), user_table, "", columns))
    if earlier.content_hash != version["content_hash"]:
        raise InputError(_damaged(directory, version["content_hash"]))
    return earlier


def _unknown(directory: Path) -> str:
    return f"{directory}: the events before appends cannot be told ({{error}}); {REMEDY}"
