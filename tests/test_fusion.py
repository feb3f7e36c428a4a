"""Weights of scores, fitted on held-out items: against likelihoods and slopes in NumPy, and planted truths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.fusion import SMALLEST, fit_weights, log_probabilities
from seqrec.heads.softmax import softmax_model
from seqrec.layers import item_table_rows
from seqrec.neighbours import neighbour_table, table_params, with_neighbours
from seqrec.params import init_params
from seqrec.retrieval import OffsetVectors

N_ITEMS, D_MODEL = 20, 4


def test_log_probabilities_and_slopes_are_those_of_the_softmax_over_the_candidates():
    random = np.random.default_rng(0)
    table = random.normal(size=(item_table_rows(N_ITEMS), D_MODEL)).astype(np.float32)
    states = random.normal(size=(7, D_MODEL)).astype(np.float32)
    items = np.stack([random.permutation(N_ITEMS)[:5] + 1 for _ in range(7)]).astype(np.int32)
    added = random.random((7, 5)).astype(np.float32)
    targets = np.append(items[:4, 0], [1, 2, 3]).astype(np.int32)
    exclude = random.integers(0, N_ITEMS + 1, (7, 6)).astype(np.int32)
    weights = np.array([0.7, 1.3], np.float32)
    parts = [states, OffsetVectors(states[:, :0], items, added)]
    logs_and_slopes = log_probabilities(
        *jax.tree.map(jnp.asarray, (weights, parts, targets, exclude, table)), n_items=N_ITEMS
    )

    each = np.zeros((2, 7, N_ITEMS + 1))
    each[0] = states @ table[: N_ITEMS + 1].T
    each[1][np.arange(7)[:, None], items] = added
    scores = np.einsum("p,pqi->qi", weights, each)
    scores[:, 0] = -np.inf
    for row in range(7):
        scores[row, [item for item in exclude[row] if item != targets[row]]] = -np.inf
    expected = scipy.special.log_softmax(scores, axis=1)
    at = np.arange(7), targets
    slopes = [values[at] - (np.exp(expected) * values).sum(axis=1) for values in each]
    np.testing.assert_allclose(logs_and_slopes[0], expected[at], rtol=1e-5)
    np.testing.assert_allclose(logs_and_slopes[1], np.stack(slopes, axis=1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def planted():
    """A model of random weights, and histories in which item i + 1 mostly follows item i."""
    random = np.random.default_rng(1)
    steps = np.where(random.random((150, 6)) < 0.8, 1, random.integers(2, N_ITEMS, (150, 6)))
    histories = 1 + (random.integers(N_ITEMS, size=(150, 1)) + np.cumsum(steps, axis=1)) % N_ITEMS
    store = store_from_sequences(histories.tolist(), n_items=N_ITEMS)
    queries = make_queries(store, leave_last_out(store).valid, max_length=6, batch_size=32, mask_seen=False)
    model = softmax_model(gru(GRUConfig(d_model=D_MODEL), n_items=N_ITEMS, max_length=6))
    params = init_params(model.specs, jax.random.key(0))
    following = np.append(0, 1 + np.arange(1, N_ITEMS + 1) % N_ITEMS)[:, None]
    knowing = neighbour_table(following, np.ones(following.shape), recency=[1.0], n_items=N_ITEMS)
    wrong = neighbour_table(
        np.append(0, 1 + np.arange(N_ITEMS))[:, None], np.ones(following.shape), recency=[1.0], n_items=N_ITEMS
    )
    tables = {"knowing": knowing, "wrong": wrong}
    return with_neighbours(model, tables), {**params, **table_params(tables)}, queries


def test_a_table_that_knows_what_follows_gets_weight_and_one_that_misleads_gets_none(planted):
    model, params, queries = planted
    fitted = fit_weights(model, params, queries)
    # With chance .8 + a little the next item, else any other: its score is to be above the others' by the log-odds.
    expected = np.log(0.8 * 18 / 0.2) / np.log1p(1 / 1e-3)
    assert fitted.tables["knowing"] == pytest.approx(expected, abs=0.12)
    assert fitted.tables["wrong"] == 0.0
    assert fitted.models[0] >= SMALLEST
    assert fitted.log_likelihood > fitted.log_likelihood_before + 1
    assert fitted.n_queries == 150


def test_weights_in_the_parameters_do_not_count(planted):
    model, params, queries = planted
    own = params["neighbours"]
    params = {**params, "neighbours": {name: {**each, "weight": jnp.float32(9.0)} for name, each in own.items()}}
    fitted = fit_weights(model, params, queries)
    assert fitted.tables["wrong"] == 0.0
    assert 0 < fitted.tables["knowing"] < 2


def test_of_two_models_side_by_side_the_one_that_knows_nothing_gets_no_weight():
    """Item vectors are the first items of a basis; the states of one model are what follows, and of the other noise."""
    random = np.random.default_rng(2)
    targets = random.integers(1, 5, 200).astype(np.int32)
    table = np.zeros((item_table_rows(4), 8), np.float32)
    table[1:5] = np.concatenate([np.eye(4), np.eye(4)], axis=1)
    noise = -np.eye(4)[targets - 1]
    states = np.concatenate([np.eye(4)[targets - 1], noise], axis=1).astype(np.float32)
    parts = [states * np.repeat([1, 0], 4), states * np.repeat([0, 1], 4)]
    given = jax.tree.map(lambda each: jnp.asarray(each, jnp.float32), parts)
    exclude = jnp.zeros((200, 1), jnp.int32)
    _, slopes = log_probabilities(jnp.ones(2), given, jnp.asarray(targets), exclude, jnp.asarray(table), n_items=4)
    assert np.mean(slopes, axis=0)[0] > 0 > np.mean(slopes, axis=0)[1]
