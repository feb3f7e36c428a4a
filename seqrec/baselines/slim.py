"""A sparse linear model of items, for catalogues whose dense one would not fit the memory."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int

from seqrec.baselines.scored import Scorer, binary_histories, binary_training, most_similar
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

_VALUES_PER_BLOCK = 1 << 22


def slim(store: SequenceStore, split: Split, *, n_neighbours: int = 50, l2: float = 100.0) -> Scorer:
    """Linear scores of the history's items by `slim_weights`."""
    matrix = slim_weights(store, split, n_neighbours=n_neighbours, l2=l2)
    n_scores = np.diff(matrix.indptr)

    def n_query_scores(positions: Int[np.ndarray, " queries"]) -> Int[np.ndarray, " queries"]:
        history = binary_histories(store, positions)
        n_query_scores: np.ndarray = history @ n_scores
        return n_query_scores.astype(np.int64)

    return Scorer(
        np.zeros(store.n_items + 1), lambda positions: binary_histories(store, positions) @ matrix, n_query_scores
    )


def slim_weights(store: SequenceStore, split: Split, *, n_neighbours: int = 50, l2: float = 100.0) -> sp.csr_matrix:
    """What item i of a history adds to the score of item j, at [i, j]; j is predicted from `n_neighbours` items alone.

    These are the most similar ones. A ridge regression for each item: `ease` with all weights but those held at 0,
    whose memory grows with the number of items alone. Of the sparse linear methods it is fsSLIM (Ning and Karypis 2011,
    section 4.4) by cosine, with an L2 penalty in place of L1.
    """
    interactions = binary_training(store, split)
    both = (interactions.T @ interactions).tocsr().astype(np.float64)
    near = most_similar(interactions, n_neighbours=n_neighbours, shrinkage=20.0, name="the sparse linear model")
    lengths = np.diff(near.indptr)
    rows, columns, values = [], [], []
    per_block = max(1, _VALUES_PER_BLOCK // n_neighbours**2)
    for start in range(0, store.n_items + 1, per_block):
        items = np.arange(start, min(start + per_block, store.n_items + 1))
        is_near = np.arange(n_neighbours) < lengths[items, None]
        places = np.minimum(near.indptr[items, None] + np.arange(n_neighbours), max(0, near.nnz - 1))
        others = np.where(is_near, near.indices[places] if near.nnz else 0, 0)
        # Item 0, padding, is in no history: where there are fewer neighbours it stands, and has no weight.
        shape = (len(items), n_neighbours, n_neighbours)
        ones = np.broadcast_to(others[:, :, None], shape).reshape(-1)
        twos = np.broadcast_to(others[:, None, :], shape).reshape(-1)
        grams = np.asarray(both[ones, twos]).reshape(shape)
        grams[:, np.arange(n_neighbours), np.arange(n_neighbours)] += l2
        targets = np.asarray(both[others.reshape(-1), np.repeat(items, n_neighbours)]).reshape(others.shape)
        weights = np.linalg.solve(grams, targets[..., None])[..., 0]
        rows.append(others[is_near])
        columns.append(np.repeat(items, lengths[items]))
        values.append(weights[is_near])
    places = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_matrix((np.concatenate(values), places), shape=both.shape)
