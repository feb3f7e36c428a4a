"""Codes of items, the value that models read: one row an item, one column a level."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from seqrec.types import InputError

MOST_CODES = 1 << 20
"""Most codes of a level, unless there are more items."""


class SemanticIds(NamedTuple):
    """The codes of all items; `semantic_ids` makes one and checks it."""

    codes: Int32[np.ndarray, "n_items_plus_1 n_levels"]
    """Row i has the codes of item id i, each 0..n_codes[level] - 1; row 0, padding, is all 0 and is never read."""
    n_codes: tuple[int, ...]
    """Size of the codebook of each level."""

    @property
    def n_items(self) -> int:
        return len(self.codes) - 1

    @property
    def n_levels(self) -> int:
        return len(self.n_codes)


def semantic_ids(
    codes: Int[np.ndarray, "n_items_plus_1 n_levels"],
    n_codes: Sequence[int],
    *,
    item_keys: np.ndarray | None = None,
) -> SemanticIds:
    """These codes, after checking them; row 0 is padding, whatever it holds.

    Errors name items by `item_keys`, by default by their ids.

    Several items may share all their codes: `figures.collisions` counts them. A negative code stands for a missing one.

    >>> semantic_ids(np.array([[0, 0], [1, 2], [1, 0]]), (2, 3)).codes.tolist()
    [[0, 0], [1, 2], [1, 0]]
    >>> semantic_ids(np.array([[0, 0], [1, 3], [1, 0]]), (2, 3))
    Traceback (most recent call last):
    seqrec.types.InputError: item id 1 has the code 3 at level 1, whose codebook has 3; give codes 0..2

    Raises:
      InputError: an item lacks a code, a level is missing or too many, a code is beyond its codebook, or all items have
        the same codes.
    """
    codes, n_codes = np.asarray(codes), tuple(int(n) for n in n_codes)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise InputError(
            f"codes are {codes.shape} of {codes.dtype}; give a matrix of integers, a row an item, a column a level"
        )
    n_rows, n_levels = codes.shape
    if n_levels != len(n_codes) or not n_levels:
        raise InputError(
            f"codes have {n_levels} levels and there are {len(n_codes)} codebooks; give one codebook for each level"
        )
    most = max(MOST_CODES, n_rows)
    if any(not 1 <= n <= most for n in n_codes):
        raise InputError(
            f"n_codes={n_codes} holds a size outside 1..{most:,}; number the codes of each level from 0, without gaps"
        )
    if n_rows < 2 or (item_keys is not None and n_rows != len(item_keys) + 1):
        due = "at least 2" if item_keys is None else f"n_items + 1 = {len(item_keys) + 1:,}"
        raise InputError(f"codes have {n_rows:,} rows, {due} are due; give each item a row, below that of padding")
    items = codes[1:]

    def named(row: int) -> str:
        return f"item id {row + 1}" if item_keys is None else f"item {item_keys[row].item()!r}"

    if (missing := np.flatnonzero((items < 0).any(axis=1))).size:
        raise InputError(
            f"{len(missing):,} of {len(items):,} items lack a code, the first {named(int(missing[0]))}; "
            "give each item a code at each level"
        )
    if (beyond := np.argwhere(items >= np.array(n_codes))).size:
        row, level = beyond[0].tolist()
        raise InputError(
            f"{named(row)} has the code {items[row, level]} at level {level}, whose codebook has "
            f"{n_codes[level]}; give codes 0..{n_codes[level] - 1}"
        )
    if len(items) > 1 and (items == items[0]).all():
        raise InputError(
            f"all {len(items):,} items have the codes {items[0].tolist()}, which tell none apart; "
            "make codes of vectors that differ"
        )
    checked = codes.astype(np.int32)
    checked[0] = 0
    return SemanticIds(checked, n_codes)
