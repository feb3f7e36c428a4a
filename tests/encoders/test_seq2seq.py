"""The decoder's states depend on the history and on earlier decoded items, and on nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import LENGTH, rows_of

from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.params import init_params

SIZES = TransformerConfig(d_model=8, causal=False, dropout=0.0)


@functools.cache
def an_encoder(sizes=SIZES, **options):
    encoder = seq2seq(Seq2SeqConfig(sizes, **options), n_items=30, max_length=LENGTH)
    params = init_params(encoder.specs, jax.random.key(1))
    return encoder, jax.tree.map(lambda leaf: leaf * 20 if leaf.ndim == 2 else leaf, params)


def cut(batch, *newest):
    """The batch of one row whose histories end at these positions; what follows them is decoded."""
    hidden = np.zeros(LENGTH, bool)
    for place in newest:
        hidden |= (batch.segment_ids[0] == batch.segment_ids[0, place]) & (np.arange(LENGTH) >= place)
    return batch._replace(next_items=jnp.where(hidden, 0, batch.next_items))


def test_a_state_depends_on_the_whole_history_and_what_was_decoded_so_far():
    encoder, params = an_encoder()
    batch = cut(rows_of([[1, 2, 3, 4, 5], [6, 7, 8, 9]]), 2, 5)
    direction = jax.random.normal(jax.random.key(2), (8,))

    def states(table):
        return encoder.encode(params | {"item_table": table}, batch)[0] @ direction

    sensitivity = np.abs(jax.jit(jax.jacrev(states))(params["item_table"])).sum(axis=-1)
    # Item 3 is the newest of the first history, item 6 is all of the second.
    expected = {2: {1, 2, 3}, 3: {1, 2, 3, 4}, 4: {1, 2, 3, 4, 5}}
    expected |= {5: {6}, 6: {6, 7}, 7: {6, 7, 8}, 8: {6, 7, 8, 9}}
    assert {state: set(np.flatnonzero(sensitivity[state]).tolist()) for state in expected} == expected


def test_the_same_items_mean_another_state_as_history_and_as_continuation():
    encoder, params = an_encoder()
    batch = rows_of([[1, 2, 3, 4, 5]])
    early, late = (jax.jit(encoder.encode)(params, cut(batch, place))[0, 4] for place in (1, 4))
    assert np.abs(early - late).max() > 1e-2


def test_continuations_in_one_row_are_independent():
    encoder, params = an_encoder()
    encode = jax.jit(encoder.encode)
    together = encode(params, cut(rows_of([[1, 2, 3, 4], [5, 6, 7, 8, 9]]), 1, 6))[0]
    first = encode(params, cut(rows_of([[1, 2, 3, 4]]), 1))[0]
    second = encode(params, cut(rows_of([[5, 6, 7, 8, 9]]), 2))[0]
    np.testing.assert_allclose(together[1:4], first[1:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(together[6:9], second[2:5], rtol=1e-5, atol=1e-5)


def test_it_has_the_parameters_of_its_encoder_and_those_of_a_decoder():
    encoder, _ = an_encoder(n_decoder_blocks=3)
    reader = transformer(SIZES, n_items=30, max_length=LENGTH)
    decoder = encoder.specs["decoder"]
    assert {name: spec for name, spec in encoder.specs.items() if name != "decoder"} == reader.specs
    assert len(decoder["blocks"]) == 3
    added = decoder["blocks"][0].keys() - reader.specs["blocks"][0].keys()
    assert added == {"cross_attention", "cross_attention_norm"}


def test_dropout_is_a_function_of_the_key_and_off_without_one():
    sizes = TransformerConfig(d_model=8, causal=False, dropout=0.3, attention_dropout=0.3)
    encoder, params = an_encoder(sizes)
    plain, _ = an_encoder()
    batch = cut(rows_of([[1, 2, 3, 4, 5]]), 2)
    encode = jax.jit(encoder.encode)
    one, again, other = (encode(params, batch, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_array_equal(encode(params, batch), jax.jit(plain.encode)(params, batch))


@pytest.mark.parametrize("way", [{"compute_dtype": "bfloat16"}, {"rematerialise": True}, {"scan_blocks": True}])
def test_other_ways_of_computing_give_about_the_same_states(way):
    encoder, params = an_encoder()
    other, _ = an_encoder(TransformerConfig(d_model=8, causal=False, dropout=0.0, **way))
    batch = cut(rows_of([[1, 2, 3, 4, 5]]), 2)
    states, others = (np.asarray(jax.jit(each.encode)(params, batch)[0, 2:5], np.float32) for each in (encoder, other))
    # bfloat16 keeps 8 bits, which two dozen roundings one after another make about 4.
    tolerance = 2**-4 * np.abs(states).max() if "compute_dtype" in way else 1e-5
    np.testing.assert_allclose(others, states, atol=tolerance)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_decoder_blocks": 0}, "n_decoder_blocks=0 is below 1; try n_decoder_blocks=2"),
        ({"encoder": TransformerConfig()}, "reads its history both ways; leave --causal out"),
    ],
)
def test_bad_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Seq2SeqConfig(**bad)
