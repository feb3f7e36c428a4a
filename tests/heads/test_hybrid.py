"""Codes and item vectors together: ranks and lists as from a table of the sums, made in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqrec
from seqrec.generative import with_catalogue, with_semantic_ids
from seqrec.heads.code_search import DENSE
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.heads.hybrid import HybridHead
from seqrec.heads.softmax import SoftmaxHead
from seqrec.model import composed_params
from seqrec.params import init_params
from seqrec.prefix_tree import prefix_tree
from seqrec.questions import next_item
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.types import Batch, InputError

N_ITEMS, D_MODEL, N_USERS, K, WEIGHT = 24, 8, 5, 4, 0.5
CODES = np.array([[0, 0], *([item % 4, item // 4 % 3] for item in range(N_ITEMS))])  # two items to each pair of codes
IDS = semantic_ids(CODES, (4, 3))
TODAY = np.arange(3, N_ITEMS + 1)
EXCLUDE = np.array([5, 6, 0])


@pytest.fixture(scope="module")
def made():
    """A model of both, its composed parameters and a state a user."""
    encoder = seqrec.gru(seqrec.GRUConfig(d_model=D_MODEL), n_items=N_ITEMS, max_length=4)
    config = DepthDecoderConfig(beam_width=K, dense_weight=WEIGHT)
    model = with_semantic_ids(seqrec.softmax_model(encoder), IDS, config)
    params = jax.tree.map(
        lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, init_params(model.specs, jax.random.key(1))
    )
    composed = composed_params(model, params)
    like = model.constants["tree"]
    return (
        model,
        with_catalogue(composed, prefix_tree(CODES, (4, 3), items=TODAY, like=like)),
        jax.random.normal(jax.random.key(2), (N_USERS, D_MODEL)),
    )


@pytest.fixture(scope="module")
def sums(made):
    """The score of each item by its id, -inf outside the catalogue of today."""
    _, params, states = made
    every = DepthDecoder(N_ITEMS, DepthDecoderConfig(lists="exact"))
    ids, logs = jax.jit(lambda params, states: every.top_k(params, states, k=len(TODAY)))(params, states)
    totals = np.full((N_USERS, N_ITEMS + 1), -np.inf)
    np.put_along_axis(totals, np.asarray(ids), np.asarray(logs), axis=1)
    dense = np.asarray(states, np.float64) @ np.asarray(params[DENSE], np.float64)[: N_ITEMS + 1].T
    dense -= np.log(np.exp(dense[:, TODAY]).sum(axis=1, keepdims=True))
    return totals + WEIGHT * dense


def test_ranks_are_exact_by_the_sum_of_both_log_probabilities(made, sums):
    model, params, states = made
    targets = np.array([3, 9, 20, 24, 7])
    exclude = jnp.broadcast_to(EXCLUDE, (N_USERS, 3))
    ranks, n_candidates = jax.jit(model.head.rank)(params, states, jnp.asarray(targets), exclude=exclude)
    own = sums[np.arange(N_USERS), targets][:, None]
    expected = 1 + np.sum(sums[:, np.setdiff1d(TODAY, EXCLUDE)] > own, axis=1)
    np.testing.assert_array_equal(ranks, expected)
    assert n_candidates.tolist() == [len(TODAY) - 2] * N_USERS


def test_a_list_holds_the_best_sums_of_what_codes_and_vectors_find(made, sums):
    model, params, states = made
    exclude = jnp.broadcast_to(EXCLUDE, (N_USERS, 3))

    @jax.jit
    def lists(params, states):
        best = model.head.top_k(params, states, k=K, exclude=exclude)
        written = model.head.codes.top_k(params, states, k=K, exclude=exclude)[0]
        return best, written, SoftmaxHead(N_ITEMS).top_k({"item_table": params[DENSE]}, states, k=N_ITEMS)[0]

    (ids, scores), written, near = jax.tree.map(np.asarray, lists(params, states))
    for user in range(N_USERS):
        candidates = [item for item in near[user] if item in TODAY and item not in EXCLUDE][:K]
        either = np.union1d(candidates, written[user])
        best = either[np.argsort(-sums[user, either])][:K]
        assert ids[user].tolist() == best.tolist()
        np.testing.assert_allclose(scores[user], sums[user, best], rtol=1e-5)
    # Neither finds all of it.
    assert any(set(ids[user]) - set(written[user]) for user in range(N_USERS))


def test_the_loss_is_that_of_the_codes_and_the_weighted_softmax(made):
    model, params, _ = made
    row = jnp.array([[3, 9, 20, 0]])
    batch = Batch(row, jnp.array([[9, 20, 4, 0]]), (row > 0).astype(int), jnp.arange(4)[None])
    states = jax.random.normal(jax.random.key(3), (1, 4, D_MODEL))
    question, key = next_item(batch, key=None), jax.random.key(0)
    total, n = jax.jit(model.head.loss)(params, states, question, key=key)
    codes, _ = jax.jit(model.head.codes.loss)(params, states, question, key=key)
    scores = np.asarray(states[0, :3]) @ np.asarray(params[DENSE])[1 : N_ITEMS + 1].T
    dense = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(3), np.array([9, 20, 4]) - 1]
    assert n == 3
    np.testing.assert_allclose(total, codes + WEIGHT * dense.sum(), rtol=1e-5)


def test_what_it_cannot_weigh_is_refused():
    model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=8), n_items=N_ITEMS, max_length=4))
    config = DepthDecoderConfig(dense_weight=1.0)
    assert isinstance(with_semantic_ids(model, IDS, config).head, HybridHead)
    with pytest.raises(InputError, match="dense_weight=1 weighs item vectors, and there are none"):
        with_semantic_ids(model, IDS, config, item_vectors=False)
    with pytest.raises(InputError, match="--ranks beam knows no item vectors"):
        DepthDecoderConfig(dense_weight=1.0, ranks="beam")
