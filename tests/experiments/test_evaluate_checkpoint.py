"""A run's figures, computed again from what it left."""

import json
import shutil

import evaluate_checkpoint
import pytest
from conftest import train

from seqrec import runtime
from seqrec.files import read_json


def evaluate(monkeypatch, *arguments) -> int:
    """The script's exit status."""
    monkeypatch.setattr("sys.argv", ["evaluate_checkpoint.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(evaluate_checkpoint.compare, evaluate_checkpoint.Arguments)
    return stop.value.code


def test_the_figures_equal_the_runs_own_to_the_last_digit(finished, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished.directory / "checkpoints").rglob("*")}
    assert evaluate(monkeypatch, finished.directory) == 0
    assert "to the last digit" in capsys.readouterr().out
    results = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(finished.directory))
    assert results.keys() == {"test", "valid", "baselines", "comparisons", "protocol"}
    assert results == {name: finished.results[name] for name in results}
    assert before == {path: path.stat().st_mtime_ns for path in (finished.directory / "checkpoints").rglob("*")}


def test_the_best_epoch_is_evaluated_also_where_it_is_not_the_last(toy, tmp_path, monkeypatch, capsys):
    # Steps this large unlearn what the first epoch learned.
    flags = (*toy, "--learning-rate", "3", "--schedule", "constant", "--average-decay", "0", "--max-epochs", "5")
    results = train(*flags, "--warmup-steps", "200", "--spike-deviations", "0", "--output", tmp_path / "run")
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == sorted({6 * results["best_epoch"], 30})
    assert results["best_epoch"] < 5
    assert evaluate(monkeypatch, tmp_path / "run") == 0


def test_figures_that_differ_are_named_with_exit_status_1(finished, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run)
    results = read_json(run / "metrics.json")
    results["test"]["mrr"] += 1e-9
    (run / "metrics.json").write_text(json.dumps(results))
    assert evaluate(monkeypatch, run) == 1
    assert f"test differ from {run / 'metrics.json'}" in capsys.readouterr().out


def test_an_unfinished_run_is_evaluated_but_compares_with_nothing(finished, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run)
    (run / "metrics.json").unlink()
    assert evaluate(monkeypatch, run) == 0
    assert "nothing to compare" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["config.json", "checkpoints"])
def test_what_is_no_run_gets_one_line(finished, tmp_path, monkeypatch, capsys, missing):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run, ignore=shutil.ignore_patterns(missing))
    assert evaluate(monkeypatch, run) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert str(run) in complaint
    assert missing in complaint
