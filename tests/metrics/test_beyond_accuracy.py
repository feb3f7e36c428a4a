"""Properties of recommendation lists: against slow NumPy loops, and facts that can be derived on paper."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from seqrec.metrics import (
    catalogue_coverage,
    coverage_of_counts,
    exposure_counts,
    gini,
    gini_of_counts,
    intra_list_diversity,
    intra_list_diversity_of_attributes,
    novelty,
    personal_repeat_share,
    popularity_bias,
)
from seqrec.types import InputError

N_ITEMS = 7
N_USERS = 4

# Ids of 0 are short lists, and those of -1 and 8 are no items at all.
id_lists = arrays.arrays(np.int32, (N_USERS, 3), elements=st.integers(-1, N_ITEMS + 1))
quick = examples(30)
rng = np.random.default_rng(0)
VECTORS = rng.normal(size=(N_ITEMS + 1, 3)).astype(np.float32)
ATTRIBUTES = rng.random((N_ITEMS + 1, 4)) < 0.4
COUNTS = np.array([0, 0, 1, 2, 5, 5, 9, 20])


def items_of(row) -> list[int]:
    return [int(item) for item in row if 1 <= item <= N_ITEMS]


def mean_or_nan(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def slow_cosine(a, b) -> float:
    return float(np.dot(VECTORS[a], VECTORS[b]) / np.linalg.norm(VECTORS[a]) / np.linalg.norm(VECTORS[b]))


def slow_jaccard(a, b) -> float:
    has, other = ({i for i, held in enumerate(ATTRIBUTES[item]) if held} for item in (a, b))
    return len(has & other) / len(has | other) if has | other else 0.0


@quick
@given(id_lists)
def test_figures_of_a_user_are_those_of_slow_loops(lists):
    rows = [items_of(row) for row in lists]
    pairs = [list(itertools.combinations(row, 2)) for row in rows]
    expected = {
        "popularity": [mean_or_nan(COUNTS[item] for item in row) for row in rows],
        "novelty": [mean_or_nan(-math.log2(max(COUNTS[item], 1) / 20) for item in row) for row in rows],
        "cosine": [mean_or_nan(1 - slow_cosine(*pair) for pair in row) for row in pairs],
        "jaccard": [mean_or_nan(1 - slow_jaccard(*pair) for pair in row) for row in pairs],
    }
    figures = {
        "popularity": popularity_bias(lists, COUNTS),
        "novelty": novelty(lists, COUNTS, n_users=20),
        "cosine": intra_list_diversity(lists, VECTORS),
        "jaccard": intra_list_diversity_of_attributes(lists, ATTRIBUTES),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@quick
@given(id_lists)
def test_figures_of_the_catalogue_are_those_of_slow_loops(lists):
    recommended = [item for row in lists for item in items_of(row)]
    counts = [recommended.count(item) for item in range(1, N_ITEMS + 1)]
    assert exposure_counts(lists, n_items=N_ITEMS).tolist() == [0, *counts]
    np.testing.assert_allclose(catalogue_coverage(lists, n_items=N_ITEMS), len(set(recommended)) / N_ITEMS)
    # Gini as half the mean absolute difference of two items' counts, relative to the mean count.
    differences = sum(abs(a - b) for a in counts for b in counts)
    slow_gini = differences / (2 * N_ITEMS * len(recommended)) if recommended else math.nan
    np.testing.assert_allclose(gini(lists, n_items=N_ITEMS), slow_gini, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_items", [1, 5, 1000])
def test_uniform_exposure_has_no_inequality_and_one_item_for_all_has_the_most(n_items):
    everybody_another = jnp.arange(1, n_items + 1)[:, None]
    np.testing.assert_allclose(gini(everybody_another, n_items=n_items), 0.0, atol=1e-6)
    assert catalogue_coverage(everybody_another, n_items=n_items) == 1.0
    everybody_the_same = jnp.full((20, 1), n_items)
    np.testing.assert_allclose(gini(everybody_the_same, n_items=n_items), (n_items - 1) / n_items, rtol=1e-5)
    np.testing.assert_allclose(catalogue_coverage(everybody_the_same, n_items=n_items), 1 / n_items)


def test_gini_depends_on_shares_and_not_on_how_many_users_there_are():
    lists = jnp.array([[1, 2], [1, 3], [1, 2]])
    np.testing.assert_allclose(gini(jnp.tile(lists, (50, 1)), n_items=5), gini(lists, n_items=5), rtol=1e-6)


def test_gini_of_a_large_catalogue_stays_exact():
    n_items = 1_000_000
    counts = jnp.arange(n_items + 1)  # exposures 1..n: 2 sum(i x i) / (n sum(i)) - (n + 1) / n
    np.testing.assert_allclose(gini_of_counts(counts), (n_items - 1) / (3 * n_items), rtol=1e-5)


@quick
@given(id_lists, st.integers(0, N_USERS))
def test_counts_of_batches_add_up(lists, cut):
    parts = [exposure_counts(part, n_items=N_ITEMS) for part in (lists[:cut], lists[cut:])]
    merged, whole = parts[0] + parts[1], exposure_counts(lists, n_items=N_ITEMS)
    np.testing.assert_array_equal(merged, whole)
    np.testing.assert_array_equal(coverage_of_counts(merged), coverage_of_counts(whole))


def test_coverage_of_batches_does_not_add_up_but_their_counts_do():
    batches = [jnp.array([[1, 2]]), jnp.array([[2, 3]])]
    counts = sum(exposure_counts(batch, n_items=4) for batch in batches)
    assert float(coverage_of_counts(counts)) == 3 / 4
    assert np.mean([catalogue_coverage(batch, n_items=4) for batch in batches]) == 1 / 2


def test_nothing_recommended_covers_nothing_and_has_no_inequality_to_speak_of():
    nothing = jnp.zeros((2, 3), jnp.int32)
    assert catalogue_coverage(nothing, n_items=4) == 0.0
    assert math.isnan(gini(nothing, n_items=4))
    assert math.isnan(gini(nothing[:0], n_items=4))


def test_an_empty_list_has_no_figure():
    nothing = jnp.zeros((1, 3), jnp.int32)
    figures = [
        popularity_bias(nothing, COUNTS),
        novelty(nothing, COUNTS, n_users=20),
        intra_list_diversity(nothing, VECTORS),
        intra_list_diversity_of_attributes(nothing, ATTRIBUTES),
        personal_repeat_share(nothing, jnp.array([[1]])),
    ]
    assert all(np.isnan(figure).all() for figure in figures)


def test_one_item_makes_no_pair_and_so_no_diversity():
    ones = jnp.array([[item, 0, 0] for item in range(1, N_ITEMS + 1)])
    assert np.isnan(intra_list_diversity(ones, VECTORS)).all()
    assert np.isnan(intra_list_diversity_of_attributes(ones, ATTRIBUTES)).all()


def test_the_novelty_of_an_item_halves_in_share_with_each_bit():
    counts = np.array([0, 64, 32, 1, 0])
    each = novelty(jnp.array([[1], [2], [3], [4]]), counts, n_users=64)
    np.testing.assert_allclose(each, [0, 1, 6, 6])  # nobody knows item 4, which counts as one user


def test_an_item_listed_twice_counts_twice():
    twice = jnp.array([[2, 2, 3]])
    assert exposure_counts(twice, n_items=3).tolist() == [0, 0, 2, 1]
    assert popularity_bias(twice, np.array([0, 0, 3, 9])).tolist() == [5.0]
    vectors = jnp.eye(4)
    np.testing.assert_allclose(intra_list_diversity(twice, vectors), [2 / 3], rtol=1e-6)  # one pair of three is alike
    np.testing.assert_allclose(intra_list_diversity_of_attributes(twice, vectors > 0), [2 / 3], rtol=1e-6)
    np.testing.assert_allclose(personal_repeat_share(twice, jnp.array([[2]])), [2 / 3])


def test_opposed_vectors_are_more_diverse_than_orthogonal_ones_and_length_does_not_matter():
    vectors = jnp.array([[0.0, 0.0], [1.0, 0.0], [-3.0, 0.0], [0.0, 7.0], [0.0, 0.0]])
    diversity = intra_list_diversity(jnp.array([[1, 2], [1, 3], [1, 1], [1, 4], [4, 4]]), vectors)
    np.testing.assert_allclose(diversity, [2, 1, 0, 1, 1], atol=1e-6)


def test_one_attribute_an_item_gives_the_share_of_pairs_that_differ():
    artists = np.eye(3, dtype=bool)[[0, 0, 0, 1, 2]]  # items 1 and 2 are by artist 0
    diversity = intra_list_diversity_of_attributes(jnp.array([[1, 2, 3, 4]]), artists)
    np.testing.assert_allclose(diversity, [5 / 6], rtol=1e-6)


def test_items_without_attributes_have_nothing_in_common():
    assert intra_list_diversity_of_attributes(jnp.array([[1, 2]]), np.zeros((3, 2), bool)).tolist() == [1.0]


def test_a_row_of_padding_is_never_read():
    lists = jnp.array([[1, 2, 0]])
    vectors = jnp.array([[jnp.nan, jnp.nan], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(intra_list_diversity(lists, vectors), [1.0])
    assert popularity_bias(lists, jnp.array([jnp.nan, 1.0, 3.0])).tolist() == [2.0]
    padding_has_all = np.array([[True, True], [True, False], [False, True]])
    assert intra_list_diversity_of_attributes(lists, padding_has_all).tolist() == [1.0]


@quick
@given(id_lists.map(lambda lists: np.clip(lists, 0, N_ITEMS)), id_lists.map(lambda lists: np.clip(lists, 0, N_ITEMS)))
def test_repeats_are_looked_up_in_the_own_history_alone(lists, histories):
    expected = [
        mean_or_nan(float(item in history[history > 0]) for item in row[row > 0])
        for row, history in zip(lists, histories, strict=True)
    ]
    np.testing.assert_allclose(personal_repeat_share(lists, histories), expected, rtol=1e-6)


def test_recommending_what_was_heard_is_all_repeats_and_masking_it_none():
    histories = jnp.array([[4, 5, 6, 0]])
    assert personal_repeat_share(jnp.array([[4, 5]]), histories).tolist() == [1.0]
    assert personal_repeat_share(jnp.array([[1, 2]]), histories).tolist() == [0.0]


def test_jit_and_bfloat16_tables_are_welcome():
    lists = jnp.array([[1, 2, 3], [4, 0, 0]])
    figures = {
        "coverage": functools.partial(catalogue_coverage, n_items=N_ITEMS),
        "gini": functools.partial(gini, n_items=N_ITEMS),
        "novelty": lambda lists: novelty(lists, COUNTS, n_users=20),
        "cosine": lambda lists: intra_list_diversity(lists, VECTORS),
    }
    for name, figure in figures.items():
        np.testing.assert_allclose(jax.jit(figure)(lists), figure(lists), rtol=1e-6, err_msg=name)
    coarse = intra_list_diversity(lists, jnp.asarray(VECTORS, jnp.bfloat16))
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, intra_list_diversity(lists, VECTORS), atol=0.02)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_ids_of_every_integer_type_are_counted_alike(dtype):
    n_items = 1000
    lists, counts = np.array([[1, 100, 0], [100, 7, 3]], dtype), np.arange(n_items + 1)
    assert np.flatnonzero(exposure_counts(lists, n_items=n_items)).tolist() == [1, 3, 7, 100]
    np.testing.assert_allclose(popularity_bias(lists, counts), [101 / 2, 110 / 3], rtol=1e-6)
    np.testing.assert_allclose(intra_list_diversity(lists, np.eye(n_items + 1, dtype=np.float32)), [1, 1], rtol=1e-6)
    assert personal_repeat_share(lists, np.array([[1], [9]])).tolist() == [0.5, 0.0]


def test_counts_beyond_32_bits_do_not_wrap():
    counts = np.array([0, 2**33, 2**31])
    np.testing.assert_allclose(popularity_bias(jnp.array([[1, 2]]), counts), [(2**33 + 2**31) / 2], rtol=1e-6)
    np.testing.assert_allclose(novelty(jnp.array([[1], [2]]), counts, n_users=2**33), [0, 2], atol=1e-5)
    with pytest.raises(InputError, match="beyond int32"):
        coverage_of_counts(counts)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_size_of_vectors_does_not_matter(scale):
    lists = jnp.array([[1, 2, 3], [4, 5, 6]])
    expected = intra_list_diversity(lists, VECTORS)
    np.testing.assert_allclose(intra_list_diversity(lists, VECTORS * np.float32(scale)), expected, rtol=1e-5)


def test_no_array_of_users_times_items_is_made():
    n_users, n_items = 512, 4096
    lists, tables = jnp.ones((n_users, 10), jnp.int32), jnp.ones((n_items + 1, 8))

    def figures(lists):
        counts = exposure_counts(lists, n_items=n_items)
        return gini_of_counts(counts), popularity_bias(lists, tables[:, 0]), intra_list_diversity(lists, tables)

    memory = jax.jit(figures).lower(lists).compile().memory_analysis()
    assert memory.temp_size_in_bytes < n_users * n_items


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="n_items=0 is below 1"):
        gini(jnp.ones((1, 1), jnp.int32), n_items=0)
    with pytest.raises(InputError, match="n_users=0 is below 1"):
        novelty(jnp.ones((1, 1), jnp.int32), jnp.ones(2), n_users=0)
    with pytest.raises(InputError, match="one count per id"):
        gini_of_counts(jnp.zeros(1, jnp.int32))


@pytest.mark.usefixtures("unchecked")
def test_ids_and_attributes_of_another_type_are_refused():
    for figure in (lambda lists: gini(lists, n_items=3), lambda lists: popularity_bias(lists, COUNTS)):
        with pytest.raises(InputError, match="lists are float32; give integers"):
            figure(jnp.ones((1, 2)))
    with pytest.raises(InputError, match="attributes are float32; give booleans"):
        intra_list_diversity_of_attributes(jnp.ones((1, 2), jnp.int32), jnp.ones((3, 2)))
