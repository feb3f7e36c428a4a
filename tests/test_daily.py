"""The chain of a day: what runs in which order, and what a gate that does not pass stops."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

PYTHON = """#!/usr/bin/env bash
[[ $1 == - ]] && exit 0
echo "$(basename "$1") ${*:2}" >> calls
case $1 in
  *prepare_data.py) mkdir -p work/store ;;
  *sasrec.py) mkdir -p "${@: -2:1}" ;;
  *gate.py) exit "$GATE" ;;
esac
"""


@pytest.fixture
def chain(tmp_path):
    """Runs the chain on scripts that only say how they were called: the exit status, and the calls since."""
    for name, text in (("python", PYTHON), ("curl", '#!/usr/bin/env bash\necho "curl $*" >> calls\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(*arguments, gate=0, **environment):
        (tmp_path / "calls").write_text("")
        about = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WORK": "work", "GATE": str(gate), "SLICES": "cold warm"}
        command = [str(ROOT / "launch" / "daily.sh"), *arguments]
        ended = subprocess.run(
            command, env={**os.environ, **about, **environment}, cwd=tmp_path, capture_output=True, timeout=60
        )
        return ended.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


def scripts(calls):
    return [call.split()[0] for call in calls]


def test_a_day_is_appended_trained_judged_exported_and_loaded_in_this_order(chain, tmp_path):
    status, calls = chain(LOG="log.parquet")
    assert (status, scripts(calls)) == (0, ["prepare_data.py", "sasrec.py", "export.py"])
    assert os.readlink(tmp_path / "work" / "current") == "first"
    url = "http://127.0.0.1:8080/reload"
    status, calls = chain("days/2026-01-31.parquet", RELOAD_URL=url)
    assert (status, scripts(calls)) == (0, ["prepare_data.py", "sasrec.py", "gate.py", "export.py", "curl"])
    append, train, gate, export, reload = calls
    assert "--data-path days/2026-01-31.parquet" in append
    assert append.endswith("--append --output work/store")
    assert "--start-from work/first " in train
    assert train.endswith("--output work/2026-01-31 --resume")
    assert gate.startswith("gate.py work/2026-01-31 --against work/2026-01-31/start --max-drop ")
    assert "--slice cold warm --json" in gate
    assert export == "export.py work/2026-01-31 --output work/bundle"
    assert reload == f"curl -fsS -X POST {url}"
    assert os.readlink(tmp_path / "work" / "current") == "2026-01-31"
    assert chain("days/2026-01-31.parquet") == (0, [])  # in use already


@pytest.mark.parametrize("gate", [1, 2, 3, 4])
def test_a_model_that_does_not_pass_replaces_nothing(chain, tmp_path, gate):
    chain(LOG="log.parquet")
    status, calls = chain("day.parquet", gate=gate, RELOAD_URL="http://127.0.0.1:8080/reload")
    assert (status, scripts(calls)[-1]) == (gate, "gate.py")
    assert os.readlink(tmp_path / "work" / "current") == "first"


def test_a_day_without_a_first_model_is_refused(chain):
    assert chain("day.parquet") == (2, [])


def test_the_workflow_runs_the_chain_with_extras_that_there_are_and_reaches_nothing_else():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "model.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert "launch/daily.sh" in commands
    assert workflow["permissions"] == {"contents": "read"}
    assert not any(word in command for command in commands for word in ("http", "curl", "secrets", "push"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"run", "serve"} <= extras.keys()
    assert 'pip install -e ".[run,serve]"' in commands
