"""What a mesh is, and what is left as it is without one."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec import sharding
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.sharding import (
    MESH_AXES,
    MeshConfig,
    constrain_params,
    constrain_state,
    look_up,
    make_mesh,
    n_data_shards,
    row_share,
    split_rows,
)


class Device(NamedTuple):
    process_index: int


@pytest.mark.parametrize(
    ("processes", "process", "share"),
    [
        ([[[0]], [[0]], [[1]], [[1]]], 1, (1, 2)),  # two processes, each with two of four rows' shards
        ([[[0, 0]], [[1, 1]]], 0, (0, 2)),
        ([[[0, 0, 1, 1]]], 1, (0, 1)),  # both hold parts of the catalogue for the same rows
        ([[[0, 1]], [[2, 3]]], 3, (1, 2)),  # processes 2 and 3 share the second half of the rows
        ([[[0]], [[1]], [[0]], [[1]]], 0, (0, 1)),  # rows that do not follow one another
        ([[[0]], [[0]], [[0]], [[1]]], 1, (0, 1)),  # uneven parts
    ],
)
def test_a_process_makes_the_rows_that_lie_on_its_devices(monkeypatch, processes, process, share):
    devices = np.empty(np.shape(processes), object)
    for place, index in np.ndenumerate(np.array(processes)):
        devices[place] = Device(int(index))
    mesh = SimpleNamespace(devices=devices, empty=False)
    monkeypatch.setattr(jax.sharding, "get_mesh", lambda: mesh)
    monkeypatch.setattr(sharding, "n_data_shards", lambda: devices.shape[0] * devices.shape[1])
    monkeypatch.setattr(jax, "process_count", lambda: np.max(processes) + 1)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    assert row_share() == share


def test_without_a_mesh_everything_is_left_as_it_is():
    assert row_share() == (0, 1)
    assert n_data_shards() == 1
    batch = {"items": np.ones((3, 2))}
    assert split_rows(batch) is batch
    encoder = transformer(TransformerConfig(d_model=8), n_items=10, max_length=4)
    assert constrain_params(batch, encoder.specs) is batch
    assert constrain_state((batch, 3), encoder.specs) == (batch, 3)


def test_the_gradient_of_a_look_up_is_summed_for_each_item():
    table, ids = np.zeros((5, 2), np.float32), jnp.array([[1, 3, 1], [0, 1, 3]])
    came = jnp.arange(12.0).reshape(2, 3, 2)
    (gradient,) = jax.vjp(lambda table: look_up(table, ids), jnp.asarray(table))[1](came)
    np.add.at(table, np.asarray(ids), came)
    np.testing.assert_array_equal(gradient, table)


def mesh_axes(logical):
    axes = MESH_AXES[logical]
    return (axes,) if isinstance(axes, str) else axes or ()


def test_every_axis_that_a_model_names_is_in_the_table():
    assert {name for axis in MESH_AXES for name in mesh_axes(axis)} <= {"data", "fsdp", "model"}
    for positions in ("rotary", "learned"):
        for kind in ("swiglu", "relu"):
            config = TransformerConfig(d_model=8, norm="layer", positions=positions, feed_forward=kind)
            for spec in jax.tree.leaves(transformer(config, n_items=10, max_length=4).specs):
                assert set(spec.axes) <= set(MESH_AXES)
                names = [name for axis in spec.axes for name in mesh_axes(axis)]
                assert len(names) == len(set(names))  # no mesh axis splits two axes of one array


@pytest.mark.parametrize("bad", [{"model": 0}, {"data": 0}, {"data": -2}, {"fsdp": 0}])
def test_a_count_of_devices_is_positive(bad):
    with pytest.raises(ValueError, match="all count devices"):
        MeshConfig(**bad)


def test_a_mesh_uses_all_devices_or_is_refused():
    n_devices = jax.device_count()
    assert dict(make_mesh(MeshConfig()).shape) == {"data": n_devices, "fsdp": 1, "model": 1}
    with pytest.raises(ValueError, match=f"data={n_devices + 1} x fsdp=1 x model=1 .* {n_devices} devices"):
        make_mesh(MeshConfig(data=n_devices + 1))
