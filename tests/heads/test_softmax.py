"""The softmax head: its loss, and ranks and lists among allowed items as in a catalogue of those items alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.heads.softmax import SoftmaxHead
from seqrec.questions import next_item
from seqrec.types import Head, NextItemHead, Question

N_ITEMS, N_ROWS, D_MODEL, N_USERS = 20, 64, 6, 8
HEAD = SoftmaxHead(N_ITEMS)
LISTS = {
    "a row a user": np.array([[3, 9, 20, 0, 3], [1, 2, 0, 0, 0], [7, 0, 0, 0, 0], [20, 19, 18, 17, 16]] * 2),
    "one row for all users": np.array([[4, 11, 5, 20, 0, 4, 13]]),
}


@pytest.fixture(scope="module")
def vectors():
    """Parameters and states whose products are small integers: exact, and with ties. Rows of no item score highest."""
    random = np.random.default_rng(0)
    table = random.integers(-2, 3, (N_ROWS, D_MODEL)).astype(np.float32)
    table[0] = table[N_ITEMS + 1 :] = 100.0
    return {"item_table": jnp.asarray(table)}, jnp.asarray(random.integers(-2, 3, (N_USERS, D_MODEL)), jnp.float32)


def scores_of(vectors):
    params, states = vectors
    return np.asarray(states) @ np.asarray(params["item_table"])[: N_ITEMS + 1].T


def slow_rank(scores, target, items):
    """The mean place of the target over all orders of the items that tie with it."""
    others = [scores[item] for item in items if item != target]
    return 1 + sum(score > scores[target] for score in others) + sum(score == scores[target] for score in others) / 2


def catalogue_of(allow, user):
    """The items of a list without padding and repeats, in the order of their ids."""
    row = allow[user] if len(allow) > 1 else allow[0]
    return sorted(set(row.tolist()) - {0})


def test_it_has_all_that_evaluation_and_generation_need():
    assert isinstance(HEAD, Head)
    assert isinstance(HEAD, NextItemHead)


@pytest.mark.parametrize("allow", LISTS.values(), ids=LISTS)
def test_allowed_items_are_ranked_as_in_a_catalogue_of_these_alone(vectors, allow):
    params, states = vectors
    targets = np.tile(np.arange(N_ITEMS + 2), (N_USERS, 1))  # padding and an id beyond the catalogue too
    ranks, n_candidates = jax.jit(HEAD.rank)(params, states, jnp.asarray(targets), allow=jnp.asarray(allow))
    scores = scores_of(vectors)
    for user in range(N_USERS):
        items = catalogue_of(allow, user)
        expected = [slow_rank(scores[user], target, items) if target in items else np.nan for target in targets[user]]
        np.testing.assert_array_equal(ranks[user], expected)
        assert n_candidates[user] == len(items)


@pytest.mark.parametrize("allow", LISTS.values(), ids=LISTS)
def test_lists_of_allowed_items_are_those_of_a_catalogue_of_these_alone(vectors, allow):
    params, states = vectors
    k = 6
    ids, best = jax.jit(HEAD.top_k, static_argnames="k")(params, states, k=k, allow=jnp.asarray(allow))
    scores = scores_of(vectors)
    for user in range(N_USERS):
        listed = sorted(catalogue_of(allow, user), key=lambda item, own=scores[user]: -own[item])[:k]
        n_left = k - len(listed)
        assert ids[user].tolist() == listed + [0] * n_left
        assert best[user].tolist() == [*scores[user][listed], *[-np.inf] * n_left]


def test_excluded_items_are_left_out_of_the_allowed_ones_but_for_the_target(vectors):
    params, states = vectors
    allow, exclude = np.array([[4, 11, 5, 20]]), np.tile(np.array([11, 20, 3, 0]), (N_USERS, 1))
    options = {"allow": jnp.asarray(allow), "exclude": jnp.asarray(exclude)}
    ids, _ = jax.jit(HEAD.top_k, static_argnames="k")(params, states, k=3, **options)
    rank, scores = jax.jit(HEAD.rank), scores_of(vectors)
    for target in (11, 4):  # one that is excluded for others, and one that is not
        items = {4, 5, target}
        ranks, n_candidates = rank(params, states, jnp.full(N_USERS, target), **options)
        np.testing.assert_array_equal(ranks, [slow_rank(own, target, items) for own in scores])
        np.testing.assert_array_equal(n_candidates, len(items))
    for user in range(N_USERS):
        assert ids[user].tolist() == [*sorted([4, 5], key=lambda item, own=scores[user]: -own[item]), 0]
    assert np.isnan(rank(params, states, jnp.full(N_USERS, 3), **options)[0]).all()


def test_the_loss_at_chosen_positions_is_that_of_their_states():
    random = np.random.default_rng(1)
    batch = rows_of([[5, 9, 5, 5, 30]], [[1, 2, 3]], length=6)
    states = jnp.asarray(random.normal(size=(2, 6, D_MODEL)), jnp.float32)
    params = {"item_table": jnp.asarray(random.normal(size=(N_ROWS, D_MODEL)), jnp.float32)}
    targets, positions = jnp.array([[7, 20, 0], [1, 0, 0]]), jnp.array([[4, 0, 1], [2, 0, 0]])
    total, count = jax.jit(HEAD.loss)(params, states, Question(batch, targets, positions), key=jax.random.key(0))
    scores = np.asarray(states) @ np.asarray(params["item_table"])[1 : N_ITEMS + 1].T
    expected = 0.0
    for row, state, target in ((0, 4, 7), (0, 0, 20), (1, 2, 1)):
        expected += np.log(np.exp(scores[row, state]).sum()) - scores[row, state, target - 1]
    assert int(count) == 3
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_only_a_question_about_every_position_gives_the_loss_a_history():
    def loss(hidden, item_table, targets, *, context, **others):
        return jnp.zeros(()), jnp.asarray(0 if context.history is None else 1)

    head = SoftmaxHead(N_ITEMS, loss)
    batch = rows_of([[1, 2, 3]], length=4)
    states = jnp.zeros((1, 4, D_MODEL))
    params = {"item_table": jnp.zeros((N_ROWS, D_MODEL))}
    chosen = Question(batch, jnp.array([[2]]), jnp.array([[0]]))
    counts = [int(head.loss(params, states, each, key=jax.random.key(0))[1]) for each in (next_item(batch), chosen)]
    assert counts == [1, 0]


def test_queries_are_the_states_at_the_flattened_positions(vectors):
    states = jnp.arange(24.0).reshape(2, 3, 4)
    batch = rows_of([[1]], [[2]], length=3)
    queries = HEAD.queries(vectors[0], states, batch, jnp.array([5, 1]))
    np.testing.assert_array_equal(queries, [states[1, 2], states[0, 1]])
