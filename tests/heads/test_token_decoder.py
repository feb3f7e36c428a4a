"""Flat tokens: what is written depends on the history alone, and a beam finds what plain Python finds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import LENGTH, rows_of

import seqrec
from seqrec.encoders.code_tokens import code_tokens
from seqrec.encoders.transformer import TransformerConfig
from seqrec.generative import TokenVectors, with_token_decoder
from seqrec.heads.depth_decoder import DepthDecoderConfig
from seqrec.layers import item_vectors
from seqrec.model import composed_params
from seqrec.questions import Question, first_of_continuation, next_item
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.types import Head, InputError, NextItemHead

N_CODES, N_ITEMS = (2, 3, 4), 24
ALL = np.stack(np.unravel_index(np.random.default_rng(0).permutation(N_ITEMS), N_CODES), axis=1)
IDS = semantic_ids(np.concatenate([np.zeros_like(ALL[:1]), ALL]), N_CODES)
"""Every code there may be is that of an item."""


@functools.cache
def made(*, causal=True):
    """A model and its composed parameters, drawn wide enough to tell items apart."""
    sizes = TransformerConfig(d_model=8, n_blocks=1, dropout=0.0, causal=causal)
    encoder = code_tokens(sizes, n_items=N_ITEMS, n_levels=3, max_length=LENGTH)
    softmax = seqrec.softmax_model(encoder, ask=next_item if causal else first_of_continuation)
    config = DepthDecoderConfig(ranks="beam", beam_width=N_ITEMS)
    model = with_token_decoder(softmax, IDS, sizes, config, n_blocks=1)
    random = np.random.default_rng(1)

    def drawn(spec):
        return jnp.asarray(random.normal(size=spec.shape) * 0.4 if len(spec.shape) == 2 else np.ones(spec.shape), float)

    return model, composed_params(model, jax.tree.map(drawn, model.specs))


def cut(batch, *newest):
    """Nothing is known of what follows these positions of the only row."""
    return batch._replace(next_items=batch.next_items.at[0, list(newest)].set(0))


@functools.cache
def loss(causal):
    """Of targets at positions of the only row."""
    model, params = made(causal=causal)

    def loss(batch, targets, positions):
        states = model.encoder.encode(params, batch)
        question = Question(batch, targets, positions)
        return model.head.loss(params, states, question, key=jax.random.key(0))[0]

    return jax.jit(loss)


@functools.cache
def program(head, causal=True):
    """`head(head, params, queries, exclude)` of the histories that end at the positions `last`."""
    model, params = made(causal=causal)
    return jax.jit(lambda batch, last, exclude: head(model.head, params, model.queries(params, batch, last), exclude))


def in_order(head, params, queries, exclude):
    return head.top_k(params, queries, k=N_ITEMS, exclude=exclude)


def ranks_of_all(head, params, queries, exclude):
    targets = jnp.tile(jnp.arange(1, N_ITEMS + 1), (2, 1))
    return head.rank(params, queries, targets, exclude=exclude)


def two_of_a_narrow_beam(head, params, queries, exclude):
    return dataclasses.replace(head, beam_width=2).top_k(params, queries, k=2)


def too_many(head, params, queries, exclude):
    return head.top_k(params, queries, k=N_ITEMS + 1)


BATCH = cut(rows_of([[1, 2, 3, 4], [6, 7, 8]]), 3, 6)
LAST, NONE = jnp.array([3, 6]), jnp.zeros((2, 2), jnp.int32)


def log_probabilities(causal=True, batch=BATCH, last=LAST):
    """[queries, n_items] of each item, by a beam as wide as the catalogue."""
    ids, logs = map(np.asarray, program(in_order, causal)(batch, last, NONE))
    return np.take_along_axis(logs, np.argsort(ids, axis=1), axis=1)


@pytest.mark.parametrize("causal", [True, False])
def test_the_probabilities_of_all_items_add_up_to_1_and_are_those_that_the_loss_learns(causal):
    logs, positions = log_probabilities(causal), jnp.array([[3, 6]])
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0, rtol=1e-5)
    # The decoder of the loss reads whole targets at once; that of a beam one code after another, with a cache.
    for item in (5, 17, 24):
        surprises = [float(loss(causal)(BATCH, jnp.array([each]), positions)) for each in ([item, 0], [0, item])]
        np.testing.assert_allclose(surprises, -logs[:, item - 1], rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_written_depends_on_the_history_and_on_nothing_that_follows_it(causal):
    logs = log_probabilities(causal)
    other = log_probabilities(causal, cut(rows_of([[1, 2, 3, 4], [9, 8, 7]]), 3, 6))
    np.testing.assert_allclose(other[0], logs[0], rtol=1e-5)
    assert np.abs(other[1] - logs[1]).max() > 1e-2
    earlier = log_probabilities(causal, cut(rows_of([[5, 2, 3, 4], [6, 7, 8]]), 3, 6))
    assert np.abs(earlier[0] - logs[0]).max() > 1e-2

    # In training, the items after a position are in the row.
    after, losses = jnp.isin(jnp.arange(LENGTH), jnp.r_[1:4, 5:7]), []
    for first, second in (([1, 2, 3, 4], [6, 7, 8]), ([1, 2, 20, 19], [6, 7, 18]), ([1, 12, 3, 4], [6, 7, 8])):
        batch = rows_of([first, second])
        hidden = batch if causal else batch._replace(next_items=jnp.where(after, 0, batch.next_items))
        losses.append(float(loss(causal)(hidden, jnp.array([[3, 8]]), jnp.array([[1, 5]]))))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


def test_a_causal_encoder_answers_for_each_position_as_for_a_history_that_ends_there():
    # Item 3 follows 1, 2; item 8 follows 6, 7.
    both = loss(True)(rows_of([[1, 2, 3, 4], [6, 7, 8]]), jnp.array([[3, 8]]), jnp.array([[1, 5]]))
    alone = log_probabilities(batch=cut(rows_of([[1, 2], [6, 7]]), 1, 3), last=jnp.array([1, 3]))
    np.testing.assert_allclose(both, -alone[0, 2] - alone[1, 7], rtol=1e-4)


def test_ranks_and_lists_are_those_by_the_probabilities_of_what_is_not_excluded():
    logs, exclude, left = log_probabilities(), jnp.array([[4, 9]] * 2), np.setdiff1d(np.arange(1, N_ITEMS + 1), [4, 9])
    logs[:, [3, 8]] = -np.inf
    order = 1 + np.argsort(-logs, axis=1)
    ids, _ = program(in_order)(BATCH, LAST, exclude)
    np.testing.assert_array_equal(ids, np.where(np.isin(order, left), order, 0))
    ranks, n_candidates = program(ranks_of_all)(BATCH, LAST, NONE)
    np.testing.assert_array_equal(ranks, 1 + np.argsort(np.argsort(-log_probabilities(), axis=1), axis=1))
    assert n_candidates.tolist() == [N_ITEMS] * 2


@pytest.mark.slow
def test_a_narrow_beam_keeps_the_likeliest_prefixes_of_each_level():
    logs, (ids, scores) = log_probabilities(), program(two_of_a_narrow_beam)(BATCH, LAST, NONE)
    for query in range(2):
        kept = {()}
        for depth in (1, 2, 3):
            # A prefix has the probability of all items below it.
            prefixes = {tuple(row) for row in ALL[:, :depth].tolist() if tuple(row[:-1]) in kept}
            mass = {each: np.exp(logs[query, (ALL[:, :depth] == each).all(axis=1)]).sum() for each in prefixes}
            kept = sorted(mass, key=mass.get, reverse=True)[:2]
        assert [tuple(IDS.codes[item].tolist()) for item in ids[query].tolist()] == kept
        np.testing.assert_allclose(np.exp(scores[query]), [mass[each] for each in kept], rtol=1e-4)


def test_codes_are_read_one_by_one_and_an_items_own_vector_with_its_last():
    random = np.random.default_rng(0)
    tables = tuple(random.normal(size=(n, 4)).astype(np.float32) for n in N_CODES)
    own = random.normal(size=(N_ITEMS + 1, 4)).astype(np.float32)
    items = np.array([[5, 24]])
    tokens = jnp.asarray(3 * items[..., None] + np.arange(3)).reshape(1, -1)
    expected = np.stack([tables[level][IDS.codes[items, level]] for level in range(3)], axis=2)
    table = TokenVectors(tuple(map(jnp.asarray, tables)), jnp.asarray(IDS.codes))
    np.testing.assert_allclose(item_vectors(table, tokens), 2 * expected.reshape(1, 6, 4), rtol=1e-6)
    expected[:, :, 2] += own[items]
    read = item_vectors(table.replace(id_vectors=jnp.asarray(own)), tokens)
    np.testing.assert_allclose(read, 2 * expected.reshape(1, 6, 4), rtol=1e-6)


def test_it_has_what_evaluation_needs_and_gives_no_distribution_of_a_state_alone():
    model, _ = made()
    assert isinstance(model.head, Head)
    assert not isinstance(model.head, NextItemHead)


def test_what_it_cannot_do_is_refused(unchecked):
    model, params = made()
    with pytest.raises(InputError, match="use --ranks beam"):
        with_token_decoder(model, IDS, model.head.config, DepthDecoderConfig())
    with pytest.raises(InputError, match=r"k=25 is not in 1\.\.n_items=24"):
        program(too_many)(BATCH, LAST, NONE)
    with pytest.raises(InputError, match="leave --event-features out"):
        model.encoder.encode(params, BATCH, added=jnp.zeros((1, LENGTH, 8)))
