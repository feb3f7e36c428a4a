"""The depth decoder: probabilities, ranks and lists as from a table of all items, made by plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqrec
from seqrec.generative import with_semantic_ids
from seqrec.heads.code_probabilities import after_code, code_log_probabilities, item_log_probabilities
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.params import init_params
from seqrec.model import composed_params
from seqrec.prefix_tree import prefix_tree
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.types import Head, NextItemHead, Question

N_CODES, N_ITEMS, D_MODEL, N_USERS = (5, 40, 7), 120, 8, 6


def drawn_codes():
    """Random codes, of which items 1 and 2 have the same."""
    codes = np.random.default_rng(0).integers(0, N_CODES, (N_ITEMS + 1, len(N_CODES)))
    codes[:, 1] //= 1 + 7 * (codes[:, :1] == 3).any(axis=1)
    codes[2] = codes[1]
    return codes


IDS = semantic_ids(drawn_codes(), N_CODES)


@pytest.fixture(scope="module")
def made():
    """A model, its composed parameters, drawn wide enough to tell items apart, and a state a user."""
    encoder = seqrec.gru(seqrec.GRUConfig(d_model=D_MODEL), n_items=N_ITEMS, max_length=4)
    model = with_semantic_ids(seqrec.softmax_model(encoder), IDS)
    params = jax.tree.map(
        lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, init_params(model.specs, jax.random.key(0))
    )
    states = jax.random.normal(jax.random.key(1), (N_USERS, D_MODEL))
    return model, composed_params(model, params), states


@pytest.fixture(scope="module")
def logs(made):
    """Log-probability of each item by its id, code by code."""
    _, params, states = made
    own, found = params["semantic_ids"], np.zeros((N_USERS, N_ITEMS + 1))
    rows = jnp.broadcast_to(states[:, None], (N_USERS, N_ITEMS + 1, D_MODEL))
    for depth in range(len(N_CODES)):
        codes = jnp.broadcast_to(IDS.codes[:, depth], rows.shape[:2])
        each = code_log_probabilities(own, depth, rows)
        found += np.take_along_axis(np.asarray(each), np.asarray(codes)[..., None], axis=-1)[..., 0]
        rows = after_code(own, depth, rows, codes)
    return found


def test_all(made, logs):
    model, params, states = made
    tree = params["prefix_tree"]
    print([(l.width, l.bits is not None, l.codes.shape) for l in tree.levels])
    exact = jax.jit(item_log_probabilities)(params["semantic_ids"], tree, states)
    np.testing.assert_allclose(exact[:, tree.leaves[1 : N_ITEMS + 1]], logs[:, 1:], rtol=1e-5)
    targets = jnp.asarray(np.arange(N_USERS * 20).reshape(N_USERS, 20) + 1)
    ranks, n = jax.jit(model.head.rank)(params, states, targets)
    for u in range(N_USERS):
        for t in range(20):
            x = logs[u, 1:]
            s = logs[u, targets[u, t]]
            e = 1 + (x > s + 1e-5).sum() + 0.5 * ((abs(x - s) <= 1e-5).sum() - 1)
            assert e == ranks[u, t], (u, t)
    for width in (500, 5):
        head = DepthDecoder(N_ITEMS, DepthDecoderConfig(beam_width=width))
        ids, best = jax.jit(head.top_k, static_argnames="k")(params, states, k=5)
        order = np.argsort(-logs[:, 1:], axis=1, kind="stable")[:, :5] + 1
        print(np.asarray(ids) == order)
