"""Metrics of ranks: against rax where there are no ties, by hand, and where a rank is missing or none."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from examples import at_night, examples
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from seqrec.metrics import (
    AT_K,
    MetricSums,
    average_precision_at_k,
    mean_rank,
    means,
    merge_sums,
    metric_sums,
    metric_values,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
    target_ranks,
)
from seqrec.types import InputError

N_ITEMS = 12

untied_scores = st.permutations(range(N_ITEMS)).map(lambda order: jnp.array(order, jnp.float32))
item_indices = st.integers(0, N_ITEMS - 1)
quick = examples(30)
# One program a shape: without, each of its operations is compiled alone.
jitted_sums, jitted_values = jax.jit(metric_sums), jax.jit(metric_values)


@functools.partial(jax.jit, static_argnames="k")
def of_ranks(ranks, k):
    """Every metric at this cut-off, and those of all items as rax has them."""
    at_k = {name: AT_K[name](ranks, k=k) for name in ("ndcg", "recall", "precision", "mrr")}
    return at_k | {"all mrr": reciprocal_rank(ranks), "all ap": average_precision_at_k(ranks, k=N_ITEMS)}


@functools.partial(jax.jit, static_argnames="k")
def of_rax(scores, labels, k):
    at_k = {
        name: getattr(rax, f"{name}_metric")(scores, labels, topn=k) for name in ("ndcg", "recall", "precision", "mrr")
    }
    return at_k | {"all mrr": rax.mrr_metric(scores, labels), "all ap": rax.ap_metric(scores, labels)}


def assert_as_in_rax(ranks, scores, labels, k):
    theirs = of_rax(scores, labels, k)
    for name, value in of_ranks(ranks, k).items():
        rtol = 1e-5 if ranks.ndim and name in ("ndcg", "all ap") else 1e-6
        np.testing.assert_allclose(value, theirs[name], rtol=rtol, err_msg=name)


@quick
@given(untied_scores, item_indices, st.integers(1, N_ITEMS))
def test_without_ties_the_metrics_are_those_of_rax(scores, target, k):
    rank = target_ranks(scores[None], jnp.array([target]))[0]
    label = jax.nn.one_hot(target, N_ITEMS)
    assert_as_in_rax(rank, scores, label, k)


def test_ndcg_of_the_first_ranks_is_on_paper():
    values = [float(ndcg_at_k(jnp.array(rank), k=10)) for rank in (1.0, 3.0, 7.0, 10.0, 11.0)]
    np.testing.assert_allclose(values, [1, 1 / 2, 1 / 3, math.log(2) / math.log(11), 0], rtol=1e-6)


def test_a_fractional_rank_is_a_hit_only_if_it_is_within_k():
    ranks = [float(recall_at_k(jnp.array(rank), k=10)) for rank in (9.5, 10.0, 10.5)]
    assert ranks == [1, 1, 0]


@pytest.mark.parametrize("rank", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_what_is_no_rank_scores_zero(rank):
    assert {float(value[0]) for value in metric_values(jnp.array([rank])).values()} == {0.0}


@pytest.mark.parametrize(
    "dtype", at_night(("float16", "bfloat16", "int8", "uint8", "int32", "int64"), quick=("bfloat16", "uint8", "int64"))
)
def test_values_and_sums_are_float32_whatever_type_the_ranks_have(dtype):
    # 70,000 reciprocal ranks add up to more than float16 holds, and a rank of 3 to more ones than it counts.
    ranks = np.tile([1, 3], 35_000)
    typed = jnp.asarray(ranks, dtype) if dtype == "bfloat16" else ranks.astype(dtype)
    values = metric_values(typed[:2], ks=(3,), at_k=tuple(AT_K), without_k=("mrr", "mean_rank"))
    assert {str(value.dtype) for value in values.values()} == {"float32"}
    values = means(metric_sums(typed, ks=(3,), without_k=("mrr", "mean_rank")))
    np.testing.assert_allclose(
        [values[name] for name in ("recall@3", "ndcg@3", "mrr", "mean_rank")], [1, 3 / 4, 2 / 3, 2], rtol=1e-5
    )
    np.testing.assert_allclose(mean_rank(jnp.asarray(typed)), 2, rtol=1e-5)


def test_ranks_in_64_bits_do_not_wrap_to_the_first_place():
    assert metric_values(np.array([2**32 + 1]))["mrr"][0] == np.float32(1 / (2**32 + 1))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("ranks", [np.array([True, True]), np.array([1.0 + 0j]), np.array(["1"])])
def test_ranks_that_are_no_numbers_are_refused(ranks):
    with pytest.raises(InputError, match="give numbers, 1 for the first place"):
        metric_values(ranks)
    with pytest.raises(InputError, match="is a single number"):
        metric_values(jnp.array(1.0))


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
    st.lists(st.integers(1, 60).map(lambda twice: (1 + twice) / 2), min_size=1, max_size=6),
    st.lists(st.integers(0, 6), max_size=2),
)
def test_sums_over_uneven_batches_have_the_mean_over_all_users(ranks, cuts):
    stops = sorted({min(cut, len(ranks)) for cut in cuts} | {len(ranks)})
    batches = np.split(np.array(ranks, np.float32), stops[:-1])
    merged = means(merge_sums(*map(jitted_sums, batches)))
    for name, value in jitted_values(np.array(ranks, np.float32)).items():
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


# Several relevant items


def slow_metrics(ranks: list[float], k: int) -> dict[str, float]:
    """The metrics of one user's relevant items, place by place."""
    ranked = sorted(rank for rank in ranks if rank >= 1 and rank <= k)
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(len(ranks), k) + 1))
    return {
        "hit": float(bool(ranked)),
        "recall": len(ranked) / len(ranks),
        "precision": len(ranked) / k,
        "ndcg": sum(1 / math.log2(1 + rank) for rank in ranked) / ideal,
        "map": sum(j / rank for j, rank in enumerate(ranked, start=1)) / len(ranks),
        "mrr": 1 / ranked[0] if ranked else 0.0,
    }


several_ranks = st.lists(st.integers(1, 30) | st.just(math.nan), min_size=1, max_size=6, unique=True)


@quick
@given(several_ranks, st.sampled_from([1, 4, 12]))
def test_several_relevant_items_score_what_a_loop_says(ranks, k):
    padded = np.array([ranks + [1.0] * (6 - len(ranks))], np.float32)
    where = np.arange(6)[None] < len(ranks)
    values = metric_values(padded, ks=(k,), at_k=tuple(AT_K), without_k=(), where=where)
    for name, expected in slow_metrics(ranks, k).items():
        np.testing.assert_allclose(values[f"{name}@{k}"][0], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@quick
@given(untied_scores, st.sets(item_indices, min_size=1, max_size=3), st.sampled_from([1, 3, N_ITEMS]))
def test_several_relevant_items_score_as_in_rax(scores, relevant, k):
    labels = jnp.zeros(N_ITEMS).at[jnp.array(sorted(relevant))].set(1.0)
    ranks = target_ranks(scores[None], jnp.array([sorted(relevant)]))[0]
    assert_as_in_rax(ranks, scores, labels, k)


@jax.jit
def values_at_all_cut_offs(ranks):
    return {f"{name}@{k}": metric(ranks, k=k) for name, metric in AT_K.items() for k in (1, 2, 3, 6)}


@quick
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_ties_never_make_a_metric_better_than_perfect(scores, chosen):
    relevant = [i for i in range(len(scores)) if chosen[i]] or [0]
    ranks = target_ranks(jnp.array([scores], jnp.float32), jnp.array([relevant]))[0]
    for name, value in values_at_all_cut_offs(ranks).items():
        assert value <= 1 + 1e-6, name


def test_three_tied_targets_do_not_all_stand_at_place_two():
    ranks = target_ranks(jnp.zeros((1, 3)), jnp.array([[0, 1, 2]]))[0]
    assert ranks.tolist() == [2.0, 2.0, 2.0]
    assert recall_at_k(ranks, k=2) == 2 / 3
    assert precision_at_k(ranks, k=2) == 1.0
    assert average_precision_at_k(ranks, k=3) == (1 / 2 + 2 / 2 + 3 / 3) / 3


def test_items_that_were_never_ranked_still_ought_to_have_been_found():
    ranks = jnp.array([1.0, math.nan])
    assert recall_at_k(ranks, k=5) == 1 / 2
    assert average_precision_at_k(ranks, k=5) == 1 / 2
    np.testing.assert_allclose(ndcg_at_k(ranks, k=5), 1 / (1 + 1 / math.log2(3)), rtol=1e-6)
    assert math.isnan(mean_rank(ranks))


def test_recall_of_more_items_than_places_cannot_be_one_but_ndcg_can():
    ranks = jnp.array([1.0, 2.0, 3.0, 4.0])
    assert recall_at_k(ranks, k=2) == 1 / 2
    assert ndcg_at_k(ranks, k=2) == 1.0
    assert precision_at_k(ranks, k=2) == 1.0


def test_a_cut_off_above_the_catalogue_cuts_nothing_off():
    assert recall_at_k(jnp.array(3.0), k=1000) == 1.0  # the last of three items is among the first thousand


def test_users_without_a_relevant_item_are_left_out_and_counted():
    ranks = jnp.array([[1.0, 2.0], [1.0, 1.0], [4.0, 1.0]])
    where = jnp.array([[True, True], [False, False], [True, False]])
    sums = metric_sums(ranks, ks=(3,), where=where, without_k=("mean_rank",))
    assert (int(sums.n_users), int(sums.n_excluded)) == (2, 1)
    assert means(sums) == {"recall@3": 1 / 2, "ndcg@3": 1 / 2, "mean_rank": (1.5 + 4) / 2}


@pytest.mark.parametrize("bad", [{"at_k": ("recal",)}, {"without_k": ("ndcg",)}])
def test_an_unknown_metric_is_refused_by_name(bad):
    with pytest.raises(InputError, match="is not one of"):
        metric_values(jnp.ones(2), **bad)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises((InputError, TypeCheckError)):
        metric_values(jnp.ones(2), where=jnp.ones(3, bool))
