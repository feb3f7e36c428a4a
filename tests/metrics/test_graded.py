"""Metrics of scores and labels: against all orders of the ties, against other libraries, and worked examples."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
from examples import at_night, examples
from graded_twins import METRICS, N_ITEMS, all_metrics, metrics_of, slow_metrics
from hypothesis import given
from hypothesis import strategies as st

from seqrec.metrics import (
    dcg_metric,
    metric_values,
    mrr_metric,
    ndcg_metric,
    recall_metric,
)
from seqrec.metrics.graded import exponential_gain
from seqrec.types import InputError

SHARED_WITH_RAX = [name for name in METRICS if name != "hit"]

cut_offs = st.sampled_from([None, 1, 3, 8])
masks = st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS).map(np.array)
grades = st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS).map(
    lambda labels: np.array(labels, np.float32)
)
quick = examples(40)


@quick
@given(
    st.lists(st.sampled_from([1.0, 0.5, 0.0, -0.0, math.inf, -math.inf, math.nan]), min_size=N_ITEMS, max_size=N_ITEMS),
    grades,
    masks,
    cut_offs,
)
def test_ties_have_the_mean_over_all_their_orders(scores, labels, where, topn):
    expected = slow_metrics(scores, labels.tolist(), where, topn)
    for name, value in metrics_of(scores, labels, where, topn).items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-6, atol=1e-7, err_msg=name)


@quick
@given(st.permutations(range(N_ITEMS)), grades, masks, cut_offs)
def test_without_ties_the_metrics_are_those_of_rax(scores, labels, where, topn):
    scores = np.array(scores, np.float32)
    ours = metrics_of(scores, labels, where, topn)
    relevant_kept = bool((labels[where] > 0).any())
    for name in SHARED_WITH_RAX:
        theirs = float(getattr(rax, f"{name}_metric")(scores, labels, where=where, topn=topn))
        if not relevant_kept:
            assert (theirs, math.isnan(ours[name])) == (0.0, True)
            continue
        if name == "precision" and topn is not None:
            theirs *= min(topn, where.sum()) / topn  # rax divides by the places that are filled
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, err_msg=name)


@quick
@given(
    st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=N_ITEMS, max_size=N_ITEMS),
    grades,
    masks,
    st.permutations(range(N_ITEMS)),
    cut_offs,
)
def test_where_an_item_stands_in_the_array_does_not_matter(scores, labels, where, order, topn):
    order = np.array(order)
    shuffled = metrics_of(np.array(scores)[order], labels[order], where[order], topn)
    np.testing.assert_equal(shuffled, metrics_of(scores, labels, where, topn))


def test_the_example_of_jarvelin_and_kekalainen():
    gains = [3, 2, 3, 0, 0, 1, 2, 2, 3, 0]  # their G'; their log2 discount starts after place 2
    scores, labels = jnp.tile(jnp.arange(10.0, 0.0, -1.0), (10, 1)), jnp.tile(jnp.array(gains), (10, 1))
    options = {"gain_fn": lambda label: label, "discount_fn": lambda place: 1 / jnp.maximum(1.0, jnp.log2(place))}
    first_n = jnp.tril(jnp.ones((10, 10), bool))  # list n is the first n places
    cumulated = dcg_metric(scores, labels, where=first_n, reduce_fn=None, **options)
    by_hand = np.cumsum([gain / max(1.0, math.log2(place)) for place, gain in enumerate(gains, start=1)])
    np.testing.assert_allclose(cumulated, by_hand, rtol=1e-6)
    printed = [3, 5, 6.89, 6.89, 6.89, 7.28, 7.99, 8.66, 9.61, 9.61]
    np.testing.assert_allclose(cumulated, printed, atol=0.0051)
    ideal = sum(gain / max(1.0, math.log2(place)) for place, gain in enumerate([3, 3, 3, 2, 2, 2, 1], start=1))
    np.testing.assert_allclose(ndcg_metric(scores[0], labels[0], **options), by_hand[-1] / ideal, rtol=1e-6)
    np.testing.assert_allclose(dcg_metric(scores[0], labels[0], topn=8, **options), by_hand[7], rtol=1e-6)


def test_ties_by_hand():
    # One item is first; three tie for places 2 to 4, one of them relevant; a relevant item is last. The orders
    # of the three put the relevant one at 2, 3 or 4, each with chance 1/3 (McSherry and Najork, 2008).
    values = metrics_of([9, 5, 5, 5, 1], [0, 1, 0, 0, 1])
    np.testing.assert_allclose(values["mrr"], (1 / 2 + 1 / 3 + 1 / 4) / 3, rtol=1e-6)
    np.testing.assert_allclose(values["ap"], ((1 / 2 + 2 / 5) / 2 + (1 / 3 + 2 / 5) / 2 + (1 / 4 + 2 / 5) / 2) / 3)
    discounts = 1 / np.log2(1 + np.arange(1.0, 6.0))
    np.testing.assert_allclose(values["dcg"], discounts[1:4].mean() + discounts[4], rtol=1e-6)
    top_three = metrics_of([9, 5, 5, 5, 1], [0, 1, 0, 0, 1], topn=3)
    np.testing.assert_allclose(top_three["hit"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(top_three["precision"], 2 / 3 / 3, rtol=1e-6)
    np.testing.assert_allclose(top_three["recall"], 2 / 3 / 2, rtol=1e-6)
    np.testing.assert_allclose(top_three["mrr"], (1 / 2 + 1 / 3 + 0) / 3, rtol=1e-6)


def test_two_relevant_items_of_one_tie_by_hand():
    # Two of three tied items are relevant: at places 1 and 2, 1 and 3, or 2 and 3.
    values = metrics_of([0, 0, 0], [1, 1, 0])
    np.testing.assert_allclose(values["ap"], ((1 + 1) / 2 + (1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 3, rtol=1e-6)
    np.testing.assert_allclose(values["mrr"], (1 + 1 + 1 / 2) / 3, rtol=1e-6)


@pytest.mark.parametrize("score", [0.0, math.nan])
def test_a_model_without_an_opinion_is_perfect_for_rax_if_the_target_comes_first(score):
    scores, labels = jnp.full(4, score), jax.nn.one_hot(0, 4)
    for name in ("ndcg", "recall", "precision", "ap", "mrr"):
        assert getattr(rax, f"{name}_metric")(scores, labels, topn=1) == 1.0
    for name, value in metrics_of(scores, labels, topn=1).items():
        np.testing.assert_allclose(value, 0.0 if math.isnan(score) else 1 / 4, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("target", range(4))
def test_a_model_that_diverged_has_the_values_of_the_last_place(target):
    labels = jax.nn.one_hot(target, 4)
    diverged = metrics_of([math.nan] * 4, labels)
    assert diverged == metrics_of(-labels, labels)
    assert diverged["mrr"] == 1 / 4


def test_nan_ranks_behind_minus_infinity():
    assert metrics_of([math.nan, -math.inf], [1, 0])["mrr"] == 1 / 2
    assert metrics_of([-math.inf, math.nan], [1, 0])["mrr"] == 1


@quick
@given(st.permutations(range(N_ITEMS)), st.integers(0, N_ITEMS - 1), st.sampled_from([1, 3]))
def test_with_one_relevant_item_and_no_ties_they_are_functions_of_its_rank(scores, target, k):
    scores = np.array(scores, np.float32)
    rank = 1.0 + jnp.sum(scores > scores[target], keepdims=True)
    of_rank = {name: float(value[0]) for name, value in metric_values(rank, ks=(k,)).items()}
    labels = np.eye(N_ITEMS, dtype=np.float32)[target]
    of_scores = metrics_of(scores, labels, topn=k)
    np.testing.assert_allclose(of_scores["ndcg"], of_rank[f"ndcg@{k}"], rtol=1e-6)
    assert of_scores["recall"] == of_scores["hit"] == of_rank[f"recall@{k}"]
    np.testing.assert_allclose(metrics_of(scores, labels)["mrr"], of_rank["mrr"], rtol=1e-6)
    np.testing.assert_allclose(metrics_of(scores, labels)["ap"], of_rank["mrr"], rtol=1e-6)


def test_a_list_without_a_relevant_item_is_left_out_where_rax_scores_it_zero():
    scores = jnp.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    labels = jnp.array([[1, 0], [0, 0], [0, 1]])
    where = jnp.array([[True, True], [True, True], [True, False]])
    for name, metric in METRICS.items():
        values = metric(scores, labels, where=where, topn=1, reduce_fn=None)
        np.testing.assert_array_equal(values, [1.0, np.nan, np.nan], name)
        assert metric(scores, labels, where=where, topn=1) == 1.0, name
        assert metric(scores, labels, where=where, topn=1, reduce_fn=jnp.sum) == 1.0, name
    np.testing.assert_allclose(rax.mrr_metric(scores, labels, where=where), 1 / 3)


def test_the_mean_over_nobody_is_nan():
    for name, metric in METRICS.items():
        assert math.isnan(metric(jnp.ones((3, 2)), jnp.zeros((3, 2), jnp.int32), topn=1)), name


def test_what_is_left_of_the_mean_is_a_sum_and_a_count():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5)), jnp.float32)
    labels = np.arange(35).reshape(7, 5) % 12 == 0  # rows 1, 3 and 5 have nothing to find
    values = recall_metric(scores, labels, topn=2, reduce_fn=None)
    assert np.sum(~np.isnan(values)) == 3
    mean = recall_metric(scores, labels, topn=2)
    np.testing.assert_allclose(np.nansum(values) / np.sum(~np.isnan(values)), mean)


@pytest.mark.parametrize("label", [0.0, -1.0, math.nan, -math.inf])
def test_a_label_that_is_no_relevance_counts_as_zero_and_keeps_its_place(label):
    assert metrics_of([3, 2, 1], [label, 1, 0], topn=1) == metrics_of([3, 2, 1], [0, 1, 0], topn=1)
    assert metrics_of([3, 2, 1], [label, 1, 0])["mrr"] == 1 / 2


def test_any_label_above_zero_is_relevant_where_rax_asks_for_one():
    scores, labels = jnp.array([2.0, 1.0]), jnp.array([0.5, 0.0])
    assert (mrr_metric(scores, labels), rax.mrr_metric(scores, labels)) == (1.0, 0.0)


def test_a_score_of_minus_infinity_takes_its_place_where_rax_does_not_retrieve_it():
    scores, labels = jnp.array([1.0, -jnp.inf]), jnp.array([0, 1])
    assert (mrr_metric(scores, labels), rax.mrr_metric(scores, labels)) == (0.5, 0.0)


def test_masked_items_take_no_place():
    scores, labels = [9.0, math.nan, 2.0, 1.0], [0, 3, 0, 1]
    where = np.array([False, False, True, True])
    assert metrics_of(scores, labels, where, topn=1) == metrics_of([2.0, 1.0], [0, 1], topn=1)
    assert metrics_of(scores, labels, where) == metrics_of([2.0, 1.0], [0, 1])


def test_a_gain_may_ignore_what_is_relevant_and_then_ndcg_leaves_the_list_out():
    scores, labels = jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([[1, 0], [1, 3]])
    values = ndcg_metric(scores, labels, gain_fn=lambda label: jnp.maximum(label - 2, 0), reduce_fn=None)
    np.testing.assert_allclose(values, [np.nan, math.log(2) / math.log(3)], rtol=1e-6)


def test_a_gain_of_items_without_relevance_is_not_given_to_masked_ones():
    options = {"gain_fn": lambda label: label + 1.0, "discount_fn": jnp.ones_like}
    where = jnp.array([True, True, False])
    assert dcg_metric(jnp.arange(3.0), jnp.array([0, 1, 1]), where=where, **options) == 1 + 2


def test_any_axes_stand_before_the_list_and_vmap_changes_nothing():
    scores = jnp.arange(36.0).reshape(2, 3, N_ITEMS) % 5
    labels = jnp.arange(36).reshape(2, 3, N_ITEMS) % 7 // 5
    where = jnp.ones(scores.shape, bool)
    rows = [metrics_of(scores[i, j], labels[i, j], topn=3) for i in range(2) for j in range(3)]
    mapped = jax.vmap(functools.partial(all_metrics, topn=3))(scores, labels, where)
    for name, values in all_metrics(scores, labels, where, topn=3).items():
        assert values.shape == (2, 3)
        np.testing.assert_allclose(values.ravel(), [row[name] for row in rows], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(values, mapped[name], rtol=1e-6, err_msg=name)


def test_scores_in_bfloat16_tie_where_they_round_to_the_same_number():
    scores = jnp.array([1.0, 1.0 + 2**-9, 0.0], jnp.bfloat16)  # 8 bits of precision
    labels = jnp.array([0, 1, 0])
    value = mrr_metric(scores, labels)
    assert (float(value), value.dtype) == (3 / 4, jnp.float32)
    assert float(mrr_metric(jnp.array([1.0, 1.0 + 2**-9, 0.0]), labels)) == 1.0
    assert float(ndcg_metric(scores, labels.astype(jnp.bfloat16), topn=1)) == 0.5


@pytest.mark.parametrize(
    "dtype",
    at_night(
        ("bool", "uint8", "int8", "int16", "uint32", "int32", "int64", "float16"),
        quick=("bool", "int8", "uint32", "float16"),
    ),
)
def test_scores_of_every_type_rank_in_their_own_order(dtype):
    rng = np.random.default_rng(1)
    if dtype in ("bool", "float16"):
        ends = [0, 1]
    else:
        kind = np.iinfo(min(np.dtype(dtype), np.dtype("int32"), key=lambda each: each.itemsize))
        ends = [kind.min, kind.min + 1, 0, kind.max - 1, kind.max]
    scores = rng.choice(ends, (20, N_ITEMS)).astype(dtype)
    labels, where = rng.integers(0, 2, (20, N_ITEMS)), rng.random((20, N_ITEMS)) < 0.8
    # Places of the distinct values are small numbers in the same order, which float32 holds.
    places = np.unique(scores, return_inverse=True)[1].reshape(scores.shape).astype(np.float32)
    expected = all_metrics(places, labels, where, topn=3)
    for name, values in all_metrics(scores, labels, where, topn=3).items():
        np.testing.assert_array_equal(values, expected[name], name)


def test_the_smallest_score_of_a_type_stands_last():
    for dtype in (np.uint8, np.int8, np.int32):
        low = np.iinfo(dtype).min
        value = mrr_metric(np.array([low, low + 2, low + 1], dtype), np.array([1, 0, 0]))
        np.testing.assert_allclose(value, 1 / 3, rtol=1e-6)
    # 2^24 and 2^24 + 1 are one number in float32.
    assert mrr_metric(np.array([2**24, 2**24 + 1], np.int32), np.array([1, 0])) == 1 / 2


@pytest.mark.parametrize("label", [60, 64, 100, 127, 128, 1000])
def test_ndcg_of_large_labels_is_finite(label):
    # The item of the large label is second: (2^label - 1) / log2(3), and 1 in place 1, over the best order's.
    gain = 2**label - 1
    by_hand = (1 + gain / math.log2(3)) / (gain + 1 / math.log2(3)) if label < 1000 else 1 / math.log2(3)
    scores, labels = np.array([2.0, 1.0]), np.array([1, label])
    np.testing.assert_allclose(ndcg_metric(scores, labels), by_hand, rtol=1e-6)
    assert math.isinf(dcg_metric(scores, labels)) == (label >= 128)


@pytest.mark.parametrize("gain_fn", [exponential_gain, jnp.abs])
def test_the_ndcg_of_infinite_labels_is_the_limit_for_growing_ones(gain_fn):
    # Places 2 and 3 have equal gains, beside which the first has none.
    by_hand = (1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3))
    labels = np.array([3.0, math.inf, math.inf, -math.inf])
    np.testing.assert_allclose(ndcg_metric(np.arange(4.0)[::-1], labels, gain_fn=gain_fn), by_hand, rtol=1e-6)


def test_labels_of_every_type_are_the_same_relevance():
    scores, labels = jnp.arange(6.0), np.array([1, 0, 0, 1, 1, 0])
    expected = all_metrics(scores, labels, jnp.ones(6, bool), topn=4)
    for dtype in (bool, np.uint8, np.int8, np.int64, np.float16, np.float64):
        metrics = all_metrics(scores, labels.astype(dtype), jnp.ones(6, bool), topn=4)
        for name, value in metrics.items():
            np.testing.assert_array_equal(value, expected[name], name)


@pytest.mark.parametrize("n_relevant", [1, 50, 19_999])
def test_long_ties_stay_exact(n_relevant):
    n_items, topn = 20_000, 100
    labels = np.arange(n_items) < n_relevant
    values = metrics_of(np.zeros(n_items), labels, topn=topn)
    places = np.arange(1, n_items + 1)
    # P(none in the first i) is a product in float64, and the chance of a first hit at i what it loses there.
    left = np.concatenate(
        [[1.0], np.cumprod(np.maximum(n_items - n_relevant - places + 1, 0) / (n_items - places + 1))]
    )
    np.testing.assert_allclose(values["hit"], 1 - left[topn], rtol=1e-5)
    np.testing.assert_allclose(values["mrr"], np.sum(-np.diff(left)[:topn] / places[:topn]), rtol=1e-5)
    np.testing.assert_allclose(values["recall"], topn / n_items, rtol=1e-5)
    mean_precision = (1 + (places - 1) * (n_relevant - 1) / (n_items - 1)) / places
    np.testing.assert_allclose(values["ap"], np.sum(mean_precision[:topn]) / n_items, rtol=1e-5)


def test_only_a_perfect_order_has_perfect_values():
    labels = [3, 2, 1, 0, 0, 0]
    perfect = metrics_of([6, 5, 4, 3, 2, 1], labels)
    np.testing.assert_allclose([perfect[name] for name in ("ndcg", "recall", "ap", "mrr", "hit")], 1, rtol=1e-6)
    assert metrics_of([6, 4, 5, 3, 2, 1], labels)["ndcg"] < 0.99
    assert metrics_of([6, 5, 5, 3, 2, 1], labels)["ndcg"] < 0.99


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(InputError, match="topn=0 is below 1"):
        ndcg_metric(jnp.ones(3), jnp.ones(3), topn=0)
    with pytest.raises(InputError, match="at least one item"):
        recall_metric(jnp.ones((2, 0)), jnp.ones((2, 0)))
    with pytest.raises(InputError, match="scores go from 0 to 4294967296, beyond int32"):
        mrr_metric(np.array([0, 2**32]), np.ones(2))
    with pytest.raises(InputError, match="labels go from"):
        mrr_metric(np.ones(2), np.array([0, 2**32]))


def untied_cases():
    """Scores and labels of 12 items and 5 queries, as arrays and as the nested dicts of evaluation tools."""
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(1.0, 13.0, dtype=np.float32), (5, 1)), axis=1)
    labels = rng.integers(0, 4, (5, 12)) * rng.integers(0, 2, (5, 12))
    labels[:, 0] = 1  # every query has something to find
    run = {f"q{q}": {f"d{i}": float(score) for i, score in enumerate(row)} for q, row in enumerate(scores)}
    qrels = {f"q{q}": {f"d{i}": int(label) for i, label in enumerate(row) if label} for q, row in enumerate(labels)}
    return jnp.array(scores), jnp.array(labels), run, qrels


def values_of_untied_cases(scores, labels, topn):
    """Means over queries, and NDCG with the gain of trec_eval, which is the label itself."""
    values = all_metrics(scores, labels, jnp.ones(scores.shape, bool), topn)
    linear = ndcg_metric(scores, labels, topn=topn, gain_fn=lambda label: label)
    return {name: float(jnp.mean(value)) for name, value in values.items()} | {"linear ndcg": float(linear)}


@pytest.mark.parametrize("topn", [3, 20])
def test_ir_measures_agrees_where_no_scores_are_tied(topn):
    ir_measures = pytest.importorskip("ir_measures")
    scores, labels, run, qrels = untied_cases()
    names = {
        ir_measures.AP @ topn: "ap",
        ir_measures.R @ topn: "recall",
        ir_measures.P @ topn: "precision",
        ir_measures.RR @ topn: "mrr",
        ir_measures.Success @ topn: "hit",
        ir_measures.nDCG @ topn: "linear ndcg",
    }
    ours = values_of_untied_cases(scores, labels, topn)
    for measure, value in ir_measures.calc_aggregate(list(names), qrels, run).items():
        np.testing.assert_allclose(ours[names[measure]], value, rtol=1e-6, err_msg=str(measure))


@pytest.mark.slow  # it takes seconds to import; rax and ir_measures agree above
def test_ranx_agrees_where_no_scores_are_tied(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, these five queries no time
    ranx = pytest.importorskip("ranx")
    scores, labels, run, qrels = untied_cases()
    names = {
        "map@3": "ap",
        "recall@3": "recall",
        "precision@3": "precision",
        "mrr@3": "mrr",
        "hit_rate@3": "hit",
        "ndcg@3": "linear ndcg",
        "ndcg_burges@3": "ndcg",
    }
    ours = values_of_untied_cases(scores, labels, topn=3)
    for name, value in ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), list(names)).items():
        np.testing.assert_allclose(ours[names[name]], value, rtol=1e-6, err_msg=name)
