"""The k-th smallest of many values, in passes that hold a block of them at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqrec.data.shards import event_blocks, values_at

N_IN_MEMORY = 1 << 20
"""Values that are held of each place."""
N_SAMPLED = 1 << 17
"""Values of the sample that bounds are taken from."""
BITS = 16
"""Values are told apart by so many bits in one pass."""


def order_statistics(values: Any, places: Sequence[int], *, n_in_memory: int = N_IN_MEMORY) -> list[int]:
    """`sorted(values)[place]` for each of these places, of an array of integers over events.

    One pass counts what lies below bounds from a sample and keeps what lies between them (Floyd and Rivest 1975). Where
    the value is not between them, or more than `n_in_memory` values are, further passes look for it in bins that get
    narrower.

    >>> order_statistics(np.array([5, 1, 9, 9, 3]), [0, 3], n_in_memory=1)
    [1, 9]
    """
    if len(values) <= n_in_memory:
        return np.partition(np.asarray(values), places)[list(places)].tolist()
    brackets = [_Bracket(*bounds) for bounds in _sampled_bounds(values, places)]
    for block in event_blocks(values):
        for bracket in brackets:
            bracket.add(block, n_in_memory)
    found: dict[int, int] = {}
    for place, bracket in zip(places, brackets, strict=True):
        inside = place - bracket.n_below
        if 0 <= inside < bracket.n_inside <= n_in_memory:
            found[place] = int(np.partition(np.concatenate(bracket.inside), inside)[inside])
    if missing := sorted(set(places) - set(found)):
        extremes = np.array([(block.min(), block.max()) for block in event_blocks(values)])
        low, high = int(extremes[:, 0].min()), int(extremes[:, 1].max())
        found |= _between(values, np.array(missing), low, high, n_in_memory)
    return [found[place] for place in places]


@dataclass
class _Bracket:
    """The values from `low` to `high`, and how many are below."""

    low: int
    high: int
    n_below: int = 0
    n_inside: int = 0
    inside: list[np.ndarray] = field(default_factory=list)
    """In blocks; no more of them are kept once there are too many."""

    def add(self, block: np.ndarray, n_in_memory: int) -> None:
        self.n_below += int(np.count_nonzero(block < self.low))
        if self.n_inside <= n_in_memory:
            self.inside.append(_from_to(block, self.low, self.high))
            self.n_inside += len(self.inside[-1])


def _sampled_bounds(values: Any, places: Sequence[int]) -> list[tuple[int, int]]:
    """For each place two values of an even sample, four standard deviations of the place in it or more around it."""
    sample = np.sort(values_at(values, np.arange(0, len(values), -(-len(values) // N_SAMPLED))))
    middle, margin = np.array(places) * (len(sample) / len(values)), 2 * math.sqrt(len(sample))
    low, high = (np.clip(each.astype(int), 0, len(sample) - 1) for each in (middle - margin, middle + margin))
    return list(zip(sample[low].tolist(), sample[high].tolist(), strict=True))


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
