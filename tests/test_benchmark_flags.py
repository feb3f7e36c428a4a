"""Every benchmark can be started: no two of its flags have one name."""

import importlib
import sys
from pathlib import Path

import pytest

from seqrec import runtime

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if "runtime.run_script(main, Config)" in file.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_help_of_a_benchmark_is_printed(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {error.name}")
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit) as stopped:
        runtime.parse(module.Config, ["--help"])
    assert not stopped.value.code
    assert "--json" in capsys.readouterr().out
