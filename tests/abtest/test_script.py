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


BRIEF = "--name try --start 2026-03-02 --n-days 4 --primary plays"
PLAN = f'plan plan.toml {BRIEF} --guardrails="-skips/plays:0.3" --segments country'
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


def test_a_plan_is_sized_by_what_the_metric_was_like(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lately = "--mean 2 --standard-deviation 3 --saved 0.36 --lift 0.05 --users-per-day 1000 --expected-users 8000"
    assert run_script(monkeypatch, f"{PLAN} {lately}") == 0
    printed = capsys.readouterr().out
    # A standard deviation of 3 sqrt(.64) = 2.4; 2.8016 x 2.4 sqrt(2 / 4000) / 2, and 2 x 15.698 x 2.4^2 / .1^2.
    assert "7.52% is detectable with 8,000 users" in printed
    assert "18,084 in all arms detect 5.00%" in printed
    # 19 days are three weeks.
    assert "days     21 at 1,000 new users per day" in printed


def test_an_offline_comparison_and_a_past_result_stand_beside_the_effect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, PLAN) == 0
    assert run_script(monkeypatch, "simulate plan.toml --simulation.n-users 300 --simulation.lift 0.4") == 0
    metric = {"difference": 0.02, "interval": [0.01, 0.03], "detectable": 0.01}
    (tmp_path / "comparison.json").write_text(json.dumps({"comparisons": {"runs/b": {"ndcg@10": metric}}}))
    offline = f"analyze plan.toml {FILES} --offline comparison.json"
    assert run_script(monkeypatch, f"{offline} --output first") == 0
    assert run_script(monkeypatch, f"{offline} --past first/ab_result.json --output second") == 0
    result = json.loads((tmp_path / "second" / "ab_result.json").read_text())
    assert result["offline"]["treatment"]["ndcg@10"]["lower"] == 0.01
    agreement = result["offline_online"]["agreements"]["ndcg@10"]
    assert (agreement["n_experiments"], agreement["sign_agreement"]) == (2, 1.0)
    page = (tmp_path / "second" / "ab_report.html").read_text()
    assert page.index("Offline against online") < page.index("ndcg@10") < page.index("<h2>Method")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (PLAN, "holds a plan already"),
        (PLAN.replace("plan.toml", "b.toml").replace("skips", "sips"), "'sips' is not one of"),
        ("simulate none.toml", "none.toml cannot be read"),
        ("simulate plan.toml --simulation.bot-share 2.0", "bot_share=2.0"),
        ("analyze plan.toml --logs.assignments a.csv --logs.events b.csv", "a.csv does not exist"),
        (f"analyze plan.toml {FILES} --past x.json", "give --offline too"),
        (f"analyze plan.toml {FILES} --offline x.json", "x.json cannot be read"),
        (f"plan b.toml {BRIEF} --mean 3", "give both or neither"),
        (f"plan b.toml {BRIEF} --quantiles plays", "'plays' is not measure@quantile"),
        (f"plan b.toml {BRIEF} --alpha 5", "alpha=5.0 is outside"),
        (f"plan b.toml {BRIEF.replace('--primary plays', '')}", "--primary"),
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
