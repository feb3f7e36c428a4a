"""The unit is its published formula, and depends on the times that its config names."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_encoder import an_encoder
from packed_rows import rows_of

from seqrec.attention import causal_mask
from seqrec.encoders.hstu import N_TIME_BUCKETS, HSTUConfig, hstu, hstu_unit, time_buckets
from seqrec.params import init_params
from seqrec.types import InputError

MAX_LENGTH = 10


def silu(x):
    return x / (1 + np.exp(-x))


def layer_norm(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def slow_unit(params, x, *, n_heads, seconds=None):
    """Zhai et al. 2024, eq. 1 to 3, for one history without padding; norms' scales are 1 and their biases 0."""
    length, d_model = x.shape
    u, v, q, k = np.split(silu(layer_norm(x) @ params["uvqk"]), 4, axis=-1)
    mixed = np.zeros((length, d_model))
    for head in np.split(np.arange(d_model), n_heads):
        for query in range(length):
            for key in range(query + 1):
                score = q[query, head] @ k[key, head] + params["distance_bias"][query - key]
                if seconds is not None:
                    passed = seconds[query] - seconds[key]
                    score += params["time_bias"][int(math.log(max(passed, 1)) / 0.301)]
                mixed[query, head] += silu(score) / MAX_LENGTH * v[key, head]
    return (layer_norm(mixed) * u) @ params["out"]


@pytest.mark.parametrize("times", ["none", "history"])
def test_the_unit_is_its_published_formula(times):
    config = HSTUConfig(d_model=8, n_blocks=1, n_heads=2)
    specs = hstu(config, n_items=20, max_length=MAX_LENGTH, times=times).specs
    (params,) = init_params(specs, jax.random.key(0))["blocks"]
    random = np.random.default_rng(0)
    params |= {
        name: jnp.asarray(random.normal(size=params[name].shape), jnp.float32)
        for name in ("uvqk", "out", "distance_bias", "time_bias")
        if name in params
    }
    x = random.normal(size=(7, 8))
    batch = rows_of([[1, 2, 3, 4, 5, 6, 7]], length=7)
    seconds = None if times == "none" else np.array([0, 0, 7, 100, 5000, 10**6, 10**8])
    spans = (
        None if seconds is None else time_buckets(jnp.asarray(seconds)[None], query_times=jnp.asarray(seconds)[None])
    )
    ours = hstu_unit(
        params,
        jnp.asarray(x, jnp.float32)[None],
        mask=causal_mask(batch.segment_ids),
        n_heads=2,
        max_length=MAX_LENGTH,
        spans=spans,
    )[0]
    expected = slow_unit(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), x, n_heads=2, seconds=seconds)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def moved_states(times, field, place):
    """Which states of a history of six move when the time of one of its places does."""
    encoder, params = an_encoder(
        "hstu with times of the history" if times == "history" else "hstu with the query's time"
    )
    batch = rows_of([[1, 2, 3, 4, 5, 6]], times=times)
    later = batch._replace(**{field: getattr(batch, field).at[0, place].add(10**6)})
    here, there = (np.asarray(jax.jit(encoder.encode)(params, each))[0, :6] for each in (batch, later))
    return np.flatnonzero(np.abs(here - there).max(axis=-1) > 1e-6).tolist()


def test_a_time_affects_the_states_from_its_item_on_and_the_querys_time_its_own_state():
    # The time of the third item: to its own state and those after it.
    assert moved_states("history", "times", 2) == [2, 3, 4, 5]
    # As a key, in queries at least as late; the query's time is what stands in next_times, and no key.
    assert moved_states("query", "times", 2) == [2, 3, 4, 5]
    assert 2 in moved_states("query", "next_times", 2)
    assert moved_states("query", "next_times", 5) == [5]


def test_without_times_nothing_changes_and_a_new_time_bias_moves_no_state():
    config = HSTUConfig(d_model=8, n_blocks=2, n_heads=2)
    plain, timed = (hstu(config, n_items=20, max_length=MAX_LENGTH, times=times) for times in ("none", "query"))
    assert plain.reads.times == "none"
    assert "time_bias" not in plain.specs["blocks"][0]
    params = init_params(timed.specs, jax.random.key(0))
    histories = [[1, 2, 3], [4, 5]]
    untimed = params | {"blocks": [{n: v for n, v in b.items() if n != "time_bias"} for b in params["blocks"]]}
    np.testing.assert_array_equal(
        timed.encode(params, rows_of(histories, times="query")), plain.encode(untimed, rows_of(histories))
    )


def test_a_batch_without_the_times_that_are_read_is_refused():
    encoder, params = an_encoder("hstu with the query's time")
    for given in ("none", "history"):
        with pytest.raises(InputError, match="does not hold what the encoder reads; make it with times=query"):
            encoder.encode(params, rows_of([[1, 2]], times=given))


def test_every_span_of_time_has_a_bucket():
    longest = jnp.array([[0, 2**31 - 1]], jnp.int32)
    assert int(time_buckets(longest, query_times=longest).max()) == N_TIME_BUCKETS - 1
    assert int(time_buckets(longest, query_times=longest).min()) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"d_model": 10, "n_heads": 4}, "d_model=10 is not a multiple of n_heads=4; try d_model=12"),
        ({"n_blocks": 0}, "n_blocks=0 is below 1; try n_blocks=4"),
        ({"dropout": 1.5}, r"dropout=1.5 is not a share in \[0, 1\); try dropout=0.2"),
    ],
)
def test_bad_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        HSTUConfig(**bad)
