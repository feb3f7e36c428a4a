"""What a user takes again, against plain loops."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.baselines.personal import personal_recency
from seqrec.baselines.popularity import popularity_ranks
from seqrec.baselines.scored import score_ranks
from seqrec.data.store import store_from_sequences

N_ITEMS = 6
histories = st.lists(st.lists(st.integers(1, N_ITEMS), max_size=9), min_size=1, max_size=6)
COUNTS = np.array([0, 2, 0, 3, 3, 1, 9])


@examples(60)
@given(histories, st.sampled_from([0.0, 0.5, 1.5]), st.booleans())
def test_events_weigh_by_a_power_of_their_age_and_others_by_popularity(sequences, exponent, mask_seen):
    store = store_from_sequences(sequences, n_items=N_ITEMS)
    positions = np.arange(store.n_events)
    ranks, n_candidates = score_ranks(
        store, positions, personal_recency(store, COUNTS, exponent=exponent), mask_seen=mask_seen
    )
    for position in positions:
        user = np.searchsorted(store.offsets, position, side="right") - 1
        history, target = store.items[store.offsets[user] : position].tolist(), store.items[position]
        # Of equal sums in another order the last digits differ.
        own = [
            round(sum(age**-exponent for age, event in enumerate(reversed(history), 1) if event == item), 9)
            for item in range(N_ITEMS + 1)
        ]
        scores = {
            item: (own[item], COUNTS[item])
            for item in range(1, N_ITEMS + 1)
            if item == target or not (mask_seen and item in history)
        }
        above = sum(score > scores[target] for score in scores.values())
        tied = sum(score == scores[target] for score in scores.values()) - 1
        assert (ranks[position], n_candidates[position]) == (1 + above + tied / 2, len(scores))


@pytest.mark.parametrize("mask_seen", [False, True])
def test_without_decay_it_is_personal_popularity(mask_seen):
    random = np.random.default_rng(0)
    store = store_from_sequences([random.integers(1, N_ITEMS + 1, 12).tolist() for _ in range(20)], n_items=N_ITEMS)
    positions = np.arange(store.n_events)
    np.testing.assert_array_equal(
        score_ranks(store, positions, personal_recency(store, COUNTS, exponent=0.0), mask_seen=mask_seen),
        popularity_ranks(store, positions, COUNTS, mask_seen=mask_seen, personal=True),
    )


def test_of_two_habits_the_newer_one_comes_first():
    store = store_from_sequences([[1, 1, 2, 2, 2, 1, 1, 1]])
    counts = np.array([0, 0, 0])
    ranks, _ = score_ranks(store, np.array([5, 7]), personal_recency(store, counts, exponent=1.0), mask_seen=False)
    # After 1 1 2 2 2 the second item leads; after two more of the first one, 1/1 + 1/2 + 1/6 + 1/7 are the most.
    assert ranks.tolist() == [2.0, 1.0]
