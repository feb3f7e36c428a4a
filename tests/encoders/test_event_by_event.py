"""Reading one more event at a time gives the states of reading the whole history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_encoder import ENCODERS, an_encoder
from packed_rows import LENGTH, rows_of

KNOW_LATER_EVENTS = ("bidirectional", "encoder-decoder", "query's time")


def test_all_but_those_whose_states_know_later_events_read_event_by_event():
    able = {name for name in ENCODERS if an_encoder(name)[0].incremental is not None}
    assert set(ENCODERS) - able == {name for name in ENCODERS if any(map(name.__contains__, KNOW_LATER_EVENTS))}


@pytest.mark.parametrize("name", [name for name in ENCODERS if not any(map(name.__contains__, KNOW_LATER_EVENTS))])
def test_reading_event_by_event_gives_the_states_of_reading_the_whole_history(name):
    """From an empty history and from one of 4, in rows of a cache that other histories were read into before."""
    encoder, params = an_encoder(name)
    times = encoder.reads.times
    start, append = jax.jit(encoder.incremental.start), jax.jit(encoder.incremental.append)
    random = np.random.default_rng(3)
    histories = random.integers(1, 31, (2, LENGTH)).tolist()
    whole = rows_of(*([row] for row in histories), times=times)
    expected = jax.jit(encoder.encode)(params, whole)
    first, cache = start(params, rows_of([histories[0][:4]], [], times=times))
    np.testing.assert_allclose(first[0], expected[0, 3], rtol=1e-5, atol=1e-5)
    # Kept in rows 2 and 0 of three, whose other values do not count.
    cache = jax.tree.map(
        lambda leaf: jnp.full((3, *leaf.shape[1:]), 7, leaf.dtype).at[jnp.array([2, 0])].set(leaf), cache
    )
    rows, n_read = jnp.array([2, 0]), np.array([4, 0])
    for _ in range(LENGTH - 4):
        items, moments = whole.items[[0, 1], n_read], None if times == "none" else whole.times[[0, 1], n_read]
        states, cache = append(params, cache, items, rows=rows, times=moments)
        np.testing.assert_allclose(states, expected[[0, 1], n_read], rtol=1e-5, atol=1e-5)
        n_read += 1
