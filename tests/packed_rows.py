"""Packed rows made of lists of histories."""

import jax.numpy as jnp
import numpy as np

from seqrec.types import Batch, Times

LENGTH = 10


def rows_of(*rows: list[list[int]], length: int = LENGTH, times: Times = "none") -> Batch:
    """Each row is a list of histories; what is left of it is padding. The gap before an item grows by an hour
    with each."""
    n_fields = {"none": 4, "history": 5, "query": 6}[times]
    fields = np.zeros((n_fields, len(rows), length), np.int32)
    for r, histories in enumerate(rows):
        start = 0
        for segment, history in enumerate(histories, start=1):
            stop = start + len(history)
            hours = np.cumsum(np.arange(len(history) + 1))
            fields[0, r, start:stop] = history
            fields[1, r, start : stop - 1] = history[1:]
            fields[2, r, start:stop] = segment
            fields[3, r, start:stop] = range(len(history))
            fields[4:5, r, start:stop] = 3600 * hours[:-1]
            fields[5:6, r, start:stop] = 3600 * hours[1:]
            start = stop
    return Batch(*map(jnp.asarray, fields))
