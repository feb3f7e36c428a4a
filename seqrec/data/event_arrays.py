"""A store of events that lie in memory as arrays, such as the columns of a pandas frame."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from seqrec.data.event_values import MISSING_VALUES, POSSIBLE_YEARS, follow_ids, years_us
from seqrec.data.store import SequenceStore, sequence_store
from seqrec.types import InputError


def store_from_events(users: Any, items: Any, times: Any) -> SequenceStore:
    """The store, in memory, of one event a row: a user, an item and a time, as arrays or columns of a data frame.

    Users and items are integers or texts and keep these as the store's keys: item id i is `store.item_keys[i - 1]`.
    Times are dates (datetime64) or seconds since 1970. Each user's events are sorted by time. Events of one time keep
    the order of their rows or, where that is the order of the item ids, as in a frame that was sorted by user and item,
    take that of a hash, as `--ties auto` of scripts does. For filters, checks and files larger than memory see
    `experiments/prepare_data.py`.

    >>> store = store_from_events(["ann", "bob", "ann"], ["tea", "tea", "jam"], [20, 10, 5])
    >>> store.user_keys.tolist(), store.item_keys.tolist(), store.offsets.tolist(), store.items.tolist()
    (['ann', 'bob'], ['jam', 'tea'], [0, 2, 3], [1, 2, 2])

    Raises:
      InputError: the columns differ in length, are empty, hold a missing value, or times of another type or year.
    """
    user_keys, rows = _numbered(users, "users")
    item_keys, ids = _numbered(items, "items")
    timestamps = _microseconds(np.asarray(times))
    if not len(rows) == len(ids) == len(timestamps):
        raise InputError(f"{len(rows)} users, {len(ids)} items and {len(timestamps)} times; give one of each an event")
    order = np.lexsort((timestamps, rows))
    tied = (np.diff(rows[order]) == 0) & (np.diff(timestamps[order]) == 0)
    steps = np.diff(ids[order])[tied]
    if follow_ids(int(np.count_nonzero(steps > 0)), int(np.count_nonzero(steps))):
        places = order[np.append(tied, False) | np.append(False, tied)]
        hashes = np.zeros(len(order), np.int64)
        hashes[places] = _tie_hashes(user_keys[rows[places]], timestamps[places], item_keys[ids[places]])
        order = np.lexsort((hashes, timestamps, rows))
    offsets = np.append(0, np.cumsum(np.bincount(rows, minlength=len(user_keys))))
    return sequence_store(ids[order] + 1, offsets, item_keys, user_keys, columns={"timestamp_us": timestamps[order]})


def _tie_hashes(users: np.ndarray, timestamps: Int64[np.ndarray, " n"], items: np.ndarray) -> list[int]:
    """The hashes that `ties.order_ties` computes in SQL."""
    events = zip(users.tolist(), timestamps.tolist(), items.tolist(), strict=True)
    texts = ("\x1f".join(map(str, event)) for event in events)
    return [int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16) for text in texts]


def _numbered(column: Any, name: str) -> tuple[np.ndarray, Int[np.ndarray, " n"]]:
    """The sorted distinct keys, and the place of each row's key among them."""
    values = np.asarray(column)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{name} has shape {values.shape}; give one entry an event, and at least one event")
    is_integer = values.dtype.kind in "iu"
    if not is_integer and not all(isinstance(value, str) for value in values.tolist()):
        raise InputError(f"{name} are {values.dtype} and not all integers or texts; drop rows without one, or convert")
    keys, places = np.unique(values, return_inverse=True)
    if is_integer:
        if keys[-1] >= 2**63:
            raise InputError(f"{name} go to {keys[-1]}, beyond 64 bits with a sign; give smaller integers or texts")
        return keys.astype(np.int64), places
    if missing := [key for key in keys.tolist() if key.strip() in ("", *MISSING_VALUES)]:
        raise InputError(
            f"{name} hold {missing[0]!r}, which means a missing value; drop rows without one, or rename it"
        )
    return keys, places


def _microseconds(times: np.ndarray) -> Int64[np.ndarray, " n"]:
    low, high = years_us(POSSIBLE_YEARS)
    is_date = times.dtype.kind == "M" and not np.isnat(times).any()
    # A float32 rounds seconds since 1970 to multiples of 128.
    is_number = times.dtype.kind in "iu" or (times.dtype.kind == "f" and times.dtype.itemsize >= 8)
    if not is_date and not (is_number and np.isfinite(times).all()):
        raise InputError(
            f"times are {times.dtype}; give dates (datetime64) or seconds since 1970 (integers or float64), "
            "none missing"
        )
    # As seconds first, in which nothing overflows.
    seconds = times.astype("datetime64[s]").astype(np.int64) if is_date else times
    outside = (seconds < low // 1_000_000) | (seconds >= high // 1_000_000)
    if outside.any():
        raise InputError(
            f"time {times[outside][0]} is outside the years {POSSIBLE_YEARS[0]} to {POSSIBLE_YEARS[1]}; give dates "
            "(datetime64) or seconds since 1970"
        )
    if is_date:
        return times.astype("datetime64[us]").astype(np.int64)
    return np.round(times * 1e6).astype(np.int64) if times.dtype.kind == "f" else times.astype(np.int64) * 1_000_000
