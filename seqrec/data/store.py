"""The sequence store: every user's items in flat arrays with offsets; on disk NumPy, Parquet and JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int32, Int64

from seqrec.data.buckets import local_store
from seqrec.data.directories import replacing_directory, settle
from seqrec.data.paths import as_input_error
from seqrec.data.ragged import session_numbers
from seqrec.data.store_files import REMEDY, array_files, key_column, keys_of, open_array, open_table
from seqrec.files import JsonObject
from seqrec.types import InputError

FORMAT_VERSION = 1
VERSIONS_FILE = "event_versions.npy"
COLUMN_DTYPES = ("|b1", "<i4", "<i8", "<f8")
ATTRIBUTES_TYPE = pa.large_list(pa.large_string())
NO_COLUMNS: Mapping[str, np.ndarray] = MappingProxyType({})
PREPARATION_TYPES = {"steps": dict, "counts": list, "split": dict, "categories": dict, "ties": dict, "appended": list}
"""JSON types of what `prepare_store` and `append_events` write into the manifest's `preparation`."""


class SequenceStore(NamedTuple):
    """Interactions of users with items, in order: user u's items are `items[offsets[u]:offsets[u + 1]]`.

    >>> store = store_from_sequences([[1, 2, 3], [2, 3]])
    >>> store.items.tolist(), store.offsets.tolist()
    ([1, 2, 3, 2, 3], [0, 3, 5])
    >>> store.n_users, store.n_items, store.n_events
    (2, 3, 5)
    """

    items: Int32[np.ndarray, " n_events"]
    """Item ids 1..n_items, user by user, each user's in time order."""
    offsets: Int64[np.ndarray, " n_users_plus_1"]
    item_keys: np.ndarray
    """The keys of the items in the data, int64 or str: that of item id i is `item_keys[i - 1]`."""
    user_keys: np.ndarray
    """The keys of the users in the data, int64 or str."""
    titles: np.ndarray | None
    """A title for each item, "" if it has none; None if the data has no titles."""
    content_hash: str
    """sha256 of all other fields; it does not depend on the store's path or the time of writing."""
    columns: Mapping[str, np.ndarray] = NO_COLUMNS
    """Further values of each event, such as timestamp_us, rating or session; may be empty."""
    attributes: pa.Array | None = None
    """A list of texts for each item, such as its genres; None if the data has none."""

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    @property
    def n_events(self) -> int:
        return len(self.items)


class AppendHistory(NamedTuple):
    """What a store was before each append."""

    versions: list[JsonObject]
    """Its content hash and sizes, and what else tells it from what it has become; oldest first."""
    came_with: Int32[np.ndarray, " n_events"]
    """The number of appends before the one that brought an event."""


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
    if not 1 <= len(item_keys) < 2**31 - 1:
        raise InputError(f"{len(item_keys)} items; a store holds 1 to 2^31 - 2, so that item ids fit int32")
    if len(offsets) != len(user_keys) + 1:
        raise InputError(
            f"{len(offsets)} offsets for {len(user_keys)} users; give one more offset than there are users"
        )
    if offsets[0] != 0 or offsets[-1] != len(items) or np.any(np.diff(offsets) < 0):
        raise InputError(f"offsets must rise from 0 to n_events={len(items)}; build them with np.cumsum")
    if titles is not None and len(titles) != len(item_keys):
        raise InputError(f"{len(titles)} titles for {len(item_keys)} items; give one each, '' where unknown")
    if attributes is not None and len(attributes) != len(item_keys):
        raise InputError(f"{len(attributes)} lists of attributes for {len(item_keys)} items; give one each")
    if len(items):
        low, high = int(np.min(items)), int(np.max(items))
        if low < 1 or high > len(item_keys):
            raise InputError(
                f"item id {low if low < 1 else high} is outside 1..n_items={len(item_keys)}; "
                "0 is padding, number items from 1"
            )
    columns = {name: _event_column(name, values, len(items)) for name, values in sorted(columns.items())}
    items, offsets = np.ascontiguousarray(items, np.int32), np.ascontiguousarray(offsets, np.int64)
    store = SequenceStore(items, offsets, item_keys, user_keys, titles, "", columns, attributes)
    return store._replace(content_hash=_content_hash(store))


def _event_column(name: str, values: np.ndarray, n_events: int) -> np.ndarray:
    if len(values) != n_events:
        raise InputError(f"event column {name!r} has {len(values)} values for {n_events} events; give one each")
    return np.ascontiguousarray(values, dtype=column_dtype(name, values.dtype))


def column_dtype(name: str, dtype: np.dtype) -> str:
    """The type in which a store holds an event column of this type."""
    wider = next((wide for wide in COLUMN_DTYPES if np.can_cast(dtype, wide)), None)
    if wider is None or dtype == np.uint64:
        raise InputError(f"event column {name!r} is {dtype}, a store holds numbers and booleans; number its values")
    return wider


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


def open_store(directory: Path | str, *, as_of: str | None = None, verify: bool = False) -> SequenceStore:
    """The store in `directory`; items and offsets are read from disk as they are touched, a bucket's from a copy.

    Item ids and offsets are checked to be in range; with `verify` all arrays are read and hashed. `as_of` is the
    content hash that the store had before appends: what was appended since is left out, in memory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = write_store(f"{directory}/store", store_from_sequences([[1, 2, 3], [2, 3]]))
    ...     open_store(f"{directory}/store").items.tolist()
    [1, 2, 3, 2, 3]

    Raises:
      InputError: there is no store, it is damaged, or it never had the content hash `as_of`.
    """
    directory = local_store(Path(directory))
    manifest = _read_manifest(directory)
    with as_input_error(_no_manifest(directory), ValueError, KeyError, TypeError, OverflowError):
        n_users, n_items, n_events = (int(manifest[name]) for name in ("n_users", "n_items", "n_events"))
        content_hash, has_titles = str(manifest["content_hash"]), bool(manifest["has_titles"])
        described = [(str(c["name"]), str(c["dtype"])) for c in manifest.get("event_columns", [])]
    items = open_array(directory / "items.npy", "<i4", n_events)
    offsets = open_array(directory / "offsets.npy", "<i8", n_users + 1)
    # A wrong offset gives a user events of another user.
    if offsets[0] != 0 or offsets[-1] != len(items) or np.any(np.diff(offsets) < 0):
        raise InputError(f"{directory / 'offsets.npy'} does not rise from 0 to n_events={len(items)}; {REMEDY}")
    item_table = open_table(directory / "items.parquet", n_items)
    user_table = open_table(directory / "users.parquet", n_users)
    if len(items) and (items.min() < 1 or items.max() > n_items):
        raise InputError(f"{directory / 'items.npy'} holds ids outside 1..n_items={n_items}; {REMEDY}")
    unreadable = f"{directory} holds tables that cannot be read ({{error}}); {REMEDY}"
    with as_input_error(unreadable, KeyError, ValueError, pa.ArrowException):
        item_keys, user_keys = keys_of(item_table["key"]), keys_of(user_table["key"])
        titles = keys_of(item_table["title"]) if has_titles else None
        attributes = item_table["attributes"].combine_chunks() if manifest.get("has_attributes") else None
    columns = {}
    files = array_files(directory, [name for name, _ in described])
    for name, dtype in described:
        if dtype not in COLUMN_DTYPES:
            raise InputError(f"{directory / 'manifest.json'} has the type {dtype!r} for {name!r}; {REMEDY}")
        columns[name] = open_array(files[name], dtype, n_events)
    store = SequenceStore(items, offsets, item_keys, user_keys, titles, content_hash, columns, attributes)
    if as_of not in (None, content_hash):
        return _as_of(store, directory, str(as_of))
    if verify:
        _check_hash(directory, _content_hash(store), content_hash)
    return store


def _check_hash(directory: Path, found: str, due: str) -> None:
    if found != due:
        raise InputError(f"{directory} is damaged: its arrays do not have its content hash {due}; {REMEDY}")


def _as_of(store: SequenceStore, directory: Path, content_hash: str) -> SequenceStore:
    """`store` without what was appended since it had this content hash.

    Appends give new users and items ids behind the known ones, and never change the order of stored events.
    """
    number, version = _version(directory, content_hash)
    is_earlier = read_history(directory, store).came_with <= number
    users = np.repeat(np.arange(store.n_users), np.diff(store.offsets))[is_earlier]
    complaint = f"{directory}: the events before appends cannot be told ({{error}}); {REMEDY}"
    with as_input_error(complaint, InputError, ValueError, KeyError, TypeError, AttributeError):
        n_users, n_items = int(version["n_users"]), int(version["n_items"])
        columns = {name: store.columns[name][is_earlier].astype(dtype) for name, dtype in version["columns"].items()}
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
        gap_us = version["session_gap_us"]
        if gap_us is not None:
            columns["session"] = session_numbers(columns["timestamp_us"], offsets, gap_us=gap_us)
        earlier = sequence_store(
            store.items[is_earlier],
            offsets,
            store.item_keys[:n_items],
            store.user_keys[:n_users],
            None if store.titles is None else store.titles[:n_items],
            columns,
            None if store.attributes is None else store.attributes[:n_items],
        )
    _check_hash(directory, earlier.content_hash, content_hash)
    return earlier


def _version(directory: Path, content_hash: str) -> tuple[int, JsonObject]:
    versions = _versions(directory)
    for number, version in enumerate(versions):
        if version.get("content_hash") == content_hash:
            return number, version
    raise InputError(
        f"{directory} never held the events with the content hash {content_hash}; prepare the same data again, or "
        "start a new run with another --output"
    )


def _versions(directory: Path) -> list[JsonObject]:
    versions = _read_manifest(directory).get("versions", [])
    if not isinstance(versions, list) or not all(isinstance(version, dict) for version in versions):
        raise InputError(f"{directory / 'manifest.json'}: versions are no list of objects; {REMEDY}")
    return versions


def read_history(directory: Path, store: SequenceStore) -> AppendHistory:
    """What the store in `directory`, which is `store`, was before each append."""
    versions = _versions(directory)
    if not versions:
        return AppendHistory([], np.zeros(store.n_events, np.int32))
    return AppendHistory(versions, open_array(directory / VERSIONS_FILE, "<i4", store.n_events))


def read_preparation(directory: Path | str, *, as_of: str | None = None) -> JsonObject:
    """The `preparation` that the store in `directory` was written with; empty if there was none.

    With `as_of`, a content hash that the store had before appends, `categories` are those that it had then.
    """
    directory = local_store(Path(directory))
    manifest = _read_manifest(directory)
    preparation = manifest.get("preparation") or {}
    if not isinstance(preparation, dict) or any(
        not isinstance(preparation.get(name, kind()), kind) for name, kind in PREPARATION_TYPES.items()
    ):
        raise InputError(f"{directory / 'manifest.json'}: preparation has other types than were written; {REMEDY}")
    categories = preparation.get("categories", {})
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in categories.values()):
        raise InputError(f"{directory / 'manifest.json'}: categories are no lists of text; {REMEDY}")
    if as_of in (None, manifest.get("content_hash")):
        return preparation
    sizes = _version(directory, str(as_of))[1].get("n_categories", {})
    return {**preparation, "categories": {name: categories[name][:n] for name, n in sizes.items()}}


def _read_manifest(directory: Path) -> JsonObject:
    if not directory.exists():
        settle(directory)
    if not directory.exists():
        raise InputError(f"{directory} does not exist; prepare the data first or correct the path")
    if not (directory / "manifest.json").is_file():
        raise InputError(f"{directory} is not a sequence store (it has no manifest.json); name the directory of one")
    with as_input_error(_no_manifest(directory), ValueError, KeyError, TypeError, OSError):
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise InputError(f"{directory} has format version {version}; this seqrec reads {FORMAT_VERSION}; {REMEDY}")
    return manifest


def _no_manifest(directory: Path) -> str:
    return f"{directory / 'manifest.json'} is not a sequence store's manifest; {REMEDY}"


def _content_hash(store: SequenceStore) -> str:
    digest = hashlib.sha256(b"seqrec sequence store 1\n")
    for name in ("items", "offsets", "item_keys", "user_keys", "titles"):
        values = getattr(store, name)
        if values is None:
            continue
        kind = "int" if values.dtype.kind in "iu" else "str"
        if kind == "int":
            parts = [values.astype("<i4" if name == "items" else "<i8", copy=False)]
        else:
            # Arrow's own layout, ends and characters apart: "ab", "c" and "a", "bc" must differ.
            column = pa.array(values, pa.large_string())
            ends = np.frombuffer(column.buffers()[1], dtype="<i8", count=len(column) + 1)
            parts = [ends, np.frombuffer(column.buffers()[2] or b"", dtype=np.uint8, count=int(ends[-1]))]
        digest.update(f"{name} {kind} {len(values)}\n".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
    # After all else and only where there are any: a store without them hashes as it did before there were any.
    for name, values in sorted(store.columns.items()):
        # The name's length first, so that no name can pass for another name and what follows it.
        digest.update(f"event column {len(name)} {name} {values.dtype.str} {len(values)}\n".encode())
        digest.update(np.ascontiguousarray(values).view(np.uint8).data)
    if store.attributes is not None:
        lists = json.dumps(store.attributes.to_pylist(), ensure_ascii=False, separators=(",", ":"))
        digest.update(f"attributes {len(store.attributes)}\n{lists}".encode())
    return digest.hexdigest()


def write_files(
    directory: Path,
    store: SequenceStore,
    *,
    preparation: Mapping[str, Any] | None = None,
    side_tables: Mapping[str, pa.Table] = MappingProxyType({}),
    history: AppendHistory | None = None,
) -> None:
    """Writes the files of a store into an empty directory; arrays over events that are already there are kept."""
    files = array_files(directory, store.columns)
    for name, values in {"item": store.items, **store.columns}.items():
        if not files[name].exists():
            np.save(files[name], values, allow_pickle=False)
    np.save(directory / "offsets.npy", store.offsets.astype("<i8", copy=False), allow_pickle=False)
    item_columns = {"key": key_column(store.item_keys)}
    if store.titles is not None:
        item_columns["title"] = key_column(store.titles)
    if store.attributes is not None:
        item_columns["attributes"] = store.attributes
    item_columns["n_events"] = pa.array(np.bincount(store.items, minlength=store.n_items + 1)[1:])
    if history is not None:
        np.save(directory / VERSIONS_FILE, history.came_with, allow_pickle=False)
    user_columns = {"key": key_column(store.user_keys)}
    for name, columns in (("items", item_columns), ("users", user_columns)):
        pq.write_table(pa.table(columns), directory / f"{name}.parquet", write_page_checksum=True)
    for name, table in side_tables.items():
        pq.write_table(table, directory / f"{name}.parquet")
    manifest: JsonObject = {
        "format_version": FORMAT_VERSION,
        **{name: getattr(store, name) for name in ("n_users", "n_items", "n_events")},
        "has_titles": store.titles is not None,
        "content_hash": store.content_hash,
    }
    further = {
        "has_attributes": store.attributes is not None,
        "event_columns": [{"name": name, "dtype": values.dtype.str} for name, values in sorted(store.columns.items())],
        "versions": None if history is None else history.versions,
        "preparation": None if preparation is None else dict(preparation),
    }
    manifest |= {name: value for name, value in further.items() if value}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
