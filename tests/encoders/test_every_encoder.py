"""What every encoder promises: what its states may know, and that packing and padding change nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import LENGTH, rows_of

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.hstu import HSTUConfig, hstu
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.params import init_params
from seqrec.types import Batch

N_ITEMS = 30
SIZES = {"d_model": 8, "n_blocks": 2, "n_heads": 2, "dropout": 0.0}

# Of the Transformer every kind of norm, its place, positions and feed-forward, and every pair of these kinds.
TRANSFORMERS = {
    "rms, first, rotary, swiglu": {},
    "layer, after, learned, swiglu": {"norm": "layer", "norm_first": False, "positions": "learned"},
    "rms, after, learned, gelu": {"norm_first": False, "positions": "learned", "feed_forward": "gelu"},
    "layer, first, rotary, gelu": {"norm": "layer", "feed_forward": "gelu"},
    "rms, after, rotary, relu": {"norm_first": False, "feed_forward": "relu"},
    "layer, first, learned, relu": {"norm": "layer", "positions": "learned", "feed_forward": "relu"},
    "gated": {"gated": True},
    "bidirectional": {"causal": False},
    "bidirectional, learned": {"causal": False, "positions": "learned", "norm": "layer", "feed_forward": "gelu"},
}
ENCODERS = {
    **{
        f"transformer: {name}": (transformer, TransformerConfig(**SIZES, **options))
        for name, options in TRANSFORMERS.items()
    },
    "gru": (gru, GRUConfig(d_model=8, d_hidden=12, embedding_dropout=0.0, dropout=0.0)),
    "gru of two layers": (
        gru,
        GRUConfig(d_model=8, d_hidden=12, n_layers=2, embedding_dropout=0.0, dropout=0.0),
    ),
    "encoder-decoder": (seq2seq, Seq2SeqConfig(TransformerConfig(causal=False, **SIZES))),
    "encoder-decoder, learned, gated": (
        seq2seq,
        Seq2SeqConfig(TransformerConfig(causal=False, gated=True, positions="learned", **SIZES)),
    ),
    "hstu": (hstu, HSTUConfig(**SIZES)),
    "hstu without positions": (
        hstu,
        HSTUConfig(**SIZES, learned_positions=False, relative_positions=False),
    ),
}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


def an_encoder(name: str):
    """With weights of a trained model's size: at the start, blocks hardly change what passes through them."""
    make, config = ENCODERS[name]
    encoder = make(config, n_items=N_ITEMS, max_length=LENGTH)
    params = init_params(encoder.specs, jax.random.key(1))
    scale = 3 if name.startswith("gru") else 20
    return encoder, jax.tree.map(lambda leaf: leaf * scale if leaf.ndim == 2 else leaf, params)


def seen_from(name: str, batch: Batch, state: int) -> set[int]:
    """The items of the first row whose vectors its state at this place may depend on."""
    segments = batch.segment_ids[0]
    mine = segments == segments[state]
    if "bidirectional" in name:
        return set(batch.next_items[0][mine].tolist())  # with 0, the vector of what is hidden
    if "encoder-decoder" in name:
        return set(batch.items[0][mine].tolist())  # all of it is history
    return set(batch.items[0, : state + 1][mine[: state + 1]].tolist())


@every_encoder
def test_a_causal_state_knows_its_history_so_far_and_a_bidirectional_one_all_that_is_not_hidden(name):
    encoder, params = an_encoder(name)
    batch = rows_of([[1, 2, 3, 4, 5], [6, 7, 8, 9]])
    direction = jax.random.normal(jax.random.key(2), (8,))

    def states(table):
        return encoder.encode(params | {"item_table": table}, batch)[0] @ direction

    sensitivity = np.abs(jax.jit(jax.jacrev(states))(params["item_table"])).sum(axis=-1)
    for state in np.flatnonzero(batch.segment_ids[0]):
        assert set(np.flatnonzero(sensitivity[state]).tolist()) == seen_from(name, batch, state)


@every_encoder
def test_states_do_not_depend_on_who_shares_the_row_nor_on_row_or_offset(name):
    encoder, params = an_encoder(name)
    encode = jax.jit(encoder.encode)
    a, b, c, d = [3, 1, 4, 1, 5], [9, 2], [6, 5, 3], [7, 7, 7, 7, 7, 7, 7]
    alone = {tuple(h): encode(params, rows_of([h], []))[0, : len(h)] for h in (a, b, c, d)}
    for rows in ([[a, b, c], [d]], [[c, d], [b, a]], [[], [b, c, a]]):
        packed = encode(params, rows_of(*rows))
        for r, histories in enumerate(rows):
            start = 0
            for history in histories:
                here = packed[r, start : start + len(history)]
                np.testing.assert_allclose(here, alone[tuple(history)], rtol=1e-5, atol=2e-5)
                start += len(history)


@every_encoder
def test_what_stands_in_padding_changes_no_state(name):
    encoder, params = an_encoder(name)
    batch = rows_of([[1, 2, 3]])
    padding = batch.segment_ids == 0
    other = Batch(
        np.where(padding, 17, batch.items),
        np.where(padding, 18, batch.next_items),
        batch.segment_ids,
        np.where(padding, 9, batch.positions),
    )
    states, others = (jax.jit(encoder.encode)(params, given) for given in (batch, other))
    np.testing.assert_array_equal(states[0, :3], others[0, :3])


@every_encoder
def test_a_row_of_padding_is_finite(name):
    encoder, params = an_encoder(name)
    # Item 0 is an ordinary row of the table, which nothing ever scores; zeros are the hardest case for a norm.
    params["item_table"] = params["item_table"].at[0].set(0.0)
    assert np.isfinite(encoder.encode(params, rows_of([]))).all()


@every_encoder
def test_one_trace_serves_all_batches_of_a_shape(name):
    encoder, params = an_encoder(name)
    chex.clear_trace_counter()
    encode = jax.jit(chex.assert_max_traces(encoder.encode, n=1))
    for history in ([1, 2, 3], [4], [5, 6, 7, 8, 9, 10]):
        encode(params, rows_of([history]))


@every_encoder
def test_states_keep_their_precision_and_shape(name):
    encoder, params = an_encoder(name)
    states = encoder.encode(params, rows_of([[1, 2]], [[3]]))
    chex.assert_shape(states, (2, LENGTH, 8))
    assert states.dtype == jnp.float32
