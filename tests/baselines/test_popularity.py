"""Popularity baselines against plain loops over every user's scores of every item."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.baselines.popularity import popularity_ranks, recent_counts, training_counts
from seqrec.data import ragged
from seqrec.data.splits import leave_last_out
from seqrec.data.store import SequenceStore, store_from_sequences
from seqrec.types import InputError

N_ITEMS = 6

# Few items make many repeats and ties; an empty history now and then shifts users against offsets.
histories = st.lists(st.lists(st.integers(1, N_ITEMS), max_size=9), min_size=1, max_size=6)
global_counts = st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS).map(
    lambda counts: np.array([0, *counts])
)


def slow_ranks(
    store: SequenceStore, counts: np.ndarray, *, mask_seen: bool, personal: bool
) -> tuple[list[float], list[int]]:
    """Every event of the store as a query: score the catalogue, compare the target with each candidate."""
    ranks, n_candidates = [], []
    for user in range(store.n_users):
        sequence = store.items[store.offsets[user] : store.offsets[user + 1]].tolist()
        for place, target in enumerate(sequence):
            history = sequence[:place]
            scores = {
                item: (history.count(item) if personal else 0, int(counts[item]))
                for item in range(1, store.n_items + 1)
                if item == target or not (mask_seen and item in history)
            }
            above = sum(score > scores[target] for score in scores.values())
            tied = sum(score == scores[target] for score in scores.values()) - 1
            ranks.append(1 + above + tied / 2)
            n_candidates.append(len(scores))
    return ranks, n_candidates


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("personal", [False, True])
@examples(150)
@given(histories, global_counts)
def test_ranks_are_those_of_plain_loops(personal, mask_seen, sequences, counts):
    store = store_from_sequences(sequences, n_items=N_ITEMS)
    positions = np.arange(store.n_events)
    ranks, n_candidates = popularity_ranks(store, positions, counts, mask_seen=mask_seen, personal=personal)
    slow, n_slow = slow_ranks(store, counts, mask_seen=mask_seen, personal=personal)
    np.testing.assert_array_equal(ranks, slow)
    np.testing.assert_array_equal(n_candidates, n_slow)


@pytest.mark.parametrize("mask_seen", [False, True])
@pytest.mark.parametrize("personal", [False, True])
@pytest.mark.parametrize("n_events", [1, 7, 50])
def test_blocks_bound_memory_and_change_nothing(monkeypatch, personal, mask_seen, n_events):
    rng = np.random.default_rng(0)
    store = store_from_sequences([rng.integers(1, 21, size=n).tolist() for n in rng.integers(0, 30, size=40)])
    positions = rng.permutation(store.n_events)[:200]
    counts = rng.integers(0, 9, size=store.n_items + 1)
    whole = popularity_ranks(store, positions, counts, mask_seen=mask_seen, personal=personal)
    monkeypatch.setattr(ragged, "EVENTS_PER_BLOCK", n_events)
    in_blocks = popularity_ranks(store, positions, counts, mask_seen=mask_seen, personal=personal)
    np.testing.assert_array_equal(whole, in_blocks)


@pytest.mark.parametrize("n_events_per_block", [3, 1 << 22])
@examples(50)
@given(histories)
def test_training_counts_leave_held_out_items_out(n_events_per_block, sequences):
    sequences.append([1, 2, 3])  # one user at least can be evaluated
    store = store_from_sequences(sequences, n_items=N_ITEMS)
    trained = [item for one in sequences for item in (one[:-2] if len(one) >= 3 else one)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "EVENTS_PER_BLOCK", n_events_per_block)
        counts = training_counts(store, leave_last_out(store))
        n_users = training_counts(store, leave_last_out(store), repeats=False)
    assert counts.tolist() == [0, *(trained.count(item) for item in range(1, N_ITEMS + 1))]
    trained_once = [item for one in sequences for item in set(one[:-2] if len(one) >= 3 else one)]
    assert n_users.tolist() == [0, *(trained_once.count(item) for item in range(1, N_ITEMS + 1))]


def test_on_music_heard_again_and_again_personal_popularity_beats_popularity():
    # Ten users, each with a favourite of their own; item 1 is the hit that everybody heard twice.
    store = store_from_sequences([[1, 1, own, own, own, own, own] for own in range(2, 12)])
    split = leave_last_out(store)
    counts = training_counts(store, split)
    personal, _ = popularity_ranks(store, split.test, counts, mask_seen=False, personal=True)
    popular, _ = popularity_ranks(store, split.test, counts, mask_seen=False)
    assert personal.tolist() == [1.0] * 10
    assert popular.tolist() == [1 + 1 + 9 / 2] * 10  # behind the hit, amid ten favourites


def test_the_whole_history_is_masked_up_to_the_target():
    store = store_from_sequences([[1, 2, 3, 4, 5]], n_items=7)
    counts = np.array([0, 9, 8, 7, 6, 5, 4, 3])
    ranks, n_candidates = popularity_ranks(store, np.array([3]), counts, mask_seen=True)
    assert (ranks.tolist(), n_candidates.tolist()) == ([1.0], [4])  # 4 before 5, 6 and 7; 5 is still to come


def test_a_cold_target_ties_with_the_other_cold_items():
    store = store_from_sequences([[1, 4]], n_items=4)
    ranks, _ = popularity_ranks(store, np.array([1]), np.array([0, 1, 0, 0, 0]), mask_seen=False)
    assert ranks.tolist() == [(2 + 3 + 4) / 3]


def test_no_queries_have_no_ranks():
    store = store_from_sequences([[1, 2]])
    ranks, n_candidates = popularity_ranks(store, np.zeros(0, np.int64), np.zeros(3, int), mask_seen=True)
    assert ranks.size == n_candidates.size == 0


@pytest.mark.parametrize("position", [-1, 2])
@pytest.mark.parametrize("personal", [False, True])
def test_a_position_without_an_event_is_refused(personal, position):
    store = store_from_sequences([[1, 2]])
    with pytest.raises(InputError, match="drop users without a target"):
        popularity_ranks(store, np.array([0, position]), np.zeros(3, int), mask_seen=True, personal=personal)


def test_counts_of_another_catalogue_are_refused():
    with pytest.raises(InputError, match="the store has 2 items"):
        popularity_ranks(store_from_sequences([[1, 2]]), np.array([1]), np.zeros(2, int), mask_seen=True)


def test_recent_popularity_counts_the_last_days_of_training_alone():
    day = 86_400_000_000
    times = np.array([0, 9, 9.5, 10, 11, 12, 3, 10, 11, 12]) * day
    store = store_from_sequences([[1, 2, 2, 3, 4, 5], [1, 3, 4, 5]])
    store = store._replace(columns={"timestamp_us": times.astype(np.int64)})
    # Training goes up to day 10 in both histories; events of day 9, 9.5 and 10 are less than 2 days older.
    assert recent_counts(store, leave_last_out(store), days=2.0).tolist() == [0, 0, 2, 2, 0, 0]
    with pytest.raises(InputError, match="holds no timestamp_us"):
        recent_counts(store_from_sequences([[1, 2, 3]]), leave_last_out(store), days=2.0)
