"""What a request for recommendations says, from the data's own item keys to arrays of ids, once it makes sense."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from seqrec.bundle.histories import Ragged, consecutive_rows, ragged
from seqrec.types import InputError, Times

ItemKey = int | str
"""An item as the data calls it: a text, or a whole number. A whole float is that number, as in the data; true, false,
null, other floats and lists are no keys."""
Keys = Sequence[ItemKey]

_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]*")


class Ids:
    """From item keys to ids.

    >>> Ids(np.array(["17", "b"]))["17"], Ids(np.array([17, 18]))["17"], Ids(np.array([17, 18]))[99]
    (1, 1, 0)
    """

    def __init__(self, keys: np.ndarray):
        self._ids: Mapping[Any, int] = {key: place for place, key in enumerate(keys.tolist(), start=1)}
        self._is_number = keys.dtype.kind in "iu"

    def __getitem__(self, key: Any) -> int:
        """The id of a key, 0 for one that is unknown; a number that is written as text is that number.

        Raises:
          TypeError: it is no key.
        """
        if type(key) not in (str, int):
            key = _item_key(key)
        item_id = self._ids.get(key)
        if item_id is None and isinstance(key, str) and self._is_number and _WHOLE_NUMBER.fullmatch(key):
            item_id = self._ids.get(int(key))
        elif item_id is None and isinstance(key, int) and not self._is_number:
            item_id = self._ids.get(str(key))
        return item_id or 0


def _item_key(value: Any) -> ItemKey:
    """The key that a value of another type than text and int stands for."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating) and abs(number := float(value)) < 2**53 and number.is_integer():
        return int(number)
    raise TypeError(_shown(value))


def ids_of(lists: Any, ids: Ids, *, name: str) -> tuple[Ragged, Bool[np.ndarray, " n"]]:
    """The ids of lists of keys, 0 for what is unknown, and which are known.

    Raises:
      InputError: they are no lists of item keys; the message calls them by `name`.
    """
    if not _is_list(lists):
        raise InputError(f"{name} is {_shown(lists)}; give a list that holds a list of item keys for each user")
    for place, keys in enumerate(lists):
        if not _is_list(keys):
            raise InputError(f"{name}[{place}] is {_shown(keys)}; give a list of item keys")
    try:
        values = np.array([ids[key] for keys in lists for key in keys], np.int32)
    except TypeError as error:
        raise InputError(f"{name} holds {error}, which is no item key; give texts or whole numbers") from None
    return consecutive_rows(values, np.array([len(keys) for keys in lists], np.int64)), values > 0


def candidate_lists(lists: Any, ids: Ids, n_histories: int, *, name: str) -> Ragged | None:
    """The known ids of one list for all histories, or of one for each; None of None.

    Raises:
      InputError: as `ids_of`, or there are lists for another number of histories.
    """
    if lists is None:
        return None
    if not _is_list(lists):
        raise InputError(f"{name} is {_shown(lists)}; give a list of item keys, or one for each history")
    each = list(lists) if any(map(_is_list, lists)) else [lists]
    ids_of_lists, is_known = ids_of(each, ids, name=name)
    ids_of_lists = ids_of_lists.keep(is_known)
    if each[0] is lists:
        return ids_of_lists.take(np.zeros(n_histories, np.int64))
    if len(each) != n_histories:
        raise InputError(f"{name} has {len(each)} lists for {n_histories} histories; give one for each, or one for all")
    return ids_of_lists


def seconds_of(times: Any, items: Ragged, *, reads: Times, name: str) -> Ragged | None:
    """The whole seconds of what a model reads: of each item and, where it `reads` the query's time, of the query.

    Raises:
      InputError: there are times that the bundle `name` does not read, or too few, or one that is no time.
    """
    if reads == "none":
        if times is not None:
            raise InputError(f"{name} reads no times; leave times out")
        return None
    n_more = int(reads == "query")
    what = "each item" + " and, last, of the query" * n_more
    if not _is_list(times) or len(times) != len(items.lengths):
        raise InputError(f"{name} reads times; give, for each history, the seconds since 1970 of {what}")
    rows = []
    for place, (row, length) in enumerate(zip(times, items.lengths.tolist(), strict=True)):
        try:
            seconds = np.asarray(row, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"times[{place}] is {_shown(row)}; give a list of numbers") from None
        if seconds.shape != (length + n_more,):
            raise InputError(f"times[{place}] holds {seconds.size} numbers for {length} items; give those of {what}")
        wrong = seconds[~((seconds >= 0) & (seconds < 2**53))]  # NaN is neither
        if wrong.size:
            raise InputError(f"times[{place}] holds {wrong[0]:g}; give seconds since 1970, from 0 on")
        if np.any(np.diff(seconds) < 0):
            raise InputError(f"times[{place}] falls; give histories whose oldest item comes first")
        rows.append(np.floor(seconds))
    return ragged(rows, np.int64)


def without_unknown(seconds: Ragged, is_known: Bool[np.ndarray, " n"], items: Ragged, *, reads: Times) -> Ragged:
    """The seconds of known items, and of the query."""
    return seconds.keep(np.insert(is_known, np.cumsum(items.lengths), True) if reads == "query" else is_known)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
