"""Targets that were seen before, where seen items are masked: they are left out or missed, and give nothing away."""

import numpy as np
import pytest

from seqrec.baselines.popularity import popularity_ranks, training_counts
from seqrec.data.batches import make_queries
from seqrec.data.repeated_targets import choose_masking, seen_before
from seqrec.data.store import store_from_sequences
from seqrec.run.data import DataConfig, make_task
from seqrec.types import InputError


def plays(n_users=300, n_plays=40, n_tracks=100, seed=0):
    """Tracks drawn uniformly: what was played says nothing of what comes."""
    random = np.random.default_rng(seed)
    return store_from_sequences((1 + random.integers(n_tracks, size=(n_users, n_plays))).tolist())


def slowly_seen_before(store, positions):
    seen = []
    for position in positions:
        user = np.searchsorted(store.offsets, position, side="right") - 1
        seen.append(store.items[position] in store.items[store.offsets[user] : position])
    return seen


def test_an_event_was_seen_before_if_its_user_had_it_earlier(monkeypatch):
    monkeypatch.setattr("seqrec.data.ragged.EVENTS_PER_BLOCK", 50)  # several blocks
    random = np.random.default_rng(1)
    store = store_from_sequences([random.integers(1, 9, random.integers(1, 12)).tolist() for _ in range(60)])
    positions = np.sort(random.choice(store.n_events, 80, replace=False))
    assert seen_before(store, positions).tolist() == slowly_seen_before(store, positions)


@pytest.mark.parametrize(
    ("config", "share", "masks", "says"),
    [
        ("auto", 0.0, True, ""),
        ("auto", 0.2, True, ""),
        ("auto", 0.3, False, "30.0% of validation targets"),
        ("yes", 0.3, True, "consider --no-mask-seen"),
        ("yes", 0.1, True, ""),
        ("no", 0.0, False, ""),
    ],
)
def test_masking_follows_from_the_share_of_repeats_and_a_large_one_is_said(config, share, masks, says):
    masking = choose_masking(config, np.arange(10) < 10 * share)
    assert masking.mask_seen == masks
    assert says in masking.note
    assert bool(masking.note) == bool(says)


def test_on_noise_the_own_history_is_worth_no_more_than_chance():
    store = plays()
    task = make_task(DataConfig(mask_seen="yes", max_length=40), store, seed=0)
    counts = training_counts(store, task.split)
    ranks, n_candidates = popularity_ranks(store, task.test.target_positions, counts, mask_seen=True, personal=True)
    chance = np.mean(5 / n_candidates)
    error = np.sqrt(chance * (1 - chance) / len(ranks))
    assert abs(np.mean(ranks <= 5) - chance) < 4 * error
    # With the repeated targets in it, the same baseline finds each of them at rank 1.
    every, _ = popularity_ranks(store, task.split.test, counts, mask_seen=True, personal=True)
    assert np.mean(every <= 5) > chance + 10 * error
    assert task.n_repeated_targets == sum(slowly_seen_before(store, task.split.test))
    assert len(task.test.users) == store.n_users - task.n_repeated_targets


def test_repeated_targets_that_count_as_misses_rank_behind_all_candidates():
    store = plays(n_users=50)
    task = make_task(DataConfig(mask_seen="yes", repeated_targets="miss", max_length=40), store, seed=0)
    seen = slowly_seen_before(store, task.split.test)
    assert len(task.test.users) == 50
    n_candidates = np.full(50, 70)
    judged = task.test.judge(np.ones(50), n_candidates)
    assert judged.tolist() == [71.0 if repeated else 1.0 for repeated in seen]
    assert 0 < sum(seen) < 50


def test_true_items_of_a_continuation_that_are_excluded_are_no_true_items():
    store = store_from_sequences([[1, 2, 3, 4, 1, 5, 4], [2, 3, 1, 5, 4, 1, 2]])
    targets = np.array([3, 10])  # item 4 after 1 2 3, and item 5 after 2 3 1

    def continuations(**options):
        return make_queries(store, targets, max_length=5, batch_size=2, **options).continuations(4).tolist()

    assert continuations(mask_seen=True) == [[4, 0, 5, 0], [5, 4, 0, 0]]
    assert continuations(mask_seen=False) == [[4, 1, 5, 0], [5, 4, 1, 2]]  # the second 4 repeats the first
    misses = np.array([False, False])
    assert continuations(mask_seen=True, count_as_miss=misses) == [[4, 1, 5, 0], [5, 4, 1, 2]]


def test_without_masking_every_target_is_ranked():
    store = plays(n_users=50)
    for config in (DataConfig(mask_seen="no", max_length=40), DataConfig(max_length=40)):  # auto: a third are repeats
        task = make_task(config, store, seed=0)
        assert not task.mask_seen
        assert len(task.test.users) == 50
        assert task.test.n_excluded == 0


def test_a_test_of_repeats_alone_is_refused():
    # Each user's last but one event, which validates, is new; the last one is not.
    store = store_from_sequences([[1, 2, 3, 1]] * 4)
    with pytest.raises(InputError, match="all 4 test targets are items that their users had seen before"):
        make_task(DataConfig(mask_seen="yes"), store, seed=0)
