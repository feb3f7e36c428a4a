"""What a user takes again: the items of the history, newer events weighing more."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int

from seqrec.baselines.popularity import tie_breaks
from seqrec.baselines.scored import Positions, Scorer
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.store import SequenceStore


def personal_recency(
    store: SequenceStore, counts: Int[np.ndarray, " n_items_plus_1"], *, exponent: float = 0.5
) -> Scorer:
    """Scores an item by the user's own events with it, each weighing age^-exponent, then by its `counts` in training.

    The newest event of the history has the age 1, the one before it 2, and so on. A power of age is how the strength of
    a memory decays (Anderson and Schooler 1991), and how music is played again (Reiter-Haas et al. 2021). An exponent
    of 0 is personal popularity.
    """

    def lengths_of(positions: Positions) -> Int[np.ndarray, " queries"]:
        lengths: Int[np.ndarray, " queries"] = positions - store.offsets[rows_at(store.offsets, positions)]
        return lengths

    def query_scores(positions: Positions) -> sp.csr_matrix:
        lengths = lengths_of(positions)
        ages = np.repeat(lengths, lengths) - ranges(np.zeros_like(lengths), lengths)
        rows, items = np.repeat(np.arange(len(positions)), lengths), store.items[ranges(positions - lengths, lengths)]
        return sp.csr_matrix(
            (np.float_power(ages, -exponent), (rows, items)), shape=(len(positions), store.n_items + 1)
        )

    return Scorer(tie_breaks(counts), query_scores, lengths_of)
