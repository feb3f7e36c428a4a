"""A store's manifest: what lies where, how the data was prepared, and what the store was before each append."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from seqrec.data.directories import settle
from seqrec.data.paths import as_input_error
from seqrec.data.shards import ROOT, Shard
from seqrec.data.store_copies import local_store
from seqrec.data.store_files import COLUMN_DTYPES, REMEDY
from seqrec.files import JsonObject
from seqrec.types import InputError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
"""Of a store whose arrays lie beside its manifest."""
SHARDED_VERSION = 2
"""Of a store that lists its shards."""
SHARD_DIRECTORY = re.compile(r"\.|shards/\d{6,}")
PREPARATION_TYPES = {"steps": dict, "counts": list, "split": dict, "categories": dict, "ties": dict, "appended": list}
"""JSON types of what `prepare_store` and `append_events` write into the manifest's `preparation`."""


class Contents(NamedTuple):
    """What a store holds, or held before an append."""

    n_users: int
    n_items: int
    n_events: int
    content_hash: str
    item_columns: tuple[str, ...]
    columns: dict[str, str]
    """The type of each event column."""
    shards: tuple[Shard, ...]


def read_manifest(directory: Path) -> JsonObject:
    """The manifest of the store in `directory`.

    Raises:
      InputError: there is no store, or one of a later format.
    """
    if not directory.exists():
        settle(directory)
    if not directory.exists():
        raise InputError(f"{directory} does not exist; prepare the data first or correct the path")
    if not (directory / MANIFEST).is_file():
        raise InputError(f"{directory} is not a sequence store (it has no manifest.json); name the directory of one")
    with as_input_error(_no_manifest(directory), ValueError, KeyError, TypeError, OSError):
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
    if version not in (FORMAT_VERSION, SHARDED_VERSION):
        known = f"{FORMAT_VERSION} and {SHARDED_VERSION}"
        raise InputError(f"{directory} has format version {version}; this seqrec reads {known}; {REMEDY}")
    return manifest


def contents_of(manifest: JsonObject, directory: Path) -> Contents:
    """What the manifest of the store in `directory` says that the store holds.

    Raises:
      InputError: it does not say it, or names what no store has.
    """
    with as_input_error(_no_manifest(directory), ValueError, KeyError, TypeError, AttributeError, OverflowError):
        n_users, n_items, n_events = (int(manifest[name]) for name in ("n_users", "n_items", "n_events"))
        has = {"title": manifest["has_titles"], "attributes": manifest.get("has_attributes")}
        columns = {str(column["name"]): str(column["dtype"]) for column in manifest.get("event_columns", [])}
        shards = [Shard(**record) for record in manifest.get("shards", [])]
        shards = shards or [Shard(ROOT, n_users, n_events, columns)]
        if any(shard.columns.keys() != columns.keys() for shard in shards):
            raise ValueError("a shard has other columns")
        places = [str(shard.directory) for shard in shards]
        types = [*columns.items(), *(column for shard in shards for column in shard.columns.items())]
    if wrong := next((place for place in places if not SHARD_DIRECTORY.fullmatch(place)), None):
        raise InputError(f"{directory / MANIFEST} has the shard {wrong!r}; {REMEDY}")
    for name, dtype in types:
        if dtype not in COLUMN_DTYPES:
            raise InputError(f"{directory / MANIFEST} has the type {dtype!r} for {name!r}; {REMEDY}")
    item_columns = ("key", *(name for name in has if has[name]))
    content_hash = str(manifest["content_hash"])
    return Contents(n_users, n_items, n_events, content_hash, item_columns, columns, tuple(shards))


def contents_record(contents: Contents) -> JsonObject:
    """`contents` as they stand in a manifest."""
    record: JsonObject = {
        "format_version": SHARDED_VERSION if len(contents.shards) > 1 else FORMAT_VERSION,
        "n_users": contents.n_users,
        "n_items": contents.n_items,
        "n_events": contents.n_events,
        "has_titles": "title" in contents.item_columns,
        "content_hash": contents.content_hash,
    }
    if "attributes" in contents.item_columns:
        record["has_attributes"] = True
    if contents.columns:
        record["event_columns"] = [{"name": name, "dtype": dtype} for name, dtype in sorted(contents.columns.items())]
    if record["format_version"] == SHARDED_VERSION:
        record["shards"] = [{**shard._asdict(), "columns": dict(shard.columns)} for shard in contents.shards]
    return record


def versions_of(manifest: JsonObject, directory: Path) -> list[JsonObject]:
    """What the store was before each append, oldest first: content hash, sizes, and what else tells it apart."""
    versions = manifest.get("versions", [])
    if not isinstance(versions, list) or not all(isinstance(version, dict) for version in versions):
        raise InputError(f"{directory / MANIFEST}: versions are no list of objects; {REMEDY}")
    return versions


def earlier_version(manifest: JsonObject, directory: Path, content_hash: str) -> tuple[int, JsonObject]:
    """The number of appends before the store grew from what has this content hash, and the record of that.

    Raises:
      InputError: the store never had this content hash.
    """
    for number, version in enumerate(versions_of(manifest, directory)):
        if version.get("content_hash") == content_hash:
            return number, version
    raise InputError(
        f"{directory} never held the events with the content hash {content_hash}; prepare the same data again, or "
        "start a new run with another --output"
    )


def read_preparation(directory: Path | str, *, as_of: str | None = None) -> JsonObject:
    """The `preparation` that the store in `directory` was written with; empty if there was none.

    With `as_of`, a content hash that the store had before appends, `categories` are those that it had then.
    """
    directory = local_store(Path(directory))
    manifest = read_manifest(directory)
    preparation = manifest.get("preparation") or {}
    if not isinstance(preparation, dict) or any(
        not isinstance(preparation.get(name, kind()), kind) for name, kind in PREPARATION_TYPES.items()
    ):
        raise InputError(f"{directory / MANIFEST}: preparation has other types than were written; {REMEDY}")
    categories = preparation.get("categories", {})
    if not all(isinstance(texts, list) and all(isinstance(t, str) for t in texts) for texts in categories.values()):
        raise InputError(f"{directory / MANIFEST}: categories are no lists of text; {REMEDY}")
    if as_of in (None, manifest.get("content_hash")):
        return preparation
    sizes = earlier_version(manifest, directory, str(as_of))[1].get("n_categories", {})
    return {**preparation, "categories": {name: categories[name][:n] for name, n in sizes.items()}}


def _no_manifest(directory: Path) -> str:
    return f"{directory / MANIFEST} is not a sequence store's manifest; {REMEDY}"
