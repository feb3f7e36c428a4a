"""The recurrent block is its published formula, reset at the start of each history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.encoders.hawk import SHARPNESS, HawkConfig, hawk, linear_recurrence, recurrence, recurrence_specs
from seqrec.params import init_params


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_block(params, x):
    """One history, position by position, in the letters of De et al. 2024, section 2.4 and eq. 1 to 4."""
    d = params["memory"].size
    state, added = np.zeros(d), []
    projected = x @ params["in"]
    branch, inputs = projected[:, :d], projected[:, d:]
    for t in range(len(x)):
        taps = zip(params["convolution"], inputs[t::-1], strict=False)
        u = sum(weights * earlier for weights, earlier in taps)
        gates = sigmoid(u @ params["gates"] + params["gates_bias"])
        r, i = gates[:d], gates[d:]
        a = np.exp(-SHARPNESS * np.log1p(np.exp(params["memory"])) * r)
        # The first input of a history is taken whole: there is no state beside which to weigh it.
        state = i * u if t == 0 else a * state + np.sqrt(1 - a**2) * (i * u)
        gelu = 0.5 * branch[t] * (1 + np.tanh(np.sqrt(2 / np.pi) * (branch[t] + 0.044715 * branch[t] ** 3)))
        added.append((gelu * state) @ params["out"])
    return np.array(added)


def test_the_block_is_its_published_formula_in_each_of_two_histories_of_a_row():
    specs = recurrence_specs(4, 6, convolution_width=3)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=spec.shape) for name, spec in specs.items()}
    batch = rows_of([[1, 2, 3, 4, 5], [6, 7, 8]])
    x = rng.normal(size=(1, batch.items.shape[1], 4))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x))
    ours = jax.jit(recurrence)(*single, batch=batch)[0]
    expected = np.concatenate([slow_block(params, x[0, :5]), slow_block(params, x[0, 5:8])])
    np.testing.assert_allclose(ours[:8], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_states_are_those_of_a_loop(length):
    rng = np.random.default_rng(length)
    kept, entering = rng.uniform(size=(2, length, 3)), rng.normal(size=(2, length, 3))
    expected, state = [], np.zeros((2, 3))
    for t in range(length):
        state = kept[:, t] * state + entering[:, t]
        expected.append(state)
    ours = jax.jit(linear_recurrence)(*(jnp.asarray(each, jnp.float32) for each in (kept, entering)))
    np.testing.assert_allclose(ours, np.stack(expected, axis=1), rtol=1e-5, atol=1e-5)


def test_open_gates_keep_nine_tenths_to_999_thousandths_at_the_start():
    params = init_params(hawk(HawkConfig(d_model=256, n_blocks=1), n_items=9, max_length=5).specs, jax.random.key(0))
    kept = np.exp(-SHARPNESS * np.logaddexp(0, params["blocks"][0]["recurrence"]["memory"]))
    assert 0.9 <= kept.min() < 0.91
    assert 0.99 < kept.max() <= 0.999 + 1e-6


def test_a_memory_that_forgets_nothing_has_a_gradient():
    specs = recurrence_specs(4, 4, convolution_width=1)
    params = init_params(specs, jax.random.key(0))
    # Gates shut so tightly that in float32 nothing is forgotten and nothing enters.
    params["gates_bias"] = jnp.full_like(params["gates_bias"], -200.0)
    x = jax.random.normal(jax.random.key(1), (1, 10, 4))
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(recurrence(p, x, batch=rows_of([[1, 2, 3]])))))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_blocks": 0}, "n_blocks=0 is below 1; try n_blocks=2"),
        ({"d_recurrent": -1}, "d_recurrent=-1 is below 0; try d_recurrent=0"),
        ({"dropout": 1.5}, r"dropout=1.5 is not a share in \[0, 1\); try dropout=0.3"),
    ],
)
def test_bad_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        HawkConfig(**bad)
