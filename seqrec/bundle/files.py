"""The files of a bundle: their names, their hashes, and the manifest that says what the bundle is."""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from seqrec.data.directories import Kind
from seqrec.data.paths import as_input_error
from seqrec.data.store_copies import local_store
from seqrec.data.store_files import key_column, keys_of
from seqrec.files import JsonObject, address_of, read_object, sha256_of, write_json
from seqrec.types import InputError, Times

FORMAT_VERSION = 1
MANIFEST, WEIGHTS, ITEMS, CONFIG = "manifest.json", "weights.safetensors", "items.parquet", "config.json"
TOP_K, STATES, PROBES, CARD = "top_k.stablehlo", "states.stablehlo", "probes.json", "README.md"
CONSTANTS, CODES = "constants.safetensors", "codes.parquet"
"""Of bundles whose model composes parameters with constants, and of those whose items have codes."""
ONNX_TOP_K, ONNX_STATES = "top_k.onnx", "states.onnx"
SESSION_PROGRAMS = START, APPEND, STATE_TOP_K = "start.stablehlo", "append.stablehlo", "top_k_of_states.stablehlo"
NEEDED = (WEIGHTS, ITEMS, CONFIG, TOP_K, STATES, PROBES, CARD)
INDEX = "index.usearch"
"""Of the bundles that have one."""
REMEDY = "export the run again"
BUNDLE = Kind("bundle", (WEIGHTS, TOP_K))

ItemTableType = Literal["float32", "bfloat16", "int8"]
Search = Literal["exact", "int8", "ann"]
"""How the best items are found: by the scores of all; or by the exact scores of candidates, which int8 rows or an
approximate nearest-neighbour index propose."""


class Facts(NamedTuple):
    """What `load_bundle` must know before it opens a file."""

    model: str
    """Name of the script that trained it, such as sasrec."""
    n_items: int
    max_length: int
    """Latest items of a history that the model reads."""
    d_model: int
    times: Times
    """Which timestamps the model reads."""
    mask_seen: bool
    """Whether the run was tested with seen items excluded from the candidates, which answers follow by default."""
    item_table: ItemTableType
    """In which type the item table is stored."""
    jax_version: str
    """Version that exported the programs; older ones may not read them."""
    recall: JsonObject | None = None
    """How many of the `k` best items of exact search each other search finds, by its name, as a mean over `n_users`
    test users; None where it was not measured."""
    sessions: bool = False
    """Whether the model can read one more event without the whole history, so that it has `SESSION_PROGRAMS`."""
    content_hash: str = ""
    """sha256 over the hashes of all files; a bundle that is being written has none yet."""


class Vocabulary(NamedTuple):
    """The items, in the order of their ids: item i is at place i - 1."""

    keys: np.ndarray
    """The data's own keys, int64 or text."""
    n_events: np.ndarray
    """How often each occurs in training."""
    titles: np.ndarray | None = None
    attributes: pa.Array | None = None
    is_listed: Bool[np.ndarray, " n_items"] | None = None
    """Whether each is in the catalogue of today, and may be listed; None where all are."""


def write_manifest(directory: Path, facts: Facts) -> None:
    """Writes the manifest of a directory that holds all other files of a bundle: with it the bundle is complete."""
    hashes = {file.name: sha256_of(file) for file in sorted(directory.iterdir())}
    listed = "".join(f"{digest} {name}\n" for name, digest in hashes.items())
    write_json(
        directory / MANIFEST,
        {
            "bundle_version": FORMAT_VERSION,
            # By content_hash a copy of a bucket's directory is kept, as that of a store is.
            **facts._replace(content_hash=hashlib.sha256(listed.encode()).hexdigest())._asdict(),
            "files": hashes,
        },
    )


def open_directory(path: Path | str, *, verify: bool = True) -> tuple[Path, Facts]:
    """The local directory of a bundle, which may be s3:// or gs://, and its facts.

    With `verify` each file is read and compared with its hash.

    Raises:
      InputError: it is no bundle, it is of another version, or a file is missing, foreign or changed.
    """
    directory = local_store(Path(path))
    manifest = read_manifest(directory)
    version = manifest["bundle_version"]
    if version != FORMAT_VERSION:
        raise InputError(
            f"{address_of(path)} is a bundle of version {version}, and this seqrec reads version {FORMAT_VERSION}; "
            f"{'install a newer seqrec' if version > FORMAT_VERSION else REMEDY}"
        )
    hashes = manifest["files"]
    for name in dict.fromkeys((*NEEDED, *hashes)):
        if name not in hashes or Path(name).name != name or not (directory / name).is_file():
            raise InputError(f"{address_of(path)} lacks the file {name}; {REMEDY}")
        if verify and sha256_of(directory / name) != hashes[name]:
            raise InputError(f"{directory / name} is damaged: its checksum is not {hashes[name]}; {REMEDY}")
    return directory, _facts(directory / MANIFEST, manifest)


def read_manifest(directory: Path) -> JsonObject:
    """The manifest of the bundle in a local directory.

    Raises:
      InputError: the directory holds no bundle.
    """
    file = directory / MANIFEST
    if not file.is_file():
        raise InputError(f"{directory} holds no bundle; name the directory that experiments/export.py wrote")
    manifest = read_object(file)
    if "bundle_version" not in manifest:
        raise InputError(f"{file} is not the manifest of a bundle; name the directory that experiments/export.py wrote")
    return read_object(file, bundle_version=int, files=dict)


def _facts(file: Path, manifest: JsonObject) -> Facts:
    kinds = {"n_items": int, "max_length": int, "d_model": int}
    texts = {"model": str, "times": str, "item_table": str, "jax_version": str, "content_hash": str}
    read_object(file, **kinds, **texts)
    values: JsonObject = {name: manifest.get(name, Facts._field_defaults.get(name)) for name in Facts._fields}
    facts = Facts(**values)
    known = facts.times in get_args(Times) and facts.item_table in get_args(ItemTableType)
    known = known and isinstance(facts.mask_seen, bool) and isinstance(facts.sessions, bool)
    if not known or min(facts.n_items, facts.max_length, facts.d_model) < 1:
        raise InputError(f"{file} has values that no export writes; {REMEDY}")
    return facts


def write_vocabulary(file: Path, vocabulary: Vocabulary) -> None:
    """Writes one row for each item, in the order of ids."""
    columns = {"key": key_column(vocabulary.keys), "n_events": pa.array(vocabulary.n_events, pa.int64())}
    if vocabulary.titles is not None:
        columns["title"] = key_column(vocabulary.titles)
    if vocabulary.attributes is not None:
        columns["attributes"] = vocabulary.attributes
    if vocabulary.is_listed is not None:
        columns["is_listed"] = pa.array(vocabulary.is_listed)
    pq.write_table(pa.table(columns), file)


def read_vocabulary(file: Path) -> Vocabulary:
    """The items of a bundle.

    Raises:
      InputError: the file is no vocabulary, or gives two items one key.
    """
    kinds = (KeyError, ValueError, OSError, pa.ArrowException)
    with as_input_error(f"{file} is not the vocabulary of a bundle; {REMEDY}", *kinds):
        table = pq.read_table(file)
        names = table.column_names
        keys, n_events = keys_of(table["key"]), table["n_events"].to_numpy()
        titles = keys_of(table["title"]) if "title" in names else None
        is_listed = table["is_listed"].to_numpy() if "is_listed" in names else None
    if len(set(keys.tolist())) < len(keys):
        raise InputError(f"{file} has a key twice; {REMEDY}")
    attributes = table["attributes"].combine_chunks() if "attributes" in names else None
    return Vocabulary(keys, n_events, titles, attributes, is_listed)


def most_popular_first(n_events: Int[np.ndarray, " n_items"]) -> Int[np.ndarray, " n_items"]:
    """Item ids by falling count; of equal ones the lower comes first.

    >>> most_popular_first(np.array([3, 9, 3])).tolist()
    [2, 1, 3]
    """
    return 1 + np.argsort(-n_events, kind="stable")


def listed_first(vocabulary: Vocabulary) -> Int[np.ndarray, " n_listed"]:
    """The ids of items that may be listed, as `most_popular_first` has them."""
    ids = most_popular_first(vocabulary.n_events)
    return ids if vocabulary.is_listed is None else ids[vocabulary.is_listed[ids - 1]]


def popular_items(
    by_popularity: Int[np.ndarray, " n_items"],
    k: int,
    *,
    allow: Int[np.ndarray, " n_allowed"] | None = None,
    exclude: Int[np.ndarray, " n_excluded"],
) -> Int[np.ndarray, " n_listed"]:
    """The first `k` candidates, by arrays of ids.

    >>> popular_items(np.array([3, 1, 2, 4]), 2, exclude=np.array([3])).tolist()
    [1, 2]
    >>> popular_items(np.array([3, 1, 2, 4]), 2, allow=np.array([4, 2, 2]), exclude=np.zeros(0, int)).tolist()
    [2, 4]
    """
    # Only as many as can be needed are looked at: there may be many such users, and many items.
    listed = by_popularity[: k + len(exclude)] if allow is None else by_popularity[np.isin(by_popularity, allow)]
    return listed[~np.isin(listed, exclude)][:k]
