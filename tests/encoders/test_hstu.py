"""The unit is its published formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.encoders.hstu import HSTUConfig, hstu, hstu_unit
from seqrec.layers import causal_mask
from seqrec.params import init_params

MAX_LENGTH = 10


def silu(x):
    return x / (1 + np.exp(-x))


def layer_norm(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def slow_unit(params, x, *, n_heads):
    """Zhai et al. 2024, eq. 1 to 3, for one history without padding; norms' scales are 1 and their biases 0."""
    length, d_model = x.shape
    u, v, q, k = np.split(silu(layer_norm(x) @ params["uvqk"]), 4, axis=-1)
    mixed = np.zeros((length, d_model))
    for head in np.split(np.arange(d_model), n_heads):
        for query in range(length):
            for key in range(query + 1):
                score = q[query, head] @ k[key, head] + params["distance_bias"][query - key]
                mixed[query, head] += silu(score) / MAX_LENGTH * v[key, head]
    return (layer_norm(mixed) * u) @ params["out"]


def test_the_unit_is_its_published_formula():
    specs = hstu(HSTUConfig(d_model=8, n_blocks=1, n_heads=2), n_items=20, max_length=MAX_LENGTH).specs
    (params,) = init_params(specs, jax.random.key(0))["blocks"]
    random = np.random.default_rng(0)
    params |= {
        name: jnp.asarray(random.normal(size=params[name].shape), jnp.float32)
        for name in ("uvqk", "out", "distance_bias")
    }
    x = random.normal(size=(7, 8))
    batch = rows_of([[1, 2, 3, 4, 5, 6, 7]], length=7)
    ours = hstu_unit(
        params,
        jnp.asarray(x, jnp.float32)[None],
        mask=causal_mask(batch.segment_ids),
        n_heads=2,
        max_length=MAX_LENGTH,
    )[0]
    expected = slow_unit(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), x, n_heads=2)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "d_model=10 is not a multiple of n_heads=4; try d_model=12"),
        ({"n_blocks": 0}, "n_blocks=0 is below 1; try n_blocks=2"),
        ({"dropout": 1.5}, r"dropout=1.5 is not a share in \[0, 1\); try dropout=0.2"),
    ],
)
def test_sizes_that_cannot_be_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        HSTUConfig(**bad)
