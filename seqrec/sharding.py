"""The only file that knows what a mesh is: logical axes in, layouts out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from seqrec.params import Params
from seqrec.types import InputError

MESH_AXES = {"batch": "data", "items": "model", "embed": None, "heads": None, "ff": None, "positions": None}
"""Which mesh axis each logical axis is split over; None keeps it whole on every device."""


@dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out."""

    data: int = -1
    """Groups of devices that split the rows of a batch; -1 takes all that are left."""
    model: int = 1
    """Devices that split the item table."""

    def __post_init__(self):
        if self.model < 1 or (self.data < 1 and self.data != -1):
            raise ValueError(f"data={self.data}, model={self.model}: both count devices; use data=-1 for the rest")


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh over all devices with axes `data` and `model`, laid out by the compiler (Auto axes)."""
    n_devices = jax.device_count()
    n_data = n_devices // config.model if config.data == -1 else config.data
    if n_data * config.model != n_devices:
        raise InputError(
            f"a mesh of data={config.data} x model={config.model} does not use each of {n_devices} devices once; "
            f"choose a model that divides {n_devices} and data=-1"
        )
    # Explicit axes, jax's default, refuse `table[ids]` and `lax.top_k` on a split catalogue.
    return jax.make_mesh((n_data, config.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def n_data_shards() -> int:
    """Into how many parts the current mesh splits a batch; 1 where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"]


def _place(tree: Any, partition: Callable[[Any], P]) -> Any:
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return tree
    return jax.tree.map(
        lambda leaf, spec: jax.make_array_from_callback(
            leaf.shape, NamedSharding(mesh, spec), lambda index: leaf[index]
        ),
        tree,
        partition(tree),
    )


def split_rows(batch: Any) -> Any:
    """A host batch, the same on every process, as arrays whose first axis is split over `data`.

    Without a mesh the batch is returned as it is.
    """
    return _place(batch, lambda tree: jax.tree.map(lambda _: P("data"), tree))


def constrain_params(params: Params, specs: Params) -> Params:
    """Asks for each parameter's layout where a mesh is set; does nothing where none is."""
    if jax.sharding.get_abstract_mesh().empty:
        return params
    return jax.tree.map(
        lambda spec, leaf: jax.lax.with_sharding_constraint(leaf, P(*(MESH_AXES[a] if a else None for a in spec.axes))),
        specs,
        params,
    )


def map_rows(
    function: Callable[..., tuple[Any, Any]], rows: tuple[Array, ...], shared: tuple[Array, ...]
) -> tuple[Any, Any]:
    """`function(*rows, *shared) -> (per_row, totals)`, run on each device over its own rows.

    `per_row` comes back split like the rows; `totals` are summed over the devices. Rows that are looped over
    in blocks must be looped over locally: left to the compiler, a loop over a split axis gathers it first. Rows
    that do not split evenly, such as a single user's, are worked on whole by every device.
    """
    if rows[0].shape[0] % n_data_shards() or jax.sharding.get_abstract_mesh().empty:
        return function(*rows, *shared)

    def local(*arguments):
        per_row, totals = function(*arguments)
        return per_row, jax.lax.psum(totals, "data")

    return jax.shard_map(
        local,
        in_specs=(P("data"),) * len(rows) + (P(),) * len(shared),
        out_specs=(P("data"), P()),
        check_vma=False,
    )(*rows, *shared)


class CatalogueShard(NamedTuple):
    """The rows of the item table that one device scores, and the two ways to what the others found."""

    table: Float[Array, "n_rows d_model"]
    first: int | Int[Array, ""]
    """Id of the first row."""
    total: Callable[[Array], Array]
    """The sum over all shards."""
    gather: Callable[[Array], Array]
    """The arrays of all shards side by side along the second axis, in the order of their ids."""


def map_catalogue(function: Callable[..., Any], rows: tuple[Array, ...], item_table: Array) -> Any:
    """`function(*rows, shard)`, run on each device over its own rows and its own part of the item table.

    What comes back is split like the rows and must be the same on all devices that share them, as what went
    through `shard.total` or `shard.gather` is; neither table nor scores ever leave their device. Rows that do not
    split evenly, such as a single user's, are worked on by every group of devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*rows, CatalogueShard(item_table, 0, lambda x: x, lambda x: x))
    item_table = jnp.pad(item_table, ((0, -item_table.shape[0] % mesh.shape["model"]), (0, 0)))
    by_row = P() if rows[0].shape[0] % mesh.shape["data"] else P("data")

    def local(*arguments):
        *rows, table = arguments
        shard = CatalogueShard(
            table,
            jax.lax.axis_index("model") * table.shape[0],
            lambda x: jax.lax.psum(x, "model"),
            lambda x: jax.lax.all_gather(x, "model", axis=1, tiled=True),
        )
        return function(*rows, shard)

    return jax.shard_map(local, in_specs=(by_row,) * len(rows) + (P("model"),), out_specs=by_row, check_vma=False)(
        *rows, item_table
    )
