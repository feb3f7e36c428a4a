"""Samples from the whole catalogue, never padding, each item with the probability that log_q gives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec import negatives
from seqrec.layers import item_table_rows
from seqrec.negatives import Popularity, in_batch, per_row, popularity_distribution
from seqrec.types import InputError

KEY = jax.random.key(0)
# One program a size: without, each of their operations is compiled alone.
uniform = jax.jit(negatives.uniform, static_argnames=("n_negatives", "n_items"))
popular = jax.jit(negatives.popular, static_argnames="n_negatives")
log_chance = jax.jit(Popularity.log_chance)


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


def test_popular_items_are_drawn_by_their_counts_and_padding_never():
    counts = np.array([99, 5, 0, 1, 4])
    ids, log_q = popular(KEY, popularity_distribution(counts), n_negatives=50_000)
    share = np.bincount(np.asarray(ids), minlength=5) / 50_000
    np.testing.assert_allclose(share, [0, 0.5, 0, 0.1, 0.4], atol=5 * math.sqrt(0.25 / 50_000))
    np.testing.assert_allclose(np.exp(log_q), np.array([0, 0.5, 0, 0.1, 0.4])[np.asarray(ids)], rtol=1e-5)


def chances_of(of, n_items):
    return np.exp(np.asarray(log_chance(of, np.arange(1, n_items + 1)), np.float64))


def test_a_power_of_half_takes_the_root_and_a_uniform_share_reaches_unpopular_items():
    counts = np.array([0, 9, 4, 0])
    np.testing.assert_allclose(chances_of(popularity_distribution(counts, power=0.5), 3), [0.6, 0.4, 0.0], rtol=1e-6)
    chances = chances_of(popularity_distribution(counts, power=0.5, uniform_share=0.3), 3)
    np.testing.assert_allclose(chances, [0.7 * 0.6 + 0.1, 0.7 * 0.4 + 0.1, 0.1], rtol=1e-6)


def test_at_20_million_items_each_can_be_drawn_and_chances_are_those_asked_for():
    # Half of the items have no event.
    n_items, share = 20_000_000, 0.5
    counts = np.zeros(n_items + 1, np.int64)
    counts[1:] = 10**7 // np.arange(1, n_items + 1)
    of = popularity_distribution(counts, uniform_share=share)
    expected = (1 - share) * counts[1:] / counts.sum() + share / n_items
    # Of whole numbers: no rounding of logarithms.
    widths = [np.diff(bounds.astype(np.int64), axis=-1) / 2**31 for bounds in of]
    drawn = (widths[0][:, None] * widths[1][:-1]).reshape(-1)
    assert drawn[:n_items].min() > 0
    assert drawn[n_items:].sum() == 0
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-12)
    assert np.abs(drawn[:n_items] - expected).sum() / 2 < 1e-3
    ids = np.random.default_rng(0).integers(1, n_items + 1, 1000)
    np.testing.assert_allclose(log_chance(of, ids), np.log(drawn[ids - 1]), rtol=1e-6)


def test_draws_follow_the_chances_across_blocks():
    # Three blocks, the second of them empty.
    counts = np.zeros(1 + 150, np.int64)
    counts[[1, 60, 64, 129, 150]] = [1, 2, 3, 4, 6]
    ids, log_q = popular(KEY, popularity_distribution(counts), n_negatives=50_000)
    share = np.bincount(np.asarray(ids), minlength=151) / 50_000
    np.testing.assert_allclose(share, counts / 16, atol=5 * math.sqrt(0.25 / 50_000))
    np.testing.assert_allclose(np.exp(log_q), counts[np.asarray(ids)] / 16, rtol=1e-5)


@pytest.mark.parametrize("n_items", [1, 64, 200_000])
def test_tables_split_evenly_wherever_the_item_table_does_and_end_with_a_block_that_is_never_drawn(n_items):
    of = popularity_distribution(np.ones(n_items + 1, int))
    n_parts = math.gcd(item_table_rows(n_items), 1024)
    assert len(of.blocks) == len(of.items) > n_items / 64
    assert len(of.blocks) % n_parts == 0
    assert of.blocks[-1] == 2**31
    np.testing.assert_allclose(chances_of(of, n_items), 1 / n_items, rtol=1e-3)


def test_a_batch_without_targets_still_has_ids():
    draws = in_batch(
        KEY,
        jnp.zeros((2, 3), jnp.int32),
        popularity_distribution(np.array([0, 1, 1])),
        n_items=2,
        n_negatives=4,
        n_uniform=2,
    )
    assert draws.ids.shape == (6,)
    assert set(np.asarray(draws.ids).tolist()) <= {1, 2}


def test_each_row_has_a_list_of_its_own():
    sampler = per_row(lambda key, targets: uniform(key, n_negatives=50, n_items=1000))
    ids, log_q = sampler(KEY, jnp.zeros((3, 4), jnp.int32))
    assert ids.shape == log_q.shape == (3, 50)
    assert len({tuple(row) for row in np.asarray(ids).tolist()}) == 3


def test_counts_without_an_event_are_refused():
    with pytest.raises(InputError, match="counts hold no event"):
        popularity_distribution(np.array([5, 0, 0]))
    with pytest.raises(InputError, match=r"uniform_share=2\.0 is not a share"):
        popularity_distribution(np.array([5, 1, 0]), uniform_share=2.0)
