"""The members of an ensemble: which runs these are, copied into its own, and opened together as one model."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqrec import runs
from seqrec.ensemble import MEMBERS, WEIGHTS, ensemble, ensemble_params
from seqrec.files import read_object
from seqrec.model import Model
from seqrec.neighbours import without_neighbours
from seqrec.params import Params
from seqrec.run.data import Task
from seqrec.run.fusion import FUSION, open_with_tables
from seqrec.types import InputError

Opened = tuple[Task, Model, Params]
"""A run as `experiment.open_trained` opens it."""


class Members(NamedTuple):
    """Runs on the same data, without tables of their own."""

    task: Task
    models: list[Model]
    params: list[Params]


def open_members(members: Sequence[Path], open_run: Callable[[Path], Opened]) -> Members:
    """The models of some runs, without their tables.

    Raises:
      InputError: they were trained or are tested on different data, or differently.
    """
    opened = [open_run(run) for run in members]
    first = opened[0][0]
    for run, (task, _, _) in zip(members, opened, strict=True):
        for what, value, other in (
            ("data", task.store.content_hash, first.store.content_hash),
            ("split", task.split.content_hash, first.split.content_hash),
            ("mask_seen", task.mask_seen, first.mask_seen),
            ("max_length", task.max_length, first.max_length),
        ):
            if value != other:
                raise InputError(
                    f"{run} has {what} {value}, and {members[0]} {other}; name runs that have the same data, split, "
                    "masking and length of histories"
                )
    models = [without_neighbours(model) or model for _, model, _ in opened]
    return Members(first, models, [params for _, _, params in opened])


def copy_members(output: Path, members: Sequence[Path]) -> list[Path]:
    """Copies of what is needed to open these runs, in a run of their own, which then needs none of them."""
    copies = []
    for place, run in enumerate(members):
        copies.append(output / MEMBERS / str(place))
        shutil.copytree(run, copies[-1], ignore=shutil.ignore_patterns("start", "baselines", "ranks.parquet", "*.png"))
    return copies


def member_directories(run: Path) -> list[Path]:
    """The members of an ensemble, in their order; none of another run."""
    entries = (run / MEMBERS).iterdir() if (run / MEMBERS).is_dir() else ()
    return sorted((each for each in entries if each.name.isdigit()), key=lambda each: int(each.name))


def open_ensemble(run: Path, open_run: Callable[[Path], Opened]) -> Opened:
    """The model that a run's members are together, with its weights and tables.

    Raises:
      InputError: a member or the weights cannot be read.
    """
    members = open_members(member_directories(run), open_run)
    record = read_object(run / FUSION, models=list, tables=dict)
    weights = record["models"]
    if len(weights) != len(members.models):
        raise InputError(f"{run / FUSION} has {len(weights)} weights of {len(members.models)} runs; restore the file")
    params = {**ensemble_params(members.models, members.params), WEIGHTS: np.array(weights, np.float32)}
    extended = open_with_tables(run, ensemble(members.models), params, tuple(record["tables"]))
    return members.task, extended.model, extended.params


def check_directories(output: Path, members: Sequence[Path]) -> None:
    """Refuses to write into a directory that holds something, and members that are no runs or ensembles themselves."""
    if output.exists() and any(output.iterdir()):
        raise InputError(f"--output {output} holds files already; choose a new directory")
    for run in members:
        runs.started_with(run)  # refuses what is no run
        if member_directories(run):
            raise InputError(f"{run} is an ensemble itself; name its members, which are under {run / MEMBERS}")
