"""Costs of baselines grow with what they count, and are known before anything is read."""

import math

import numpy as np
import pytest

from seqrec.baselines.costs import estimated_cost
from seqrec.baselines.fitted import BaselinesConfig
from seqrec.baselines.popularity import training_counts
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences

CHEAP = ("popularity", "personal recency", "first-order Markov", "skip-gram Markov", "item-kNN", "VS-SkNN", "STAN")


def cost_of(name, n_users=100, length=12, n_items=50, **config):
    generator = np.random.default_rng(0)
    store = store_from_sequences(generator.integers(1, n_items + 1, (n_users, length)).tolist(), n_items=n_items)
    split = leave_last_out(store)
    lengths = split.test - store.offsets[:-1]
    counts = training_counts(store, split)
    return estimated_cost(name, store, split, lengths, counts=counts, config=BaselinesConfig(**config))


@pytest.mark.parametrize("name", CHEAP)
def test_more_users_cost_more(name):
    assert cost_of(name, n_users=400).seconds > 3.9 * cost_of(name).seconds


@pytest.mark.parametrize("name", ["item-kNN", "VS-SkNN", "STAN"])
def test_more_neighbours_cost_more(name):
    assert cost_of(name, n_neighbours=400).seconds > cost_of(name).seconds


def test_pairs_are_quadratic_in_the_length_of_a_sequence_up_to_what_is_read():
    lengths = [1002, 2002, 4002]  # of which two are held out
    pairs = [cost_of("item-kNN", n_users=1, length=length).seconds for length in lengths]
    assert pairs[1] - pairs[0] < 0.1 * pairs[0]
    assert cost_of("item-kNN", length=600).seconds > 3 * cost_of("item-kNN", length=302).seconds


def test_a_popular_item_is_followed_by_many_but_a_sequence_is_looked_at_at_most_so_often():
    assert cost_of("first-order Markov", n_items=5000).seconds < cost_of("first-order Markov", n_items=10).seconds
    few, many = (cost_of("STAN", n_users=2000, n_items=10, n_recent=n).seconds for n in (100, 1000))
    assert many > 5 * few


def test_memory_is_that_of_events_and_of_neighbours():
    assert cost_of("popularity").n_bytes == 0
    # 100 users of 10 training events, 64 bytes each; 10 x 10 pairs of each of 100 users, or 50 items of 1 neighbour.
    assert cost_of("first-order Markov").n_bytes == 64_000
    assert cost_of("item-kNN").n_bytes == 64_000 + 24 * 50 * 100
    assert cost_of("item-kNN", n_neighbours=1).n_bytes == 64_000 + 24 * 50


@pytest.mark.parametrize("name", ["EASE", "SLIM", "iALS"])
def test_what_no_run_affords_by_itself_has_no_estimate(name):
    assert math.isinf(cost_of(name).seconds)
