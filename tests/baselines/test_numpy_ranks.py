"""Ranks in NumPy are those in jax."""

import math

import jax
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec import metrics
from seqrec.baselines.numpy_ranks import ranks_of_counts, target_ranks

N_ITEMS = 6
jitted_target_ranks = jax.jit(metrics.target_ranks)


@examples(60)
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, math.inf, -math.inf, math.nan]), min_size=N_ITEMS, max_size=N_ITEMS),
    st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS),
    st.integers(-2, N_ITEMS + 1),
)
def test_numpy_and_jax_give_the_same_ranks(scores, where, target):
    arguments = (np.array([scores], np.float32), np.array([target]))
    ours = target_ranks(*arguments, where=np.array([where]))
    np.testing.assert_array_equal(ours, jitted_target_ranks(*arguments, where=np.array([where])))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_numpy_and_jax_give_the_same_ranks_of_many_items(dtype):
    rng = np.random.default_rng(0)
    scores, targets = rng.integers(0, 20, (7, 500)).astype(dtype), rng.integers(0, 500, 7)
    where = rng.random((1, 500)) < 0.9
    np.testing.assert_array_equal(
        target_ranks(scores, targets, where=where), metrics.target_ranks(scores, targets, where=where)
    )


def test_float64_scores_that_differ_in_the_last_digit_do_not_tie():
    scores = np.array([[1.0, np.nextafter(1.0, 2.0)]])
    assert target_ranks(scores, np.array([0]), where=np.ones((1, 2), bool)).tolist() == [2.0]


def test_a_rank_is_the_mean_of_the_places_of_its_tie():
    n_above, n_tied = np.array([0, 3, 3, 5]), np.array([0, 0, 1, 4])
    places = [np.arange(above + 1, above + tied + 2) for above, tied in zip(n_above, n_tied, strict=True)]
    assert ranks_of_counts(n_above, n_tied).tolist() == [each.mean() for each in places]
