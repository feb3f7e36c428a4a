"""What training may start from, a trained run or a bundle: its weights, its items and its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqrec import runs
from seqrec.averaged import read_best
from seqrec.bundle.files import CONFIG, ITEMS, MANIFEST, WEIGHTS, Vocabulary, open_directory, read_vocabulary
from seqrec.bundle.files import write_vocabulary as write_items
from seqrec.bundle.weights import read_weights
from seqrec.config import from_json
from seqrec.data.buckets import original
from seqrec.data.split_config import SplitConfig, choose_split, stored_split
from seqrec.data.store import open_store, read_preparation
from seqrec.files import JsonObject, read_object, replacing
from seqrec.neighbours import TABLES
from seqrec.params import leaves_by_name
from seqrec.run.data import DataConfig, Task
from seqrec.run.members import member_directories
from seqrec.types import InputError

Arrays = Mapping[str, np.ndarray]
"""Parameters by their dotted names."""

_ENSEMBLE = "{} is an ensemble, which is not trained itself; start from one of its runs"


class Trained(NamedTuple):
    """A trained run, or a bundle."""

    name: str
    directory: Path
    is_bundle: bool
    weights: Arrays
    """Averaged weights of the best epoch; those of a bundle have the item table that item features compose."""
    item_keys: np.ndarray
    """The data's own keys, in the order of ids."""
    config: JsonObject
    """The script's config."""
    record: JsonObject
    """Which weights these are, for `config.json` and `metrics.json`."""
    split_hash: str | None = None
    """Of the split that a run was trained on; None where it is not known."""


def read_trained(source: Path) -> Trained:
    """The run or the bundle in a local directory.

    Raises:
      InputError: it is neither, or an ensemble, or it is damaged or unfinished.
    """
    if member_directories(source):
        raise InputError(_ENSEMBLE.format(original(source)))
    return _bundle(source) if (source / MANIFEST).is_file() else _run(source)


def _bundle(source: Path) -> Trained:
    name = original(source)
    directory, facts = open_directory(source)
    config = read_object(directory / CONFIG, config=dict)["config"]
    if "members" in config:
        raise InputError(_ENSEMBLE.format(name))
    weights = leaves_by_name(read_weights(directory / WEIGHTS))
    weights = {name: leaf for name, leaf in weights.items() if not name.startswith(f"{TABLES}.")}  # fitted anew
    record = {"bundle": name, "content_hash": facts.content_hash, "item_table": facts.item_table}
    return Trained(name, directory, True, weights, read_vocabulary(directory / ITEMS).keys, config, record)


def _run(source: Path) -> Trained:
    name = original(source)
    started = runs.started_with(source)  # refuses what is no run
    best = read_best(source / "checkpoints") if (source / "checkpoints").is_dir() else None
    if best is None:
        raise InputError(f"{name} holds no checkpoint to start from; let its training reach the end of an epoch first")
    record = {"run": name, "step": best[1].step}
    weights, split_hash = leaves_by_name(best[0]), started.get("data", {}).get("split_hash")
    return Trained(name, source, False, weights, _item_keys(source), started["config"], record, split_hash)


def store_of(run: Path) -> tuple[Path, str]:
    """The directory of a run's store, and the store's content hash when the run was trained."""
    record = runs.started_with(run)
    content_hash = record.get("data", {}).get("content_hash")
    if content_hash is None:
        raise InputError(f"{original(run)} has read no data yet; start from a run that has finished")
    data = from_json(DataConfig, record["config"].get("training", {}).get("data", {}))
    return (data.data_path if data.dataset == "store" and data.data_path else run / "store"), content_hash


def split_of(store: Path) -> SplitConfig | None:
    """The split of the run whose store this is, or that a store was prepared with; None where there is none."""
    stored, run = stored_split(read_preparation(store)), store.resolve().parent
    if not (run / CONFIG).is_file():
        return stored
    data = from_json(DataConfig, runs.started_with(run)["config"].get("training", {}).get("data", {}))
    return choose_split(data.split, stored).config


def _item_keys(run: Path) -> np.ndarray:
    """The keys of a run's items, from its store, or from the run itself where the store is gone."""
    directory, content_hash = store_of(run)
    try:
        return open_store(directory, as_of=content_hash).item_keys
    except InputError as error:
        if (run / ITEMS).is_file():
            return read_vocabulary(run / ITEMS).keys
        raise InputError(f"{original(run)}: its items cannot be told ({error})") from error


def keep_item_keys(run: Path, task: Task) -> None:
    """Leaves the keys of the items in a run that has no store of its own, so that it outlives the store."""
    if task.config.dataset == "store" and not (run / ITEMS).exists():
        with replacing(run / ITEMS) as partial:
            write_items(partial, Vocabulary(task.store.item_keys, task.counts[1:]))
