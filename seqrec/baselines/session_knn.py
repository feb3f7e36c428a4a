"""Session-based nearest neighbours: items of the training sequences that are most like the history.

VS-SkNN (Ludewig and Jannach 2018) over the index of Kersbergen et al. 2022, who serve it, and STAN (Garg et al. 2019).
A sequence is the training part of a user, or of a session where sessions are users.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from seqrec.baselines.scored import Scorer
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

DAY_US = 86_400_000_000


class _Index(NamedTuple):
    """The training sequences, each item of each once, by item and by sequence."""

    of_item: Int[np.ndarray, " n_ids_plus_1"]
    """Where each item's sequences begin in the next two, the most recent sequences first."""
    sequences: Int[np.ndarray, " n_kept"]
    places: Int[np.ndarray, " n_kept"]
    """Where the item stands in the sequence, the last time."""
    of_sequence: Int[np.ndarray, " n_sequences_plus_1"]
    """Where each sequence's items begin in the next two."""
    items: Int[np.ndarray, " n_pairs"]
    items_places: Int[np.ndarray, " n_pairs"]
    recency: Int[np.ndarray, " n_sequences"]
    """Higher for sequences that ended later."""


class _Neighbours(NamedTuple):
    """The neighbours of all queries, those of a query together."""

    queries: Int[np.ndarray, " n"]
    sequences: Int[np.ndarray, " n"]
    similarity: Float[np.ndarray, " n"]
    """Sum of the weights of the history's items that the sequence has."""
    ages: Int[np.ndarray, " n"]
    """Of the newest shared item: how many items of the history come after it."""
    places: Int[np.ndarray, " n"]
    """Where the sequence has that item."""


def vs_sknn(
    store: SequenceStore,
    split: Split,
    *,
    n_neighbours: int = 100,
    n_recent: int = 1000,
    n_latest: int = 20,
    idf: bool = True,
) -> Scorer:
    """Scores an item by the sequences that have it among the `n_neighbours` most like the history.

    The latest `n_latest` items of the history weigh from 1 for the newest down to 1 / n evenly, n being their number;
    a sequence's similarity is the sum of the weights of those that it has (Ludewig and Jannach 2018, section 3.4). A
    neighbour adds to its items its similarity times the weight of the newest shared item and, with `idf`, times the log
    of the number of sequences over that of those with the item. Of each item, and of all sequences that share an item
    with the history, the `n_recent` most recent are looked at (Kersbergen et al. 2022, algorithm 2).
    """
    index = _index(store, split, n_recent)
    counts = np.bincount(index.items, minlength=store.n_items + 1)
    rarity = np.log(max(1, store.n_users) / np.maximum(counts, 1)) if idf else np.ones(store.n_items + 1)

    def query_scores(positions: Int[np.ndarray, " queries"]) -> sp.csr_matrix:
        history = _latest(store, positions, n_latest)
        lengths = np.count_nonzero(history, axis=1)
        weights = np.maximum(lengths[:, None] - np.arange(n_latest), 0) / np.maximum(lengths, 1)[:, None]
        neighbours = _neighbours(index, store, positions, history, weights, n_recent)
        neighbours = _most_similar(neighbours, neighbours.similarity, index.recency, n_neighbours)
        each = neighbours.similarity * weights[neighbours.queries, neighbours.ages]
        rows, items, _ = _items_of(index, neighbours)
        values = np.repeat(each, _sizes(index, neighbours)) * rarity[items]
        return sp.csr_matrix((values, (rows, items)), shape=(len(positions), store.n_items + 1))

    return _scorer(store, index, query_scores, n_neighbours=n_neighbours, n_latest=n_latest, n_recent=n_recent)


def stan(
    store: SequenceStore,
    split: Split,
    *,
    n_neighbours: int = 100,
    n_recent: int = 1000,
    n_latest: int = 20,
    age_decay: float = 3.5,
    days_decay: float = 80.0,
    distance_decay: float = 3.5,
) -> Scorer:
    """As `vs_sknn`, with three exponential decays (Garg et al. 2019, section 3.2).

    An item of the history weighs exp(-age / age_decay); a sequence weighs exp(-days / days_decay) by the time between
    its end and the newest event of the history, if the store has times; and of a neighbour an item counts
    exp(-distance / distance_decay) by its distance from the newest shared item. Similarity is divided by the root of
    the product of both numbers of items.
    """
    index = _index(store, split, n_recent)
    times = store.columns.get("timestamp_us")
    n_items_of = np.diff(index.of_sequence)
    ends = np.maximum(split.train_stop - 1, 0)

    def query_scores(positions: Int[np.ndarray, " queries"]) -> sp.csr_matrix:
        history = _latest(store, positions, n_latest)
        weights = np.where(history > 0, np.exp(-np.arange(n_latest) / age_decay), 0.0)
        neighbours = _neighbours(index, store, positions, history, weights, n_recent)
        lengths = np.count_nonzero(history, axis=1)
        similarity = neighbours.similarity / np.sqrt(lengths[neighbours.queries] * n_items_of[neighbours.sequences])
        if times is not None:
            passed = times[positions - 1][neighbours.queries] - times[ends[neighbours.sequences]]
            similarity = similarity * np.exp(-np.maximum(passed, 0) / DAY_US / days_decay)
        neighbours = _most_similar(neighbours._replace(similarity=similarity), similarity, index.recency, n_neighbours)
        rows, items, places = _items_of(index, neighbours)
        sizes = _sizes(index, neighbours)
        distance = np.abs(places - np.repeat(neighbours.places, sizes))
        values = np.repeat(neighbours.similarity, sizes) * np.exp(-distance / distance_decay)
        return sp.csr_matrix((values, (rows, items)), shape=(len(positions), store.n_items + 1))

    return _scorer(store, index, query_scores, n_neighbours=n_neighbours, n_latest=n_latest, n_recent=n_recent)


def _scorer(
    store: SequenceStore,
    index: _Index,
    query_scores: Callable[[np.ndarray], sp.csr_matrix],
    *,
    n_neighbours: int,
    n_latest: int,
    n_recent: int,
) -> Scorer:
    """Blocks are as small as the sequences that are looked at, and the items of those that are kept, make them."""
    longest = int(np.diff(index.of_sequence).max(initial=1))
    most = n_latest * n_recent + n_neighbours * longest
    return Scorer(np.zeros(store.n_items + 1), query_scores, lambda positions: np.full(len(positions), most))


def _index(store: SequenceStore, split: Split, n_recent: int) -> _Index:
    starts = np.asarray(store.offsets[:-1])
    lengths = np.maximum(split.train_stop - starts, 0)
    places = ranges(np.zeros_like(lengths), lengths)
    sequences = np.repeat(np.arange(len(lengths)), lengths)
    keys = sequences * (store.n_items + 1) + store.items[ranges(starts, lengths)]
    # Of the reversed arrays the first of each is its last place.
    pairs, last = np.unique(keys[::-1], return_index=True)
    places = places[::-1][last]
    sequences, items = np.divmod(pairs, store.n_items + 1)
    recency = np.arange(len(lengths))
    if "timestamp_us" in store.columns:
        ended = store.columns["timestamp_us"][np.clip(split.train_stop - 1, 0, max(0, store.n_events - 1))]
        recency = np.empty(len(lengths), np.int64)
        recency[np.argsort(ended, kind="stable")] = np.arange(len(lengths))
    by_item = np.lexsort((-recency[sequences], items))
    # One more, since a query's own sequence is left out.
    by_item = by_item[_is_among_first(items[by_item], n_recent + 1)]
    return _Index(
        np.concatenate([[0], np.cumsum(np.bincount(items[by_item], minlength=store.n_items + 1))]),
        sequences[by_item],
        places[by_item],
        np.concatenate([[0], np.cumsum(np.bincount(sequences, minlength=len(lengths)))]),
        items,
        places,
        recency,
    )


def _latest(store: SequenceStore, positions: np.ndarray, n: int) -> Int[np.ndarray, "queries n"]:
    """The newest items before each position, each item once, by age; 0 where there is none or a newer one is equal."""
    lengths = positions - store.offsets[rows_at(store.offsets, positions)]
    before = positions[:, None] - 1 - np.arange(n)
    items = np.where(np.arange(n) < lengths[:, None], store.items[np.maximum(before, 0)], 0)
    is_older = np.tril(items[:, :, None] == items[:, None, :], k=-1).any(axis=2)
    # Moved together, so that an age counts different items.
    items = np.where(is_older, 0, items)
    return np.take_along_axis(items, np.argsort(items == 0, axis=1, kind="stable"), axis=1)


def _neighbours(
    index: _Index, store: SequenceStore, positions: np.ndarray, history: np.ndarray, weights: np.ndarray, n_recent: int
) -> _Neighbours:
    """The `n_recent` most recent of the sequences that share an item with a query's history, its own left out."""
    queries, ages = np.nonzero(history)
    items = history[queries, ages]
    lengths = index.of_item[items + 1] - index.of_item[items]
    entries = ranges(index.of_item[items], lengths)
    queries, ages = np.repeat(queries, lengths), np.repeat(ages, lengths)
    is_other = index.sequences[entries] != rows_at(store.offsets, positions)[queries]
    entries, queries, ages = entries[is_other], queries[is_other], ages[is_other]
    # Those of a query and a sequence together, the newest item first.
    order = np.lexsort((ages, index.sequences[entries], queries))
    entries, queries, ages = entries[order], queries[order], ages[order]
    sequences = index.sequences[entries]
    is_first = np.ones(len(entries), bool)
    is_first[1:] = (np.diff(queries) != 0) | (np.diff(sequences) != 0)
    firsts = np.flatnonzero(is_first)
    similarity = np.add.reduceat(weights[queries, ages], firsts) if len(firsts) else np.zeros(0)
    every = _Neighbours(queries[firsts], sequences[firsts], similarity, ages[firsts], index.places[entries[firsts]])
    return _most_similar(every, index.recency[every.sequences], index.recency, n_recent)


def _most_similar(neighbours: _Neighbours, by: np.ndarray, recency: np.ndarray, n: int) -> _Neighbours:
    """Of each query the `n` neighbours that are highest, and among equal ones most recent."""
    order = np.lexsort((-recency[neighbours.sequences], -by, neighbours.queries))
    order = order[_is_among_first(neighbours.queries[order], n)]
    return _Neighbours(*(each[order] for each in neighbours))


def _is_among_first(groups: Int[np.ndarray, " n"], n: int) -> np.ndarray:
    """Which of the sorted values are among the first `n` of their kind."""
    starts = np.searchsorted(groups, groups)
    return np.arange(len(groups)) - starts < n


def _sizes(index: _Index, neighbours: _Neighbours) -> Int[np.ndarray, " n"]:
    """How many different items each neighbour has."""
    return index.of_sequence[neighbours.sequences + 1] - index.of_sequence[neighbours.sequences]


def _items_of(index: _Index, neighbours: _Neighbours) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, item and its place, of all items of all neighbours."""
    sizes = _sizes(index, neighbours)
    each = ranges(index.of_sequence[neighbours.sequences], sizes)
    return np.repeat(neighbours.queries, sizes), index.items[each], index.items_places[each]
