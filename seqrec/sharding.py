"""The only file that knows what a mesh is: logical axes in, layouts out."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from seqrec.config import check_fields
from seqrec.params import Params, ParamSpec
from seqrec.types import InputError, ItemTable, Part

MESH_AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "items": ("model", "fsdp"),
    "embed": None,
    "heads": "fsdp",
    "ff": "fsdp",
    "positions": None,
}
"""Which axes of the mesh each logical axis is split over; None keeps it whole on every device."""

_ROWS = P(MESH_AXES["batch"])


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged in a mesh; the product of the three sizes is the number of devices."""

    data: int = -1
    """Data parallelism: number of device groups that split the rows of each batch; -1 uses all remaining devices."""
    model: int = 1
    """Model parallelism: number of devices that split the item table and the loss over it."""
    fsdp: int = 1
    """Fully sharded data parallelism: number of devices that split the rows of each batch and also store only a part of
    each large parameter and of its optimizer state."""

    def __post_init__(self):
        check_fields(self)
        if min(self.model, self.fsdp) < 1 or (self.data < 1 and self.data != -1):
            raise ValueError(
                f"data={self.data}, model={self.model}, fsdp={self.fsdp}: all count devices; use data=-1 for the rest"
            )


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, or the given ones, with axes `data`, `fsdp` and `model`, laid out by the compiler."""
    n_devices = jax.device_count() if devices is None else len(devices)
    n_others = config.fsdp * config.model
    n_data = n_devices // n_others if config.data == -1 else config.data
    if n_data * n_others != n_devices:
        raise InputError(
            f"a mesh of data={config.data} x fsdp={config.fsdp} x model={config.model} does not use each of "
            f"{n_devices} devices once; choose sizes whose product divides {n_devices} and data=-1"
        )
    # Explicit axes, jax's default, refuse `table[ids]` and `lax.top_k` on a split catalogue.
    return jax.make_mesh(
        (n_data, config.fsdp, config.model), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def n_data_shards() -> int:
    """Into how many parts the current mesh splits a batch; 1 where no mesh is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]


def row_share() -> Part:
    """The equal part of a batch's rows that lies on this process's devices; processes that split no rows share one.

    Parts follow one another.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return Part()
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices).reshape(n_data_shards(), -1)
    held = [np.flatnonzero((processes == process).any(axis=1)) for process in range(jax.process_count())]
    local = held[jax.process_index()]
    # A mesh that deals a process's rows out unevenly, or apart, leaves each process the whole batch to take them from.
    if any(len(rows) != len(local) or np.ptp(rows) != len(local) - 1 or rows[0] % len(local) for rows in held):
        return Part()
    return Part(int(local[0]) // len(local), len(processes) // len(local))


def split_rows(batch: Any) -> Any:
    """A host batch, of which each process gives its `row_share`, as arrays whose first axis is split over the mesh.

    Without a mesh the batch is returned as it is.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return batch
    layout, n_parts = NamedSharding(mesh, _ROWS), row_share().n_parts

    def split(leaf: np.ndarray) -> Array:
        whole = (len(leaf) * n_parts, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(layout, leaf, whole)

    return jax.tree.map(split, batch)


def split_items(arrays: Any) -> Any:
    """Host arrays with a row for each row of the item table, each process giving all of them, split as the table is."""
    # Without any this may be traced, to learn the shapes of a state.
    if not jax.tree.leaves(arrays) or (mesh := jax.sharding.get_mesh()).empty:
        return jax.tree.map(jnp.array, arrays)
    layout = NamedSharding(mesh, P(MESH_AXES["items"]))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(layout, leaf, leaf.shape), arrays)


def deal_rows(batch: Any, n_parts: int) -> Any:
    """A batch's rows dealt out to `n_parts` along a new first axis, each part split over the mesh as the batch is.

    Empty rows fill the parts up.
    """

    def deal(leaf: Array) -> Array:
        padding = -leaf.shape[0] % (n_parts * n_data_shards())
        leaf = jnp.pad(leaf, ((0, padding),) + ((0, 0),) * (leaf.ndim - 1))
        # One row to each part in turn: no row leaves its device.
        return leaf.reshape(-1, n_parts, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, batch)


def on_host(array: Array | np.ndarray) -> np.ndarray:
    """The whole of an array, also where other processes hold parts of it; then all must ask for it at once."""
    whole = isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated
    return np.asarray(array if whole else multihost_utils.process_allgather(array, tiled=True))


def gather_rows(array: np.ndarray) -> list[np.ndarray]:
    """The arrays of one axis that processes give, one for each `row_share`; all must ask at once, with one dtype.

    They are sent as bytes: jax would make 32 bits of 64.
    """
    part, n_parts = row_share()
    if n_parts == 1:
        return [array]
    sent = np.frombuffer(array.tobytes(), np.uint8)
    parts, lengths = multihost_utils.process_allgather(np.array([part, len(sent)], np.int32)).T
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: len(sent)] = sent
    received = multihost_utils.process_allgather(padded).astype(np.uint8)
    # Processes that make the same rows give the same.
    first = [int(np.argmax(parts == number)) for number in range(n_parts)]
    return [np.frombuffer(received[each, : lengths[each]].tobytes(), array.dtype) for each in first]


def agree_on_highest(number: int) -> int:
    """The highest of the numbers that the processes ask with; all must ask at once."""
    return number if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int32(number)).max())


def is_first() -> bool:
    """True in the process that writes files and prints."""
    return jax.process_index() == 0


def on_first(function: Callable[[], Any]) -> Any:
    """What `function` returns in the first process, sent to the others as JSON; all must ask at once.

    Raises:
      InputError: in the other processes, if `function` raises in the first one.
    """
    if jax.process_count() == 1:
        return function()
    message, failure = b"{}", None
    if is_first():
        try:
            message = json.dumps({"result": function()}).encode()
        except BaseException as error:
            failure = error
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.frombuffer(message[:length].ljust(length, b" "), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
    if failure is not None:
        raise failure
    if "result" not in (answer := json.loads(received)):
        raise InputError("the first process stopped; see its message")
    return answer["result"]


def from_first(array: np.ndarray, like: Array) -> Array:
    """The first process's array, laid out as `like`; all must ask at once, with arrays of its shape and dtype."""
    whole = np.asarray(multihost_utils.broadcast_one_to_all(array)).astype(like.dtype, copy=False)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda part: whole[part])


def layout(spec: ParamSpec) -> P:
    """Where each axis of a parameter is split."""
    return P(*(MESH_AXES[axis] if axis else None for axis in spec.axes))


def constrain_params(params: Params, specs: Params) -> Params:
    """Asks for each parameter's layout where a mesh is set; does nothing where none is.

    `params` may be what an optimizer keeps for each parameter, such as one number a row: an axis of size 1 is whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return params
    return jax.tree.map(
        lambda spec, leaf: jax.lax.with_sharding_constraint(leaf, _layout_of(spec, leaf.shape, mesh)), specs, params
    )


def constrain_items(arrays: Any) -> Any:
    """Asks for the layout of the item table where a mesh is set, for arrays with a row for each of its rows."""
    if jax.sharding.get_abstract_mesh().empty:
        return arrays
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, P(MESH_AXES["items"])), arrays)


def constrain_state(state: Any, specs: Params) -> Any:
    """As `constrain_params`, for whatever in a state has the structure of the parameters."""
    return _map_params(lambda params: constrain_params(params, specs), state, specs)


def abstract_state(state: Any, specs: Params, mesh: Mesh) -> Any:
    """A state of shapes with the layouts that `constrain_state` gives it on a mesh, to compile with."""

    def lay_out(spec: ParamSpec, leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, _layout_of(spec, leaf.shape, mesh))
        )

    return _map_params(lambda params: jax.tree.map(lay_out, specs, params), state, specs)


def abstract_params(specs: Params) -> Params:
    """Shapes of the parameters with the layouts that `constrain_params` asks for: to restore them into."""
    mesh, device = jax.sharding.get_mesh(), SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=device), specs)
    return shapes if mesh.empty else abstract_state(shapes, specs, mesh)


def _map_params(function: Callable[[Params], Any], state: Any, specs: Params) -> Any:
    """`function` of each part of a state that has the structure of the parameters."""
    structure: Any = jax.tree.structure(specs)

    def is_params(part: Any) -> bool:
        return jax.tree.structure(part) == structure

    return jax.tree.map(lambda part: function(part) if is_params(part) else part, state, is_leaf=is_params)


def _layout_of(spec: ParamSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    axes = [axes if size > 1 else None for axes, size in zip(layout(spec), shape, strict=True)]
    for axis, size in zip(axes, shape, strict=True):
        n_parts = math.prod(mesh.shape[name] for name in _names(axis))
        if size % n_parts:
            raise InputError(
                f"a parameter of shape {shape} cannot be split evenly into {n_parts} parts along its axis of {size}; "
                f"choose a mesh whose {' x '.join(_names(axis))} divides {size}"
            )
    return P(*axes)


def _names(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (axis,) if isinstance(axis, str) else axis or ()


class CatalogueShard(NamedTuple):
    """The rows of the item table that one device scores, and the ways to what the others found."""

    table: Float[Array, "n_rows d_model"]
    first: int | Int[Array, ""]
    """Id of the first row."""
    total: Callable[[Any], Any]
    """The sums over all shards."""
    highest: Callable[[Array], Array]
    """The maximum over all shards."""
    gather: Callable[[Array], Array]
    """The arrays of all shards side by side along the second axis, in the order of their ids."""


Output = Literal["rows", "items", "sum"]
"""What an output is split like: the rows, the item table, or not at all."""


@runtime_checkable
class ShardFunction(Protocol):
    """`function(*rows, shard)`: what one device computes from its rows and its part of the item table."""

    def __call__(self, *rows_and_shard: Any, **options: Any) -> Any: ...


def map_catalogue(
    function: ShardFunction, rows: tuple[Any, ...], item_table: Array, *, outputs: tuple[Output, ...]
) -> tuple[Any, ...]:
    """`function(*rows, shard)`, run on each device over its own rows and its own part of the item table.

    `rows` are arrays with a row for each row of a batch, the first one of them, or trees of such arrays.
    It returns one value for each of `outputs`. One that is split like the "rows" must be the same on all devices
    that share them, as what went through `shard.total` or `shard.gather` is, and so must a "sum", which is added up
    over the rows; one that is split like the "items" is added up over the rows too. Neither table nor scores ever
    leave their device. A loop over a split axis must run in here: left to the compiler, it gathers the axis first.
    Rows that do not split evenly, such as a single user's, are worked on by every group of devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*rows, CatalogueShard(item_table, 0, *(lambda x: x,) * 3))
    n_rows = item_table.shape[0]
    # Only a table that no mesh was thought of for is padded; the rows that this adds are no items.
    item_table = jnp.pad(item_table, ((0, -n_rows % (mesh.shape["model"] * mesh.shape["fsdp"])), (0, 0)))
    split = rows[0].shape[0] % n_data_shards() == 0
    by_row = _ROWS if split else P()

    def local(*arguments):
        *rows, table = arguments
        shard = CatalogueShard(
            table,
            jax.lax.axis_index("model") * table.shape[0],
            lambda x: jax.lax.psum(x, "model"),
            lambda x: jax.lax.pmax(x, "model"),
            lambda x: jax.lax.all_gather(x, "model", axis=1, tiled=True),
        )
        results = function(*rows, shard)
        return tuple(finish(each, kind) for each, kind in zip(results, outputs, strict=True))

    def finish(value, kind):
        if kind == "sum":
            return jax.lax.psum(value, MESH_AXES["batch"]) if split else value
        if kind == "items" and split:
            value = jax.lax.psum(value, "data")
            if mesh.shape["fsdp"] > 1:  # each device is left with the part whose optimizer state it holds
                value = jax.lax.psum_scatter(value, "fsdp", scatter_dimension=0, tiled=True)
        return value

    layouts = {"rows": by_row, "items": P(MESH_AXES["items"]) if split else P("model"), "sum": P()}
    combined = jax.shard_map(
        local,
        in_specs=(by_row,) * len(rows) + (P("model"),),
        out_specs=tuple(layouts[kind] for kind in outputs),
        check_vma=False,
    )(*rows, item_table)
    return tuple(each[:n_rows] if kind == "items" else each for each, kind in zip(combined, outputs, strict=True))


def map_rows(function: Callable[[Any, Any], Any], rows: Any, whole: Any) -> Any:
    """`function(rows, whole)`, run on each device over its own rows and the `whole` of other arrays.

    `rows` are trees of arrays with a row for each row of a batch, and so is what is returned. Rows that do not split
    evenly are worked on by every device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(rows, whole)
    split = _ROWS if len(jax.tree.leaves(rows)[0]) % n_data_shards() == 0 else P()
    return jax.shard_map(function, in_specs=(split, P()), out_specs=split, check_vma=False)(rows, whole)


def look_up(item_table: ItemTable, ids: Int[Array, "*shape"]) -> Float[Array, "*shape d_model"]:
    """`item_table[ids]` of an array, or of what stands for one."""
    return _look_up(item_table, ids) if isinstance(item_table, Array) else item_table[ids]


@jax.custom_vjp
def _look_up(item_table: Float[Array, "n_rows d_model"], ids: Int[Array, "*shape"]) -> Float[Array, "*shape d_model"]:
    """`item_table[ids]`, whose gradient takes the cheaper way over a mesh that splits the rows of `ids`.

    Either each group of devices adds its rows up into a table and the tables are added up, or the rows are gathered
    and each device adds all of them to its part of the table, which sends less wherever that part is longer than the
    rows are many. The loss sends one such table in any case.
    """
    return item_table[ids]


def _look_up_forward(item_table, ids):
    return item_table[ids], (item_table, ids)


def _look_up_backward(kept, cotangent):
    item_table, ids = kept
    mesh = jax.sharding.get_abstract_mesh()
    few = not mesh.empty and ids.size < item_table.shape[0] // (mesh.shape["model"] * mesh.shape["fsdp"])
    if few and ids.shape[0] % n_data_shards() == 0:
        # Split first: what is asked for whole would be computed whole, from further back.
        for rows in (_ROWS, P()):
            ids, cotangent = (jax.lax.with_sharding_constraint(each, rows) for each in (ids, cotangent))
    return jnp.zeros_like(item_table).at[ids].add(cotangent, mode="drop"), None


_look_up.defvjp(_look_up_forward, _look_up_backward)
