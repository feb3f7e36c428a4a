"""The script end to end, and what it refuses; the benchmark at a size that takes a second."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from seqrec import runtime

for folder in ("experiments", "benchmarks"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))

import ab_scale  # noqa: E402
import ab_test  # noqa: E402


def run_script(monkeypatch, flags: str) -> int:
    """The script's exit status."""
    monkeypatch.setattr("sys.argv", ["ab_test.py", *shlex.split(flags)])
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(ab_test.main, ab_test.Arguments)
    return stop.value.code


PLAN = 'plan plan.toml --name try --start 2026-03-02 --n-days 4 --guardrails="-skips/plays:0.3" --segments country'
FILES = " ".join(f"--logs.{name} logs/{name}.parquet" for name in ("assignments", "exposures", "events"))


def test_a_plan_its_logs_and_their_analysis(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, PLAN) == 0
    assert run_script(monkeypatch, "simulate plan.toml --simulation.n-users 600 --simulation.lift 0.4") == 0
    assert run_script(monkeypatch, f"analyze plan.toml {FILES} --output out") == 0
    assert "treatment: ship." in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "ab_result.json").read_text())
    assert result["verdicts"]["treatment"]["decision"] == "ship"
    assert "<h1>try</h1>" in (tmp_path / "out" / "ab_report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (PLAN, "holds a plan already"),
        (PLAN.replace("plan.toml", "b.toml").replace("skips", "sips"), "'sips' is not one of"),
        ("simulate none.toml", "none.toml cannot be read"),
        ("simulate plan.toml --simulation.bot-share 2.0", "bot_share=2.0"),
        ("analyze plan.toml --logs.assignments a.csv --logs.events b.csv", "a.csv does not exist"),
        ("analyse plan.toml", "analyse"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line_and_status_2(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, PLAN) == 0
    capsys.readouterr()
    assert run_script(monkeypatch, flags) == 2
    complaint = capsys.readouterr().err
    assert words in complaint
    assert complaint.count("\n") == 1


def test_the_benchmark_counts_what_it_times(tmp_path, capsys):
    config = ab_scale.Config(n_users=(100,), n_days=2, json=tmp_path / "scale.json")
    (row,) = ab_scale.main(config)
    assert row["n_users"] == 100
    assert row["n_events"] > 0
    assert json.loads((tmp_path / "scale.json").read_text())["sizes"] == [row]
