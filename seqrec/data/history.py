"""One user's history as a model reads it, whoever's it is."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seqrec.types import Batch, BatchFormat, InputError


class History(NamedTuple):
    """The events of a user, oldest first, and the time of the query."""

    items: Int[np.ndarray, " n"] | Sequence[int]
    times: Int[np.ndarray, " n_plus_1"] | Sequence[int] | None = None
    """Seconds of each item and, last, of the query; for a model that reads times."""
    event_features: Mapping[str, np.ndarray] | None = None
    """Each with a row an item, as `features_at` returns them; for a model that reads them."""


def history_batch(history: History, reads: BatchFormat) -> Batch:
    """One history as a batch of one row, as a model reads it.

    Raises:
      InputError: the history lacks what the model reads, or has it for another number of items.
    """
    items, length = np.asarray(history.items), reads.max_length
    read = items[-length:]
    n_fields = {"none": 4, "history": 5, "query": 6}[reads.times]
    fields = np.zeros((n_fields, 1, length), np.int32)
    fields[0, 0, : len(read)] = read
    fields[1, 0, : len(read) - 1] = read[1:]
    fields[2, 0, : len(read)] = 1
    fields[3, 0, : len(read)] = np.arange(len(read))
    if reads.times != "none":
        if history.times is None or len(history.times) != len(items) + 1:
            raise InputError("the model reads times; give the seconds of each item and, last, of the query")
        seconds = np.asarray(history.times)[-len(read) - 1 :]
        fields[4, 0, : len(read)] = seconds[:-1] - seconds[0]
        fields[5:, 0, : len(read)] = seconds[1:] - seconds[0]
    rows = {}
    for name in reads.event_features:
        values = (history.event_features or {}).get(name)
        if values is None or len(values) != len(items):
            raise InputError(
                f"the model reads {name!r} of events; give event_features with one row for each of {len(items)} items"
            )
        latest = values[-length:]
        rows[name] = np.zeros((1, length, *values.shape[1:]), values.dtype)
        rows[name][0, : len(latest)] = latest
    return Batch(*fields)._replace(event_features=rows or None)
