"""Ranks and top items against slow loops over the whole score matrix, with ties, NaN and masks."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from programs import array_sizes
from scipy import stats

from seqrec import retrieval
from seqrec.metrics.ranks import target_ranks
from seqrec.retrieval import (
    ACCELERATOR,
    CPU,
    draw_items,
    enough_users,
    rank_targets,
    top_k_items,
    top_k_log_probabilities,
    users_per_block,
)
from seqrec.types import InputError

N_ITEMS, N_ROWS, N_EXCLUDED = 9, 64, 4


def table_of_scores(scores) -> tuple[jax.Array, jax.Array]:
    """Users and items whose products are exactly these scores [users, n_items]: one dimension a user."""
    scores = np.asarray(scores, np.float32)
    n_users, n_items = scores.shape
    rows = -(-(n_items + 1) // 64) * 64
    # Rows that are no items score best of all: a rank that counted one would show it.
    table = np.full((rows, n_users), 1e6, np.float32)
    table[1 : n_items + 1] = scores.T
    return jnp.eye(n_users), jnp.array(table)


def slow_rank(scores, target, excluded) -> tuple[float, int]:
    """The mean place of the target over all orders of the items that tie with it; NaN counts against it."""
    others = [i for i in range(1, len(scores) + 1) if i not in excluded and i != target]
    score = scores[target - 1]
    if math.isnan(score):
        return 1.0 + len(others), 1 + len(others)
    above = sum(math.isnan(scores[i - 1]) or scores[i - 1] > score for i in others)
    tied = sum(scores[i - 1] == score for i in others)
    return sum(1 + above + place for place in range(tied + 1)) / (tied + 1), 1 + len(others)


def slow_top(scores, excluded, k) -> list[int]:
    candidates = [i for i in range(1, len(scores) + 1) if i not in excluded]
    return sorted(candidates, key=lambda i: -scores[i - 1])[:k]


one_user = st.tuples(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0]), min_size=N_ITEMS, max_size=N_ITEMS),
    st.integers(1, N_ITEMS),
    st.lists(st.integers(0, N_ITEMS), min_size=N_EXCLUDED, max_size=N_EXCLUDED),
)
three_users = st.lists(one_user, min_size=3, max_size=3)
quick = examples(40)
jitted_rank = jax.jit(functools.partial(rank_targets, n_items=N_ITEMS))
jitted_top = jax.jit(functools.partial(top_k_items, k=N_ITEMS, n_items=N_ITEMS))


@quick
@given(three_users)
def test_ranks_are_those_of_a_loop_over_all_scores(users):
    scores, targets, excluded = zip(*users, strict=True)
    ranks, n_candidates = jitted_rank(*table_of_scores(scores), jnp.array(targets), exclude=jnp.array(excluded))
    expected = [slow_rank(*user) for user in users]
    assert list(zip(ranks.tolist(), n_candidates.tolist(), strict=True)) == expected


@quick
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 2.0, math.nan]), min_size=N_ITEMS, max_size=N_ITEMS),
    st.integers(1, N_ITEMS),
    st.lists(st.integers(0, N_ITEMS), min_size=N_EXCLUDED, max_size=N_EXCLUDED),
)
def test_nan_of_the_target_or_of_another_item_counts_against_the_target(scores, target, excluded):
    # One user alone: a product with an item that holds NaN is NaN for every user.
    ranks, n_candidates = jitted_rank(*table_of_scores([scores]), jnp.array([target]), exclude=jnp.array([excluded]))
    assert (float(ranks[0]), int(n_candidates[0])) == slow_rank(scores, target, excluded)


@pytest.mark.parametrize("target", [1, 5, N_ITEMS])
@pytest.mark.parametrize(
    ("score", "rank"), [(0.0, (1 + N_ITEMS) / 2), (math.nan, N_ITEMS), (math.inf, (1 + N_ITEMS) / 2)]
)
def test_equal_scores_never_rank_well_whatever_the_target(score, rank, target):
    ranks, _ = jitted_rank(*table_of_scores([[score] * N_ITEMS]), jnp.array([target]))
    assert float(ranks[0]) == rank


def test_a_nan_state_ranks_its_target_last():
    _, table = table_of_scores([range(N_ITEMS)])
    ranks, _ = jitted_rank(jnp.full((1, 1), jnp.nan), table, jnp.array([N_ITEMS]), exclude=jnp.array([[1, 2, 0, 0]]))
    assert float(ranks[0]) == N_ITEMS - 2


def test_repeats_zeros_and_the_target_itself_do_not_change_the_candidates():
    users, table = table_of_scores([[5.0, 4.0, 3.0, 2.0]])
    rank = jax.jit(functools.partial(rank_targets, n_items=4))
    for excluded in ([1, 0, 0, 0], [1, 1, 1, 1], [0, 3, 1, 0], [1, 3, 3, 1]):
        ranks, n_candidates = rank(users, table, jnp.array([3]), exclude=jnp.array([excluded]))
        assert (float(ranks[0]), int(n_candidates[0])) == (2.0, 3)


def test_without_exclusions_every_item_is_a_candidate():
    users, table = table_of_scores([[5.0, 4.0, 3.0, 2.0]])
    ranks, n_candidates = rank_targets(users, table, jnp.array([4]), n_items=4)
    assert (float(ranks[0]), int(n_candidates[0])) == (4.0, 4)


@pytest.mark.parametrize("n_items", [63, 64, 300])
def test_ranks_count_past_what_a_byte_holds(n_items):
    users, table = table_of_scores([range(n_items), [0] * n_items])
    ranks, n_candidates = rank_targets(users, table, jnp.array([1, 1]), n_items=n_items)
    assert ranks.tolist() == [n_items, (1 + n_items) / 2]
    assert n_candidates.tolist() == [n_items, n_items]


def many_users(n_users=27, n_items=70, n_excluded=5):
    generator = np.random.default_rng(0)
    scores = generator.integers(-4, 5, (n_users, n_items)).astype(np.float32)
    targets = generator.integers(1, n_items + 1, n_users)
    excluded = generator.integers(0, n_items + 1, (n_users, n_excluded))
    return scores, targets, excluded


@pytest.mark.parametrize("block_users", [1, 8, 27, 100])
def test_ranks_do_not_depend_on_the_blocks_of_users(block_users):
    scores, targets, excluded = many_users()
    ranks, n_candidates = rank_targets(
        *table_of_scores(scores),
        jnp.array(targets),
        n_items=scores.shape[1],
        exclude=jnp.array(excluded),
        block_users=block_users,
    )
    expected = [slow_rank(*user) for user in zip(scores, targets, excluded, strict=True)]
    assert list(zip(ranks.tolist(), n_candidates.tolist(), strict=True)) == expected


def test_top_items_are_those_of_a_sort():
    scores, _, excluded = many_users()
    scores += np.linspace(0, 0.5, scores.size).reshape(scores.shape)[:, ::-1]  # no ties
    ids, best = top_k_items(
        *table_of_scores(scores), k=7, n_items=scores.shape[1], exclude=jnp.array(excluded), block_users=8
    )
    assert ids.dtype == np.int32
    for user, (listed, values) in enumerate(zip(np.asarray(ids), np.asarray(best), strict=True)):
        assert listed.tolist() == slow_top(scores[user], excluded[user], 7)
        np.testing.assert_array_equal(values, scores[user][listed - 1])


def test_log_probabilities_are_normalised_over_all_items_whatever_is_excluded():
    scores, _, excluded = many_users()
    n_items = scores.shape[1]
    users, table = table_of_scores(scores)
    ids, logs = top_k_log_probabilities(users, table, k=7, n_items=n_items, exclude=jnp.array(excluded))
    plain, _ = top_k_items(users, table, k=7, n_items=n_items, exclude=jnp.array(excluded))
    np.testing.assert_array_equal(ids, plain)
    wide = scores.astype(np.float64)
    expected = np.take_along_axis(wide, np.asarray(ids) - 1, axis=1) - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(logs, expected, rtol=1e-5, atol=1e-5)


def test_items_are_drawn_by_their_softmax_among_the_best_candidates():
    n_users, scores = 6000, np.array([0.0, 1.0, 2.0, 1.5, 0.5])
    users, table = table_of_scores([scores])
    users = jnp.tile(users, (n_users, 1))
    exclude = jnp.tile(jnp.array([3, 0]), (n_users, 1))
    for top_k, left in ((0, [1, 2, 4, 5]), (2, [2, 4])):
        ids, logs = draw_items(
            users, table, n_items=5, temperature=2.0, top_k=top_k, exclude=exclude, key=jax.random.key(top_k)
        )
        weights = np.exp(scores[np.array(left) - 1] / 2.0)
        counts = np.bincount(ids, minlength=6)
        assert counts.sum() == counts[left].sum()
        assert stats.chisquare(counts[left], n_users * weights / weights.sum()).pvalue > 0.001
        np.testing.assert_allclose(logs, scores[np.asarray(ids) - 1] - np.log(np.exp(scores).sum()), rtol=1e-5)
        # Draws of neighbouring users are independent.
        assert abs(np.corrcoef(ids[1:] == 2, ids[:-1] == 2)[0, 1]) < 5 / np.sqrt(n_users)


def test_without_candidates_nothing_is_drawn():
    users, table = table_of_scores([[1.0, 2.0]])
    ids, logs = draw_items(users, table, n_items=2, exclude=jnp.array([[1, 2]]), key=jax.random.key(0))
    assert (ids.tolist(), logs.tolist()) == ([0], [-math.inf])


@quick
@given(three_users)
def test_the_best_items_tie_where_their_scores_do(users):
    scores, _, excluded = zip(*users, strict=True)
    ids, best = jitted_top(*table_of_scores(scores), exclude=jnp.array(excluded))
    for user in range(3):
        listed = [i for i in ids[user].tolist() if i]
        expected = slow_top(scores[user], excluded[user], N_ITEMS)
        assert set(listed) == set(expected)
        assert best[user, : len(listed)].tolist() == [scores[user][i - 1] for i in expected]
        # Where candidates run out, the list ends in 0.
        assert ids[user].tolist() == listed + [0] * (N_ITEMS - len(listed))
        assert best[user, len(listed) :].tolist() == [-math.inf] * (N_ITEMS - len(listed))


@pytest.mark.parametrize("k", [0, -1, N_ITEMS + 1])
def test_lists_longer_than_the_catalogue_are_refused(k):
    users, table = table_of_scores([range(N_ITEMS)])
    with pytest.raises(InputError, match=rf"k={k} is not in 1\.\.n_items={N_ITEMS}"):
        top_k_items(users, table, k=k, n_items=N_ITEMS)


@pytest.mark.parametrize("ties", ["mean", "optimistic", "pessimistic"])
def test_vectors_give_the_ranks_that_their_scores_give(ties):
    scores, _, excluded = many_users()
    rng = np.random.default_rng(1)
    targets = np.stack([rng.permutation(scores.shape[1])[:3] + 1 for _ in scores]).astype(np.int32)
    users, table = table_of_scores(scores)
    ranks, _ = rank_targets(
        users, table, jnp.array(targets), n_items=scores.shape[1], exclude=jnp.array(excluded), ties=ties, block_users=4
    )
    # Columns count from 0 there; -1 is outside.
    expected = target_ranks(jnp.array(scores), jnp.array(targets - 1), exclude=jnp.array(excluded - 1), ties=ties)
    np.testing.assert_array_equal(ranks, expected)


@pytest.mark.parametrize("target", [0, -1, N_ITEMS + 1, 10**6])
def test_padding_and_ids_beyond_the_catalogue_have_no_rank(target):
    ranks, _ = jitted_rank(*table_of_scores([range(N_ITEMS)]), jnp.array([target]))
    assert math.isnan(ranks[0])


def test_an_item_without_a_score_is_never_recommended():
    # One user alone: a product with an item that holds NaN is NaN for every user.
    ids, _ = top_k_items(*table_of_scores([[1.0, math.nan, 3.0, -math.inf]]), k=4, n_items=4)
    assert ids.tolist() == [[3, 1, 0, 0]]


def test_of_tied_items_the_lower_id_comes_first():
    ids, _ = top_k_items(*table_of_scores([[1.0, 2.0, 2.0, 2.0]]), k=3, n_items=4)
    assert ids.tolist() == [[2, 3, 4]]


@pytest.mark.parametrize("k", [5, 1500])
def test_the_best_of_a_large_catalogue_are_those_of_a_stable_sort(k):
    """Of tied items the lower id first, across the blocks that the best are looked for in, which k may exceed."""
    n_items = retrieval.TWO_STAGES_FROM + 70
    scores = np.random.default_rng(0).integers(0, 400, (2, n_items)).astype(np.float32)
    scores[0, -3:] = 1000  # behind the last whole block
    users, table = table_of_scores(scores)
    excluded = 1 + np.argsort(-scores, axis=1, kind="stable")[:, :2]
    ids, best = top_k_items(users, table, k=k, n_items=n_items, exclude=jnp.array(excluded))
    np.put_along_axis(scores, excluded - 1, -1, axis=1)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, 1 + expected)
    np.testing.assert_array_equal(best, np.take_along_axis(scores, expected, axis=1))


def test_no_users_have_no_ranks():
    _, table = table_of_scores([range(N_ITEMS)])
    ranks, n_candidates = rank_targets(jnp.zeros((0, 1)), table, jnp.zeros(0, jnp.int32), n_items=N_ITEMS)
    assert ranks.shape == n_candidates.shape == (0,)


def test_bfloat16_vectors_are_summed_in_float32():
    # 1 + 1/256 is lost in bfloat16, which has 8 bits, and not in the float32 sum of two products.
    table = jnp.zeros((64, 2)).at[1].set(jnp.array([1.0, 0.0])).at[2].set(jnp.array([1.0, 1 / 256]))
    ranks, _ = rank_targets(jnp.ones((1, 2), jnp.bfloat16), table.astype(jnp.bfloat16), jnp.array([[1, 2]]), n_items=2)
    assert ranks.tolist() == [[2.0, 1.0]]


def int_shape(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


@pytest.mark.parametrize("function", ["rank_targets", "top_k_items", "top_k_log_probabilities", "draw_items"])
def test_nothing_of_size_users_times_items_exists(function):
    n_users, n_rows = 4096, 100_032
    users, table = (jax.ShapeDtypeStruct((n, 16), jnp.float32) for n in (n_users, n_rows))
    if function == "rank_targets":
        traced = jax.make_jaxpr(functools.partial(rank_targets, n_items=100_000))
        jaxpr = traced(users, table, int_shape(n_users), exclude=int_shape(n_users, 50))
    else:
        options = {
            "top_k_items": {"k": 10},
            "top_k_log_probabilities": {"k": 10},
            "draw_items": {"top_k": 10, "key": jax.random.key(0)},
        }[function]
        top = getattr(retrieval, function)
        traced = jax.make_jaxpr(functools.partial(top, n_items=100_000, **options))
        jaxpr = traced(users, table, exclude=int_shape(n_users, 50))
    sizes = array_sizes(jaxpr.jaxpr)
    # The jaxpr holds a branch for CPUs and one for other devices.
    small, large = (
        users_per_block(n_users, n_rows, d_model=16, bounds=bounds) * n_rows for bounds in (CPU, ACCELERATOR)
    )
    assert any(small / 2 < size <= small for size in sizes)  # so the blocks were counted
    assert any(large / 2 < size for size in sizes)
    assert max(sizes) <= large < n_users * n_rows / 6


@pytest.mark.parametrize("n_rows", [64, 3_456, 20_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("bounds", [CPU, ACCELERATOR], ids=["cpu", "accelerator"])
def test_a_block_of_scores_is_small_or_of_few_users(n_rows, bounds):
    block = users_per_block(10**6, n_rows, d_model=64, bounds=bounds)
    assert block <= 8 or block * n_rows <= bounds.most_scores
    assert block >= 8
    assert users_per_block(3, n_rows, d_model=64, bounds=bounds) == 3
    assert users_per_block(0, n_rows, d_model=64, bounds=bounds) == 1


@pytest.mark.parametrize("d_model", [16, 64, 256])
def test_reading_the_table_is_a_tenth_of_the_time_of_enough_users(d_model):
    byte, operation = 1.0, 1 / 32  # times, in that of moving a byte
    of_a_user = 8 * byte + 2 * d_model * operation  # for each row: its score is written and read
    of_reading = 4 * d_model * byte
    enough = enough_users(d_model, bounds=ACCELERATOR)
    assert enough * of_a_user >= 10 * of_reading > (enough - 1) * of_a_user


def test_blocks_of_users_fit_what_a_program_is_compiled_for():
    n_users, n_rows = 64, 1_000_448
    shapes = [jax.ShapeDtypeStruct((n, 16), jnp.float32) for n in (n_users, n_rows)]

    def blocks(*platforms):
        exported = jax.export.export(
            jax.jit(lambda *given: top_k_items(*given, k=5, n_items=n_rows - 1)), platforms=platforms
        )
        sizes = {int(n) for n in re.findall(rf"tensor<(\d+)x{n_rows}xf32>", exported(*shapes).mlir_module())}
        return sizes - {16}  # the table

    on_cpu, on_others = (users_per_block(n_users, n_rows, d_model=16, bounds=bounds) for bounds in (CPU, ACCELERATOR))
    assert (on_cpu, on_others) == (32, 64)
    assert blocks("cpu") == {on_cpu}
    assert blocks("tpu") == blocks("cuda") == {on_others}
    assert blocks("cpu", "cuda", "tpu") == {on_cpu, on_others}


def test_ids_and_counts_survive_twenty_million_items():
    n_items, n_rows = 20_000_000, 20_000_064
    # The first item scores 0 and every other 1; the last is excluded.
    table = jnp.ones((n_rows, 1)).at[1].set(0.0)
    user, excluded = jnp.ones((1, 1)), jnp.array([[n_items]])
    ranks, n_candidates = rank_targets(user, table, jnp.array([1]), exclude=excluded, n_items=n_items)
    assert int(n_candidates[0]) == n_items - 1
    # A float32 holds every second integer of this size.
    assert abs(float(ranks[0]) - (n_items - 1)) <= 1
    ranks, _ = rank_targets(user, table.at[n_items].set(2.0), jnp.array([n_items]), exclude=excluded, n_items=n_items)
    assert float(ranks[0]) == 1.0
    ids, _ = top_k_items(user, table.at[n_items - 1].set(3.0), exclude=excluded, k=1, n_items=n_items)
    assert ids.tolist() == [[n_items - 1]]
