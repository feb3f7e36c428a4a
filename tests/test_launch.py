"""What starts a run elsewhere says what the experiment and the package understand; nothing here reaches a cloud."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from seqrec import runtime
from seqrec.run import RunConfig

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
sys.path.insert(0, str(ROOT / "experiments"))

import sasrec  # noqa: E402 (the line above makes it findable)

FLAGS = ("--dataset", "store", "--data-path", "gs://my-bucket/my store", "--d-model", "128")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def start(script: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(LAUNCH / script), *flags], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def config_of(command: str) -> sasrec.Config:
    """The config that the experiment reads from a shell command that starts it."""
    words = shlex.split(command)
    return runtime.parse(sasrec.Config, words[words.index("experiments/sasrec.py") + 1 :])


def option(words: list[str], name: str) -> str:
    return next(word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}="))


@pytest.mark.parametrize("script", ["queued_resource.sh", "xpk.sh"])
def test_a_dry_run_prints_a_command_that_the_experiment_accepts(script):
    dry = start(script, "--dry-run", *FLAGS, BUCKET="gs://mine", RUN="r1", N_PROCESSES="16", PATH="/usr/bin:/bin")
    assert (dry.returncode, dry.stderr) == (0, "")
    (line,) = [line for line in dry.stdout.splitlines() if "sasrec.py" in line]
    config = config_of(option(shlex.split(line), "--command"))
    assert (config.training.processes.distributed, config.training.processes.n_processes) == ("on", 16)
    assert config.training.run.resume
    assert config.training.run.output == Path("gs://mine/runs/r1")
    assert config.training.data.data_path == Path("gs://my-bucket/my store")
    assert config.model.d_model == 128


def test_a_slice_is_made_waited_for_used_and_deleted():
    lines = [shlex.split(line) for line in start("queued_resource.sh", "--dry-run").stdout.splitlines()]
    assert [line[3:5] for line in lines] == [
        ["queued-resources", "create"],
        ["queued-resources", "describe"],
        ["tpu-vm", "ssh"],
        ["queued-resources", "delete"],
    ]
    assert {line[5] for line in lines} == {"run-1"}
    assert "--spot" in lines[0]
    assert "--spot" not in start("queued_resource.sh", "--dry-run", SPOT="0").stdout


GCLOUD = """#!/usr/bin/env bash
echo "$4" >> calls
case $4 in
  describe) sed -n "$(grep -c describe calls)p" states ;;
  ssh) exit "$(sed -n "$(grep -c ssh calls)p" ends)" ;;
esac
"""


@pytest.mark.parametrize(
    ("states", "ends", "calls", "status"),
    [
        (["CREATING", "ACTIVE"], [0], "create describe describe ssh delete", 0),
        # Taken away while it trained, and then while it was waited for.
        (
            ["ACTIVE", "SUSPENDED", "SUSPENDING", "ACTIVE"],
            [1, 0],
            "create describe ssh describe delete create describe delete create describe ssh delete",
            0,
        ),
        # An error of the run's own is not tried again.
        (["ACTIVE", "ACTIVE"], [2], "create describe ssh describe delete", 1),
        (["FAILED"] * 3, [], "create describe delete " * 3, 1),
    ],
    ids=["done", "taken away", "failed", "never came"],
)
def test_a_slice_is_asked_for_again_and_always_given_back(tmp_path, states, ends, calls, status):
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "ends").write_text("\n".join(map(str, ends)) + "\n")
    about = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SECONDS_BETWEEN_LOOKS": "0", "N_ATTEMPTS": "3"}
    ended = subprocess.run(
        [str(LAUNCH / "queued_resource.sh")], env={**os.environ, **about}, cwd=tmp_path, capture_output=True, timeout=60
    )
    assert (tmp_path / "calls").read_text().split() == calls.split()
    assert ended.returncode == status


def test_the_image_installs_extras_that_there_are_and_copies_files_that_there_are():
    text = (LAUNCH / "Dockerfile").read_text()
    (install,) = re.findall(r'pip install .*"\.\[(.*)\]"', text)
    choices = re.search(r"JAX_EXTRA is (\w+), (\w+) or (\w+)\.", text).groups()
    assert re.search(r"^ARG JAX_EXTRA=(\w+)$", text, re.M)[1] == "cpu"
    assert set(choices) == {"cpu", "tpu", "cuda12"}
    for extra in (*install.replace("${JAX_EXTRA}", ",".join(choices)).split(","),):
        assert extra in EXTRAS
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for words in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in words.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_skypilot_runs_a_command_that_the_experiment_accepts():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    script = f"BUCKET={task['envs']['BUCKET']}; RUN={task['envs']['RUN']}; set -- {task['run'].split(maxsplit=1)[1]}"
    words = subprocess.run(
        ["bash", "-c", script + '\nprintf "%s\\n" "$@"'], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    config = config_of(shlex.join(words))
    assert config.training.run == RunConfig(output=Path("gs://my-bucket/runs/run-1"), resume=True)
    assert config.training.data.data_path == Path("gs://my-bucket/store")
    (extras,) = re.findall(r'"\.\[(.*)\]"', task["setup"])
    assert set(extras.split(",")) <= EXTRAS.keys()


@pytest.mark.parametrize("script", sorted(str(path.relative_to(LAUNCH)) for path in LAUNCH.rglob("*.sh")))
def test_scripts_are_sound_shell(script):
    assert os.access(LAUNCH / script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(LAUNCH / script)]).returncode == 0
