"""Matrix factorisation by alternating least squares, for implicit feedback."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from seqrec.baselines.scored import Scorer, of_all_items
from seqrec.data.ragged import blocks, distinct, ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

_VALUES_PER_BLOCK = 1 << 24


def ials(
    store: SequenceStore,
    split: Split,
    *,
    d_model: int = 64,
    n_epochs: int = 16,
    unobserved_weight: float = 0.1,
    l2: float = 0.003,
    l2_exponent: float = 1.0,
    seed: int = 0,
) -> Scorer:
    """Scores items by products with the vector that fits the history best (Hu et al. 2008, eq. 4 and 5).

    An item that a user has taken is to score 1, and all items weigh `unobserved_weight` towards 0. The penalty of a
    vector is `l2` times the sum of the weights of its rows or columns to the power of `l2_exponent`, without which the
    method falls far behind (Rendle et al. 2022, eq. 8). Users of the test get the vector that fits their history.
    """
    users, items = _distinct(store, np.asarray(store.offsets[:-1]), split.train_stop)
    random = np.random.default_rng(seed)
    item_vectors = np.zeros((store.n_items + 1, d_model), np.float32)
    item_vectors[1:] = random.normal(0, 0.1 / np.sqrt(d_model), (store.n_items, d_model))
    by_item = np.argsort(items, kind="stable")
    of_item = np.bincount(items, minlength=store.n_items + 1)
    of_user = np.bincount(users, minlength=store.n_users)

    def solved(columns: np.ndarray, lengths: np.ndarray, vectors: np.ndarray, n_others: int) -> np.ndarray:
        penalties = l2 * (lengths + unobserved_weight * n_others) ** l2_exponent
        return _solve(columns, lengths, vectors, unobserved_weight, penalties)

    for _ in range(n_epochs):
        user_vectors = solved(items, of_user, item_vectors, store.n_items)
        item_vectors[1:] = solved(users[by_item], of_item[1:], user_vectors, store.n_users)

    def query_scores(positions: Int[np.ndarray, " queries"]) -> sp.csr_matrix:
        queries, items = _distinct(store, store.offsets[rows_at(store.offsets, positions)], positions)
        lengths = np.bincount(queries, minlength=len(positions))
        return of_all_items(solved(items, lengths, item_vectors, store.n_items) @ item_vectors[1:].T)

    return Scorer(np.zeros(store.n_items + 1), query_scores, lambda positions: np.full(len(positions), store.n_items))


def _distinct(store: SequenceStore, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and item of each stretch of the store's items, each item once a row."""
    lengths = np.maximum(stops - starts, 0)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    pairs = distinct(rows * (store.n_items + 1) + store.items[ranges(starts, lengths)])
    rows, items = np.divmod(pairs, store.n_items + 1)
    return rows, items


def _solve(
    columns: Int[np.ndarray, " n_ones"],
    lengths: Int[np.ndarray, " rows"],
    vectors: Float[np.ndarray, "n_vectors d_model"],
    unobserved_weight: float,
    penalties: Float[np.ndarray, " rows"],
) -> Float[np.ndarray, "rows d_model"]:
    """The vector of each row whose products with those of its `columns` are nearest 1, and with all others 0."""
    d_model = vectors.shape[1]
    of_all = unobserved_weight * (vectors.T @ vectors)
    solutions = np.zeros((len(lengths), d_model), np.float32)
    starts = np.cumsum(lengths) - lengths
    # Rows of about equal length together, each filled up with a vector of zeros.
    order = np.argsort(lengths, kind="stable")
    padded = np.concatenate([vectors, np.zeros((1, d_model), vectors.dtype)])
    for block in blocks(np.maximum(lengths[order], d_model) * d_model * (1 << 22) // _VALUES_PER_BLOCK):
        rows = order[block]
        width = int(lengths[rows].max(initial=0))
        is_one = np.arange(width) < lengths[rows, None]
        places = np.minimum(starts[rows, None] + np.arange(width), max(0, len(columns) - 1))
        row_vectors = padded[np.where(is_one, columns[places] if len(columns) else 0, len(vectors))]
        matrices = row_vectors.transpose(0, 2, 1) @ row_vectors + of_all
        matrices[:, np.arange(d_model), np.arange(d_model)] += penalties[rows, None]
        solutions[rows] = np.linalg.solve(matrices, row_vectors.sum(axis=1)[..., None])[..., 0]
    return solutions
