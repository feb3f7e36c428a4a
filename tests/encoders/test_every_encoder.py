"""What holds for every encoder: which items states depend on, and that packing and padding change nothing."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from an_encoder import ENCODERS, VARIANTS, an_encoder
from examples import at_night
from packed_rows import LENGTH, rows_of

from seqrec.sharding import MESH_AXES
from seqrec.types import Batch

every_encoder = pytest.mark.parametrize("name", at_night(ENCODERS, quick=set(ENCODERS) - set(VARIANTS)))


@functools.cache
def a_program(name: str):
    """Encodes batches of two rows, for all tests in one program; parameters, times, and a note of each trace."""
    encoder, params = an_encoder(name)
    traces = []

    def encode(params, batch):
        traces.append(batch.items.shape)
        return encoder.encode(params, batch)

    return jax.jit(encode), params, encoder.reads.times, traces


def visible_items(name: str, batch: Batch, state: int) -> set[int]:
    """The items of the first row whose vectors its state at this position may depend on."""
    segments = batch.segment_ids[0]
    mine = segments == segments[state]
    if "bidirectional" in name:
        return set(batch.next_items[0][mine].tolist())  # with 0, the vector of hidden items
    if "encoder-decoder" in name:
        return set(batch.items[0][mine].tolist())  # all items are history
    return set(batch.items[0, : state + 1][mine[: state + 1]].tolist())


@every_encoder
def test_a_causal_state_depends_on_its_history_so_far_and_a_bidirectional_one_on_all_that_is_not_hidden(name):
    encoder, params = an_encoder(name)
    batch = rows_of([[1, 2, 3, 4, 5], [6, 7, 8, 9]], times=encoder.reads.times)
    direction = jax.random.normal(jax.random.key(2), (8,))

    def states(table):
        return encoder.encode(params | {"item_table": table}, batch)[0] @ direction

    sensitivity = np.abs(jax.jit(jax.jacrev(states))(params["item_table"])).sum(axis=-1)
    for state in np.flatnonzero(batch.segment_ids[0]):
        assert set(np.flatnonzero(sensitivity[state]).tolist()) == visible_items(name, batch, state)


@every_encoder
def test_states_do_not_depend_on_the_other_histories_of_the_row_nor_on_row_or_offset(name):
    encode, params, times, _ = a_program(name)
    a, b, c, d = [3, 1, 4, 1, 5], [9, 2], [6, 5, 3], [7, 7, 7, 7, 7, 7, 7]
    alone = {tuple(h): encode(params, rows_of([h], [], times=times))[0, : len(h)] for h in (a, b, c, d)}
    for rows in ([[a, b, c], [d]], [[c, d], [b, a]], [[], [b, c, a]]):
        packed = encode(params, rows_of(*rows, times=times))
        for r, histories in enumerate(rows):
            start = 0
            for history in histories:
                here = packed[r, start : start + len(history)]
                np.testing.assert_allclose(here, alone[tuple(history)], rtol=1e-5, atol=2e-5)
                start += len(history)


@every_encoder
def test_values_in_padding_change_no_state(name):
    encode, params, times, _ = a_program(name)
    batch = rows_of([[1, 2, 3]], [], times=times)
    padding = batch.segment_ids == 0
    other = jax.tree.map(lambda field: jnp.where(padding, 9, field), batch)._replace(segment_ids=batch.segment_ids)
    np.testing.assert_array_equal(encode(params, batch)[0, :3], encode(params, other)[0, :3])


@every_encoder
def test_a_row_of_padding_is_finite(name):
    encode, params, times, _ = a_program(name)
    # Item 0 is an ordinary row of the table, which nothing ever scores; zeros are the hardest case for a norm.
    params = params | {"item_table": params["item_table"].at[0].set(0.0)}
    assert np.isfinite(encode(params, rows_of([], [], times=times))).all()


@every_encoder
def test_one_trace_serves_all_batches_of_a_shape(name):
    encode, params, times, traces = a_program(name)
    for history in ([1, 2, 3], [4], [5, 6, 7, 8, 9, 10]):
        encode(params, rows_of([history], [], times=times))
    assert traces == [(2, LENGTH)]


@every_encoder
def test_states_keep_their_precision_and_shape(name):
    encode, params, times, _ = a_program(name)
    states = encode(params, rows_of([[1, 2]], [[3]], times=times))
    chex.assert_shape(states, (2, LENGTH, 8))
    assert states.dtype == jnp.float32


@every_encoder
def test_states_and_gradients_lower_for_every_platform(name):
    encoder, params = an_encoder(name)

    def total(params, batch, key):
        return jnp.sum(encoder.encode(params, batch, key=key))

    batch = rows_of([[1, 2, 3]], times=encoder.reads.times)
    lowered = jax.export.export(jax.jit(jax.grad(total)), platforms=("tpu", "cuda"))(params, batch, jax.random.key(0))
    assert [out.shape for out in lowered.out_avals] == [leaf.shape for leaf in jax.tree.leaves(params)]


@every_encoder
def test_every_axis_that_it_names_is_in_the_mesh_table(name):
    for spec in jax.tree.leaves(an_encoder(name)[0].specs):
        assert set(spec.axes) <= set(MESH_AXES) | {None}
