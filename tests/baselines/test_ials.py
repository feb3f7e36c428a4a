"""Alternating least squares: each vector is the best for the others, and planted tastes are found."""

import numpy as np
import pytest

from seqrec.baselines.ials import _solve, ials
from seqrec.baselines.scored import score_ranks
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences


@pytest.mark.parametrize("lengths", [[3, 0, 5, 1], [2, 2], [0]])
def test_a_vector_has_no_better_one_among_its_neighbours(lengths):
    random = np.random.default_rng(0)
    lengths, vectors = np.array(lengths), random.normal(size=(9, 4)).astype(np.float32)
    columns = np.concatenate([random.choice(9, n, replace=False) for n in lengths]).astype(int)
    penalties = random.uniform(0.1, 1.0, len(lengths))
    solutions = _solve(columns, lengths, vectors, 0.3, penalties)
    for row, ones in enumerate(np.split(columns, np.cumsum(lengths)[:-1])):

        def cost(vector, ones=ones, row=row):
            scores = vectors.astype(np.float64) @ vector
            return np.sum((scores[ones] - 1) ** 2) + 0.3 * np.sum(scores**2) + penalties[row] * vector @ vector

        for direction in np.eye(4):
            assert cost(solutions[row]) <= min(
                cost(solutions[row] + 1e-3 * direction), cost(solutions[row] - 1e-3 * direction)
            )


def test_users_who_share_a_taste_are_told_what_others_of_it_took():
    random = np.random.default_rng(1)
    tastes = [np.arange(1, 21), np.arange(21, 41)]
    store = store_from_sequences([random.permutation(tastes[user % 2])[:9].tolist() for user in range(40)], n_items=40)
    split = leave_last_out(store)
    scorer = ials(store, split, d_model=4, n_epochs=4)
    ranks, n_candidates = score_ranks(store, split.test, scorer, mask_seen=True)
    assert set(n_candidates.tolist()) == {32}
    # Twelve of the 32 candidates are of the user's taste, and of these none is likelier than another.
    assert np.mean(ranks <= 12) > 0.9
    assert ranks.mean() == pytest.approx(6.5, abs=2)
