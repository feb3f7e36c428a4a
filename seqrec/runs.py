"""A run is a directory of plain files: its config, its figures as JSON, its ranks, its checkpoints."""

import dataclasses
import json
import shlex
import shutil
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from seqrec import runtime
from seqrec.data.buckets import original
from seqrec.data.paths import address_of
from seqrec.types import InputError

Config = TypeVar("Config")

_FREE_FIELDS = (
    *("run.output", "run.resume", "fit.patience", "fit.max_minutes"),
    *("fit.on_spike", "fit.spike_deviations", "fit.max_roll_backs"),
    *("tune.n_trials", "tune.tuning_minutes"),
)
_FREE_CONFIGS = ("mesh.", "processes.")
"""Fields that say where a run is kept, when it ends, what it does about a spike and on what devices, not what a step
computes: a resumed run may change them."""


def open_run(directory: Path, config: Any, *, experiment: str, resume: bool) -> Path:
    """The run's directory, with `config.json` written; a run that is there already is only gone on with.

    `experiment` is the name of what is trained, by which `experiment_of` finds it again.

    Raises:
      InputError: the directory holds a run and `resume` is off, or it was started with another config.
    """
    file = directory / "config.json"
    if not file.exists():
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
            "command": ["python", *sys.argv],
            "versions": runtime.versions(),
        }
        write_json(file, resolved)
        return directory
    if not resume:
        raise InputError(f"--output {directory} already holds a run; add --resume to go on with it, or choose another")
    started_with = read_json(file)
    if started_with["versions"]["jax"] != (jax_version := runtime.versions()["jax"]):
        raise InputError(
            f"{file}: the run was started with jax {started_with['versions']['jax']}, not {jax_version}, and would not "
            "repeat itself; install that version to resume it, or choose another --output"
        )
    earlier, now = dict(leaves(started_with["config"])), dict(leaves(to_json(config)))
    for name in sorted(earlier.keys() | now.keys()):
        if name not in _FREE_FIELDS and not name.startswith(_FREE_CONFIGS) and earlier.get(name) != now.get(name):
            raise InputError(
                f"{file}: the run was started with {name}={earlier.get(name)}, not {now.get(name)}; "
                f"repeat its flags to resume it, or choose another --output"
            )
    return directory


def discard_unstarted(run: Path) -> None:
    """Removes a run that found no data to work on, so that its directory is free for the corrected command."""
    if "data" not in read_json(run / "config.json"):
        shutil.rmtree(run / "store", ignore_errors=True)
        (run / "config.json").unlink()
        if not any(run.iterdir()):
            run.rmdir()


def experiment_of(run: Path) -> str:
    """The name of what was trained."""
    return _started(run).get("experiment", "of an earlier version")


def resume_command(run: Path) -> str:
    """The command line that goes on with the run, from the directory where it was started."""
    script, *flags = read_json(run / "config.json")["command"][1:]
    flags = [flag for flag in flags if flag not in ("--resume", "--no-resume")]
    if not any(flag.split("=")[0] == "--output" for flag in flags):
        flags += ["--output", original(run)]
    return shlex.join([_python(), script, *flags, "--resume"])


def evaluate_command(run: Path) -> str:
    """The command line that evaluates the run's checkpoint, from the directory where it was started."""
    script = Path(read_json(run / "config.json")["command"][1])
    return shlex.join([_python(), str(script.with_name("evaluate_checkpoint.py")), original(run)])


def _python() -> str:
    """What starts this interpreter from a shell: its plain name where that is it."""
    return "python" if shutil.which("python") == sys.executable else sys.executable


def note_data(run: Path, **facts: Any) -> None:
    """Adds what was read to `config.json`; a resumed run must read the same.

    Raises:
      InputError: the run was started on other data.
    """
    resolved = read_json(run / "config.json")
    known = resolved.get("data", {})
    if any(known.get(name, fact) != fact for name, fact in facts.items()):
        raise InputError(f"{run}: the run was started on other data; choose another --output for this data")
    # Where nothing is new nothing is written: a process that joins the first one leaves its file alone.
    if {**known, **facts} != known:
        write_json(run / "config.json", {**resolved, "data": {**known, **facts}})


def read_config(config_type: type[Config], run: Path) -> Config:
    """The config that a run was started with."""
    return _from_json(config_type, _started(run)["config"])


def _started(run: Path) -> dict[str, Any]:
    file = run / "config.json"
    if not file.is_file():
        raise InputError(f"{run} holds no config.json; name a run's directory, as the training script printed it")
    return read_json(file)


def read_json(file: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: not JSON ({error.msg}); restore the file") from error


def write_json(file: Path, content: Any) -> None:
    """Writes a file whole or not at all."""
    _write(file, json.dumps(content, indent=2) + "\n")


def _write(file: Path, text: str) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(file)


def append_json_line(file: Path, content: Any) -> None:
    """Adds one line of JSON."""
    with file.open("a") as lines:
        lines.write(json.dumps(content) + "\n")


def read_json_lines(file: Path) -> list[Any]:
    """The content of each line of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def keep_json_lines(file: Path, *, up_to_step: int) -> None:
    """Drops the lines after a step: a resumed run writes them again."""
    if file.exists():
        # What follows the last line end was cut short when the run was killed.
        whole = file.read_text().splitlines(keepends=True)
        kept = [line for line in whole if line.endswith("\n") and json.loads(line)["step"] <= up_to_step]
        _write(file, "".join(kept))


def to_json(config: Any) -> Any:
    """Nested dataclasses as nested dicts of JSON values."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Path):
        return address_of(config)
    return [to_json(each) for each in config] if isinstance(config, tuple) else config


def _from_json(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise InputError(f"config.json has unknown fields {sorted(unknown)}; it is of another version of seqrec")
        return kind(**{name: _from_json(hints[name], item) for name, item in value.items()})
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if value is None else _from_json(kind, value)
    if kind is Path:
        return Path(value)
    if isinstance(value, list):
        of_each = next(iter(typing.get_args(kind)), None)
        return tuple(_from_json(of_each, each) for each in value)
    return value


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested dicts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
