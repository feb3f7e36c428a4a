"""Ranks of scores, and EASE, against plain loops over small catalogues."""

import numpy as np
import pytest
import scipy.sparse as sp
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from small_histories import N_ITEMS, a_task, histories, history_of, trained

from seqrec.baselines.scored import Scorer, ease, score_ranks
from seqrec.data import ragged
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import InputError

QUICK = examples(60)


def all_scores(scorer, positions):
    """Scores of all ids, one position a row."""
    return scorer.shared + scorer.query_scores(positions).toarray()


@QUICK
@given(histories)
def test_ease_restores_each_item_from_the_others_by_ridge_regression(sequences):
    # Steck 2019, eq. 1 and 2: each column of B is a ridge regression on all other items.
    store, split, tests = a_task(sequences)
    scores = all_scores(ease(store, split, l2=1.5), tests)
    x = np.array([[float(item in one) for item in range(1, N_ITEMS + 1)] for one in trained(sequences)])
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        others = [i for i in range(N_ITEMS) if i != item]
        gram = x[:, others].T @ x[:, others] + 1.5 * np.eye(N_ITEMS - 1)
        weights[others, item] = np.linalg.solve(gram, x[:, others].T @ x[:, item])
    for query, position in enumerate(tests):
        history = np.array([float(item in history_of(store, position)) for item in range(1, N_ITEMS + 1)])
        np.testing.assert_allclose(scores[query, 1:], history @ weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("events_per_block", [1, 20, 1 << 22])
@QUICK
@given(
    sequences=histories,
    shared=st.lists(st.integers(0, 2), min_size=N_ITEMS, max_size=N_ITEMS),
    own=st.dictionaries(st.integers(1, N_ITEMS), st.integers(0, 2)),
)
def test_ranks_count_the_better_and_half_of_the_tied_candidates(events_per_block, mask_seen, sequences, shared, own):
    store, _, tests = a_task(sequences)

    def entries(positions):
        row = np.zeros(N_ITEMS + 1)
        row[list(own)] = list(own.values())
        return sp.csr_matrix(np.tile(row, (len(positions), 1)))

    scorer = Scorer(np.array([9.0, *shared]), entries, lambda positions: np.full(len(positions), len(own)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "EVENTS_PER_BLOCK", events_per_block)
        ranks, n_candidates = score_ranks(store, tests, scorer, mask_seen=mask_seen)
    for query, position in enumerate(tests):
        target, history = store.items[position], history_of(store, position)
        others = [i for i in range(1, N_ITEMS + 1) if i != target and not (mask_seen and i in history)]
        scores = [shared[i - 1] + own.get(i, 0) for i in range(1, N_ITEMS + 1)]
        above = sum(scores[i - 1] > scores[target - 1] for i in others)
        tied = sum(scores[i - 1] == scores[target - 1] for i in others)
        assert (ranks[query], n_candidates[query]) == (1 + above + tied / 2, len(others) + 1)


def test_a_catalogue_too_large_for_ease_is_refused_with_its_memory():
    store = store_from_sequences([[1, 2, 3]], n_items=40_000)
    with pytest.raises(InputError, match=r"EASE on 40,000 items needs 13 GB; it takes up to 30,000"):
        ease(store, leave_last_out(store))


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_without_an_event_is_refused(position):
    store = store_from_sequences([[1, 2, 3]])
    scorer = ease(store, leave_last_out(store))
    with pytest.raises(InputError, match="drop users without a target"):
        score_ranks(store, np.array([1, position]), scorer, mask_seen=True)
