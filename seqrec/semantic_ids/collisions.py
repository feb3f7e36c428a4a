"""Items with equal codes: how many there are, and codes that tell them apart."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Int32, Int64

from seqrec.semantic_ids.additive import Quantised, encode
from seqrec.types import InputError


def prefix_groups(codes: Int[np.ndarray, "n n_levels"], n_codes: Sequence[int]) -> list[Int64[np.ndarray, " n"]]:
    """For each level, the number of the group of items that share all codes up to it, in the order of codes.

    >>> prefix_groups(np.array([[1, 0], [0, 2], [1, 0], [1, 1]]), (2, 3))[1].tolist()
    [1, 0, 1, 2]
    """
    groups, group = [], np.zeros(len(codes), np.int64)
    for level, n in enumerate(n_codes):
        # Numbered anew at each level, so that the product stays in 64 bits.
        _, group = np.unique(group * n + codes[:, level], return_inverse=True)
        groups.append(group)
    return groups


def last_level(
    codes: Int[np.ndarray, "n n_levels"], n_codes: Sequence[int], counts: Int[np.ndarray, " n"]
) -> Int32[np.ndarray, " n"]:
    """A code that tells items with equal codes apart (Rajput et al. 2023, section 3.1): 0, 1, … by falling `counts`.

    So that the code says something: 0 is the most frequent of its group, and the only item of most groups.

    >>> last_level(np.array([[4], [7], [4]]), (8,), np.array([10, 10, 30])).tolist()
    [1, 0, 0]
    """
    group = prefix_groups(codes, n_codes)[-1]
    order = np.lexsort((-counts, group))
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    places = np.zeros(len(codes), np.int32)
    places[order] = np.arange(len(codes)) - starts[group[order]]
    return places


def balanced_codes(quantised: Quantised) -> Int32[np.ndarray, "n n_levels"]:
    """Codes that no two items share, as near to the points as the room that is left allows.

    Level by level, a prefix takes no more items than there are codes behind it. Where more are nearest to it, the
    nearest stay and the others go to the nearest code with room, so at the last level each item has its own code
    (as in the uniform semantic mapping of Zheng et al. 2024, section 3.1). An item without a neighbour that has the
    same codes keeps its own.

    Raises:
      InputError: there are more items than codes.
    """
    points, codebooks, n_codes = quantised.points, quantised.codebooks, quantised.n_codes
    if len(points) > math.prod(n_codes):
        raise InputError(
            f"{len(points):,} items are more than the {math.prod(n_codes):,} codes of {n_codes}; "
            "take more codes or levels"
        )
    codes, rest = quantised.codes.copy(), np.array(points, np.float32)
    group = np.zeros(len(points), np.int64)
    for level, (n, table) in enumerate(zip(n_codes, codebooks, strict=True)):
        room = math.prod(n_codes[level + 1 :])
        key = group * n + codes[:, level]
        _, inverse, sizes = np.unique(key, return_inverse=True, return_counts=True)
        overfull = np.unique(group[(sizes > room)[inverse]])
        order = np.argsort(group, kind="stable")
        edges = np.searchsorted(group[order], np.stack([overfull, overfull + 1]))
        moved = []
        for start, stop in edges.T:
            rows = order[start:stop]
            earlier = codes[rows, level]
            codes[rows, level] = _with_room(rest[rows], table, earlier, room)
            moved.append(rows[codes[rows, level] != earlier])
        rest -= table[codes[:, level]]
        if moved and level + 1 < len(n_codes) and (rows := np.concatenate(moved)).size:
            codes[rows, level + 1 :] = encode(rest[rows], codebooks[level + 1 :])
        group = prefix_groups(np.stack([group, codes[:, level]], axis=1), (1, n))[-1]
    return codes


def _with_room(
    points: Float[np.ndarray, "m d"], table: Float[np.ndarray, "n_codes d"], codes: np.ndarray, room: int
) -> Int32[np.ndarray, " m"]:
    """The codes, once each code has at most `room` points: the nearest stay, the others take the nearest with room."""
    assigned, free = np.full(len(points), -1, np.int32), np.full(len(table), room)
    waiting, choice = np.arange(len(points)), codes
    cost = np.square(points - table[codes]).sum(axis=1)
    while waiting.size:
        order = np.lexsort((cost, choice))
        place = np.arange(order.size) - np.searchsorted(choice[order], choice[order])
        accepted = order[place < free[choice[order]]]
        assigned[waiting[accepted]] = choice[accepted]
        free -= np.bincount(choice[accepted], minlength=len(table))
        waiting = waiting[assigned[waiting] < 0]
        if waiting.size:
            left = points[waiting]
            distances = np.square(table).sum(axis=1) - 2.0 * left @ table.T
            distances[:, free == 0] = np.inf
            choice = distances.argmin(axis=1)
            cost = distances[np.arange(len(waiting)), choice] + np.square(left).sum(axis=1)
    return assigned
