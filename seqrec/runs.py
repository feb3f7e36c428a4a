"""A run is a directory of plain files: its config, its figures as JSON, its ranks, its checkpoints."""

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from seqrec import runtime
from seqrec.config import changed_flags, from_json, leaves, to_json, without_flags
from seqrec.data.buckets import original
from seqrec.data.paths import as_input_error, first_line
from seqrec.files import JsonObject, read_json_lines, read_object, unwritable, write_json, write_text
from seqrec.types import InputError

Config = TypeVar("Config")

LEARNING_CURVE = "learning_curve.png"
"""The plot of training losses and validation figures in a run's directory."""

START = "start"
"""Directory in a run that started from another: what the weights were worth before training, in the form of a run."""
_FREE_FIELDS = (
    *("run.output", "run.resume", "data.verify_data", "fit.patience", "fit.max_minutes"),
    *("fit.on_spike", "fit.spike_deviations", "fit.max_roll_backs"),
    *("tune.n_trials", "tune.tuning_minutes", "track", "recipe"),
)
_FREE_CONFIGS = ("mesh.", "processes.")
"""Fields that a resumed run may change: they say where a run is kept, when it ends, what it does about a spike and on
which devices it runs, not what a step computes."""


def prepare_run_directory(directory: Path, config: Any, *, experiment: str, resume: bool) -> Path:
    """The run's directory, with `config.json` written; an existing run is only continued.

    `experiment` is the name of what is trained, by which `experiment_of` finds it again.

    Raises:
      InputError: the directory holds a run and `resume` is off, or it was started with another config.
    """
    file = directory / "config.json"
    if not file.exists() or (directory / "manifest.json").exists():  # a bundle has a config.json too
        try:
            directory.mkdir(parents=True, exist_ok=True)
            foreign = any(directory.iterdir())
        except OSError as error:
            raise InputError(
                f"--output {directory} cannot be used ({error.strerror}); choose a directory that you may write to"
            ) from error
        if foreign:
            raise InputError(f"--output {directory} holds other files and no run; choose a new or empty directory")
        resolved = {
            "experiment": experiment,
            "config": to_json(config),
            "command": ["python", *_started_by(config)],
            "versions": runtime.versions(),
        }
        write_json(file, resolved)
        return directory
    if not resume:
        raise InputError(f"--output {directory} already holds a run; add --resume to go on with it, or choose another")
    started = started_with(directory)
    if (then := started["versions"].get("jax")) != (jax_version := runtime.versions()["jax"]):
        raise InputError(
            f"{file}: the run was started with jax {then}, not {jax_version}, and would not "
            "repeat itself; install that version to resume it, or choose another --output"
        )
    # Read with the defaults of what has come since: a run of an earlier version goes on.
    earlier, now = (dict(leaves(to_json(each))) for each in (read_config(type(config), directory), config))
    decided = recipe_of(started).get("values", {}) if now.get("recipe") == "auto" else {}
    for name in sorted((earlier.keys() | now.keys()) - decided.keys()):
        if not is_free(name) and earlier.get(name) != now.get(name):
            raise InputError(
                f"{file}: the run was started with {name}={earlier.get(name)}, not {now.get(name)}; "
                f"repeat its flags to resume it, or choose another --output"
            )
    return directory


def is_free(name: str) -> bool:
    """Whether a resumed run may change this field of its config."""
    field = name.removeprefix("training.")
    return field in _FREE_FIELDS or field.startswith(_FREE_CONFIGS)


def recipe_of(started: JsonObject) -> JsonObject:
    """The facts, values and reasons of the recipe that a run follows, from its `config.json`; {} where it has none."""
    recipe = started.get("recipe", {})
    values = recipe.get("values") if isinstance(recipe, dict) else None
    if recipe and not (isinstance(values, dict) and values.keys() <= dict(leaves(started["config"])).keys()):
        raise InputError("config.json: recipe does not hold values of the config's fields; restore the file")
    return recipe


def note_recipe(run: Path, config: Any, recipe: JsonObject) -> None:
    """Puts the config that the run really has, and the recipe that it follows, into `config.json`."""
    write_json(run / "config.json", {**started_with(run), "config": to_json(config), "recipe": recipe})


def discard_unstarted(run: Path) -> None:
    """Removes a run that holds no more than its prepared data, so that its directory is free for the corrected command.

    Where it has not read its data yet, files that are not its own stay.
    """
    own = {"store", "config.json", "items.parquet"}
    if "data" in started_with(run) and any(path.name not in own for path in run.iterdir()):
        return
    shutil.rmtree(run / "store", ignore_errors=True)
    for name in own - {"store"}:
        (run / name).unlink(missing_ok=True)
    if not any(run.iterdir()):
        run.rmdir()


def experiment_of(run: Path) -> str:
    """The name of what was trained."""
    return started_with(run).get("experiment", "of an earlier version")


def script_path(file: Path | str) -> str:
    """The path of a script in a command: relative where it is below the working directory, else absolute."""
    path = Path(os.path.abspath(file))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _started_by(config: Any) -> list[str]:
    """The script whose config this is, and flags: as typed, or, of a script that Python code called, those that differ.

    A script that cannot be found is taken to be the running one.
    """
    typed, *flags = sys.argv
    script = getattr(sys.modules.get(type(config).__module__), "__file__", None)
    if script is not None and Path(script).resolve() != Path(typed).resolve():
        with contextlib.suppress(TypeError):  # the config has fields without a default
            return [os.path.abspath(script), *changed_flags(to_json(config), to_json(without_flags(type(config))))]
    return [os.path.abspath(typed), *flags]


def resume_command(run: Path) -> str:
    """The command line that continues the run; paths among its flags are as they were given."""
    script, *flags = started_with(run)["command"][1:]
    flags = [flag for flag in flags if flag not in ("--resume", "--no-resume")]
    if not any(flag.split("=")[0] == "--output" for flag in flags):
        flags += ["--output", original(run)]
    return shlex.join([_python(), script_path(script), *flags, "--resume"])


def evaluate_command(run: Path) -> str:
    """The command line that evaluates the run's checkpoint."""
    return beside(started_with(run)["command"][1], "evaluate_checkpoint.py", original(run))


def beside(script: Path | str, name: str, *flags: str) -> str:
    """The command line of another script of the same directory."""
    return shlex.join([_python(), script_path(Path(script).with_name(name)), *flags])


def _python() -> str:
    """What starts this interpreter from a shell: its plain name where that is it."""
    return "python" if shutil.which("python") == sys.executable else sys.executable


def note_data(run: Path, **facts: Any) -> None:
    """Adds what was read to `config.json`; a resumed run must read the same.

    Raises:
      InputError: the run was started on other data.
    """
    resolved = started_with(run)
    known = resolved.get("data", {})
    if any(known.get(name, fact) != fact for name, fact in facts.items()):
        raise InputError(f"{run}: the run was started on other data; choose another --output for this data")
    # Where nothing is new nothing is written: a process that joins the first one leaves its file alone.
    if {**known, **facts} != known:
        write_json(run / "config.json", {**resolved, "data": {**known, **facts}})


def read_config(config_type: type[Config], run: Path) -> Config:
    """The config that a run was started with.

    Raises:
      InputError: config.json is damaged, or of another version of seqrec.
    """
    try:
        return from_json(config_type, started_with(run)["config"])
    except InputError as error:
        raise InputError(
            f"{run / 'config.json'}: {error}; restore the file, or use the version that wrote it"
        ) from error


def started_with(run: Path) -> JsonObject:
    """What config.json says of a run: experiment, config, command, versions, and the data that it has read."""
    file = run / "config.json"
    if not file.is_file():
        raise InputError(f"{run} holds no config.json; name a run's directory, as the training script printed it")
    record = read_object(file, config=dict, versions=dict, command=list)
    if len(record["command"]) < 2 or not all(isinstance(word, str) for word in record["command"]):
        raise InputError(f"{file}: command is {str(record['command'])[:80]}, not that of a script; restore the file")
    if not isinstance(record.get("experiment", ""), str) or not isinstance(record.get("data", {}), dict):
        raise InputError(f"{file}: experiment is not a text, or data is not an object; restore the file")
    return record


@contextlib.contextmanager
def reading_records(directory: Path) -> Iterator[None]:
    """Inside, a value that JSON of a run, study or search lacks, or holds of another type, is an `InputError`."""
    complaint = f"{directory} holds JSON that lacks what is read of it, or is of another version"
    kinds = (KeyError, IndexError, TypeError, ValueError, AttributeError)
    with as_input_error(
        lambda error: f"{complaint} ({type(error).__name__} {first_line(error)}); restore its files", *kinds
    ):
        yield


def append_json_line(file: Path, content: Any) -> None:
    """Adds one line of JSON."""
    try:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(content) + "\n")
    except OSError as error:
        raise unwritable(file, error) from error


def keep_json_lines(file: Path, *, up_to_step: int) -> None:
    """Drops the lines after a step: a resumed run writes them again."""
    if file.exists():
        lines = read_json_lines(file)
        if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in lines):
            raise InputError(f"{file} has a line without a step; restore the file, or delete it to go on without it")
        write_text(file, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= up_to_step))
