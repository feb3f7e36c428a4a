"""Compiles a run's programs for TPU slices, without a TPU, and says what each chip would hold and send.

    pip install -e ".[run,tpu]"                                            # Python 3.12 or newer
    python benchmarks/tpu_compile.py --json benchmarks/results/tpu-compile.json
    python benchmarks/tpu_compile.py --json benchmarks/results/tpu-compile.json --page docs/scaling.md   # its tables
    python benchmarks/tpu_compile.py --programs ranks --slices v5e-8 --catalogues 1e7   # one of them

Nothing is allocated: shapes go in, the TPU compiler's own report of memory and its program come out. A program that
the compiler refuses, because it exceeds a chip's memory, is reported so. Takes about half a minute of CPU a program;
what the file has of other programs stays in it. Only one process at a time can load the compiler.
"""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from tpu_programs import KINDS, SLICES, TABLE_FORMS, Kind, Sizes, lower, row_update, slice_mesh
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json
from seqrec.encoders.transformer import TransformerConfig
from seqrec.files import read_json, write_json
from seqrec.types import InputError

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""What the TPU's library would ask its machine about; it is read when the library is loaded."""

SPARE = 0.1
"""Share of a chip's memory that must be left for what is said to fit."""
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1, "s8": 1, "u8": 1}


@dataclass(frozen=True)
class Config:
    """Compiles the programs of a run for TPU slices, without a TPU, and reports memory and communication per chip."""

    programs: tuple[Kind, ...] = tuple(KINDS)
    """Programs to compile: step, a training step with full softmax; sparse, one with sampled softmax that updates the
    rows it reads; ranks and top-k, evaluation that excludes seen items; start, the first state."""
    slices: tuple[str, ...] = ("v5e-8", "v5e-64", "v5p-16")
    """TPU slices to compile for."""
    catalogues: tuple[float, ...] = (1e7, 4e8)
    """Numbers of items in the catalogue."""
    max_length: int = 200
    """Length of a packed row."""
    rows_per_group: int = 32
    """Number of packed rows in a step for each group of chips that holds one copy of the item table."""
    queries_per_group: int = 1024
    """Number of users that each such group ranks items for in a batch, four to a packed row."""
    n_excluded: int = 256
    """Number of seen items to exclude for each user."""
    n_negatives: int = 256
    """Number of sampled negatives in a sparse step."""
    json: Path | None = None
    """JSON file to write the figures to; those of other programs in it are kept."""
    page: Path | None = None
    """Compile nothing; write the tables of the figures in --json into this Markdown page."""
    model: OmitArgPrefixes[TransformerConfig] = field(
        default_factory=lambda: TransformerConfig(compute_dtype="bfloat16")
    )

    def __post_init__(self):
        for name in self.slices:
            if name not in SLICES:
                raise ValueError(f"slices={name} is not one of {', '.join(SLICES)}; choose among these")
        if self.page and not self.json:
            raise ValueError(f"page={self.page} is written from a file of figures; name it with --json")


def collectives(program: str) -> dict[str, dict[str, float]]:
    """Kind -> how many a step and the bytes that they yield on a chip; loops are counted once.

    The compiler clones a collective into the fusions that it is overlapped with: there its operand is a parameter, and
    clones share their channel. Outside, different ones may share it.
    """
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
            entry["megabytes"] += SIZES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n) / 1e6
    return kinds


def padded_arrays(program: str, *, least_gib: float) -> dict[str, dict[str, float]]:
    """Arrays whose tiles of 8 x 128 numbers are half or more padding -> how many, GiB as laid out, and GiB of numbers.

    Only what an instruction allocates counts, where it is `least_gib` or more.
    """
    arrays: dict[str, dict[str, float]] = {}
    pattern = r"%\S+ = ((\w+)\[([\d,]+)\]\{([\d,]+):T\(8,128\)[^}]*\}) (?:copy|fusion|scatter|custom-call)\("
    for name, dtype, shape, order in re.findall(pattern, program):
        sizes = [int(n) for n in shape.split(",")]
        lanes, *rest = (sizes[int(axis)] for axis in order.split(","))
        rows, *others = rest or [1]
        gib = SIZES.get(dtype, 4) / 2**30
        laid_out = gib * -(-lanes // 128) * 128 * -(-rows // 8) * 8 * math.prod(others)
        if laid_out >= max(least_gib, 1.9 * gib * math.prod(sizes)):
            entry = arrays.setdefault(name, {"count": 0, "gib": laid_out, "numbers_gib": gib * math.prod(sizes)})
            entry["count"] += 1
    return arrays


def memory_of(compiled: Any) -> dict[str, float]:
    """GiB that a program holds on a chip at its ends, and in between."""
    memory = compiled.memory_analysis()
    # A state's memory is given over to the new state: results count only where they alias nothing.
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {"held_gib": held / 2**30, "temporary_gib": memory.temp_size_in_bytes / 2**30}


def compile_program(config: Config, kind: Kind, name: str, n_items: int) -> dict[str, Any]:
    """What the TPU's compiler says of one program."""
    mesh = slice_mesh(name, n_items, config.model.d_model)
    chip_gib = SLICES[name][1] / 2**30
    n_model = mesh.shape["model"]
    figures: dict[str, Any] = {"program": kind, "slice": name, "n_items": n_items, "d_model": config.model.d_model}
    figures |= {"chips": mesh.size, "data": mesh.shape["data"], "model": n_model, "chip_gib": chip_gib}
    figures["shard_gib"] = 4 * n_items * config.model.d_model / n_model / 2**30
    batch = Sizes(
        config.rows_per_group, config.max_length, config.queries_per_group, config.n_excluded, config.n_negatives
    )
    started = runtime.cpu_seconds()
    try:
        compiled = lower(kind, config.model, n_items, mesh, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"total memory required.*?exceeds available HBM \([^)]*\)", str(error))
        if used is None:
            raise
        return figures | {"spare": None, "refused": used[0], "compile_seconds": runtime.cpu_seconds() - started}
    figures |= memory_of(compiled)
    figures["spare"] = 1 - (figures["held_gib"] + figures["temporary_gib"]) / chip_gib
    text = compiled.as_text()
    figures["padded"] = padded_arrays(text, least_gib=0.5 * figures["shard_gib"])
    return figures | {"collectives": collectives(text), "compile_seconds": runtime.cpu_seconds() - started}


def compile_tables(name: str, *, n_rows: int, n_touched: int) -> dict[str, Any]:
    """What reading and writing a few rows of a table costs a chip, by the table's form."""
    forms = {}
    for form in TABLE_FORMS:
        compiled = row_update(form, name, n_rows=n_rows, n_touched=n_touched).compile()
        forms[form] = memory_of(compiled) | {"moved_gb": compiled.cost_analysis()["bytes accessed"] / 1e9}
    return {"slice": name, "n_rows": n_rows, "n_touched": n_touched, "forms": forms}


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each program and returns the figures."""
    earlier = read_json(config.json) if config.json and config.json.is_file() else {"programs": []}
    if config.page and config.json:
        write_tables(config.page, earlier)
        return earlier
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")
    try:
        topologies.get_topology_desc("v5e:2x4", platform="tpu")
    except Exception as error:  # whatever the library is missing
        raise InputError(f'no TPU compiler ({error}); pip install -e ".[run,tpu]" on Python 3.12 or newer') from error
    result: dict[str, Any] = {
        "programs": [program for program in earlier["programs"] if "program" in program],
        "tables": compile_tables("v5e-64", n_rows=6_250_016, n_touched=6656),
        "rows_per_group": config.rows_per_group,
        "max_length": config.max_length,
        "queries_per_group": config.queries_per_group,
        "n_excluded": config.n_excluded,
        "n_negatives": config.n_negatives,
        "model": to_json(config.model),
        "versions": {**runtime.versions(), "device": "compiled for the slices above, on a CPU"},
    }
    for n_items in map(int, config.catalogues):
        for name in config.slices:
            for kind in config.programs:
                figures = compile_program(config, kind, name, n_items)
                programs = [each for each in result["programs"] if _which(each) != _which(figures)]
                result["programs"] = sorted([*programs, figures], key=_which)
                print(describe(figures), flush=True)
                if config.json:  # after each, since all take half an hour
                    write_json(config.json, result)
    return result


def _which(program: dict[str, Any]) -> tuple[Any, ...]:
    """What a program is known by, in the order of the table."""
    kinds, slices = list(KINDS), list(SLICES)
    place = slices.index(program["slice"]), kinds.index(program["program"])
    return (program["n_items"], *place, program["d_model"])


def describe(program: dict[str, Any]) -> str:
    """One line about a program."""
    name = f"{program['program']:7} {program['slice']:8} {program['n_items']:>12,} items x {program['d_model']}"
    name += f" {program['data']:>3} x {program['model']:<3}"
    if program["spare"] is None:
        return f"{name} does not fit: {program['refused']}"
    memory = f"held {program['held_gib']:.2f} + temporary {program['temporary_gib']:.2f}"
    return f"{name} {memory} of {program['chip_gib']:.2f} GiB, {program['spare']:.0%} to spare"


def table(result: dict[str, Any]) -> str:
    """The programs as a Markdown table."""
    lines = [
        "| items x width | slice | chips as data x model | program | held a chip | temporary a chip | to spare | "
        "fits | sent a step and chip |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for program in result["programs"]:
        held, temporary, spare, sent = "", "", "", program.get("refused", "")
        if program["spare"] is not None:
            held, temporary = (f"{program[name]:.2f} GiB" for name in ("held_gib", "temporary_gib"))
            spare = f"{program['spare']:.0%}"
            each = program["collectives"].items()
            sent = ", ".join(f"{kind} {entry['megabytes']:,.1f} MB in {entry['count']}" for kind, entry in each)
        cells = (
            f"{program['n_items']:,} x {program['d_model']}",
            program["slice"],
            f"{program['data']} x {program['model']}",
            KINDS[program["program"]],
            *(held, temporary, spare, "yes" if (program["spare"] or 0) >= SPARE else "no", sent),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def forms_table(result: dict[str, Any]) -> str:
    """What rows cost by the form of their table, as a Markdown table."""
    lines = ["| form of the table | held a chip | temporary a chip | moved a step |", "| --- | ---: | ---: | ---: |"]
    for form, figures in result["tables"]["forms"].items():
        memory = (f"{figures[name]:.2f} GiB" for name in ("held_gib", "temporary_gib"))
        cells = (TABLE_FORMS[form], *memory, f"{figures['moved_gb']:.2f} GB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"compiled table": table, "forms table": forms_table}


def markers(name: str) -> tuple[str, str]:
    """The lines of a page between which one of the `TABLES` stands."""
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def write_tables(page: Path, result: dict[str, Any]) -> None:
    """Replaces what stands between the page's markers."""
    text = page.read_text()
    for name, make in TABLES.items():
        first, last = markers(name)
        before, _, rest = text.partition(first)
        _, marker, after = rest.partition(last)
        if not marker:
            raise InputError(f"{page} has no {first} and {last}; put them where the table belongs")
        text = f"{before}{first}\n{make(result)}\n{last}{after}"
    page.write_text(text)


if __name__ == "__main__":
    runtime.run_script(main, Config)
