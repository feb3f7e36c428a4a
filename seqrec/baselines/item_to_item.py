"""Baselines that add up what each of a history's latest items speaks for: Markov chains and item-kNN.

All are a sparse matrix of items by items and a weight for each age, so that other code can score with them too.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from seqrec.baselines.popularity import tie_breaks, training_counts
from seqrec.baselines.scored import Positions, Scorer, binary_training, largest_of_rows, most_similar
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore


class ItemToItem(NamedTuple):
    """The score of an item is the sum over a history's latest items of age weight times the weight of the pair."""

    weights: sp.csr_matrix
    """[n_items_plus_1, n_items_plus_1]: row i has what item i of a history adds to each item."""
    by_age: Float[np.ndarray, " n_latest"]
    """Weight of the newest event of a history first; older events than these do not count."""
    shared: Float[np.ndarray, " n_items_plus_1"]
    """What every history adds: popularity, which breaks ties."""


def item_to_item_scorer(store: SequenceStore, model: ItemToItem) -> Scorer:
    """Scores of the store's histories."""
    n_latest, n_of_item = len(model.by_age), np.diff(model.weights.indptr)

    def latest(positions: Positions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, item and age of the latest events before each position."""
        lengths = np.minimum(positions - store.offsets[rows_at(store.offsets, positions)], n_latest)
        ages = np.repeat(lengths, lengths) - 1 - ranges(np.zeros_like(lengths), lengths)
        return np.repeat(np.arange(len(positions)), lengths), store.items[ranges(positions - lengths, lengths)], ages

    def query_scores(positions: Positions) -> sp.csr_matrix:
        rows, items, ages = latest(positions)
        shape = (len(positions), model.weights.shape[0])
        return sp.csr_matrix((model.by_age[ages], (rows, items)), shape=shape) @ model.weights

    def n_query_scores(positions: Positions) -> Int[np.ndarray, " queries"]:
        rows, items, _ = latest(positions)
        return np.bincount(rows, n_of_item[items], minlength=len(positions)).astype(np.int64)

    return Scorer(model.shared, query_scores, n_query_scores)


def sparse_rows(
    model: ItemToItem, *, n: int
) -> tuple[Int[np.ndarray, "n_items_plus_1 n"], Float[np.ndarray, "n_items_plus_1 n"]]:
    """For each item the ids that it speaks for most, at most `n`, and their weights; 0 and 0 where it has fewer.

    These are arrays of one shape, as a device wants them; the order in a row means nothing.

    >>> weights = sp.csr_matrix(np.array([[0, 0, 0], [0, 7, 3], [0, 4, 0]], np.float32))
    >>> ids, kept = sparse_rows(ItemToItem(weights, np.ones(1), np.zeros(3)), n=1)
    >>> ids.tolist(), kept.tolist()
    ([[0], [1], [1]], [[0.0], [7.0], [4.0]])
    """
    kept = largest_of_rows(model.weights, n)
    is_kept = np.arange(n) < np.diff(kept.indptr)[:, None]
    ids, weights = np.zeros(is_kept.shape, np.int32), np.zeros(is_kept.shape, np.float32)
    ids[is_kept], weights[is_kept] = kept.indices, kept.data
    return ids, weights


def first_order_markov(store: SequenceStore, split: Split) -> ItemToItem:
    """Scores an item by how often it followed the newest item of the history in training, then by its popularity."""
    followed = _followed(store, split, window=1, decay=1.0)
    counts = training_counts(store, split)
    # Below 1, so that it only breaks ties between items that followed equally often.
    return ItemToItem(followed, np.ones(1), counts / (counts.max() + 1.0))


def skip_gram_markov(
    store: SequenceStore, split: Split, *, window: int = 10, decay: float = 0.8, age_decay: float = 0.6
) -> ItemToItem:
    """Scores an item by how often it followed the latest items of the history in training, with others in between.

    An item that follows at the distance d counts decay^(d - 1) (skipping: Shani et al. 2005, section 3.1), up to the
    distance `window`; counts are divided by their sum for each item, which makes them chances. The chances after the
    latest `window` items are added up with weights that fall by `age_decay` with age, as in the higher-order chain of
    Fossil (He and McAuley 2016), whose weights are learned.
    """
    followed = _followed(store, split, window=window, decay=decay)
    sums = np.asarray(followed.sum(axis=1)).reshape(-1)
    followed.data /= np.repeat(np.maximum(sums, 1e-30), np.diff(followed.indptr)).astype(followed.dtype)
    return ItemToItem(followed, age_decay ** np.arange(window), tie_breaks(training_counts(store, split)))


def _followed(store: SequenceStore, split: Split, *, window: int, decay: float) -> sp.csr_matrix:
    """Row i has the number of times that each item followed item i; at the distance d one counts decay^(d - 1)."""
    starts, n_ids = store.offsets[:-1], store.n_items + 1
    total = sp.csr_matrix((n_ids, n_ids), dtype=np.float32)
    for distance in range(1, window + 1):
        before = ranges(starts, np.maximum(split.train_stop - starts - distance, 0))
        pairs = (store.items[before], store.items[before + distance])
        total += sp.csr_matrix((np.full(len(before), decay ** (distance - 1), np.float32), pairs), shape=total.shape)
    return total


def item_knn(
    store: SequenceStore,
    split: Split,
    *,
    n_neighbours: int = 100,
    shrinkage: float = 5.0,
    n_latest: int = 10,
    decay: float = 0.65,
    max_history: int = 1000,
) -> ItemToItem:
    """Scores an item by its similarity to the latest `n_latest` items of the history; weights fall by `decay` with age.

    Similarity is the cosine over training sequences, n_both / (sqrt(n_one * n_other) + shrinkage); each item keeps its
    `n_neighbours` most similar items (Sarwar et al. 2001, section 3; by session as in Hidasi et al. 2016, section 4).
    Of a sequence only the latest `max_history` training events count, because the number of pairs is quadratic. Pairs
    are counted for a block of items at a time: memory is that of the neighbours that are kept, of which too many are
    refused. Popularity breaks ties.
    """
    interactions = binary_training(store, split, max_history=max_history)
    similarity = most_similar(interactions, n_neighbours=n_neighbours, shrinkage=shrinkage, name="item-kNN")
    return ItemToItem(similarity, decay ** np.arange(n_latest), tie_breaks(training_counts(store, split)))
