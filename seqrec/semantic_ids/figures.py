"""What codes are like: use of the codebooks, collisions, and whether items with equal prefixes share sessions."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.files import JsonObject
from seqrec.semantic_ids.additive import Quantised
from seqrec.semantic_ids.codes import SemanticIds
from seqrec.semantic_ids.collisions import prefix_groups
from seqrec.semantic_ids.neighbours import NeighbourPairs, neighbour_pairs, validation_pairs

N_EXAMPLES = 6
ITEMS_PER_EXAMPLE = 5


def codebook_figures(ids: SemanticIds) -> list[JsonObject]:
    """For each level: its `n_codes`, how many are `used`, and their `perplexity`, with all items weighing the same.

    The perplexity, the exponential of the entropy of use, is the number of codes that would be as varied if each were
    used equally often.
    """
    levels = []
    for level, n in enumerate(ids.n_codes):
        counts = np.bincount(ids.codes[1:, level], minlength=n)
        share = counts[counts > 0] / counts.sum()
        perplexity = float(np.exp(-np.sum(share * np.log(share))))
        levels.append({"n_codes": n, "used": len(share), "perplexity": perplexity, "largest_share": float(share.max())})
    return levels


def collisions(codes: Int[np.ndarray, "n n_levels"], n_codes: Sequence[int]) -> JsonObject:
    """`items` that share all their codes with another, the number of `groups` of these, and the `largest` of them.

    >>> collisions(np.array([[1, 0], [0, 2], [1, 0], [1, 1]]), (2, 3))
    {'items': 2, 'groups': 1, 'largest': 2}
    """
    sizes = np.bincount(prefix_groups(codes, n_codes)[-1])
    shared = sizes[sizes > 1]
    return {"items": int(shared.sum()), "groups": len(shared), "largest": int(sizes.max())}


def session_figures(ids: SemanticIds, pairs: NeighbourPairs) -> list[JsonObject]:
    """For each level: how often items that follow one another have equal codes up to it, against chance.

    `share` is that of the pairs; `chance` that of two different items drawn as the first and the second of the pairs
    are, but apart from each other; `lift` is their quotient. None where there are no pairs.
    """
    if not len(pairs.first):
        return [{"share": None, "chance": None, "lift": None}] * ids.n_levels
    groups = [np.concatenate([[0], group + 1]) for group in prefix_groups(ids.codes[1:], ids.n_codes)]
    equal = np.zeros(ids.n_levels, np.int64)
    first, second = np.zeros(ids.n_items + 1, np.int64), np.zeros(ids.n_items + 1, np.int64)
    for a, b in pairs.blocks():
        first += np.bincount(a, minlength=len(first))
        second += np.bincount(b, minlength=len(second))
        equal += [np.count_nonzero(group[a] == group[b]) for group in groups]
    p, q = first / first.sum(), second / second.sum()
    same = float(p @ q)
    levels = []
    for group, n_equal in zip(groups, equal.tolist(), strict=True):
        chance = (float(np.bincount(group, p) @ np.bincount(group, q)) - same) / (1.0 - same)
        share = n_equal / len(pairs.first)
        # Where no two items share a prefix, chance is 0 up to rounding.
        lift = share / chance if group.max() < ids.n_items and chance > 0 else None
        levels.append({"share": share, "chance": max(chance, 0.0), "lift": lift})
    return levels


def examples(ids: SemanticIds, names: np.ndarray, counts: Int[np.ndarray, " n_items_plus_1"]) -> list[JsonObject]:
    """The most frequent items of some prefixes of two levels: those with most training events of three items or more.

    Of each first code, one prefix at most.
    """
    depth = min(2, ids.n_levels)
    group = prefix_groups(ids.codes[1:, :depth], ids.n_codes[:depth])[-1]
    sizes, events = np.bincount(group), np.bincount(group, counts[1:])
    order = np.lexsort((-counts[1:], group))
    starts = np.searchsorted(group[order], np.arange(len(sizes)))
    chosen: list[JsonObject] = []
    seen: set[int] = set()
    for number in np.argsort(-np.where(sizes > 2, events, -1), kind="stable").tolist():
        if len(chosen) == N_EXAMPLES or sizes[number] < 3:
            break
        members = order[starts[number] : starts[number] + sizes[number]]
        prefix = ids.codes[1 + members[0], :depth].tolist()
        if prefix[0] not in seen:
            seen.add(prefix[0])
            titles = [str(name) for name in names[members[:ITEMS_PER_EXAMPLE]]]
            chosen.append({"prefix": prefix, "n_items": int(sizes[number]), "items": titles})
    return chosen


def report_figures(
    ids: SemanticIds,
    store: SequenceStore,
    split: Split,
    *,
    counts: Int[np.ndarray, " n_items_plus_1"],
    quantised: Quantised | None = None,
) -> JsonObject:
    """All figures of the report, as JSON; `quantised` is what the codes were chosen from, where that is known."""
    names = store.item_keys if store.titles is None else np.where(store.titles == "", store.item_keys, store.titles)
    codes = ids.codes[1:]
    return {
        "n_items": ids.n_items,
        "errors": None if quantised is None else list(quantised.errors),
        "levels": codebook_figures(ids),
        "equal_codes": {
            "as_quantised": None if quantised is None else collisions(quantised.codes, quantised.n_codes),
            "final": collisions(codes, ids.n_codes),
        },
        "sessions": session_figures(ids, neighbour_pairs(store, split)),
        "validation": session_figures(ids, validation_pairs(store, split)),
        "examples": examples(ids, names, counts),
    }
