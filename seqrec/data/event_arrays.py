"""A store of events that lie in memory as arrays, such as the columns of a pandas frame."""

from typing import Any

import numpy as np

from seqrec.data.store import SequenceStore, sequence_store
from seqrec.types import InputError


def store_from_events(users: Any, items: Any, times: Any) -> SequenceStore:
    """The store, in memory, of one event a row: a user, an item and a time, as arrays or columns of a data frame.

    Users and items are integers or texts and keep these as the store's keys: item id i is `store.item_keys[i - 1]`.
    Times are dates (datetime64) or seconds since 1970. Each user's events are sorted by time; events of one time keep
    the order of their rows. For filters, checks and files larger than memory see `experiments/prepare_data.py`.

    >>> store = store_from_events(["ann", "bob", "ann"], ["tea", "tea", "jam"], [20, 10, 5])
    >>> store.user_keys.tolist(), store.item_keys.tolist(), store.offsets.tolist(), store.items.tolist()
    (['ann', 'bob'], ['jam', 'tea'], [0, 2, 3], [1, 2, 2])

    Raises:
      InputError: the columns differ in length, are empty, hold a missing value, or times of another type.
    """
    user_keys, rows = _numbered(users, "users")
    item_keys, ids = _numbered(items, "items")
    timestamps = _microseconds(np.asarray(times))
    if not len(rows) == len(ids) == len(timestamps):
        raise InputError(f"{len(rows)} users, {len(ids)} items and {len(timestamps)} times; give one of each an event")
    order = np.lexsort((timestamps, rows))
    offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(user_keys))))
    return sequence_store(ids[order] + 1, offsets, item_keys, user_keys, columns={"timestamp_us": timestamps[order]})


def _numbered(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct keys, and the place of each row's key among them."""
    values = np.asarray(column)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{name} has shape {values.shape}; give one entry an event, and at least one event")
    if values.dtype.kind not in "iu" and not all(isinstance(value, str) for value in values.tolist()):
        raise InputError(f"{name} are {values.dtype} and not all integers or texts; drop rows without one, or convert")
    keys, places = np.unique(values, return_inverse=True)
    return keys.astype(np.int64) if keys.dtype.kind in "iu" else keys, places


def _microseconds(times: np.ndarray) -> np.ndarray:
    if times.dtype.kind == "M" and not np.isnat(times).any():
        return times.astype("datetime64[us]").astype(np.int64)
    if times.dtype.kind in "iuf" and np.isfinite(times).all():
        return np.round(times * 1e6).astype(np.int64) if times.dtype.kind == "f" else times.astype(np.int64) * 1_000_000
    raise InputError(f"times are {times.dtype}; give dates (datetime64) or seconds since 1970, none of them missing")
