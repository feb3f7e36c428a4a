"""Compiles the training step for TPU slices, without a TPU, and says what each chip would hold and send.

    pip install -e ".[run,tpu]"                                            # Python 3.12 or newer
    python benchmarks/tpu_compile.py --json benchmarks/results/tpu-compile.json
    python benchmarks/tpu_compile.py --json benchmarks/results/tpu-compile.json --page docs/scaling.md   # its table
    python benchmarks/tpu_compile.py --slices v5e-8 --catalogues 1e6   # one of them

Nothing is allocated: shapes go in, the TPU compiler's own report of memory and its program come out. A program that
the compiler refuses, because it exceeds a chip's memory, is reported so. Takes about a minute a program.
"""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import read_json, write_json
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.sharding import MESH_AXES, MeshConfig, abstract_state, make_mesh
from seqrec.training import OptimizerConfig, TrainState, make_optimizer, make_train_step
from seqrec.types import Batch, InputError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What the TPU's library would ask its machine about; it is read when the library is loaded."""

SLICES = {
    "v5e-8": ("v5e:2x4", 15.75 * 2**30),
    "v5e-64": ("v5e:8x8", 15.75 * 2**30),
    "v5e-256": ("v5e:16x16", 15.75 * 2**30),
    "v5p-16": ("v5p:2x2x2", 95.74 * 2**30),
}
"""Topology, and the bytes of a chip's memory that a program may use; a v5p is named by its cores, two to a chip."""

MARKERS = ("<!-- compiled table -->", "<!-- end of compiled table -->")


@dataclass(frozen=True)
class Config:
    """Compiles training steps for TPU slices, without a TPU, and reports memory and communication per chip."""

    slices: tuple[str, ...] = ("v5e-8", "v5e-64", "v5e-256", "v5p-16")
    """TPU slices to compile for."""
    catalogues: tuple[float, ...] = (1e6, 1e7, 4e8)
    """Numbers of items in the catalogue."""
    max_length: int = 200
    """Length of a packed row."""
    rows_per_group: int = 32
    """Number of packed rows in a step for each group of chips that holds one copy of the item table."""
    json: Path | None = None
    """JSON file to write the figures to."""
    page: Path | None = None
    """Compile nothing; write the table of the figures in --json into this Markdown page."""
    model: OmitArgPrefixes[TransformerConfig] = field(
        default_factory=lambda: TransformerConfig(compute_dtype="bfloat16")
    )

    def __post_init__(self):
        for name in self.slices:
            if name not in SLICES:
                raise ValueError(f"slices={name} is not one of {', '.join(SLICES)}; choose among these")
        if self.page and not self.json:
            raise ValueError(f"page={self.page} is written from a file of figures; name it with --json")


def group_size(n_items: int, d_model: int, *, n_chips: int, chip_bytes: float) -> int:
    """The fewest chips that can hold five tables together and leave half of their memory free; all, if none can."""
    table_bytes = 4.0 * n_items * d_model
    needed = 5 * table_bytes / (0.5 * chip_bytes)
    return min(n_chips, 1 << max(0, math.ceil(math.log2(needed))))


def collectives(program: str) -> dict[str, dict[str, float]]:
    """Kind -> how many a step and the bytes that they yield on a chip; loops are counted once.

    The compiler clones a collective into the fusions that it is overlapped with: there its operand is a parameter, and
    clones share their channel. Outside, different ones may share it.
    """
    sizes = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1, "u8": 1}
    kinds: dict[str, dict[str, float]] = {}
    seen: set[str] = set()
    pattern = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\((.*)"
    for shapes, kind, rest in re.findall(pattern, program):
        if clone := re.match(r"%param.*?(channel_id=\d+)", rest):
            if clone[1] in seen:
                continue
            seen.add(clone[1])
        entry = kinds.setdefault(kind, {"count": 0, "megabytes": 0.0})
        entry["count"] += 1
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            entry["megabytes"] += sizes.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n) / 1e6
    return kinds


def compile_step(config: Config, name: str, n_items: int) -> dict[str, Any]:
    """What the TPU's compiler says of one step."""
    topology, chip_bytes = SLICES[name]
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    n_model = group_size(n_items, config.model.d_model, n_chips=len(devices), chip_bytes=chip_bytes)
    mesh = make_mesh(MeshConfig(model=n_model), devices)
    n_groups = len(devices) // n_model
    figures: dict[str, Any] = {"slice": name, "n_items": n_items, "chips": len(devices), "data": n_groups}
    figures |= {"model": n_model, "chip_gib": chip_bytes / 2**30}
    model = softmax_model(transformer(config.model, n_items=n_items, max_length=config.max_length))
    optimizer = make_optimizer(OptimizerConfig(second_moments="rows"), model.specs, n_steps=10_000)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
    shape = (config.rows_per_group * n_groups, config.max_length)
    layout = NamedSharding(mesh, PartitionSpec(MESH_AXES["batch"]))
    batch = Batch(*(jax.ShapeDtypeStruct(shape, np.int32, sharding=layout) for _ in range(4)))
    params = jax.eval_shape(lambda: init_params(model.specs, jax.random.key(0)))
    shapes = TrainState(jax.ShapeDtypeStruct((), np.int32), params, jax.eval_shape(optimizer.init, params), params)
    state = abstract_state(shapes, model.specs, mesh)
    # The abstract mesh alone: on the other, jax would also try to compute the step's constants.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = step.lower(state, batch)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"total memory required.*?exceeds available HBM \([^)]*\)", str(error))
        if used is None:
            raise
        return figures | {"fits": False, "refused": used[0]}
    memory = compiled.memory_analysis()
    # The state's memory is given over to the new state: results count only where they alias nothing.
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    figures["state_gib"] = held / 2**30
    figures["temporary_gib"] = memory.temp_size_in_bytes / 2**30
    # The compiler lays out all of a chip's memory before it accepts a program.
    return figures | {"fits": True} | {"collectives": collectives(compiled.as_text())}


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each catalogue and slice and returns the figures."""
    if config.page and config.json:
        result = read_json(config.json)
        write_table(config.page, result)
        return result
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")
    try:
        topologies.get_topology_desc("v5e:2x4", platform="tpu")
    except Exception as error:  # whatever the library is missing
        raise InputError(f'no TPU compiler ({error}); pip install -e ".[run,tpu]" on Python 3.12 or newer') from error
    result: dict[str, Any] = {
        "programs": [],
        "rows_per_group": config.rows_per_group,
        "max_length": config.max_length,
        "model": to_json(config.model),
        "versions": {**runtime.versions(), "device": "compiled for the slices above, on a CPU"},
    }
    for n_items in map(int, config.catalogues):
        for name in config.slices:
            started = runtime.seconds()
            figures = compile_step(config, name, n_items) | {"compile_seconds": runtime.seconds() - started}
            result["programs"].append(figures)
            print(describe(figures), flush=True)
            if config.json:  # after each, since all take half an hour
                write_json(config.json, result)
    return result


def describe(program: dict[str, Any]) -> str:
    """One line about a program."""
    name = f"{program['slice']:8} {program['n_items']:>12,} items {program['data']:>4} x {program['model']:<3}"
    if not program["fits"]:
        return f"{name} does not fit: {program['refused']}"
    sent = (f"{each['count']} {kind} {each['megabytes']:.1f} MB" for kind, each in program["collectives"].items())
    memory = f"state {program['state_gib']:.2f} + temporary {program['temporary_gib']:.2f}"
    return f"{name} fits: {memory} of {program['chip_gib']:.2f} GiB, {', '.join(sent)}"


def table(result: dict[str, Any]) -> str:
    """The programs as a Markdown table."""
    lines = [
        "| catalogue | slice | chips as data x model | state a chip | temporary a chip | sent a step and chip | fits |",
        "| ---: | --- | --- | ---: | ---: | --- | --- |",
    ]
    for program in result["programs"]:
        state, temporary, sent = "", "", program.get("refused", "")
        if program["fits"]:
            state, temporary = (f"{program[name]:.2f} GiB" for name in ("state_gib", "temporary_gib"))
            each = program["collectives"].items()
            sent = ", ".join(f"{kind} {entry['megabytes']:,.1f} MB in {entry['count']}" for kind, entry in each)
        cells = (
            f"{program['n_items']:,}",
            program["slice"],
            f"{program['data']} x {program['model']}",
            *(state, temporary, sent, "yes" if program["fits"] else "no"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(page: Path, result: dict[str, Any]) -> None:
    """Replaces what stands between the page's two markers."""
    before, _, rest = page.read_text().partition(MARKERS[0])
    _, marker, after = rest.partition(MARKERS[1])
    if not marker:
        raise InputError(f"{page} has no {MARKERS[0]} and {MARKERS[1]}; put them where the table belongs")
    page.write_text(f"{before}{MARKERS[0]}\n{table(result)}\n{MARKERS[1]}{after}")


if __name__ == "__main__":
    runtime.run_script(main, Config)
