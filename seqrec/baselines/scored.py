"""Baselines that score the catalogue given a history: what they have in common, and EASE.

Each is fitted on the training part and returns a `Scorer`; `score_ranks` calls it for blocks of held-out items. Most
know of few items more than their popularity, and for these no array of queries and items is made.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from jaxtyping import Float, Int

from seqrec.baselines.numpy_ranks import ranks_of_counts
from seqrec.baselines.popularity import check_positions
from seqrec.data.ragged import blocks, ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

Positions = Int[np.ndarray, " queries"]
"""Of held-out items in the store; scores are made from the user's events before each."""


class Scorer(NamedTuple):
    """Scores of all ids for each position: those that all positions share, and what some ids have in addition."""

    shared: Float[np.ndarray, " n_items_plus_1"]
    query_scores: Callable[[Positions], sp.csr_matrix]
    """`query_scores(positions)` -> [queries, n_items_plus_1], added to `shared`."""
    n_query_scores: Callable[[Positions], Int[np.ndarray, " queries"]]
    """At most how many entries `query_scores` has in each row, by which blocks are sized."""


_PAIRS_PER_BLOCK = 1 << 23
_LARGEST_EASE = 30_000
_MOST_BYTES = 8_000_000_000


def score_ranks(
    store: SequenceStore,
    target_positions: Int[np.ndarray, " n_queries"],
    scorer: Scorer,
    *,
    mask_seen: bool,
    report: Callable[[int], None] | None = None,
) -> tuple[Float[np.ndarray, " n_queries"], Int[np.ndarray, " n_queries"]]:
    """Ranks of the items at `target_positions` by their scores, a tie costing half, and each one's candidates.

    With `mask_seen` the distinct items of the query's history are no candidates, except the target. A rank is counted
    in the sorted scores that all queries share, and corrected for the items that have another or are no candidates.
    `report(n_queries)` is told of each block that is done.

    Raises:
      InputError: a position holds no event, such as the -1 of a user without a target.
    """
    check_positions(target_positions, store.n_events)
    ranks = np.empty(len(target_positions))
    n_candidates = np.full(len(target_positions), store.n_items)
    in_order = np.sort(scorer.shared[1:])
    lengths = target_positions - store.offsets[rows_at(store.offsets, target_positions)]
    for block in blocks(scorer.n_query_scores(target_positions) + mask_seen * lengths):
        positions = target_positions[block]
        queries, targets = np.arange(len(positions)), np.asarray(store.items[positions])
        scores = _PairScores(scorer, positions)
        of_targets = scores.of(queries, targets)
        n_not_above = np.searchsorted(in_order, of_targets, side="right")
        n_above = len(in_order) - n_not_above
        n_tied = n_not_above - np.searchsorted(in_order, of_targets, side="left")

        def count(rows, values, sign, n_above=n_above, n_tied=n_tied, of_targets=of_targets):
            for counts, counted in ((n_above, values > of_targets[rows]), (n_tied, values == of_targets[rows])):
                counts += sign * np.bincount(rows[counted], minlength=len(counts))

        count(scores.rows, scorer.shared[scores.items], -1)
        count(scores.rows, scores.values, 1)
        if mask_seen:
            seen = binary_histories(store, positions).tocoo()
            is_other = seen.col != targets[seen.row]
            rows, items = seen.row[is_other], seen.col[is_other]
            count(rows, scores.of(rows, items), -1)
            n_candidates[block] -= np.bincount(rows, minlength=len(positions))
        ranks[block] = ranks_of_counts(n_above, n_tied - 1)  # the target ties with itself
        if report is not None:
            report(len(positions))
    return ranks, n_candidates


class _PairScores:
    """A scorer's own entries at some positions: row and item of each, and its score."""

    def __init__(self, scorer: Scorer, positions: Positions):
        entries = scorer.query_scores(positions)
        entries.sum_duplicates()  # and sorts them
        self.shared, self.n_ids = scorer.shared, entries.shape[1]
        self.rows = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr))
        self.items = entries.indices
        self.values = entries.data + scorer.shared[entries.indices]
        self.pairs = self.rows * self.n_ids + entries.indices

    def of(self, rows: Int[np.ndarray, " n"], items: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The scores of any pairs of row and item."""
        scores = self.shared[items].astype(self.values.dtype)
        if len(self.pairs):
            pairs = rows.astype(np.int64) * self.n_ids + items
            places = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
            has_own = self.pairs[places] == pairs
            scores[has_own] = self.values[places[has_own]]
        return scores


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
    interactions = _binary(store, store.offsets[:-1], np.maximum(split.train_stop - store.offsets[:-1], 0))[:, 1:]
    gram = (interactions.T @ interactions).toarray().astype(np.float64)
    np.fill_diagonal(gram, gram.diagonal() + l2)
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0.0)

    return Scorer(
        np.zeros(store.n_items + 1),
        lambda positions: of_all_items(binary_histories(store, positions)[:, 1:] @ weights),
        lambda positions: np.full(len(positions), store.n_items),
    )


def of_all_items(scores: Float[np.ndarray, "queries n_items"]) -> sp.csr_matrix:
    """Scores of all items as a `Scorer` has them."""
    n_queries, n_items = scores.shape
    ids = np.tile(np.arange(1, n_items + 1), n_queries)
    return sp.csr_matrix((scores.reshape(-1), ids, np.arange(n_queries + 1) * n_items), shape=(n_queries, n_items + 1))


def binary_training(store: SequenceStore, split: Split, *, max_history: int = 1000) -> sp.csr_matrix:
    """Row u is 1 at the items among the latest `max_history` training events of user u."""
    starts = np.maximum(store.offsets[:-1], split.train_stop - max_history)
    return _binary(store, starts, np.maximum(split.train_stop - starts, 0))


def most_similar(interactions: sp.csr_matrix, *, n_neighbours: int, shrinkage: float, name: str) -> sp.csr_matrix:
    """The `n_neighbours` most similar items of each, by the cosine of `item_knn`, from rows of items taken together.

    Raises:
      InputError: the result would be larger than `name`, who asks, may be.
    """
    n_items = interactions.shape[1] - 1
    of_items, lengths = interactions.T.tocsr(), np.diff(interactions.indptr)
    counts = np.diff(of_items.indptr).astype(np.float64)
    n_pairs = of_items @ lengths
    n_bytes = 2 * 12 * int(np.minimum(n_pairs, n_neighbours).sum())  # while blocks are joined they are there twice
    if n_bytes > _MOST_BYTES:
        raise InputError(
            f"{name} with {n_neighbours} neighbours needs up to {n_bytes / 1e9:.0f} GB for {n_items:,} items; "
            f"it takes up to {_MOST_BYTES / 1e9:.0f}: take fewer neighbours, or drop rare items"
        )
    bounds = np.flatnonzero(np.diff(np.cumsum(n_pairs) // _PAIRS_PER_BLOCK, prepend=0))
    similar = []
    for start, stop in itertools.pairwise(np.unique([0, *bounds, len(counts)])):
        both = (of_items[start:stop] @ interactions).astype(np.float64)
        rows = start + np.repeat(np.arange(stop - start), np.diff(both.indptr))
        is_other = rows != both.indices
        both.data *= is_other / (np.sqrt(counts[rows] * counts[both.indices]) + shrinkage)
        both.eliminate_zeros()
        similar.append(largest_of_rows(both, n_neighbours))
    return sp.vstack(similar, format="csr")


def _binary(store: SequenceStore, starts: np.ndarray, lengths: np.ndarray) -> sp.csr_matrix:
    """Row r is 1 at the ids in `items[starts[r]:starts[r] + lengths[r]]`."""
    rows = np.repeat(np.arange(len(starts)), lengths)
    columns = store.items[ranges(starts, lengths)]
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(starts), store.n_items + 1))
    matrix.data[:] = 1.0  # the constructor sums repeats
    return matrix


def binary_histories(store: SequenceStore, positions: Positions) -> sp.csr_matrix:
    """Row q is 1 at the items before position q in its user's history."""
    starts = store.offsets[rows_at(store.offsets, positions)]
    return _binary(store, starts, positions - starts)


def largest_of_rows(matrix: sp.csr_matrix, n: int) -> sp.csr_matrix:
    """The same matrix with only the `n` largest entries of each row; of equal ones the first."""
    lengths = np.diff(matrix.indptr)
    kept = np.ones(matrix.nnz, bool)
    entries = np.flatnonzero(np.repeat(lengths > n, lengths))
    rows = np.repeat(np.arange(len(lengths)), np.where(lengths > n, lengths, 0))
    order = entries[np.lexsort((-matrix.data[entries], rows))]
    kept[order[ranges(np.zeros(np.sum(lengths > n), np.int64), lengths[lengths > n].astype(np.int64)) >= n]] = False
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, n))])
    return sp.csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)
