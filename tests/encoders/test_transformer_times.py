"""Queries and keys rotated by the times of the history."""

import jax
import numpy as np
import pytest
from an_encoder import N_ITEMS, SIZES, an_encoder
from packed_rows import LENGTH, rows_of

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.types import InputError


def test_times_change_the_states_that_come_no_earlier_and_add_no_parameter():
    timed, params = an_encoder("transformer: times of the history")
    encode = jax.jit(timed.encode)
    plain = transformer(TransformerConfig(**SIZES), n_items=N_ITEMS, max_length=LENGTH)
    assert jax.tree.map(lambda spec: spec.shape, timed.specs) == jax.tree.map(lambda spec: spec.shape, plain.specs)
    batch = rows_of([[1, 2, 3, 4, 5, 6]], times="history")
    here = np.asarray(encode(params, batch))[0, :6]

    def moved(times):
        there = np.asarray(encode(params, batch._replace(times=times)))[0, :6]
        return np.flatnonzero(np.abs(here - there).max(axis=-1) > 1e-4).tolist()

    assert moved(batch.times.at[0, 2].add(10**6)) == [2, 3, 4, 5]
    assert moved(batch.times + 10**6) == []  # only what lies between two items counts


@pytest.mark.parametrize(
    ("config", "times", "message"),
    [
        ({}, "query", "turns by the times of its history alone; use times=history, or HSTU"),
        ({"causal": False}, "history", "would see when what it is to restore came; use times=none"),
        ({"positions": "learned"}, "history", "positions=learned with d_model/n_heads=32 leaves none"),
        ({"d_model": 4}, "history", "d_model/n_heads=2 leaves none; use rotary positions and d_head of 4"),
    ],
)
def test_times_that_cannot_be_read_are_refused(config, times, message):
    with pytest.raises(InputError, match=message):
        transformer(TransformerConfig(**config), n_items=9, max_length=5, times=times)


def test_a_batch_without_times_is_refused():
    encoder, params = an_encoder("transformer: times of the history")
    with pytest.raises(InputError, match="does not hold what the encoder reads; make it with times=history"):
        encoder.encode(params, rows_of([[1, 2]]))
