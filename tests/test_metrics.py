"""Metrics of a rank: against rax where rax is right, and where a score is constant, missing or NaN."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrec.metrics import (
    MetricSums,
    means,
    merge_sums,
    metric_sums,
    metric_values,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
    target_rank,
)
from seqrec.types import InputError

N_ITEMS = 12

untied_scores = st.permutations(range(N_ITEMS)).map(lambda order: jnp.array(order, jnp.float32))
item_indices = st.integers(0, N_ITEMS - 1)
quick = settings(max_examples=30, deadline=None)


def all_items(n_items: int = N_ITEMS) -> jax.Array:
    return jnp.ones(n_items, bool)


def slow_rank(scores: np.ndarray, target: int, candidates: np.ndarray) -> float:
    """The mean place of the target over all orders of what ties with it, counted by hand."""
    others = [score for i, score in enumerate(scores) if candidates[i] and i != target]
    if math.isnan(scores[target]):
        return 1 + len(others)
    above = sum(math.isnan(score) or score > scores[target] for score in others)
    tied = sum(score == scores[target] for score in others)
    return sum(1 + above + place for place in range(tied + 1)) / (tied + 1)


@quick
@given(untied_scores, item_indices, st.integers(1, N_ITEMS))
def test_without_ties_the_metrics_are_those_of_rax(scores, target, k):
    rank = target_rank(scores, jnp.array(target), all_items())
    label = jax.nn.one_hot(target, N_ITEMS)
    np.testing.assert_allclose(ndcg_at_k(rank, k=k), rax.ndcg_metric(scores, label, topn=k), rtol=1e-6)
    np.testing.assert_allclose(recall_at_k(rank, k=k), rax.recall_metric(scores, label, topn=k))
    np.testing.assert_allclose(reciprocal_rank(rank), rax.mrr_metric(scores, label), rtol=1e-6)


@quick
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, math.inf, -math.inf, math.nan]), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(0, 5),
)
def test_a_rank_is_the_mean_place_over_the_orders_of_its_ties(scores, candidates, target):
    rank = target_rank(jnp.array(scores), jnp.array(target), jnp.array(candidates))
    assert float(rank) == slow_rank(np.array(scores), target, np.array(candidates))


@pytest.mark.parametrize("target", range(4))
def test_constant_scores_have_the_middle_rank_wherever_the_target_stands(target):
    assert float(target_rank(jnp.zeros(4), jnp.array(target), all_items(4))) == (1 + 4) / 2


@pytest.mark.parametrize("target", range(4))
def test_nan_scores_rank_last(target):
    assert float(target_rank(jnp.full(4, jnp.nan), jnp.array(target), all_items(4))) == 4


@pytest.mark.parametrize("score", [0.0, math.nan])
def test_a_model_without_an_opinion_is_perfect_for_rax_if_the_target_comes_first(score):
    scores, label = jnp.full(4, score), jax.nn.one_hot(0, 4)
    assert rax.ndcg_metric(scores, label, topn=2) == 1.0
    assert rax.mrr_metric(scores, label) == 1.0
    rank = target_rank(scores, jnp.array(0), all_items(4))
    assert ndcg_at_k(rank, k=2) == 0.0
    assert reciprocal_rank(rank) <= 0.4  # the middle of four places


def test_items_outside_the_candidates_do_not_count():
    scores = jnp.array([9.0, 3.0, 2.0, 1.0])  # 0 is padding, 1 was seen
    candidates = jnp.array([False, False, True, True])
    assert float(target_rank(scores, jnp.array(3), candidates)) == 2


def test_a_repeat_stays_a_candidate():
    candidates = jnp.array([False, False, True])
    assert float(target_rank(jnp.array([9.0, 3.0, 2.0]), jnp.array(1), candidates)) == 1


@pytest.mark.parametrize("target", [-1, 4, 100])
def test_a_target_outside_the_scores_ranks_behind_every_candidate(target):
    assert float(target_rank(jnp.arange(4.0), jnp.array(target), all_items(4))) == 5


def test_ranks_of_many_users_are_one_vmap_away():
    scores = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 2.0]])
    ranks = jax.jit(jax.vmap(target_rank))(scores, jnp.array([2, 2]), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(ranks, [3.0, 2.5])


def test_ndcg_of_the_first_ranks_is_on_paper():
    values = [float(ndcg_at_k(jnp.array(rank), k=10)) for rank in (1.0, 3.0, 7.0, 10.0, 11.0)]
    np.testing.assert_allclose(values, [1, 1 / 2, 1 / 3, math.log(2) / math.log(11), 0], rtol=1e-6)


def test_a_fractional_rank_is_a_hit_only_if_it_is_within_k():
    ranks = [float(recall_at_k(jnp.array(rank), k=10)) for rank in (9.5, 10.0, 10.5)]
    assert ranks == [1, 1, 0]


@pytest.mark.parametrize("rank", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_what_is_no_rank_scores_zero(rank):
    assert {float(value[0]) for value in metric_values(jnp.array([rank])).values()} == {0.0}


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_metrics_come_in_the_order_of_a_table(transform):
    names = ["recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"]
    assert list(transform(metric_values)(jnp.ones(2))) == names
    sums = transform(metric_sums)(jnp.ones(2))
    assert list(means(jax.tree.map(jnp.add, sums, sums))) == names


def test_a_cut_off_below_one_is_refused():
    with pytest.raises(InputError, match="cut-off below 1"):
        metric_values(jnp.ones(2), ks=(0, 10))


@quick
@given(
    st.lists(st.integers(1, 60).map(lambda twice: (1 + twice) / 2), min_size=1, max_size=20),
    st.lists(st.integers(0, 20), max_size=4),
)
def test_sums_over_uneven_batches_have_the_mean_over_all_users(ranks, cuts):
    stops = sorted({min(cut, len(ranks)) for cut in cuts} | {len(ranks)})
    batches = np.split(np.array(ranks, np.float32), stops[:-1])
    merged = means(merge_sums(*[metric_sums(batch) for batch in batches]))
    for name, value in metric_values(np.array(ranks, np.float32)).items():
        np.testing.assert_allclose(merged[name], np.asarray(value, np.float64).mean(), rtol=1e-5, err_msg=name)


def test_the_mean_of_batch_means_is_another_number():
    batches = [jnp.ones(3), jnp.full(1, 100.0)]
    assert means(merge_sums(*map(metric_sums, batches)))["recall@10"] == 3 / 4
    assert np.mean([means(metric_sums(batch))["recall@10"] for batch in batches]) == 1 / 2


@pytest.mark.parametrize("rank", [1.0, math.nan, math.inf])
def test_a_masked_out_user_is_counted_and_contributes_nothing(rank):
    sums = metric_sums(jnp.array([2.0, rank]), ks=(5,), where=jnp.array([True, False]))
    assert (int(sums.n_users), int(sums.n_excluded)) == (1, 1)
    assert means(sums) == means(metric_sums(jnp.array([2.0]), ks=(5,)))


def test_the_mean_over_nobody_is_nan():
    nobody = metric_sums(jnp.ones(2), where=jnp.zeros(2, bool))
    assert all(math.isnan(mean) for mean in means(nobody).values())
    assert all(math.isnan(mean) for mean in means(metric_sums(jnp.zeros(0))).values())


def test_sums_are_carried_by_scan():
    def add(sums: MetricSums, ranks: jax.Array) -> tuple[MetricSums, None]:
        return merge_sums(sums, metric_sums(ranks)), None

    batches = jnp.array([[1.0, 2.0], [4.0, 4.0]])
    sums, _ = jax.lax.scan(add, metric_sums(jnp.zeros(0)), batches)
    assert means(sums)["mrr"] == (1 + 1 / 2 + 1 / 4 + 1 / 4) / 4


def test_sums_of_different_metrics_do_not_add():
    with pytest.raises(ValueError, match="ndcg"):
        merge_sums(metric_sums(jnp.ones(1), ks=(5,)), metric_sums(jnp.ones(1), ks=(10,)))
