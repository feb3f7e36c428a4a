"""What the project keeps of finished runs, studies and searches: one file of JSON for each data set and experiment."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqrec.config import leaves
from seqrec.files import JsonObject, make_directory, read_json, read_object, write_text
from seqrec.runs import reading_records, started_with
from seqrec.types import InputError

PATHS = ("data.data_path", "data.features.user_feature_files", "items.feature_files", "start.start_from")
"""Fields of a training config that name files."""
ABLATION = "-ablation-"
"""Stands in the names of runs that change one thing about a base."""


def keep(directory: Path, folder: Path, name: str, *, show: Callable[[], Any] = lambda: None) -> Path:
    """Adds what is kept of a run, study or search to the file of its experiment, and returns that file.

    Runs lie in `folder` itself; continuations, studies and searches in its folders of these names. `show` makes what is
    shown of the kept files; where it fails, the file is left as it was.

    Raises:
      InputError: the JSON of the run, study or search lacks what is kept or shown of it.
    """
    kinds = {"study.json": ("studies", condense_study), "tune.json": ("searches", condense_search)}
    kind, condense = next((kinds[file] for file in kinds if (directory / file).exists()), ("", condense_run))
    with reading_records(directory):
        content = condense(directory)
        file = folder / ("continuations" if "continuations" in content else kind) / f"{experiment_of(name)}.json"
        before = read_json(file) if file.exists() else {}
        _write_results(file, {**before, name: content})
        try:
            show()
        except Exception:
            _write_results(file, before)
            raise
    return file


def _write_results(file: Path, kept: Mapping[str, JsonObject]) -> None:
    if not kept:
        file.unlink(missing_ok=True)
        return
    make_directory(file.parent)
    # A line for each, so that a new run is a new line of a change.
    lines = (f"{json.dumps(each)}: {json.dumps(kept[each], separators=(',', ':'))}" for each in sorted(kept))
    write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")


def read_results(folder: Path) -> dict[str, JsonObject]:
    """All that is kept in the files of a folder, by name."""
    return {name: each for file in sorted(folder.glob("*.json")) for name, each in read_json(file).items()}


def experiment_of(name: str) -> str:
    """The experiment of a run DATA-SETTING-seed-N or DATA-ablation-CHANGE-seed-N.

    >>> experiment_of("ml-1m-best-seed-0"), experiment_of("ml-1m-ablation-wide-seed-0")
    ('ml-1m-best', 'ml-1m-ablation')
    """
    data, ablation, _ = name.partition(ABLATION)
    return f"{data}-ablation" if ablation else name.partition("-seed-")[0]


def condense_run(run: Path) -> JsonObject:
    """What is kept of a finished run: figures, config and versions, without paths."""
    if not (run / "metrics.json").exists():
        raise InputError(f"{run} holds no metrics.json; let the run finish first")
    results = read_object(run / "metrics.json", baselines=dict, protocol=dict)
    _name_start(results)
    return {**condense_config(run), **results}


def condense_config(run: Path) -> JsonObject:
    """The content of config.json, with names in place of the paths of files."""
    started = started_with(run)
    config = training_config(started)
    values = dict(leaves(config))
    # Only names: paths are private, and hashes identify the files.
    for name in PATHS:
        if value := values.get(name):
            *outer, last = name.split(".")
            part = config
            for each in outer:
                part = part[each]
            part[last] = [Path(file).name for file in value] if isinstance(value, list) else Path(value).name
    _name_start(started.get("data", {}))
    if codes := started["config"].get("semantic_ids"):
        started["config"]["semantic_ids"] = Path(codes).name
    if "run.output" in values:
        config["run"]["output"] = None
    del started["command"]  # as it was typed; `command` derives the command that repeats the run from its config
    return started


def _name_start(record: JsonObject) -> None:
    """Leaves the name alone of the run or bundle that training started from, if it did."""
    start = record.get("start_from", {})
    for kind in start.keys() & {"run", "bundle"}:
        start[kind] = Path(start[kind]).name


def training_config(run: JsonObject) -> JsonObject:
    """The part of a config that all training scripts share; the baselines' config is not nested."""
    config: JsonObject = run["config"]
    return config.get("training", config)


def data_name(data_path: Path | str | None, dataset: str) -> str:
    """The name of a data set: the name of its file, or of its format if there is no file.

    >>> data_name("data/Beauty.txt.gz", "s3rec"), data_name(None, "demo")
    ('Beauty', 'demo')
    """
    return Path(data_path).name.partition(".")[0] if data_path else dataset


def condense_study(directory: Path) -> JsonObject:
    """What is kept of a finished study: what study.json holds, without runs, curves and paths."""
    study = read_json(directory / "study.json")
    if unfinished := [f"{run['name']}, seed {run['seed']}" for run in study["runs"] if run["state"] != "done"]:
        raise InputError(f"{directory}: {unfinished[0]} is not done; let the study finish first")
    for field in ("runs", "curves"):
        del study[field]
    arms = {name: shlex.join(map(_without_folders, shlex.split(flags))) for name, flags in study["arms"].items()}
    fields = ("experiment", "minutes", "level")
    return {**study, "arms": arms, "study": {name: study["study"][name] for name in fields}}


def _without_folders(word: str) -> str:
    return Path(word).name if "/" in word else word


def condense_search(directory: Path) -> JsonObject:
    """What is kept of a search by tune.py: its space, its best trial, the cost of all trials, and its config."""
    search, started = read_json(directory / "tune.json"), condense_config(directory)
    trials = search.pop("trials")
    del search["best"]["command"]  # it holds paths
    return {
        **search,
        "config": started["config"],
        "n_trials": len(trials),
        "n_pruned": sum(trial["state"] == "pruned" for trial in trials),
        "first": max(trials[0]["curve"]),
        "n_epochs": sum(len(trial["curve"]) for trial in trials),
        "minutes": sum(trial["seconds"] or 0.0 for trial in trials) / 60,
    }
