"""Models of semantic ids: what they read of an item, what they learn, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqrec
from seqrec.data.batches import training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.generative import CodeVectors, check_loss, with_semantic_ids
from seqrec.heads.depth_decoder import DepthDecoderConfig
from seqrec.layers import item_table_spec, item_vectors
from seqrec.losses.config import LossConfig
from seqrec.model import composed_params
from seqrec.repeats import with_repeats
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.training import init_state, make_train_step
from seqrec.types import Batch, BatchFormat, Encoder, InputError

N_ITEMS = 12
CODES = np.array([[0, 0], *([item % 3, item // 3] for item in range(N_ITEMS))])
IDS = semantic_ids(CODES, (3, 4))
COLD = (11, 12)


def softmax_model(n_items=N_ITEMS, d_model=8):
    """A model whose state is what it reads of the newest item alone."""

    def encode(params, batch, *, key=None, added=None):
        del key
        return item_vectors(params["item_table"], batch.items, added=added)

    specs = {"item_table": item_table_spec(n_items, d_model)}
    return seqrec.softmax_model(Encoder(specs, encode, n_items, d_model, BatchFormat(6)))


def test_an_item_is_read_as_the_sum_of_the_vectors_of_its_codes_and_its_own():
    random = np.random.default_rng(0)
    tables = tuple(random.normal(size=(n, 4)).astype(np.float32) for n in (3, 4))
    own = random.normal(size=(N_ITEMS + 1, 4)).astype(np.float32)
    ids, codes = np.array([[1, 5], [12, 2]]), CODES.astype(np.uint8)
    expected = tables[0][CODES[ids, 0]] + tables[1][CODES[ids, 1]]
    jaxes = tuple(map(jnp.asarray, tables))
    # Encoders scale what they read by the root of its width.
    read = item_vectors(CodeVectors(jaxes, jnp.asarray(codes)), jnp.asarray(ids))
    np.testing.assert_allclose(read, 2 * expected, rtol=1e-6)
    read = item_vectors(CodeVectors(jaxes, jnp.asarray(codes), jnp.asarray(own)), jnp.asarray(ids))
    np.testing.assert_allclose(read, 2 * (expected + own[ids]), rtol=1e-6)
    # With room for later items, of which a padded table has rows that mean nothing.
    padded, more = (
        np.concatenate([each, np.ones((n, each.shape[1]), each.dtype)]) for each, n in ((own, 2), (codes, 4))
    )
    read = item_vectors(CodeVectors(jaxes, jnp.asarray(more), jnp.asarray(padded), n_own=13), jnp.array([[12, 13]]))
    expected = tables[0][more[[12, 13], 0]] + tables[1][more[[12, 13], 1]] + [own[12], np.zeros(4)]
    np.testing.assert_allclose(read[0], 2 * expected, rtol=1e-6)


def test_without_item_vectors_no_parameter_grows_with_the_catalogue():
    few = with_semantic_ids(softmax_model(), IDS, item_vectors=False)
    many = semantic_ids(np.concatenate([CODES, CODES[1:]]), (3, 4))
    more = with_semantic_ids(softmax_model(2 * N_ITEMS), many, item_vectors=False)
    shapes = [jax.tree.map(lambda spec: spec.shape, model.specs) for model in (few, more)]
    assert shapes[0] == shapes[1]
    assert "item_table" in with_semantic_ids(softmax_model(), IDS).specs


def test_it_learns_what_follows_and_gives_items_never_seen_a_place_by_their_codes():
    # Each user goes on within one value of the first code, of which items 1, 4, 7 and 10 have the first.
    random = np.random.default_rng(0)
    known = [[item for item in range(1, N_ITEMS + 1) if item % 3 == group and item not in COLD] for group in range(3)]
    store = store_from_sequences([random.choice(known[user % 3], 6).tolist() for user in range(60)])
    assert store.item_keys.tolist() == list(range(1, 11))
    batches = training_batches(store, leave_last_out(store), max_length=6, batch_size=20, seed=0)
    config = DepthDecoderConfig(ranks="beam", beam_width=N_ITEMS)
    model = with_semantic_ids(softmax_model(d_model=16), IDS, config, item_vectors=False)
    optimizer = optax.adam(0.02)
    state, step = init_state(model, optimizer, seed=0), make_train_step(model, optimizer, seed=0)
    losses = []
    for number in range(60):
        state, metrics = step(state, batches.batch(number))
        losses.append(float(metrics.loss))
    assert losses[0] == pytest.approx(np.log(12), rel=0.05)  # as unsure as a guess among 3 codes, then 4
    assert np.mean(losses[-5:]) < np.log(12) - 0.5 * np.log(3)
    params = composed_params(model, state.params)

    @jax.jit
    def ranks_of(params, items):
        row = jnp.array([[2, 5, 8, 5, 2]])
        batch = Batch(row, jnp.zeros_like(row), jnp.ones_like(row), jnp.arange(5)[None])
        return model.head.rank(params, model.queries(params, batch, jnp.array([4])), items)[0]

    # After items of the group of item 11, that one, of which nothing but its codes is known, is likelier than 12.
    eleven, twelve = ranks_of(params, jnp.array([COLD]))[0].tolist()
    assert eleven < twelve


def test_what_does_not_fit_is_refused_in_a_line():
    with pytest.raises(InputError, match="12 items have codes, and the model has 7"):
        with_semantic_ids(softmax_model(7), IDS)
    with pytest.raises(InputError, match="RepeatHead"):
        with_semantic_ids(with_repeats(softmax_model()), IDS)
    with pytest.raises(InputError, match=r"loss=bce is about scores of items"):
        check_loss(LossConfig(loss="bce"))
    check_loss(LossConfig(label_smoothing=0.1, later_share=0.1, n_later=2))
