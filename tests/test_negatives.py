"""Draws from the catalogue: the whole of it, never padding, each item with the chance that log_q says."""

import math

import jax
import numpy as np
import pytest

from seqrec.negatives import uniform

KEY = jax.random.key(0)


def test_items_are_drawn_evenly_and_padding_never():
    n_items, n_draws = 50, 50_000
    ids, _ = uniform(KEY, n_negatives=n_draws, n_items=n_items)
    counts = np.bincount(np.asarray(ids), minlength=n_items + 1)
    assert len(counts) == n_items + 1
    assert counts[0] == 0
    expected = n_draws / n_items
    chi_square = np.sum((counts[1:] - expected) ** 2 / expected)
    # n_items - 1 degrees of freedom; 5 standard deviations.
    assert abs(chi_square - (n_items - 1)) < 5 * math.sqrt(2 * (n_items - 1))


def test_log_q_is_the_chance_of_each_draw():
    ids, log_q = uniform(KEY, n_negatives=7, n_items=40)
    assert ids.shape == log_q.shape == (7,)
    np.testing.assert_allclose(np.exp(log_q), 1 / 40, rtol=1e-5)


def test_draws_may_repeat():
    ids, _ = uniform(KEY, n_negatives=3, n_items=1)
    np.testing.assert_array_equal(ids, 1)


@pytest.mark.parametrize("n_items", [20_000_000, 2**31 - 2])
def test_large_catalogues_are_reached_to_their_end(n_items):
    ids, _ = uniform(KEY, n_negatives=10_000, n_items=n_items)
    assert ids.dtype == np.int32
    # The largest of n uniform draws falls short of the end by a share of more than 20 / n once in exp(20).
    assert n_items * (1 - 20 / 10_000) < int(ids.max()) <= n_items
    assert int(ids.min()) >= 1


def test_draws_are_a_function_of_the_key():
    one, again, other = (uniform(jax.random.key(s), n_negatives=100, n_items=1000)[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.mean(np.asarray(one) == np.asarray(other)) < 0.1
