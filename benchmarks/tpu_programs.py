"""The programs of a run as the TPU compiler gets them: of shapes, with the layouts of a mesh of a slice's chips."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import Array

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import make_eval_step, make_top_step
from seqrec.heads.softmax import softmax_model
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.losses.softmax import softmax_loss
from seqrec.model import Model
from seqrec.negatives import uniform
from seqrec.params import init_params
from seqrec.row_updates import init_sparse_state, make_sparse_step
from seqrec.sharding import MESH_AXES, MeshConfig, abstract_state, make_mesh
from seqrec.training import OptimizerConfig, TrainState, init_state, make_optimizer, make_train_step
from seqrec.types import Batch, QueryBatch

SLICES = {
    "v5e-8": ("v5e:2x4", 15.75 * 2**30),
    "v5e-64": ("v5e:8x8", 15.75 * 2**30),
    "v5e-128": ("v5e:8x16", 15.75 * 2**30),
    "v5e-256": ("v5e:16x16", 15.75 * 2**30),
    "v5p-16": ("v5p:2x2x2", 95.74 * 2**30),
    "v5p-32": ("v5p:2x2x4", 95.74 * 2**30),
}
"""Topology, and the bytes of a chip's memory that a program may use; a v5p is named by its cores, two to a chip."""

Kind = Literal["step", "sparse", "ranks", "top-k", "start"]
KINDS: dict[Kind, str] = {
    "step": "step, full softmax",
    "sparse": "step, sampled softmax, rows updated",
    "ranks": "ranks, seen items excluded",
    "top-k": "100 best, seen items excluded",
    "start": "first state, which a resumed run holds twice",
}
TableForm = Literal["float32", "row-major", "bfloat16", "two-in-one"]
TABLE_FORMS: dict[TableForm, str] = {
    "float32": "[rows, 64] float32, as the compiler lays it out",
    "row-major": "[rows, 64] float32, rows kept one after another",
    "bfloat16": "[rows, 64] bfloat16, as the compiler lays it out",
    "two-in-one": "[rows / 2, 128] float32, two items in a row",
}
OPTIMIZER = OptimizerConfig(second_moments="rows")
N_STEPS, N_BEST = 10_000, 100


@dataclass(frozen=True)
class Sizes:
    """Those of a batch of a group of chips that holds one copy of the item table."""

    rows: int
    """Packed rows of a training step."""
    max_length: int
    queries: int
    """Users that are ranked for, four to a packed row."""
    excluded: int
    """Seen items of each."""
    negatives: int


def group_size(n_items: int, d_model: int, *, n_chips: int, chip_bytes: float) -> int:
    """The fewest chips that can hold five tables together and leave half of their memory free; all, if none can."""
    table_bytes = 4.0 * n_items * d_model
    needed = 5 * table_bytes / (0.5 * chip_bytes)
    return min(n_chips, 1 << max(0, math.ceil(math.log2(needed))))


def slice_mesh(name: str, n_items: int, d_model: int) -> jax.sharding.Mesh:
    """All chips of a slice, the table split over as few as can hold it."""
    topology, chip_bytes = SLICES[name]
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    return make_mesh(
        MeshConfig(model=group_size(n_items, d_model, n_chips=len(devices), chip_bytes=chip_bytes)), devices
    )


def lower(kind: Kind, config: TransformerConfig, n_items: int, mesh: jax.sharding.Mesh, sizes: Sizes) -> Any:
    """The program, lowered for the chips of the mesh."""
    program, arguments, results = _program(kind, config, n_items, mesh, sizes)
    # The abstract mesh alone: on the other, jax would also try to compute the programs' constants.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return (jax.jit(program, out_shardings=results) if results is not None else program).lower(*arguments)


def _program(
    kind: Kind, config: TransformerConfig, n_items: int, mesh: jax.sharding.Mesh, sizes: Sizes
) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
    """A function, jitted but for the first state, the shapes that it gets, and the layouts of what it returns."""
    is_sparse = kind == "sparse"
    loss = (
        sampled_loss(sampled_softmax, lambda key, _: uniform(key, n_negatives=sizes.negatives, n_items=n_items))
        if is_sparse
        else softmax_loss
    )
    model = softmax_model(transformer(config, n_items=n_items, max_length=sizes.max_length), loss)
    optimizer = make_optimizer(OPTIMIZER, model.specs, n_steps=N_STEPS)
    n_groups = mesh.shape["data"]
    by_rows = NamedSharding(mesh, PartitionSpec(MESH_AXES["batch"]))

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((n_groups * shape[0], *shape[1:]), np.int32, sharding=by_rows)

    def rows(n: int) -> Batch:
        return Batch(*(integers(n, sizes.max_length) for _ in range(4)))

    if kind in ("ranks", "top-k"):
        params = jax.eval_shape(lambda: init_params(model.specs, jax.random.key(0)))
        one_each = integers(sizes.queries)
        queries = QueryBatch(
            rows(sizes.queries // 4), one_each, one_each, integers(sizes.queries, sizes.excluded), one_each
        )
        step = make_eval_step(model) if kind == "ranks" else make_top_step(model, k=N_BEST)
        return step, (abstract_state(params, model.specs, mesh), queries), None
    first = partial(_first_state, model, optimizer, is_sparse=is_sparse)
    state = _laid_out(jax.eval_shape(first), model, mesh)
    if kind == "start":
        return first, (), jax.tree.map(lambda leaf: leaf.sharding, state)
    if is_sparse:
        step = make_sparse_step(model, OPTIMIZER, n_steps=N_STEPS, seed=0)
    else:
        step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
    return step, (state, rows(sizes.rows)), None


def _first_state(model: Model, optimizer: Any, *, is_sparse: bool) -> TrainState:
    if is_sparse:
        return init_sparse_state(model, OPTIMIZER, n_steps=N_STEPS, seed=0)
    return init_state(model, optimizer, seed=0)


def _laid_out(state: TrainState, model: Model, mesh: jax.sharding.Mesh) -> TrainState:
    """The shapes with the layouts of a run: what has a row an item is split as the table is, and numbers are whole."""
    n_rows = len(state.params["item_table"])

    def lay_out(leaf: Any) -> jax.ShapeDtypeStruct:
        if getattr(leaf, "sharding", None) is not None:
            return leaf
        split = PartitionSpec(MESH_AXES["items"]) if leaf.shape[:1] == (n_rows,) else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, split))

    return jax.tree.map(lay_out, abstract_state(state, model.specs, mesh))


def row_update(form: TableForm, name: str, *, n_rows: int, n_touched: int) -> Any:
    """A program that reads rows of a table of width 64 and writes them anew, lowered for one chip of a slice."""
    width, n_in_one = 64, 2 if form == "two-in-one" else 1
    chip = SingleDeviceSharding(topologies.get_topology_desc(SLICES[name][0], platform="tpu").devices[0])

    def update(table: Array, rows: Array, added: Array) -> Array:
        if n_in_one == 1:
            return table.at[rows].set((0.9 * table[rows] + added).astype(table.dtype), mode="drop")
        lines, is_mine = rows // n_in_one, (rows % n_in_one)[:, None, None] == jnp.arange(n_in_one)[:, None]
        earlier = table[lines].reshape(-1, n_in_one, width)
        # What is added, since two rows of one line may both be written.
        change = jnp.where(is_mine, added[:, None] - 0.1 * earlier, 0.0)
        return table.at[lines].add(change.reshape(-1, n_in_one * width), mode="drop")

    laid_out: Any = Format(Layout(major_to_minor=(0, 1)), chip) if form == "row-major" else chip
    dtype = jnp.bfloat16 if form == "bfloat16" else jnp.float32
    table = jax.ShapeDtypeStruct((n_rows // n_in_one, n_in_one * width), dtype, sharding=laid_out)
    rows = jax.ShapeDtypeStruct((n_touched,), jnp.int32, sharding=chip)
    added = jax.ShapeDtypeStruct((n_touched, width), jnp.float32, sharding=chip)
    return jax.jit(update, donate_argnums=0, out_shardings=laid_out).lower(table, rows, added)
