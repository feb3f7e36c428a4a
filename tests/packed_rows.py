"""Packed rows made of lists of histories."""

import jax.numpy as jnp
import numpy as np

from seqrec.types import Batch

LENGTH = 10


def rows_of(*rows: list[list[int]], length: int = LENGTH) -> Batch:
    """Each row is a list of histories; what is left of it is padding."""
    fields = np.zeros((4, len(rows), length), np.int32)
    for r, histories in enumerate(rows):
        start = 0
        for segment, history in enumerate(histories, start=1):
            stop = start + len(history)
            fields[0, r, start:stop] = history
            fields[1, r, start : stop - 1] = history[1:]
            fields[2, r, start:stop] = segment
            fields[3, r, start:stop] = range(len(history))
            start = stop
    return Batch(*map(jnp.asarray, fields))
