"""Markov chains and item-kNN against plain loops over small catalogues."""

import itertools
import tracemalloc

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from small_histories import N_ITEMS, a_task, histories, history_of, trained

from seqrec.baselines import scored
from seqrec.baselines.item_to_item import (
    first_order_markov,
    item_knn,
    item_to_item_scorer,
    skip_gram_markov,
    sparse_rows,
)
from seqrec.baselines.scored import score_ranks
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import InputError

QUICK = examples(60)


def all_scores(store, model, positions):
    """Scores of all ids, one position a row, and what breaks their ties left out."""
    scorer = item_to_item_scorer(store, model)
    assert all(np.diff(scorer.query_scores(positions).indptr) <= scorer.n_query_scores(positions))
    return scorer.query_scores(positions).toarray()


@QUICK
@given(histories)
def test_markov_counts_what_followed_and_falls_back_on_popularity(sequences):
    store, split, tests = a_task(sequences)
    model = first_order_markov(store, split)
    scores = all_scores(store, model, tests) + model.shared
    pairs = [pair for one in trained(sequences) for pair in itertools.pairwise(one)]
    events = [item for one in trained(sequences) for item in one]
    most = max(map(events.count, range(N_ITEMS + 1)))
    for query, position in enumerate(tests):
        last = history_of(store, position)[-1]
        expected = [pairs.count((last, item)) + events.count(item) / (most + 1) for item in range(1, N_ITEMS + 1)]
        np.testing.assert_allclose(scores[query, 1:], expected, rtol=1e-6)


@QUICK
@given(histories, st.integers(1, 4))
def test_skip_grams_count_what_followed_at_a_distance(sequences, window):
    store, split, tests = a_task(sequences)
    scores = all_scores(store, skip_gram_markov(store, split, window=window, decay=0.5, age_decay=0.25), tests)
    followed = np.zeros((N_ITEMS + 1, N_ITEMS + 1))
    for one in trained(sequences):
        for first, second in itertools.combinations(range(len(one)), 2):
            if second - first <= window:
                followed[one[first], one[second]] += 0.5 ** (second - first - 1)
    for query, position in enumerate(tests):
        expected = np.zeros(N_ITEMS + 1)
        for age, item in enumerate(reversed(history_of(store, position)[-window:])):
            if followed[item].any():
                expected += 0.25**age * followed[item] / followed[item].sum()
        np.testing.assert_allclose(scores[query], expected, rtol=1e-5, atol=1e-7)


@QUICK
@given(histories)
def test_skip_grams_of_distance_one_rank_as_a_first_order_chain(sequences):
    store, split, tests = a_task(sequences)
    chains = (first_order_markov(store, split), skip_gram_markov(store, split, window=1))
    one, other = (score_ranks(store, tests, item_to_item_scorer(store, chain), mask_seen=False) for chain in chains)
    np.testing.assert_array_equal(one, other)


@QUICK
@given(histories, st.integers(1, N_ITEMS), st.integers(1, 4))
def test_item_knn_adds_the_shrunk_cosines_of_the_latest_items(sequences, n_neighbours, n_latest):
    store, split, tests = a_task(sequences)
    model = item_knn(store, split, n_neighbours=n_neighbours, shrinkage=2.0, n_latest=n_latest, decay=0.5)
    scores = all_scores(store, model, tests)
    sets = [set(one) for one in trained(sequences)]

    def likeness(one, other):
        n_one, n_other = (sum(item in s for s in sets) for item in (one, other))
        both = sum(one in s and other in s for s in sets)
        return both / (np.sqrt(n_one * n_other) + 2.0) if one != other and both else 0.0

    neighbours = {}
    for item in range(1, N_ITEMS + 1):
        by_likeness = sorted(range(1, N_ITEMS + 1), key=lambda other: (-likeness(item, other), other))
        neighbours[item] = by_likeness[:n_neighbours]
    for query, position in enumerate(tests):
        expected = np.zeros(N_ITEMS)
        for age, item in enumerate(reversed(history_of(store, position)[-n_latest:])):
            for other in neighbours[item]:
                expected[other - 1] += 0.5**age * likeness(item, other)
        np.testing.assert_allclose(scores[query, 1:], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, N_ITEMS + 1])
def test_sparse_rows_have_the_largest_weights_of_each_item(n):
    store, split, _ = a_task(np.random.default_rng(0).integers(1, N_ITEMS + 1, (9, 8)).tolist())
    model = skip_gram_markov(store, split)
    ids, weights = sparse_rows(model, n=n)
    dense = model.weights.toarray()
    np.testing.assert_array_equal(weights, np.take_along_axis(dense, ids, axis=1) * (ids > 0))
    largest = -np.sort(-dense, axis=1)[:, :n]
    np.testing.assert_array_equal(-np.sort(-weights, axis=1), largest)


def test_a_user_without_a_history_gets_what_is_popular_and_not_what_follows_anothers_last_item():
    store = store_from_sequences([[1, 2, 1, 2, 1], [3, 3, 3]])
    split = leave_last_out(store)
    for model in (first_order_markov(store, split), skip_gram_markov(store, split), item_knn(store, split)):
        scorer = item_to_item_scorer(store, model)
        assert scorer.query_scores(store.offsets[:-1]).nnz == 0
        np.testing.assert_array_equal(scorer.shared, model.shared)


def test_neighbours_do_not_depend_on_the_blocks_in_which_pairs_are_counted(monkeypatch):
    generator = np.random.default_rng(0)
    store = store_from_sequences([generator.integers(1, 40, 12).tolist() for _ in range(50)])
    split = leave_last_out(store)
    tests = split.test[split.test >= 0]
    whole = all_scores(store, item_knn(store, split, n_neighbours=5), tests)
    for n_pairs in (1, 97):
        monkeypatch.setattr(scored, "_PAIRS_PER_BLOCK", n_pairs)
        np.testing.assert_array_equal(all_scores(store, item_knn(store, split, n_neighbours=5), tests), whole)


def test_a_million_items_take_no_array_of_queries_and_items():
    # 2,500 queries x a million items are 20 GB, and more than 32 bits count.
    generator = np.random.default_rng(0)
    store = store_from_sequences(generator.integers(1, 1_000_001, (2_500, 9)).tolist(), n_items=1_000_000)
    split = leave_last_out(store)
    tracemalloc.start()
    for fit in (first_order_markov, skip_gram_markov, item_knn):
        scorer = item_to_item_scorer(store, fit(store, split))
        ranks, n_candidates = score_ranks(store, split.test, scorer, mask_seen=True)
        alone = score_ranks(store, split.test[-1:], scorer, mask_seen=True)
        assert (ranks[-1], n_candidates[-1]) == (alone[0][0], alone[1][0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6


def test_more_neighbours_than_memory_holds_are_refused_with_their_size(monkeypatch):
    # Three items in one history: 3 pairs each, an item with itself among them; 24 bytes a pair.
    store = store_from_sequences([[1, 2, 3, 4, 4]])
    monkeypatch.setattr(scored, "_MOST_BYTES", 24 * 3 * 3 - 1)
    with pytest.raises(InputError, match=r"item-kNN with 100 neighbours needs up to 0 GB for 4 items; .* fewer"):
        item_knn(store, leave_last_out(store))
    monkeypatch.setattr(scored, "_MOST_BYTES", 24 * 3 * 3)
    item_knn(store, leave_last_out(store))
