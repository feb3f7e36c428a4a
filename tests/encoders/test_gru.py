"""The recurrent layer is the published recurrence, reset at the start of every history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.encoders.gru import GRUConfig, gru, gru_layer
from seqrec.params import init_params


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_layer(params, x, starts):
    """One position after another (Cho et al. 2014, eq. 5 to 8; the reset after the product)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows, length, _ = x.shape
    states = np.zeros((rows, length, params["recurrent"].shape[0]))
    for row in range(rows):
        state = np.zeros(states.shape[-1])
        for place in range(length):
            if starts[row, place]:
                state = np.zeros_like(state)
            read = np.split(x[row, place] @ params["input"] + params["input_bias"], 3)
            kept = np.split(state @ params["recurrent"] + params["recurrent_bias"], 3)
            reset, update = sigmoid(read[0] + kept[0]), sigmoid(read[1] + kept[1])
            state = (1 - update) * np.tanh(read[2] + reset * kept[2]) + update * state
            states[row, place] = state
    return states


def test_the_layer_is_the_published_recurrence():
    specs = gru(GRUConfig(d_model=3, d_hidden=4), n_items=5, max_length=6).specs
    params = init_params(specs, jax.random.key(0))["layers"][0]
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), params)
    x, starts = random.normal(size=(2, 6, 3)), random.random((2, 6)) < 0.3
    ours = jax.jit(gru_layer)(params, jnp.asarray(x, jnp.float32), starts=jnp.asarray(starts))
    np.testing.assert_allclose(ours, slow_layer(params, x, starts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_hidden": 0}, "d_hidden=0 is below 1; try d_hidden=1"),
        ({"embedding_dropout": 1.0}, r"embedding_dropout=1.0 is not a share in \[0, 1\); try embedding_dropout=0.2"),
    ],
)
def test_bad_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        GRUConfig(**bad)
