"""A run's directory: begun once, gone on with under the same config, never left half written."""

import dataclasses
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from seqrec import runs, runtime
from seqrec.files import read_json, write_json
from seqrec.types import InputError


@dataclass(frozen=True)
class Where:
    output: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Model:
    width: int = 4
    names: tuple[str, str] = ("a", "b")
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Config:
    run: Where = field(default_factory=Where)
    model: Model = field(default_factory=Model)
    rate: float = 0.1


def start_script(monkeypatch, *words):
    """Makes this module the script that was started by these words."""
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.setattr(sys.modules[__name__], "__file__", words[0])


@pytest.fixture
def run(tmp_path, monkeypatch):
    start_script(monkeypatch, "scripts/train.py", "--rate", "0.1")
    return runs.prepare_run_directory(tmp_path / "a run", Config(), experiment="toy", resume=False)


def test_a_config_comes_back_as_it_was(tmp_path):
    config = Config(Where(tmp_path), Model(8, ("x", "y"), (tmp_path / "a.csv", tmp_path / "b.csv")), rate=1e-3)
    runs.prepare_run_directory(tmp_path / "run", config, experiment="toy", resume=False)
    assert runs.read_config(Config, tmp_path / "run") == config


def test_a_run_is_not_begun_twice(run):
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        runs.prepare_run_directory(run, Config(), experiment="toy", resume=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_bundle_is_no_run(tmp_path, resume):
    files = {tmp_path / name: "{}" for name in ("config.json", "manifest.json")}
    for file, text in files.items():
        file.write_text(text)
    with pytest.raises(InputError, match="holds other files and no run; choose a new or empty directory"):
        runs.prepare_run_directory(tmp_path, Config(), experiment="toy", resume=resume)
    assert {file: file.read_text() for file in tmp_path.iterdir()} == files


def test_a_run_goes_on_wherever_it_lies(run):
    runs.prepare_run_directory(run, Config(run=Where(run, resume=True)), experiment="toy", resume=True)


def test_a_run_does_not_go_on_with_another_config(run):
    with pytest.raises(InputError, match=r"model\.width=4, not 5"):
        runs.prepare_run_directory(run, dataclasses.replace(Config(), model=Model(5)), experiment="toy", resume=True)


def test_a_run_of_a_version_without_some_flag_goes_on_with_its_default(run):
    written = json.loads((run / "config.json").read_text())
    del written["config"]["model"]["width"]
    (run / "config.json").write_text(json.dumps(written))
    runs.prepare_run_directory(run, Config(), experiment="toy", resume=True)
    with pytest.raises(InputError, match=r"model\.width=4, not 5"):
        runs.prepare_run_directory(run, dataclasses.replace(Config(), model=Model(5)), experiment="toy", resume=True)


def test_a_run_does_not_go_on_under_another_jax(run, monkeypatch):
    monkeypatch.setattr(runtime, "versions", lambda: {"jax": "0.0.1"})
    with pytest.raises(InputError, match=r"started with jax \d.*, not 0\.0\.1, and would not repeat itself"):
        runs.prepare_run_directory(run, Config(), experiment="toy", resume=True)


@dataclass(frozen=True)
class OnDevices(Config):
    mesh: Model = field(default_factory=Model)


def test_a_run_goes_on_with_other_devices(tmp_path):
    runs.prepare_run_directory(tmp_path / "run", OnDevices(), experiment="toy", resume=False)
    runs.prepare_run_directory(tmp_path / "run", OnDevices(mesh=Model(5)), experiment="toy", resume=True)


def test_a_run_does_not_go_on_with_other_data(run):
    runs.note_data(run, content_hash="a")
    runs.note_data(run, content_hash="a")
    with pytest.raises(InputError, match="other data"):
        runs.note_data(run, content_hash="b")
    assert read_json(run / "config.json")["data"] == {"content_hash": "a"}


def test_a_config_of_another_version_is_refused(run):
    resolved = read_json(run / "config.json")
    resolved["config"]["model"]["depth"] = 2
    write_json(run / "config.json", resolved)
    with pytest.raises(InputError, match="depth"):
        runs.read_config(Config, run)


def test_only_a_run_that_has_left_nothing_but_its_data_is_discarded(run):
    runs.note_data(run, content_hash="a")
    (run / "checkpoints").mkdir()
    runs.discard_unstarted(run)
    assert (run / "config.json").exists()
    (run / "checkpoints").rmdir()
    runs.discard_unstarted(run)
    assert not run.exists()


def test_discarding_leaves_files_that_are_not_the_runs(run):
    (run / "notes.txt").write_text("mine")
    runs.discard_unstarted(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rate", "1"], ["--rate", "1", "--output", "RUN", "--resume"]),
        (["--output", "here"], ["--output", "here", "--resume"]),
        (["--output=here", "--no-resume"], ["--output=here", "--resume"]),
        (["--resume", "--output", "here"], ["--output", "here", "--resume"]),
        (["--data-path", "my file.csv"], ["--data-path", "my file.csv", "--output", "RUN", "--resume"]),
    ],
)
def test_the_resume_command_repeats_the_flags(tmp_path, monkeypatch, flags, expected):
    start_script(monkeypatch, "train.py", *flags)
    run = runs.prepare_run_directory(tmp_path / "it's a run", Config(), experiment="toy", resume=False)
    command = shlex.split(runs.resume_command(run))
    assert command[1:] == ["train.py", *(str(run) if word == "RUN" else word for word in expected)]


def test_commands_start_this_interpreter(run, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(runs.resume_command(run))[0] == sys.executable
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    name = shlex.split(runs.evaluate_command(run))[0]
    assert name in ("python", sys.executable)
    assert shlex.split(runs.evaluate_command(run))[1:] == ["scripts/evaluate_checkpoint.py", str(run)]


def test_a_script_that_python_calls_is_named_with_the_flags_that_make_its_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["-c"])
    config = Config(Where(tmp_path / "run"), Model(8), rate=0.25)
    run = runs.prepare_run_directory(tmp_path / "run", config, experiment="toy", resume=False)
    monkeypatch.chdir(tmp_path)
    flags = ["--output", str(run), "--width", "8", "--rate", "0.25", "--resume"]
    assert shlex.split(runs.resume_command(run))[2:] == flags
    script = Path(shlex.split(runs.resume_command(run))[1])
    assert script.resolve() == Path(__file__).resolve()


def test_a_script_outside_the_working_directory_is_named_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    start_script(monkeypatch, "../scripts/train.py", "--rate", "1")
    run = runs.prepare_run_directory(tmp_path / "run", Config(), experiment="toy", resume=False)
    assert shlex.split(runs.resume_command(run))[1] == str(tmp_path / "scripts" / "train.py")
    assert shlex.split(runs.evaluate_command(run))[1] == str(tmp_path / "scripts" / "evaluate_checkpoint.py")


def test_lines_after_a_step_are_dropped_and_so_is_one_cut_short(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        runs.append_json_line(file, {"step": step})
    with file.open("a") as lines:
        lines.write('{"step": 1, "lo')
    runs.keep_json_lines(file, up_to_step=2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("line", ["[]", "{}", '{"step": null}', "{"])
def test_a_damaged_line_is_told_in_one_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        runs.keep_json_lines(tmp_path / "metrics.jsonl", up_to_step=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: None, "holds null, not an object"),
        (lambda record: [], "holds a list, not an object"),
        (lambda record: {}, "has no field config"),
        (lambda record: record | {"config": None}, "config is null, not an object"),
        (lambda record: record | {"command": "train.py"}, "command is a text, not a list"),
        (lambda record: record | {"command": ["python"]}, "not that of a script"),
        (lambda record: record | {"command": [1, 2]}, "not that of a script"),
        (lambda record: record | {"versions": []}, "versions is a list, not an object"),
        (lambda record: record | {"data": [1]}, "data is not an object"),
        (lambda record: record | {"experiment": 3}, "experiment is not a text"),
        (lambda record: record | {"config": {"model": None}}, "model is None; give its fields"),
        (lambda record: record | {"config": {"model": {"width": "4"}}}, "model.width='4' is not a whole number"),
        (
            lambda record: record | {"config": {"model": {"names": ["a", None]}}},
            r"model.names\[1\]=None is not a text",
        ),
        (lambda content: content | {"config": {"rate": float("nan")}}, "rate=nan is not a finite number"),
    ],
)
def test_a_damaged_config_is_told_in_one_line_with_its_file(run, damage, message):
    write_json(run / "config.json", damage(read_json(run / "config.json")))
    with pytest.raises(InputError, match=message) as refusal:
        runs.read_config(Config, run)
    assert str(run / "config.json") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_no_text_are_told_in_one_line(run):
    (run / "config.json").write_bytes(b"\xff" * 10)
    for read in (runs.experiment_of, runs.resume_command, lambda run: runs.read_config(Config, run)):
        with pytest.raises(InputError, match=r"config\.json: not UTF-8"):
            read(run)
