"""The Transformer is its formulas, in every form that its config names."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import LENGTH, rows_of

from seqrec import layers
from seqrec.attention import attention
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.layers import feed_forward, item_table_rows, norm
from seqrec.losses.softmax import softmax_loss
from seqrec.params import init_params
from seqrec.types import Batch

N_ITEMS = 30

# Every kind of norm, its place, positions and feed-forward, and every pair of these kinds.
VARIANTS = [
    ("rms", True, "rotary", "swiglu"),
    ("layer", False, "learned", "swiglu"),
    ("rms", False, "learned", "gelu"),
    ("layer", True, "rotary", "gelu"),
    ("rms", False, "rotary", "relu"),
    ("layer", True, "learned", "relu"),
]


def a_config(norm_kind="rms", norm_first=True, positions="rotary", feed_forward_kind="swiglu", **sizes):
    sizes = {"d_model": 8, "n_blocks": 2, "n_heads": 2, "dropout": 0.0} | sizes
    return TransformerConfig(
        norm=norm_kind, norm_first=norm_first, positions=positions, feed_forward=feed_forward_kind, **sizes
    )


def an_encoder(*variant, **sizes):
    """With weights of a trained model's size: at the start, blocks hardly change what passes through them."""
    encoder = transformer(a_config(*variant, **sizes), n_items=N_ITEMS, max_length=LENGTH)
    params = init_params(encoder.specs, jax.random.key(1))
    return encoder, jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)


@pytest.mark.parametrize(("positions", "moves"), [("rotary", False), ("learned", True)])
def test_only_learned_positions_know_where_a_history_starts(positions, moves):
    encoder, params = an_encoder("rms", True, positions)
    batch = rows_of([[1, 2, 3, 4]])
    later = batch._replace(positions=batch.positions + 5)
    here, there = (jax.jit(encoder.encode)(params, given)[0, :4] for given in (batch, later))
    assert np.allclose(here, there, atol=1e-4) != moves


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_order_matters(positions):
    encoder, params = an_encoder("rms", True, positions)
    forward, swapped = (encoder.encode(params, rows_of([h]))[0, 2] for h in ([1, 2, 3], [2, 1, 3]))
    assert np.abs(forward - swapped).max() > 1e-3


def test_pre_norm_and_post_norm_are_their_formulas():
    batch = rows_of([[1, 2, 3, 4]])
    kept = {"segment_ids": batch.segment_ids, "angles": None, "n_heads": 2, "dropout_rate": 0.0, "key": None}
    states = {}
    for norm_first in (True, False):
        encoder, params = an_encoder("layer", norm_first, "learned", "gelu", n_blocks=1)
        # Scales other than 1, so that a norm in the wrong place shows.
        params["blocks"][0]["attention_norm"]["scale"] *= 2.0
        params["blocks"][0]["feed_forward_norm"]["scale"] *= 0.5
        (block,) = params["blocks"]

        def attend(x, block=block):
            return attention(block["attention"], x, **kept)

        def feed(x, block=block):
            return feed_forward(block["feed_forward"], x, kind="gelu", dropout_rate=0.0, key=None)

        def by(name, x, table=params | block):
            return norm(table[name], x, kind="layer")

        x = math.sqrt(8) * params["item_table"][batch.items] + params["position_table"][batch.positions]
        if norm_first:  # Xiong et al. 2020, table 1, right column
            x = x + attend(by("attention_norm", x))
            x = x + feed(by("feed_forward_norm", x))
            x = by("final_norm", x)
        else:  # left column
            x = by("attention_norm", x + attend(x))
            x = by("feed_forward_norm", x + feed(x))
        states[norm_first] = encoder.encode(params, batch)
        np.testing.assert_allclose(states[norm_first], x, rtol=1e-4, atol=1e-5)
    assert np.abs(states[True] - states[False])[0, :4].max() > 0.1


@pytest.mark.parametrize("variant", VARIANTS[:2])
def test_a_new_model_is_as_unsure_as_a_uniform_guess(variant):
    n_items, d_model, n_targets = 500, 16, 400
    encoder = transformer(a_config(*variant, d_model=d_model), n_items=n_items, max_length=100)
    params = init_params(encoder.specs, jax.random.key(0))
    generator = np.random.default_rng(0)
    batch = rows_of(*([generator.integers(1, n_items + 1, 100).tolist()] for _ in range(4)), length=100)
    targets = jnp.asarray(generator.integers(1, n_items + 1, (4, 100)))
    hidden = jax.jit(encoder.encode)(params, batch)
    total, count = softmax_loss(hidden, params["item_table"], targets, n_items=n_items)
    assert int(count) == n_targets
    # A state has d_model values of size 1 and an item vector as many of size .02, so a score varies by `spread`:
    # the target's score by that, averaged over the targets, and log-mean-exp of all scores is spread**2 / 2.
    spread = 0.02 * math.sqrt(d_model)
    assert abs(float(total) / n_targets - math.log(n_items)) < spread**2 + 4 * spread / math.sqrt(n_targets)


def test_every_dropout_has_a_key_of_its_own(monkeypatch):
    keys = []

    def spy(key, shape, draw=layers.random_bytes):
        keys.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
        return draw(key, shape)

    monkeypatch.setattr(layers, "random_bytes", spy)
    encoder, params = an_encoder(n_blocks=3, dropout=0.5, attention_dropout=0.5)
    encoder.encode(params, rows_of([[1, 2, 3]]), key=jax.random.key(0))
    # The embedding, and in each block: attention weights, its output, hidden units, their output.
    assert len(keys) == len(set(keys)) == 1 + 4 * 3


def test_dropout_is_a_function_of_the_key_and_off_without_one():
    encoder, params = an_encoder(dropout=0.3, attention_dropout=0.3)
    plain, _ = an_encoder()
    batch = rows_of([[1, 2, 3, 4]])
    one, again, other = (encoder.encode(params, batch, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-3)
    np.testing.assert_array_equal(encoder.encode(params, batch), plain.encode(params, batch))


@pytest.mark.parametrize("n_items", [1, 62, 63, 64, 127, 3416])
def test_the_item_table_has_room_for_padding_and_splits_evenly(n_items):
    rows = item_table_rows(n_items)
    assert rows % 64 == 0
    assert 0 < rows - n_items <= 64


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "d_model=10 is not a multiple of n_heads=4; try d_model=12"),
        ({"n_heads": 0}, "n_heads=0 is below 1"),
        ({"d_model": 6, "n_heads": 2}, "a head has d_model/n_heads=3 features; try d_model=12"),
        ({"dropout": 1.0}, "dropout=1.0 is not a share"),
        ({"attention_dropout": -0.1}, "attention_dropout=-0.1 is not a share"),
        (
            {"attention": "fused", "attention_dropout": 0.1},
            "fused attention drops no weights, but attention_dropout=0.1",
        ),
        ({"n_blocks": 0}, "n_blocks=0 is below 1"),
    ],
)
def test_bad_sizes_are_refused_with_a_remedy(bad, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        TransformerConfig(**bad)


def test_the_remedy_for_heads_works():
    assert TransformerConfig(d_model=12, n_heads=4, positions="learned").d_model == 12
    assert TransformerConfig(d_model=12, n_heads=2).d_model == 12


@functools.cache
def states_and_gradients(key, **way):
    """Of all parameters; kept, since several tests compare with the same."""
    config = TransformerConfig(d_model=16, n_blocks=2, dropout=0.3, attention_dropout=0.2, **way)
    batch = Batch(*(jnp.arange(24, dtype=jnp.int32).reshape(4, 6) % n for n in (20, 20, 2, 6)))
    encoder = transformer(config, n_items=30, max_length=6)

    def total(params):
        hidden = encoder.encode(params, batch, key=None if key is None else jax.random.key(key))
        return jnp.sum(jnp.sin(hidden.astype(jnp.float32))), hidden

    params = init_params(encoder.specs, jax.random.key(0))
    (_, hidden), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    return hidden, gradients


def test_fused_attention_trains_alike_and_is_left_out_of_evaluation():
    batch = rows_of([[1, 2, 3, 4], [5, 6]])
    for key, has_kernel in ((jax.random.key(0), True), (None, False)):
        (plain, params), (fused, _) = an_encoder(dropout=0.2), an_encoder(dropout=0.2, attention="fused")
        expected, got = (jax.jit(each.encode)(params, batch, key=key) for each in (plain, fused))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        lowered = jax.jit(fused.encode).trace(params, batch, key=key).lower(lowering_platforms=("tpu",))
        assert ("tpu_custom_call" in lowered.as_text()) == has_kernel


@pytest.mark.parametrize("way", [{"rematerialise": True}, {"scan_blocks": True}, {"compute_dtype": "bfloat16"}])
@pytest.mark.parametrize("key", [pytest.param(None, marks=pytest.mark.slow), 3])  # with dropout is more
def test_other_ways_of_computing_give_the_same_states_and_gradients(way, key):
    plain, other = states_and_gradients(key), states_and_gradients(key, **way)
    half = "compute_dtype" in way
    assert other[0].dtype == (jnp.bfloat16 if half else jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(other[1])} == {jnp.dtype(jnp.float32)}
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
        theirs = np.asarray(theirs, np.float32)
        # bfloat16 keeps 8 bits, which a dozen roundings one after another make about 5.
        tolerance = 2**-5 * np.abs(theirs).max() if half else 1e-5 * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=tolerance)
