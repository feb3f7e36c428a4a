"""The k-th smallest of many values, in passes that hold a block of them at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqrec.data.shards import EVENTS_PER_BLOCK, event_blocks

BITS = 16
"""Values are told apart by so many bits in one pass."""


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
    value_at = _between(values, np.array(places), low, high, n_in_memory)
    return [value_at[place] for place in places]


def _between(values: Any, places: np.ndarray, low: int, high: int, n_in_memory: int) -> dict[int, int]:
    """By place, the values at these places among those from `low` to `high`."""
    if low == high:
        return dict.fromkeys(places.tolist(), low)
    shift = max(0, (high - low).bit_length() - BITS)
    counts = np.zeros(((high - low) >> shift) + 1, np.int64)
    for block in event_blocks(values):
        counts += np.bincount((_from_to(block, low, high) - low) >> shift, minlength=len(counts))
    ends = np.cumsum(counts)
    bins = np.searchsorted(ends, places, side="right")
    value_at: dict[int, int] = {}
    for number in np.unique(bins).tolist():
        n_before = int(ends[number] - counts[number])
        inside = places[bins == number] - n_before
        first, last = low + (number << shift), min(high, low + ((number + 1) << shift) - 1)
        if counts[number] <= n_in_memory:
            in_range = np.concatenate([_from_to(block, first, last) for block in event_blocks(values)])
            at_place = dict(zip(inside.tolist(), np.partition(in_range, inside)[inside].tolist(), strict=True))
        else:
            at_place = _between(values, inside, first, last, n_in_memory)
        value_at |= {n_before + place: value for place, value in at_place.items()}
    return value_at


def _from_to(block: np.ndarray, low: int, high: int) -> np.ndarray:
    return block[(block >= low) & (block <= high)]
