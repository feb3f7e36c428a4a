"""Item vectors for codes: features of the items, the item table of a trained run or bundle, or both joined."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from seqrec.bundle.weights import ITEM_TABLE
from seqrec.data.buckets import working_copy
from seqrec.data.store import SequenceStore
from seqrec.data.store_files import key_column
from seqrec.files import address_of
from seqrec.run.trained import read_trained
from seqrec.runtime import log
from seqrec.semantic_ids.files import warn_of_other_split
from seqrec.semantic_ids.vectors import VectorConfig, feature_vectors, joined
from seqrec.types import InputError


def item_vectors(
    config: VectorConfig,
    store: SequenceStore,
    trained: Bool[np.ndarray, " n_items_plus_1"],
    *,
    split_hash: str | None = None,
) -> Float[np.ndarray, "n_items width"]:
    """The joined vectors of the store's items; `trained` says which items occur in training histories.

    With a `split_hash` a warning says where the run of the table was trained on another split.

    Raises:
      InputError: no vectors are named, all are equal or missing, or features or table cannot be read.
    """
    if not config.item_features and config.table is None:
        raise InputError("no item vectors are named; give --item-features, such as attributes, or --table, a run")
    parts = feature_vectors(config, store, trained)
    if config.table is not None:
        with working_copy(config.table, read_only=True) as directory:
            table = table_vectors(directory, store, trained, split_hash=split_hash)
            parts.append((table, config.table_weight))
    vectors = joined(parts)
    without = int(np.count_nonzero(~vectors.any(axis=1)))
    if without == len(vectors):
        raise InputError("all item vectors are equal or missing, so codes cannot tell items apart; name other features")
    log.info("vectors     %s numbers an item; %s of %s items have none", vectors.shape[1], without, len(vectors))
    return vectors


def table_vectors(
    source: Path,
    store: SequenceStore,
    trained: Bool[np.ndarray, " n_items_plus_1"],
    *,
    split_hash: str | None = None,
) -> Float[np.ndarray, "n_items width"]:
    """The item table of a run or bundle, by item key; 0 where it lacks an item, or training never saw it.

    Rows are centred on their mean over trained items, because all items of a table share a direction.
    """
    earlier = read_trained(source)
    if split_hash is not None:
        warn_of_other_split(f"the table of {address_of(source)} was", earlier.split_hash, split_hash)
    if ITEM_TABLE not in earlier.weights:
        raise InputError(
            f"{address_of(source)} composes its item table of features; export it, and give the bundle instead: "
            "python experiments/export.py writes one"
        )
    table = np.asarray(earlier.weights[ITEM_TABLE], np.float32)
    keys, store_keys = key_column(earlier.item_keys), key_column(store.item_keys)
    if keys.type != store_keys.type:
        raise InputError(
            f"{address_of(source)} has items of {keys.type}, the store of {store_keys.type}; "
            "give a run on the same data"
        )
    rows = 1 + pc.fill_null(pc.index_in(store_keys, value_set=keys), -1).to_numpy()
    known = (rows > 0) & trained[1:]
    if not known.any():
        raise InputError(f"{address_of(source)} has none of the store's items; give a run on the same data")
    vectors = np.where(known[:, None], table[rows], 0.0).astype(np.float32)
    vectors[known] -= vectors[known].mean(axis=0)
    return vectors


def vectors_hash(vectors: Float[np.ndarray, "n_items width"]) -> str:
    """sha256 of the vectors and their shape."""
    digest = hashlib.sha256(f"item vectors {vectors.shape} {vectors.dtype}\n".encode())
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()
