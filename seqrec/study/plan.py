"""The plan of a study: what it compares, which runs that needs, and what they cost."""

import functools
import hashlib
import json
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, check_share, to_json, with_values
from seqrec.data.paths import data_files
from seqrec.data.store import SequenceStore, open_store, read_preparation
from seqrec.files import JsonObject, read_object, sha256_of
from seqrec.params import count_params
from seqrec.report.comparison_text import text_table
from seqrec.report.kept_results import data_name
from seqrec.run.config import RunConfig, TrainingConfig
from seqrec.run.data import make_task, prepare_store
from seqrec.run.experiment import Script
from seqrec.run.recipe import check_no_recipe
from seqrec.types import InputError

_TESTED = ("dataset", "data_path", "columns", "time_unit", "ties", "split", "mask_seen", "repeated_targets")
"""Fields of the data config that define the test: held-out items and candidates. All variations share them."""


@dataclass(frozen=True)
class StudyConfig:
    """Which variations of a model to compare, over which seeds, and where to keep the runs."""

    base: str = "base="
    """NAME=FLAGS of the model that variations are compared to: flags of the training script, such as "base=--max-epochs
    10"."""
    variations: tuple[str, ...] = ()
    """NAME=FLAGS of each variation: the flags that it adds to those of the base, such as "wide=--d-model 128"."""
    experiment: str = "sasrec"
    """Training script to run, by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Random seeds; the base and each variation are trained once per seed. With one seed nothing is known about the
    variance between seeds."""
    max_minutes: float = 0.0
    """Total training time of the study, earlier starts included; runs that do not fit are not started. 0 means no
    limit."""
    level: float = 0.95
    """Confidence level of intervals and verdicts, such as 0.95."""
    output: Path = Path("runs/feature-study")
    """Directory of the study. The same command continues the study in it; a command with other variations on the same
    data adds to it."""
    dry_run: bool = False
    """Print which runs would be trained and their cost, and train nothing."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 0, "max_minutes")
        check_share(self, "level", zero=False, one=False)
        if not self.variations:
            raise ValueError('no variations; name one, such as --variations "wide=--d-model 128"')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={self.seeds} must be one or more different numbers; try --seeds 0 1 2")


class Arm(NamedTuple):
    """The base or a variation."""

    name: str
    flags: str
    config: Any
    """Config of the training script, without seed and output."""


class PlannedRun(NamedTuple):
    """One run of the study."""

    arm: Arm
    seed: int
    key: str
    """Hash of the config and of the content of all files that it names; runs with the same key give the same result."""
    directory: Path

    @property
    def is_done(self) -> bool:
        return (self.directory / "metrics.json").is_file()


class Plan(NamedTuple):
    """What a study trains."""

    study: StudyConfig
    script: Script
    arms: list[Arm]
    """The base first."""
    runs: list[PlannedRun]
    """Ordered by seed, so that an interrupted study has complete seeds."""
    data: JsonObject
    """Fingerprint, hashes and counts of the data."""
    store: Path
    n_steps: dict[str, int]
    """Largest number of steps of one run, per arm."""
    n_parameters: dict[str, int]


def arms_of(study: StudyConfig, script: Script) -> list[Arm]:
    """The base and the variations, each parsed by the experiment's own config.

    Raises:
      InputError: a name or flag cannot be used, two arms come to the same config, or one is tested on other data.
    """
    flags_of: dict[str, str] = {}
    for argument in (study.base, *study.variations):
        name, equals, flags = argument.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", name):
            raise InputError(f'{argument!r} is not of the form NAME=FLAGS; write "wide=--d-model 128"')
        if name in flags_of:
            raise InputError(f"{name} is named twice; give each variation a name of its own")
        flags_of[name] = flags
    base, *_ = flags_of
    arms = [
        Arm(name, flags, _config(script, name, f"{flags_of[base]} {flags if name != base else ''}"))
        for name, flags in flags_of.items()
    ]
    for number, arm in enumerate(arms):
        for other in arms[:number]:
            if arm.config == other.config:
                raise InputError(f"{other.name} and {arm.name} are equal: their flags come to one config; drop one")
        for field in _TESTED:
            if getattr(arm.config.training.data, field) != getattr(arms[0].config.training.data, field):
                raise InputError(
                    f"{arm.name} has another {field} than {base}, so its users, held-out items or candidates are "
                    "others; vary the model and its training, and start another study for other data"
                )
    return arms


def _config(script: Script, name: str, flags: str) -> Any:
    try:
        config: Any = runtime.parse(script.Config, shlex.split(flags))
    except ValueError as error:  # an InputError is one too
        raise InputError(f"{name}: {error}") from None
    check_no_recipe(config, f"{name}: a study")
    if config.training.run != RunConfig():
        raise InputError(f"{name}: --seed, --output and --resume are the study's own; use --seeds and its --output")
    return config


def run_key(experiment: str, config: Any, digests: dict[Path, str]) -> str:
    """Hash of all that a run's result depends on: its config, with the content of files in place of their paths.

    Output directory and devices are left out. `digests` caches the hashes of files.
    """
    content = to_json(config, path=functools.partial(_digest, digests=digests))
    for name in ("output", "resume"):
        del content["training"]["run"][name]
    for name in ("mesh", "processes"):
        del content["training"][name]
    content.pop("recipe", None)  # none, in a study
    return _sha256(json.dumps([experiment, content], sort_keys=True))[:16]


def _digest(path: Path, *, digests: dict[Path, str]) -> str:
    """Hash of all files that the path names; for a store that of its manifest, which holds the hashes of the others."""
    if path not in digests:
        manifest = path / "manifest.json"
        total = hashlib.sha256()
        for file in [manifest] if manifest.is_file() else data_files(path):
            total.update(f"{file.name} {sha256_of(file)}\n".encode())
        digests[path] = total.hexdigest()
    return digests[path]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_plan(study: StudyConfig, experiments: Mapping[str, Script]) -> Plan:
    """What the study trains. Reads the data and builds each model, so that errors appear before training.

    Raises:
      InputError: an arm cannot be used, or the directory holds a study of other data.
    """
    if study.experiment not in experiments:
        raise InputError(f"experiment {study.experiment!r} is not one of {', '.join(experiments)}; use one of these")
    script = experiments[study.experiment]
    arms = arms_of(study, script)
    config = arms[0].config.training.data
    digests: dict[Path, str] = {}
    digest = functools.partial(_digest, digests=digests)
    tested = {name: to_json(getattr(config, name), path=digest) for name in _TESTED}
    fingerprint = _sha256(json.dumps(tested, sort_keys=True))
    file = study.output / "study.json"
    if file.is_file() and (earlier := read_object(file, data=dict)["data"].get("fingerprint")) != fingerprint:
        raise InputError(
            f"--output {study.output} holds a study of other data or another split (fingerprint "
            f"{str(earlier)[:12]}, not {fingerprint[:12]}); choose another directory for this one"
        )
    with tempfile.TemporaryDirectory() as scratch:
        directory = _store_directory(study, [arm.config.training for arm in arms], Path(scratch))
        store, preparation = open_store(directory), read_preparation(directory)
        n_steps, n_parameters = {}, {}
        for arm in arms:
            n_steps[arm.name], n_parameters[arm.name], split = _sizes(script, arm, store, preparation)
        data = {
            "fingerprint": fingerprint,
            "dataset": config.dataset,
            "name": data_name(config.data_path, config.dataset),
            "content_hash": store.content_hash,
            "split_hash": split.content_hash,
            "split": split.description,
            **{name: getattr(store, name) for name in ("n_users", "n_items", "n_events")},
        }
    planned = []
    for seed in study.seeds:
        for arm in arms:
            seeded = with_values(arm.config, {"training.run": RunConfig(seed=seed)})
            key = run_key(study.experiment, seeded, digests)
            planned.append(PlannedRun(arm, seed, key, study.output / "runs" / key))
    return Plan(study, script, arms, planned, data, directory, n_steps, n_parameters)


def _store_directory(study: StudyConfig, configs: Sequence[TrainingConfig], scratch: Path) -> Path:
    """Directory of the study's store, which is prepared unless an earlier start did; a dry run leaves no files."""
    config = configs[0].data
    if config.dataset == "store":
        if config.data_path is None:
            raise InputError("dataset store needs the directory of a store; give --data-path")
        return config.data_path
    directory = study.output / "store"
    if directory.exists():
        return directory
    if study.dry_run:
        directory = scratch / "store"
    else:
        study.output.mkdir(parents=True, exist_ok=True)
    prepare_store(directory, *((each.data, each.engagement) for each in configs))
    return directory


def _sizes(script: Script, arm: Arm, store: SequenceStore, preparation: Mapping[str, Any]) -> tuple[int, int, Any]:
    """Steps, parameters and the split of one training of the arm."""
    try:
        training = arm.config.training
        task = make_task(training.data, store, seed=0, engagement=training.engagement, preparation=preparation)
        model = script.build(arm.config, task)
    except ValueError as error:
        raise InputError(f"{arm.name}: {error}") from error
    n_steps = training.fit.n_steps(task.train.steps_per_epoch)
    return n_steps, count_params(model.specs), task.split


def spent_minutes(plan: Plan) -> float:
    """Training time of the runs of the plan that are done."""
    return sum((_minutes(run) for run in plan.runs if run.is_done), start=0.0)


def _minutes(run: PlannedRun) -> float:
    return read_object(run.directory / "metrics.json", train_seconds=float)["train_seconds"] / 60


def expected_minutes(plan: Plan, arm: Arm) -> tuple[float | None, str]:
    """Expected minutes of one training of the arm, and the basis; None before any run of the study is done."""
    done = [run for run in plan.runs if run.is_done]
    arm_minutes = [_minutes(run) for run in done if run.arm == arm]
    if arm_minutes:
        return sum(arm_minutes) / len(arm_minutes), f"mean of {len(arm_minutes)} done"
    if done:
        per_step = sum(map(_minutes, done)) / sum(plan.n_steps[run.arm.name] for run in done)
        return per_step * plan.n_steps[arm.name], "a step as in those done"
    return None, "not known before a run is done"


def left_minutes(plan: Plan) -> float | None:
    """Expected minutes of all remaining trainings; None if one cannot be estimated."""
    expected = [expected_minutes(plan, run.arm)[0] for run in plan.runs if not run.is_done]
    return sum((each or 0.0 for each in expected), start=0.0) if None not in expected else None


def plan_text(plan: Plan) -> str:
    """The plan and its cost, as --dry-run prints it."""
    n_done = sum(run.is_done for run in plan.runs)
    data = plan.data
    lines = [
        f"study       {len(plan.arms)} models x {len(plan.study.seeds)} seeds = {len(plan.runs)} trainings of "
        f"{plan.study.experiment}; {n_done} done, {len(plan.runs) - n_done} left",
        f"data        {data['dataset']}: {data['n_users']:,} users, {data['n_items']:,} items, "
        f"{data['n_events']:,} events",
        f"split       {data['split']}",
        "",
    ]
    rows = [["", *(f"seed {seed}" for seed in plan.study.seeds), "parameters", "steps, at most", "minutes each"]]
    for arm in plan.arms:
        minutes, basis = expected_minutes(plan, arm)
        rows.append(
            [
                arm.name,
                *("done" if run.is_done else "left" for run in plan.runs if run.arm == arm),
                f"{plan.n_parameters[arm.name]:,}",
                f"{plan.n_steps[arm.name]:,}",
                "?" if minutes is None else f"{minutes:.1f} ({basis})",
            ]
        )
    lines += text_table(rows)
    minutes_left = left_minutes(plan)
    if minutes_left is None:
        lines += ["", "Minutes are not known before the first run of the study is done: they depend on this machine."]
    elif n_done < len(plan.runs):
        limit = f", of max_minutes={plan.study.max_minutes:g}" if plan.study.max_minutes else ""
        lines += ["", f"spent {spent_minutes(plan):.1f} minutes of training, about {minutes_left:.1f} are left{limit}"]
    return "\n".join(lines)
