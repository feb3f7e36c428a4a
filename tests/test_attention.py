"""Attention against flax.nnx, jax.nn and the whole square of scores."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqrec.attention import attention, attention_specs, causal_mask, mix_histories, mix_values, query_blocks

D_MODEL = 16


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def some_params():
    """Values far from those at the start, where products are almost 0."""
    return {name: random(*spec.shape, seed=spec.shape[1]) / 2 for name, spec in attention_specs(D_MODEL).items()}


def of_one_history(x, n_heads):
    """Attention over rows that each hold one history."""
    segment_ids = jnp.ones(x.shape[:2], jnp.int32)
    return attention(
        some_params(), x, segment_ids=segment_ids, angles=None, n_heads=n_heads, dropout_rate=0.0, key=None
    )


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_attention_within_one_history_is_that_of_jax(n_heads):
    rows, length = 3, 7
    params, x = some_params(), random(rows, length, D_MODEL)
    heads = (rows, length, n_heads, D_MODEL // n_heads)
    q, k, v = (part.reshape(heads) for part in jnp.split(x @ params["qkv"], 3, axis=-1))
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ params["out"]
    np.testing.assert_allclose(of_one_history(x, n_heads), expected, rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_flax():
    n_heads, length = 2, 6
    params, x = some_params(), random(2, length, D_MODEL)
    oracle = nnx.MultiHeadAttention(n_heads, D_MODEL, use_bias=False, decode=False, rngs=nnx.Rngs(0))
    by_head = (D_MODEL, n_heads, D_MODEL // n_heads)
    weights = [part.reshape(by_head) for part in jnp.split(params["qkv"], 3, axis=-1)]
    for projection, weight in zip((oracle.query, oracle.key, oracle.value), weights, strict=True):
        projection.kernel[...] = weight
    oracle.out.kernel[...] = params["out"].reshape(n_heads, D_MODEL // n_heads, D_MODEL)
    mask = causal_mask(jnp.ones((2, length), jnp.int32))
    np.testing.assert_allclose(of_one_history(x, n_heads), oracle(x, mask=mask[:, None]), rtol=1e-4, atol=1e-5)


def test_the_mask_allows_what_is_earlier_in_the_same_history():
    segment_ids = [[1, 1, 2, 2, 2, 0]]
    mask = np.asarray(causal_mask(jnp.array(segment_ids)))[0]
    for query, key in itertools.product(range(6), repeat=2):
        assert mask[query, key] == (key <= query and segment_ids[0][query] == segment_ids[0][key])


def test_every_query_has_a_key_even_in_padding():
    assert np.asarray(causal_mask(jnp.zeros((1, 4), jnp.int32))).any(axis=-1).all()


# Blocks of queries


@pytest.mark.parametrize("length", [1, 49, 50, 99, 100, 101, 199, 200, 203, 1024])
def test_blocks_of_queries_are_few_long_and_one_after_another(length):
    blocks = query_blocks(length)
    assert [place for block in blocks for place in range(length)[block]] == list(range(length))
    sizes = [block.stop - block.start for block in blocks]
    assert len(blocks) <= 4
    assert min(sizes) >= min(length, 47)  # the last of them is what even blocks leave
    assert max(sizes) - min(sizes) < len(blocks)


LENGTH = 130
"""Two blocks of 65, neither of them a multiple of the four bytes that are drawn together."""
HEADS = [2 * random(2, 2, LENGTH, 8, seed=seed) for seed in range(3)]
"""Queries, keys and values of two rows and two heads."""
SEGMENTS = np.array([[1] * LENGTH, [1] * 20 + [2] * 70 + [3] * 30 + [0] * 10], np.int32)


def mixed(by, *, rate=0.0, key=None):
    """Mixed values and the gradients of queries, keys and values."""

    def total(heads):
        values = by(*heads, dropout_rate=rate, key=key)
        return jnp.sum(jnp.sin(values)), values

    return jax.jit(jax.grad(total, has_aux=True))(HEADS)


def of_histories(**options):
    return functools.partial(mix_histories, segment_ids=jnp.asarray(SEGMENTS), **options)


def assert_same(ours, expected):
    for got, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_blocks_of_queries_mix_what_the_whole_square_does_and_drop_the_same_weights(rate):
    whole = functools.partial(mix_values, mask=causal_mask(jnp.asarray(SEGMENTS)))
    drop = {"rate": rate, "key": jax.random.key(3)}
    assert_same(mixed(of_histories(causal=True), **drop), mixed(whole, **drop))


# Fused


@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_mixes_what_xla_does(causal):
    ours, expected = (mixed(of_histories(causal=causal, implementation=each)) for each in ("fused", "xla"))
    assert_same(ours, expected)


@pytest.mark.parametrize(("platform", "kernel"), [("tpu", "tpu_custom_call"), ("cuda", "gpu.triton")])
def test_fused_attention_lowers_to_the_kernel_of_each_platform(platform, kernel):
    def total(heads):
        return jnp.sum(of_histories(causal=True, implementation="fused")(*heads, dropout_rate=0.0, key=None))

    lowered = jax.jit(jax.grad(total)).trace(HEADS).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count(kernel) >= 3  # forward, and backward to queries and to keys and values
