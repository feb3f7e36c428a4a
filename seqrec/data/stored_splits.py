"""Splits that lie with their store, so that no process works one out twice."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from seqrec.data.own_shards import OwnShards
from seqrec.data.paths import as_input_error
from seqrec.data.ragged import ranges
from seqrec.data.shards import user_blocks
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore, add_counts
from seqrec.files import JsonObject, read_object, sha256_of, write_json
from seqrec.types import InputError

FORM = 1
"""Goes into the names of the directories: splits of another form are made anew."""
ARRAYS = ("train_stop", "valid", "test", "test_start", "training_counts")


def split_directory(store: SequenceStore, config: Mapping[str, Any]) -> Path | None:
    """Where the split of this config lies, or will, below a store on disk; None for one in memory."""
    if store.directory is None:
        return None
    described = json.dumps([FORM, dict(config)], sort_keys=True)
    return store.directory / "splits" / store.content_hash / hashlib.sha256(described.encode()).hexdigest()[:16]


def read_split(directory: Path, own: OwnShards | None = None) -> Split | None:
    """The split that lies there, or what it says of the users of `own` shards; None where there is none.

    Raises:
      InputError: a file is not as it was written.
    """
    if not (directory / "split.json").is_file():
        return None
    remedy = f"remove {directory}, and it is made again"
    record = read_object(directory / "split.json", arrays=dict, content_hash=str, description=str, asks_every=bool)
    arrays = {}
    for name, expected in record["arrays"].items():
        file = directory / f"{name}.npy"
        with as_input_error(f"{file} is missing or damaged; {remedy}", Exception):  # whatever NumPy raises
            mode: Any = None if own is None else "r"
            hash_of_file, arrays[name] = sha256_of(file), np.load(file, mmap_mode=mode, allow_pickle=False)
        if hash_of_file != expected or name not in ARRAYS:
            raise InputError(f"{file} is not as it was written; {remedy}")
        if own is not None:
            arrays[name] = np.array(arrays[name]) if name == "training_counts" else own.own_places(arrays[name])
        arrays[name].setflags(write=False)
    facts = {name: record[name] for name in ("content_hash", "description", "asks_every")}
    with as_input_error(f"{directory} lacks an array ({{error}}); {remedy}", TypeError):
        return Split(**arrays, **facts)


def write_split(directory: Path, split: Split) -> None:
    """Writes the split whole or not at all; one that another process has written meanwhile is as good."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
    try:
        fresh = scratch / "fresh"
        fresh.mkdir()
        hashes = {}
        for name in ARRAYS:
            if getattr(split, name) is not None:
                np.save(fresh / f"{name}.npy", np.asarray(getattr(split, name), "<i8"), allow_pickle=False)
                hashes[name] = sha256_of(fresh / f"{name}.npy")
        record: JsonObject = {name: getattr(split, name) for name in ("content_hash", "description", "asks_every")}
        write_json(fresh / "split.json", record | {"arrays": hashes})
        try:
            os.rename(fresh, directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_other_splits(directory: Path, content_hash: str) -> None:
    """Removes the splits of what the store in `directory` was before it had this content hash."""
    for place in (directory / "splits").glob("*"):
        if place.name != content_hash:
            shutil.rmtree(place, ignore_errors=True)


def with_training_counts(store: SequenceStore, split: Split) -> Split:
    """The split with its training counts, which are worked out where it has none."""
    return split if split.training_counts is not None else split._replace(training_counts=count_training(store, split))


def count_training(store: SequenceStore, split: Split) -> Int64[np.ndarray, " n_items_plus_1"]:
    """How often each item id occurs in the training part of the histories; entry 0 (padding) is 0."""
    offsets, train_stop = np.asarray(store.offsets), np.asarray(split.train_stop)
    in_all, held_out = np.zeros((2, store.n_items + 1), np.int64)
    for users, (items,) in user_blocks(offsets, store.items):
        stops = train_stop[users]
        add_counts(in_all, items)
        add_counts(held_out, items[ranges(stops - offsets[users.start], offsets[1:][users] - stops)])
    return in_all - held_out
