"""Baselines that score the whole catalogue given a history: first-order Markov, item-kNN and EASE.

Each is fitted on the training part and returns a `Scorer`; `score_ranks` calls it for blocks of held-out items, so
that no [n_queries, n_items] array exists.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Float, Int

from seqrec.baselines.numpy_ranks import target_ranks
from seqrec.baselines.popularity import check_positions, training_counts
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

Scorer = Callable[[Int[np.ndarray, " queries"]], Float[np.ndarray, "queries n_items_plus_1"]]
"""Positions of held-out items in the store -> scores of all ids, from the user's events before each position."""

_SCORES_PER_BLOCK = 1 << 24
_LARGEST_EASE = 30_000


def score_ranks(
    store: SequenceStore, target_positions: Int[np.ndarray, " n_queries"], scorer: Scorer, *, mask_seen: bool
) -> tuple[Float[np.ndarray, " n_queries"], Int[np.ndarray, " n_queries"]]:
    """Ranks of the items at `target_positions` by their scores, as in `target_ranks`, and each one's candidates.

    With `mask_seen` the distinct items of the query's history are no candidates, except the target.

    Raises:
      InputError: a position holds no event, such as the -1 of a user without a target.
    """
    check_positions(target_positions, store.n_events)
    ranks = np.empty(len(target_positions))
    n_candidates = np.empty(len(target_positions), np.int64)
    per_block = max(1, _SCORES_PER_BLOCK // (store.n_items + 1))
    for start in range(0, len(target_positions), per_block):
        block = slice(start, start + per_block)
        positions = target_positions[block]
        scores = scorer(positions)
        queries = np.arange(len(positions))
        targets = store.items[positions]
        is_candidate = np.ones(scores.shape, bool)
        is_candidate[:, 0] = False
        if mask_seen:
            seen = _histories(store, positions).tocoo()
            is_candidate[seen.row, seen.col] = False
        is_candidate[queries, targets] = True
        ranks[block] = target_ranks(scores, targets, where=is_candidate)
        n_candidates[block] = np.count_nonzero(is_candidate, axis=1)
    return ranks, n_candidates


def first_order_markov(store: SequenceStore, split: Split) -> Scorer:
    """Scores an item by how often it followed the newest item of the history in training, then by its popularity."""
    starts, lengths = store.offsets[:-1], np.maximum(split.train_stop - store.offsets[:-1] - 1, 0)
    before = ranges(starts, lengths)
    n_ids = store.n_items + 1
    pairs = (store.items[before], store.items[before + 1])
    followed = sp.csr_matrix((np.ones(len(before), np.float32), pairs), shape=(n_ids, n_ids))
    counts = training_counts(store, split)
    # Below 1, so that it only breaks ties between items that followed equally often.
    popularity = (counts / (counts.max() + 1.0)).astype(np.float32)

    def score(positions):
        return followed[store.items[positions - 1]].toarray() + popularity

    return score


def item_knn(
    store: SequenceStore,
    split: Split,
    *,
    n_neighbours: int = 100,
    shrinkage: float = 20.0,
    n_latest: int = 10,
    decay: float = 0.8,
    max_history: int = 1000,
) -> Scorer:
    """Scores an item by its similarity to the latest `n_latest` items of the history; weights fall by `decay` with age.

    Similarity is the cosine over training sequences, n_both / (sqrt(n_one * n_other) + shrinkage); each item keeps its
    `n_neighbours` most similar items (Sarwar et al. 2001, section 3; by session as in Hidasi et al. 2016, section 4).
    Of a sequence only the latest `max_history` training events count, because the number of pairs is quadratic.
    """
    starts = np.maximum(store.offsets[:-1], split.train_stop - max_history)
    taken = _binary(store, starts, np.maximum(split.train_stop - starts, 0))
    both = (taken.T @ taken).tocsr().astype(np.float64)
    counts = both.diagonal()
    both.setdiag(0)
    both.eliminate_zeros()
    rows = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
    both.data /= np.sqrt(counts[rows] * counts[both.indices]) + shrinkage
    similarity = _largest_of_rows(both, n_neighbours)

    def score(positions):
        lengths = np.minimum(positions - store.offsets[rows_at(store.offsets, positions)], n_latest)
        columns = store.items[ranges(positions - lengths, lengths)]
        ages = np.repeat(lengths, lengths) - 1 - ranges(np.zeros_like(lengths), lengths)
        rows = np.repeat(np.arange(len(positions)), lengths)
        history = sp.csr_matrix((decay**ages, (rows, columns)), shape=(len(positions), store.n_items + 1))
        return (history @ similarity).toarray()

    return score


def ease(store: SequenceStore, split: Split, *, l2: float = 500.0) -> Scorer:
    """Linear scores of the history's items, with the weights that best predict each item from all others (Steck 2019).

    B = I - P / diag(P) with P = (X'X + l2 I)^-1 (his eq. 8), where X is the binary matrix of users and items. B is
    dense: its memory grows with the square of the catalogue, so more than 30,000 items are refused.
    """
    if store.n_items > _LARGEST_EASE:
        raise InputError(
            f"EASE on {store.n_items:,} items needs {8 * store.n_items**2 / 1e9:.0f} GB; it takes up to "
            f"{_LARGEST_EASE:,}: drop rare items, or take item_knn"
        )
    taken = _binary(store, store.offsets[:-1], np.maximum(split.train_stop - store.offsets[:-1], 0))[:, 1:]
    gram = (taken.T @ taken).toarray().astype(np.float64)
    np.fill_diagonal(gram, gram.diagonal() + l2)
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0.0)

    def score(positions):
        scores = np.zeros((len(positions), store.n_items + 1))
        scores[:, 1:] = _histories(store, positions)[:, 1:] @ weights
        return scores

    return score


def _binary(store: SequenceStore, starts: np.ndarray, lengths: np.ndarray) -> sp.csr_matrix:
    """Row r is 1 at the ids in `items[starts[r]:starts[r] + lengths[r]]`."""
    rows = np.repeat(np.arange(len(starts)), lengths)
    columns = store.items[ranges(starts, lengths)]
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(starts), store.n_items + 1))
    matrix.data[:] = 1.0  # the constructor sums repeats
    return matrix


def _histories(store: SequenceStore, positions: np.ndarray) -> sp.csr_matrix:
    starts = store.offsets[rows_at(store.offsets, positions)]
    return _binary(store, starts, positions - starts)


def _largest_of_rows(matrix: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """The same matrix with only the `n` largest entries of each row; of equal ones the first."""
    order = np.lexsort((-matrix.data, np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))))
    lengths = np.minimum(np.diff(matrix.indptr), n)
    kept = order[ranges(matrix.indptr[:-1].astype(np.int64), lengths.astype(np.int64))]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)
