"""The k-th smallest of many values, in passes that hold a block of them at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqrec.data.shards import EVENTS_PER_BLOCK, event_blocks

N_BINS = 1 << 16


def order_statistics(values: Any, places: Sequence[int], *, n_in_memory: int = EVENTS_PER_BLOCK) -> list[int]:
    """`sorted(values)[place]` for each of these places, of an array of integers over events.

    At most about `n_in_memory` values are held: those of the bin in which a place lies, in bins that get narrower.

    >>> order_statistics(np.array([5, 1, 9, 9, 3]), [0, 3], n_in_memory=1)
    [1, 9]
    """
    if len(values) <= n_in_memory:
        return np.partition(np.asarray(values), places)[list(places)].tolist()
    extremes = np.array([(block.min(), block.max()) for block in event_blocks(values)])
    low, high = int(extremes[:, 0].min()), int(extremes[:, 1].max())
    return [_within(values, place, low, high, n_in_memory) for place in places]


def _within(values: Any, place: int, low: int, high: int, n_in_memory: int) -> int:
    """The value at `place` among those from `low` to `high`."""
    while low < high:
        width = (high - low) // N_BINS + 1
        counts = np.zeros((high - low) // width + 1, np.int64)
        for block in event_blocks(values):
            inside = block[(block >= low) & (block <= high)]
            counts += np.bincount((inside - low) // width, minlength=len(counts))
        ends = np.cumsum(counts)
        bin_ = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[bin_] - counts[bin_])
        low, high = low + bin_ * width, min(high, low + (bin_ + 1) * width - 1)
        if counts[bin_] <= n_in_memory:
            found = [block[(block >= low) & (block <= high)] for block in event_blocks(values)]
            return int(np.partition(np.concatenate(found), place)[place])
    return low
