"""Layers against flax.nnx where that is right, and dropout against what chance allows."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqrec import layers
from seqrec.attention import attention_specs
from seqrec.layers import feed_forward_specs, norm_specs, rotate, rotation, time_rotation
from seqrec.params import decay_mask, init_params

D_MODEL = 16
# One program a shape: without, each of their operations is compiled alone.
norm = jax.jit(layers.norm, static_argnames="kind")
feed_forward = jax.jit(layers.feed_forward, static_argnames=("kind", "dropout_rate"))
dropout = jax.jit(layers.dropout, static_argnames="rate")
random_bytes = jax.jit(layers.random_bytes, static_argnums=1)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_params(specs, *, seed: int = 0, scale: float = 0.5):
    """Values far from those at the start, where biases are 0, scales 1 and products almost 0."""
    return jax.tree.map(lambda spec: random(*spec.shape, seed=seed + math.prod(spec.shape), scale=scale), specs)


# Norms


def test_layer_norm_is_that_of_flax():
    params = random_params(norm_specs("layer", D_MODEL))
    oracle = nnx.LayerNorm(D_MODEL, epsilon=1e-6, rngs=nnx.Rngs(0))
    oracle.scale[...], oracle.bias[...] = params["scale"], params["bias"]
    x = 3 + 2 * random(2, 5, D_MODEL)
    np.testing.assert_allclose(norm(params, x, kind="layer"), oracle(x), rtol=1e-4, atol=1e-5)


def test_rms_norm_is_that_of_flax():
    params = random_params(norm_specs("rms", D_MODEL))
    oracle = nnx.RMSNorm(D_MODEL, epsilon=1e-6, rngs=nnx.Rngs(0))
    oracle.scale[...] = params["scale"]
    x = 3 + 2 * random(2, 5, D_MODEL)
    np.testing.assert_allclose(norm(params, x, kind="rms"), oracle(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_new_norm_gives_every_position_unit_size(kind):
    params = init_params(norm_specs(kind, D_MODEL), jax.random.key(0))
    out = norm(params, 7 * random(4, D_MODEL), kind=kind)
    np.testing.assert_allclose(np.mean(np.square(out), axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_norm_of_zeros_is_finite_and_so_is_its_gradient(kind):
    params = init_params(norm_specs(kind, D_MODEL), jax.random.key(0))
    total = jax.jit(jax.value_and_grad(lambda x: jnp.sum(norm(params, x, kind=kind))))
    value, gradient = total(jnp.zeros((1, D_MODEL)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_only_layer_norm_ignores_a_shift():
    x = random(3, D_MODEL)
    for kind, ignores in (("layer", True), ("rms", False)):
        params = init_params(norm_specs(kind, D_MODEL), jax.random.key(0))
        same = np.allclose(norm(params, x, kind=kind), norm(params, x + 5, kind=kind), atol=1e-4)
        assert same == ignores, kind


# Rotary positions


def products(first_positions, second_positions, *, d_head=8):
    """q_i . k_j for one query and one key vector, placed at each of the positions."""
    q, k = random(1, 1, 1, d_head, seed=1), random(1, 1, 1, d_head, seed=2)
    return products_of(q, k, np.array([first_positions]), np.array([second_positions])), jnp.vdot(q, k)


@jax.jit
def products_of(q, k, first_positions, second_positions):
    def placed(x, positions):
        repeated = jnp.broadcast_to(x, (1, 1, positions.shape[1], x.shape[-1]))
        return rotate(repeated, rotation(positions, n_pairs=x.shape[-1] // 2, max_length=200))

    return jnp.einsum("rhld,rhld->l", placed(q, first_positions), placed(k, second_positions))


def test_a_rotated_product_depends_on_the_distance_alone():
    starts = range(0, 190, 10)
    for distance in (0, 1, 7):
        values, _ = products([start + distance for start in starts], list(starts))
        # Vectors of length sqrt(8); angles up to 200 are exact to 200 * 2^-24, about 1e-5.
        np.testing.assert_allclose(values, values[0], atol=1e-4)


def test_distance_zero_is_the_plain_product_and_another_distance_is_not():
    values, plain = products([5, 6, 5], [5, 5, 6])
    np.testing.assert_allclose(values[0], plain, rtol=1e-5)
    assert len({round(float(value), 3) for value in values}) == 3


def test_a_pair_of_features_turns_by_its_frequency_times_the_position():
    d_head, position = 4, 3
    x = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    out = rotate(x, rotation(jnp.array([[position]]), n_pairs=d_head // 2, max_length=10))[0, 0, 0]
    # Su et al. 2021, section 3.4.2: theta_i = 10000^(-2i/d), and feature i is paired with i + d/2 here.
    angles = [position * 10_000 ** (-2 * i / d_head) for i in range(2)]
    np.testing.assert_allclose(out, [*map(math.cos, angles), *map(math.sin, angles)], atol=1e-6)


def test_a_rotation_keeps_lengths():
    x = random(2, 3, 5, 8)
    turned = jax.jit(lambda x: rotate(x, rotation(jnp.arange(10).reshape(2, 5), n_pairs=4, max_length=10)))(x)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("since", [0, 60, 365 * 24 * 3600, 2**31 - 200])
def test_a_product_turned_by_times_depends_on_the_seconds_between_them_alone(since):
    q, k = random(1, 1, 1, 8, seed=1), random(1, 1, 1, 8, seed=2)

    @jax.jit
    def product(now, then):
        turned = (rotate(x, time_rotation(at[None, None], n_pairs=4)) for x, at in ((q, now), (k, then)))
        return jnp.vdot(*turned)

    # Waves of 60 seconds to 4 years, each the same number of times as long as the one before.
    waves = [round(60 * (4 * 365 * 24 * 3600 / 60) ** (i / 3)) for i in range(4)]
    seconds = 17
    pairs = [(complex(q[0, 0, 0, i], q[0, 0, 0, i + 4]), complex(k[0, 0, 0, i], k[0, 0, 0, i + 4])) for i in range(4)]
    turns = [np.exp(2j * np.pi * seconds / wave) for wave in waves]
    expected = sum((a * turn * b.conjugate()).real for (a, b), turn in zip(pairs, turns, strict=True))
    assert float(product(np.int32(since + seconds), np.int32(since))) == pytest.approx(expected, abs=1e-4)


# Feed-forward


def test_feed_forward_is_its_formula():
    x = random(2, 3, D_MODEL)
    for kind, activation in (("relu", jax.nn.relu), ("gelu", jax.nn.gelu)):
        p = random_params(feed_forward_specs(kind, D_MODEL, 24))
        expected = activation(x @ p["up"] + p["up_bias"]) @ p["down"] + p["down_bias"]
        out = feed_forward(p, x, kind=kind, dropout_rate=0.0, key=None)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_swiglu_gates_by_silu():
    x = random(2, 3, D_MODEL)
    p = random_params(feed_forward_specs("swiglu", D_MODEL, 24))
    p["gate"] = p["gate"][::-1]  # `up` and `gate` have one shape, hence one draw
    expected = (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]
    out = feed_forward(p, x, kind="swiglu", dropout_rate=0.0, key=None)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_swiglu_is_finite_far_out_and_so_is_its_gradient():
    p = random_params(feed_forward_specs("swiglu", D_MODEL, 24))
    x = 1e4 * random(1, 2, D_MODEL)

    def total(x):
        return jnp.sum(feed_forward(p, x, kind="swiglu", dropout_rate=0.0, key=None))

    value, gradient = jax.jit(jax.value_and_grad(total))(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["relu", "gelu", "swiglu"])
def test_positions_do_not_mix_in_the_feed_forward(kind):
    p, x = random_params(feed_forward_specs(kind, D_MODEL, 24)), random(1, 4, D_MODEL)
    out = feed_forward(p, x, kind=kind, dropout_rate=0.0, key=None)
    moved = feed_forward(p, x[:, ::-1], kind=kind, dropout_rate=0.0, key=None)
    np.testing.assert_allclose(out, moved[:, ::-1], rtol=1e-5, atol=1e-6)


def test_matrices_decay_and_biases_and_norms_do_not():
    specs = {
        "norm": norm_specs("layer", D_MODEL),
        "attention": attention_specs(D_MODEL),
        "feed_forward": feed_forward_specs("gelu", D_MODEL, 24),
        "gated": feed_forward_specs("swiglu", D_MODEL, 24),
    }
    decays = jax.tree.leaves(decay_mask(specs))
    assert decays == [len(spec.shape) == 2 for spec in jax.tree.leaves(specs)]


# Dropout. Bounds are 5 standard errors, which a right generator passes but once in two million draws of the key.

N = 2**18
KEY = jax.random.key(7)


def correlation(x, y) -> float:
    return float(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1])


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    out = np.asarray(dropout(jnp.ones((N // 64, 64)), rate=rate, key=KEY))
    share = round(256 * rate) / 256
    assert abs(share - rate) <= 1 / 512
    assert abs(np.mean(out == 0) - share) < 5 * math.sqrt(share * (1 - share) / N)
    np.testing.assert_allclose(out[out != 0], 1 / (1 - share), rtol=1e-6)
    assert abs(out.mean() - 1) < 5 * math.sqrt(share / (1 - share) / N)


def test_without_a_key_or_a_rate_nothing_is_dropped():
    x = random(3, 5)
    np.testing.assert_array_equal(dropout(x, rate=0.5, key=None), x)
    np.testing.assert_array_equal(dropout(x, rate=0.0, key=KEY), x)


def test_a_dropped_value_has_no_gradient_and_a_kept_one_its_scale():
    x = random(8, 9)
    out = dropout(x, rate=0.5, key=KEY)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(dropout(x, rate=0.5, key=KEY))))(x)
    np.testing.assert_array_equal(gradient, np.where(np.asarray(out) == 0, 0, 2))


def test_a_dropped_nan_is_gone():
    out = np.asarray(dropout(jnp.full((64, 64), jnp.nan), rate=0.5, key=KEY))
    assert set(np.unique(out[~np.isnan(out)])) == {0.0}


def test_one_key_repeats_its_mask_under_jit_too():
    np.testing.assert_array_equal(layers.random_bytes(KEY, (5, 7, 13)), random_bytes(KEY, (5, 7, 13)))


@pytest.mark.parametrize("shape", [(N,), (512, 512), (64, 64, 63)])
def test_bytes_are_uniform(shape):
    counts = np.bincount(np.ravel(random_bytes(KEY, shape)), minlength=256)
    expected = math.prod(shape) / 256
    chi_square = np.sum((counts - expected) ** 2 / expected)
    # 255 degrees of freedom: mean 255, variance 2 * 255. Far too even would be wrong as well.
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("seed", range(3))
def test_each_bit_is_set_half_the_time_and_the_bits_of_a_word_are_independent(seed):
    bits = np.unpackbits(np.asarray(random_bytes(jax.random.key(seed), (N,)))).reshape(-1, 32)
    n_words = len(bits)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / math.sqrt(n_words)
    between = np.corrcoef(bits.T) - np.eye(32)
    assert np.abs(between).max() < 5 / math.sqrt(n_words)


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 8, 64, 512])
def test_neighbours_are_uncorrelated(offset):
    values = np.ravel(random_bytes(KEY, (512, 512)))
    assert abs(correlation(values[:-offset], values[offset:])) < 5 / math.sqrt(N - offset)


def test_runs_of_dropped_neighbours_are_as_long_as_chance_makes_them():
    dropped = np.asarray(random_bytes(KEY, (N,)) < 64)
    pairs = dropped[:-1] & dropped[1:]
    triples = pairs[:-1] & dropped[2:]
    # Overlapping windows vary more than independent ones, by less than the window's length.
    for hits, length in ((pairs, 2), (triples, 3)):
        chance = 0.25**length
        assert abs(hits.mean() - chance) < 5 * math.sqrt(length * chance / N)


def flipped_keys():
    """Each key that differs from the first in one bit, of either of its words."""
    data = np.asarray(jax.random.key_data(KEY))
    for word, bit in itertools.product(range(2), range(32)):
        changed = data.copy()
        changed[word] ^= np.uint32(1 << bit)
        yield jax.random.wrap_key_data(jnp.asarray(changed))


def test_keys_that_differ_in_one_bit_give_uncorrelated_masks():
    draw = jax.jit(lambda key: random_bytes(key, (N // 16,)))
    first = draw(KEY)
    for key in flipped_keys():
        other = draw(key)
        assert abs(correlation(first, other)) < 5 / math.sqrt(N // 16)
        equal = np.mean(np.asarray(first) == np.asarray(other))
        assert abs(equal - 1 / 256) < 5 * math.sqrt(1 / 256 / (N // 16))


def test_keys_of_successive_steps_and_layers_give_uncorrelated_masks():
    keys = [key for step in range(4) for key in jax.random.split(jax.random.fold_in(jax.random.key(0), step), 5)]
    masks = np.stack([np.asarray(random_bytes(key, (N // 8,))) >= 51 for key in keys])
    between = np.corrcoef(masks) - np.eye(len(keys))
    assert np.abs(between).max() < 5 / math.sqrt(N // 8)


def test_another_key_does_not_only_permute_the_mask():
    one, two = (np.sort(random_bytes(jax.random.key(seed), (N,))) for seed in (0, 1))
    assert not np.array_equal(one, two)


def test_rows_are_their_own_draws():
    values = np.asarray(random_bytes(KEY, (40, 6, 1000))).reshape(240, 1000)
    between = np.corrcoef(values) - np.eye(240)
    # The largest of 28,680 correlations: 6 standard errors are passed once in 17,000 draws.
    assert np.abs(between).max() < 6 / math.sqrt(1000)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 0.3, 0.5, 127.5 / 256, 0.130859374, 0.13085938, 0.99])
def test_a_traced_dropout_rate_drops_what_the_same_number_drops(rate):
    x = random(64, 33)
    static = dropout(x, rate=rate, key=jax.random.key(1))
    traced = jax.jit(lambda rate: layers.dropout(x, rate=rate, key=jax.random.key(1)))(jnp.float32(rate))
    np.testing.assert_array_equal(traced == 0, static == 0)
    np.testing.assert_allclose(traced, static, rtol=1e-6)
