"""Ranks of targets among given scores, against a loop over all orders of the ties; and where rax flatters a model."""

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

from seqrec.metrics import distinct_targets, list_ranks, metric_values, target_ranks
from seqrec.types import InputError

N_ITEMS = 6
quick = examples(40)


def slow_rank(scores, target: int, items, excluded, relevant, ties: str) -> float:
    """The place of the target in the best, the mean or the worst order of what ties with it, counted by hand."""
    if not (0 <= target < len(scores) and items[target]):
        return math.nan
    others = [
        score for i, score in enumerate(scores) if items[i] and (i not in excluded or i in relevant) and i != target
    ]
    if math.isnan(scores[target]):
        return 1 + len(others)
    above = sum(math.isnan(score) or score > scores[target] for score in others)
    places = [1 + above + place for place in range(1 + sum(score == scores[target] for score in others))]
    return {"mean": sum(places) / len(places), "optimistic": places[0], "pessimistic": places[-1]}[ties]


@functools.partial(jax.jit, static_argnames="ties")
def ranks_of(scores, targets, items, exclude, ties):
    return target_ranks(scores, targets, where=items, exclude=exclude, ties=ties)


@quick
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, math.inf, -math.inf, math.nan]), min_size=N_ITEMS, max_size=N_ITEMS),
    st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS),
    st.lists(st.integers(-1, N_ITEMS), min_size=3, max_size=3),
    st.lists(st.integers(-2, N_ITEMS + 1), min_size=2, max_size=2, unique=True),
    st.sampled_from(["mean", "optimistic", "pessimistic"]),
)
def test_a_rank_is_a_place_among_the_orders_of_its_ties(scores, items, excluded, targets, ties):
    ranks = ranks_of(jnp.array([scores]), jnp.array([targets]), jnp.array([items]), jnp.array([excluded]), ties)
    expected = [slow_rank(scores, target, items, excluded, targets, ties) for target in targets]
    np.testing.assert_array_equal(ranks[0], expected)


@pytest.mark.parametrize("n_items", [1, 32, 33, 1000])
def test_every_item_is_counted_whatever_their_number(n_items):
    scores = jnp.arange(n_items, dtype=jnp.float32)[None]
    assert target_ranks(scores, jnp.array([0])).tolist() == [n_items]
    assert target_ranks(jnp.zeros((1, n_items)), jnp.array([0]), ties="pessimistic").tolist() == [n_items]


@pytest.mark.parametrize("target", range(4))
def test_a_model_without_an_opinion_ranks_in_the_middle_and_a_broken_one_last(target):
    assert target_ranks(jnp.zeros((1, 4)), jnp.array([target])).tolist() == [(1 + 4) / 2]
    for ties in ("mean", "optimistic", "pessimistic"):
        assert target_ranks(jnp.full((1, 4), jnp.nan), jnp.array([target]), ties=ties).tolist() == [4]


@pytest.mark.parametrize("score", [0.0, math.nan])
def test_a_model_without_an_opinion_is_perfect_for_rax_if_the_target_comes_first(score):
    scores, label = jnp.full(4, score), jax.nn.one_hot(0, 4)
    assert rax.ndcg_metric(scores, label, topn=2) == 1.0
    assert rax.mrr_metric(scores, label) == 1.0
    values = metric_values(target_ranks(scores[None], jnp.array([0])), ks=(2,))
    assert values["ndcg@2"][0] == 0.0
    assert values["mrr"][0] <= 0.4  # the middle of four places


def test_padding_is_no_target_and_no_competitor():
    scores, is_item = jnp.array([[9.0, 3.0, 2.0]]), jnp.array([[False, True, True]])
    assert target_ranks(scores, jnp.array([2]), where=is_item).tolist() == [2]
    assert math.isnan(target_ranks(scores, jnp.array([0]), where=is_item)[0])


@pytest.mark.parametrize("target", [-1, -4, 4, 100])
def test_a_target_outside_the_scores_has_no_rank_and_scores_nothing(target):
    ranks = target_ranks(jnp.arange(4.0)[None], jnp.array([target]))
    assert math.isnan(ranks[0])
    assert all(value[0] == 0 for value in metric_values(ranks, ks=(100,)).values())


def test_a_repeat_stays_a_candidate():
    scores = jnp.array([[9.0, 3.0, 2.0]])
    assert target_ranks(scores, jnp.array([1]), exclude=jnp.array([[0, 1]])).tolist() == [1]


def test_a_user_all_of_whose_items_are_excluded_has_the_target_left():
    everything = jnp.arange(4)[None]
    assert target_ranks(jnp.arange(4.0)[None], jnp.array([0]), exclude=everything).tolist() == [1]


def test_bfloat16_scores_tie_where_they_round_to_one_number():
    # bfloat16 has 8 bits: 256 and 257 are one number.
    scores = jnp.array([[256.0, 257.0, 300.0]])
    assert target_ranks(scores, jnp.array([0])).tolist() == [3]
    ranks = target_ranks(scores.astype(jnp.bfloat16), jnp.array([0]))
    assert ranks.dtype == jnp.float32
    assert ranks.tolist() == [2.5]


def test_several_targets_have_the_ranks_of_each_alone():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.integers(0, 9, (5, 70)), jnp.float32)
    targets = jnp.asarray(np.stack([rng.permutation(70)[:3] for _ in range(5)]))
    alone = [target_ranks(scores, targets[:, i]) for i in range(3)]
    np.testing.assert_array_equal(target_ranks(scores, targets), np.stack(alone, axis=1))


def test_no_users_have_no_ranks():
    assert target_ranks(jnp.zeros((0, 5)), jnp.zeros(0, jnp.int32)).shape == (0,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scores": jnp.zeros((2, 3), complex)}, "scores are complex64"),
        ({"scores": np.array([[2**40, 1, 0]] * 2)}, "beyond int32"),
        ({"targets": jnp.zeros(2)}, "targets are float32; give integers"),
        ({"targets": jnp.zeros(2, bool)}, "targets are bool; give integers"),
        ({"targets": jnp.zeros(3, jnp.int32)}, r"targets has shape \(3,\) for 2 users"),
        ({"targets": np.array([2**32, 1])}, "beyond int32"),
        ({"exclude": jnp.zeros((3, 1), jnp.int32)}, r"exclude has shape \(3, 1\) for 2 users"),
        ({"exclude": jnp.zeros((2, 1))}, "exclude are float32"),
        ({"exclude": jnp.zeros(2, jnp.int32)}, r"exclude has shape \(2,\) for 2 users; give \[users, n_excluded\]"),
        ({"where": jnp.ones(3, bool)}, r"where has shape \(3,\)"),
        ({"where": jnp.ones((2, 4), bool)}, r"where has shape \(2, 4\)"),
        ({"ties": "half"}, "is not one of"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arrays_of_another_shape_or_type_are_refused(bad, message):
    arguments = {"scores": jnp.zeros((2, 3)), "targets": jnp.zeros(2, jnp.int32)} | bad
    with pytest.raises(InputError, match=message):
        target_ranks(**arguments)


@pytest.mark.parametrize(
    "dtype",
    at_night(
        ("bool", "uint8", "int8", "int16", "uint32", "int32", "int64", "float16", "float32"),
        quick=("bool", "int8", "uint32", "float16"),
    ),
)
def test_scores_of_every_type_rank_in_their_own_order(dtype):
    rng = np.random.default_rng(3)
    if dtype == "bool" or dtype.startswith("float"):
        scores = rng.integers(0, 2, (4, 90)).astype(dtype)
    else:
        kind = np.iinfo(min(np.dtype(dtype), np.dtype("int32"), key=lambda each: each.itemsize))
        # Both ends of the type, and neighbours that float32 does not tell apart.
        scores = rng.choice([kind.min, kind.min + 1, 0, kind.max - 1, kind.max], (4, 90)).astype(dtype)
    targets = rng.integers(0, 90, 4)
    own = scores[np.arange(4), targets][:, None]
    expected = 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    assert target_ranks(scores, targets).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64])
def test_ids_in_small_integers_find_their_columns_in_a_large_catalogue(dtype):
    n_items = 100_000
    scores = -jnp.arange(n_items, dtype=jnp.float32)[None]
    targets, exclude = np.array([[5, 100]], dtype), np.array([[3, 99]], dtype)
    assert target_ranks(scores, targets, exclude=exclude).tolist() == [[5, 99]]
    outside = np.array([[-1]], np.int8)
    assert target_ranks(scores, targets, exclude=outside).tolist() == [[6, 101]]


# Repeated targets

target_lists = st.lists(st.integers(0, N_ITEMS - 1), min_size=4, max_size=4)


@jax.jit
def values_of_targets(scores, targets, where):
    names = {"ks": (2, 5), "at_k": ("recall", "precision", "ndcg", "map"), "without_k": ("mrr", "mean_rank")}
    return metric_values(target_ranks(scores, targets), where=where, **names)


@quick
@given(st.permutations(range(N_ITEMS)), target_lists)
def test_a_repeated_target_counts_as_the_one_item_that_it_is(order, targets):
    """The metrics of the set of targets; 0 is padding."""
    distinct = sorted(set(targets) - {0})
    if not distinct:
        return
    scores = jnp.array([order], jnp.float32)
    once = values_of_targets(scores, jnp.array([distinct]), where=jnp.ones((1, len(distinct)), bool))
    repeated = values_of_targets(scores, jnp.array([targets]), where=distinct_targets(jnp.array([targets])))
    for name, value in once.items():
        np.testing.assert_allclose(repeated[name], value, rtol=1e-6, err_msg=name)


def test_the_recall_of_a_perfect_list_is_one_however_often_an_item_is_bought():
    scores = jnp.zeros((1, 9)).at[0, jnp.array([5, 7])].set(jnp.array([2.0, 1.0]))
    targets = jnp.array([[5, 5, 7]])
    ranks = target_ranks(scores, targets)
    assert ranks.tolist() == [[1, 1, 2]]
    assert metric_values(ranks, ks=(2,), where=distinct_targets(targets))["recall@2"].tolist() == [1.0]
    listed = list_ranks(np.array([[5, 7]]), np.array([[5, 5, 7]]))
    assert metric_values(listed.rank, ks=(2,), where=listed.where)["recall@2"].tolist() == [1.0]


@quick
@given(st.lists(st.integers(0, 9), min_size=5, max_size=5), target_lists)
def test_ranks_in_lists_are_the_first_places_of_the_targets(items, targets):
    places = list_ranks(np.array([items]), np.array([targets]))
    for column, target in enumerate(targets):
        is_listed = target > 0 and target in items
        assert places.rank[0, column] == (1 + items.index(target) if is_listed else math.inf)
        assert places.where[0, column] == (target > 0 and target not in targets[:column])
