"""Targets that their user had seen before, and how they are treated if seen items are masked.

If seen items are masked and a seen target stays a candidate, it is the only seen item left, and whatever favours seen
items finds it: on plays drawn uniformly from 100 tracks, popularity in the user's own history gets recall@5 .378, where
chance is .05. So such targets are left out and counted, or count as misses.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from seqrec.data.ragged import blocks, ranges, rows_at
from seqrec.data.store import SequenceStore

MaskSeen = Literal["auto", "yes", "no"]
RepeatedTargets = Literal["exclude", "miss"]

LARGE_SHARE = 0.2
"""Share of targets seen before above which users return to items, so that masking them hides what they do."""


class Masking(NamedTuple):
    """Whether seen items are candidates, and why."""

    mask_seen: bool
    note: str
    """What to tell the user, in one line; empty where nothing is unusual."""


def seen_before(store: SequenceStore, positions: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether the item of each of these events stands among its user's earlier events.

    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 1], [2, 1, 3]])
    >>> seen_before(store, np.array([2, 4, 5])).tolist()
    [True, False, False]
    """
    starts = store.offsets[rows_at(store.offsets, positions)]
    seen = np.zeros(len(positions), bool)
    for block in blocks(positions - starts):
        lengths = positions[block] - starts[block]
        query = np.repeat(np.arange(len(lengths)), lengths)
        same = store.items[ranges(starts[block], lengths)] == store.items[positions[block]][query]
        seen[block] = np.bincount(query[same], minlength=len(lengths)) > 0
    return seen


def choose_masking(config: MaskSeen, valid_seen: Bool[np.ndarray, " n_valid"]) -> Masking:
    """Whether to mask seen items: as the config says, or by the share of validation targets that were seen before.

    >>> choose_masking("auto", np.array([True, False])).mask_seen
    False
    """
    share = float(np.mean(valid_seen)) if len(valid_seen) else 0.0
    percent = f"{100 * share:.1f}% of validation targets are items that the user had seen before"
    if config == "auto" and share > LARGE_SHARE:
        return Masking(False, f"{percent}, so seen items stay candidates; --mask-seen yes excludes them")
    if config == "yes" and share > LARGE_SHARE:
        return Masking(True, f"{percent}; consider --no-mask-seen, which ranks seen items too")
    return Masking(config != "no", "")
