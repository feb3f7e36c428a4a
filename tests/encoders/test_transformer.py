"""What each state of the Transformer may know: its own item and those before it in the same history, all else not."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec import layers
from seqrec.encoders.transformer import TransformerConfig, item_table_rows, transformer
from seqrec.layers import attention, causal_mask, feed_forward, norm
from seqrec.losses import softmax_loss
from seqrec.params import init_params
from seqrec.types import Batch

N_ITEMS, LENGTH = 30, 10

# Every kind of norm, its place, positions and feed-forward, and every pair of these kinds.
VARIANTS = [
    ("rms", True, "rotary", "swiglu"),
    ("layer", False, "learned", "swiglu"),
    ("rms", False, "learned", "gelu"),
    ("layer", True, "rotary", "gelu"),
    ("rms", False, "rotary", "relu"),
    ("layer", True, "learned", "relu"),
]
every_variant = pytest.mark.parametrize(("norm_kind", "norm_first", "positions", "feed_forward_kind"), VARIANTS)


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


def rows_of(*rows: list[list[int]], length: int = LENGTH) -> Batch:
    """Each row is a list of histories; what is left of it is padding."""
    fields = np.zeros((4, len(rows), length), np.int32)
    for r, histories in enumerate(rows):
        start = 0
        for segment, history in enumerate(histories, start=1):
            stop = start + len(history)
            fields[0, r, start:stop] = history
            fields[1, r, start : stop - 1] = history[1:]
            fields[2, r, start:stop] = segment
            fields[3, r, start:stop] = range(len(history))
            start = stop
    return Batch(*map(jnp.asarray, fields))


@every_variant
def test_a_state_depends_on_its_own_item_and_the_earlier_ones_of_its_history_alone(
    norm_kind, norm_first, positions, feed_forward_kind
):
    encoder, params = an_encoder(norm_kind, norm_first, positions, feed_forward_kind)
    batch = rows_of([[1, 2, 3, 4, 5], [6, 7, 8, 9]])
    direction = jax.random.normal(jax.random.key(2), (8,))

    def states(table):
        return encoder.encode(params | {"item_table": table}, batch)[0] @ direction

    sensitivity = np.abs(jax.jit(jax.jacrev(states))(params["item_table"])).sum(axis=-1)
    items, segments = batch.items[0], batch.segment_ids[0]
    for state in np.flatnonzero(segments):
        reads = {int(items[place]) for place in range(state + 1) if segments[place] == segments[state]}
        assert set(np.flatnonzero(sensitivity[state]).tolist()) == reads


@every_variant
def test_states_do_not_depend_on_who_shares_the_row_nor_on_row_or_offset(
    norm_kind, norm_first, positions, feed_forward_kind
):
    encoder, params = an_encoder(norm_kind, norm_first, positions, feed_forward_kind)
    encode = jax.jit(encoder.encode)
    a, b, c, d = [3, 1, 4, 1, 5], [9, 2], [6, 5, 3], [7, 7, 7, 7, 7, 7, 7]
    alone = {tuple(h): encode(params, rows_of([h], []))[0, : len(h)] for h in (a, b, c, d)}
    for rows in ([[a, b, c], [d]], [[c, d], [b, a]], [[], [b, c, a]]):
        packed = encode(params, rows_of(*rows))
        for r, histories in enumerate(rows):
            start = 0
            for history in histories:
                here = packed[r, start : start + len(history)]
                np.testing.assert_allclose(here, alone[tuple(history)], rtol=1e-5, atol=1e-5)
                start += len(history)


def test_what_stands_in_padding_changes_no_state():
    encoder, params = an_encoder()
    batch = rows_of([[1, 2, 3]])
    padding = batch.segment_ids == 0
    other = batch._replace(items=np.where(padding, 17, batch.items), positions=np.where(padding, 9, batch.positions))
    states, others = (jax.jit(encoder.encode)(params, given) for given in (batch, other))
    np.testing.assert_array_equal(states[0, :3], others[0, :3])


def test_a_row_of_padding_is_finite():
    for variant in VARIANTS[:2]:
        encoder, params = an_encoder(*variant, n_blocks=1)
        # Item 0 is an ordinary row of the table, which nothing ever scores; zeros are the hardest case for a norm.
        params["item_table"] = params["item_table"].at[0].set(0.0)
        assert np.isfinite(encoder.encode(params, rows_of([]))).all()


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
    mask = causal_mask(batch.segment_ids)
    states = {}
    for norm_first in (True, False):
        encoder, params = an_encoder("layer", norm_first, "learned", "gelu", n_blocks=1)
        # Scales other than 1, so that a norm in the wrong place shows.
        params["blocks"][0]["attention_norm"]["scale"] *= 2.0
        params["blocks"][0]["feed_forward_norm"]["scale"] *= 0.5
        (block,) = params["blocks"]

        def attend(x, block=block):
            return attention(block["attention"], x, mask=mask, turn=None, n_heads=2, dropout_rate=0.0, key=None)

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
        ({"n_blocks": 0}, "n_blocks=0 is below 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_a_remedy(bad, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        TransformerConfig(**bad)


def test_the_remedy_for_heads_works():
    assert TransformerConfig(d_model=12, n_heads=4, positions="learned").d_model == 12
    assert TransformerConfig(d_model=12, n_heads=2).d_model == 12


@pytest.mark.parametrize("way", [{"rematerialise": True}, {"scan_blocks": True}, {"compute_dtype": "bfloat16"}])
@pytest.mark.parametrize("key", [None, 3])
def test_other_ways_of_computing_give_the_same_states_and_gradients(way, key):
    config = TransformerConfig(d_model=16, n_blocks=2, dropout=0.3, attention_dropout=0.2)
    batch = Batch(*(jnp.arange(24, dtype=jnp.int32).reshape(4, 6) % n for n in (20, 20, 2, 6)))

    def states(config):
        encoder = transformer(config, n_items=30, max_length=6)
        params = init_params(encoder.specs, jax.random.key(0))

        def total(params):
            hidden = encoder.encode(params, batch, key=None if key is None else jax.random.key(key))
            return jnp.sum(jnp.sin(hidden.astype(jnp.float32))), hidden

        (_, hidden), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return hidden, gradients

    plain, other = states(config), states(dataclasses.replace(config, **way))
    half = "compute_dtype" in way
    assert other[0].dtype == (jnp.bfloat16 if half else jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(other[1])} == {jnp.dtype(jnp.float32)}
    for ours, theirs in zip(jax.tree.leaves(other), jax.tree.leaves(plain), strict=True):
        theirs = np.asarray(theirs, np.float32)
        # bfloat16 keeps 8 bits, which a dozen roundings one after another make about 5.
        tolerance = 2**-5 * np.abs(theirs).max() if half else 1e-5 * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(np.asarray(ours, np.float32), theirs, atol=tolerance)
