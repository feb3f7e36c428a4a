"""The comparing script on small runs: what it leaves, prints and refuses."""

import json
import shlex

import compare
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec import runtime

N_USERS = 300


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs on one split, the second of which ranks the held-out item higher, and a third on another split."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    users = np.arange(1, N_USERS + 1)
    for name, chance, split in (("a", 0.05, "one"), ("b", 0.2, "one"), ("other-split", 0.05, "two")):
        directory = tmp_path / "runs" / name
        directory.mkdir(parents=True)
        columns = {
            "user": users,
            "item": users % 40,
            "rank": random.geometric(chance, N_USERS).astype(float),
            "n_candidates": np.full(N_USERS, 1000),
            "history_length": users % 7 + 3,
            "target_events": users % 5,
            "user_events": users % 7 + 2,
        }
        # Runs need not keep users in one order; the second's is turned around.
        pq.write_table(pa.table(columns).take(users[:: -1 if name == "b" else 1] - 1), directory / "ranks.parquet")
        (directory / "metrics.json").write_text(json.dumps({"protocol": {"split_hash": split * 10}}))
        (directory / "config.json").write_text(json.dumps({"config": {"model": {"dropout": chance}}}))
    return tmp_path / "runs"


def run_script(monkeypatch, flags: str) -> int:
    """The script's exit status."""
    monkeypatch.setattr("sys.argv", ["compare.py", *shlex.split(flags)])
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(compare.main, compare.Arguments)
    return stop.value.code


def write_lists(path, length: int) -> None:
    """Each user's held-out item on place user % 10 + 1, if the list is so long."""
    lines = ["user,item,score"]
    for user in range(1, N_USERS + 1):
        for place in range(1, length + 1):
            item = user % 40 if place == user % 10 + 1 else 1000 + place
            lines.append(f"{user},{item},{1 / place}")
    path.write_text("\n".join(lines))


def test_a_better_run_is_found_better_and_both_files_are_left(runs, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, "runs/a runs/b") == 0
    printed = capsys.readouterr().out
    assert "b is better on NDCG@10 by ." in printed
    assert "NDCG@10 by cold targets" in printed
    comparison = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    ranks = {name: pq.read_table(runs / name / "ranks.parquet")["rank"].to_numpy() for name in "ab"}
    gain = np.mean(ranks["b"] <= 10) - np.mean(ranks["a"] <= 10)
    assert comparison["comparisons"]["b"]["recall@10"]["difference"] == pytest.approx(gain)
    assert comparison["config_differences"] == {"model.dropout": {"a": 0.05, "b": 0.2}}
    names = [slicing["name"] for slicing in comparison["slices"]]
    assert names == ["history length", "target popularity", "user activity", "cold targets"]
    for path in ("comparison/comparison.json", "comparison/comparison.html"):
        assert path in printed
        assert (tmp_path / path).is_file()
    # The second time puts new files in place of the old.
    assert run_script(monkeypatch, "runs/b runs/a --metrics ndcg@10") == 0
    assert json.loads((tmp_path / "comparison" / "comparison.json").read_text())["metrics"] == ["ndcg@10"]


def test_lists_bound_the_cut_offs_and_joined_columns_make_slices(runs, tmp_path, monkeypatch, capsys):
    write_lists(tmp_path / "lists.csv", length=8)
    (tmp_path / "items.csv").write_text("item,genre\n" + "".join(f"{item},{'xyz'[item % 3]}\n" for item in range(40)))
    flags = "runs/a --top-k theirs=lists.csv --join items.csv --slice-by genre --output out"
    assert run_script(monkeypatch, flags) == 0
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert comparison["metrics"] == ["recall@5", "ndcg@5", "mrr@8"]
    # Of each ten users, places 1 to 10, five are among the first five.
    assert comparison["runs"]["theirs"]["recall@5"][0] == pytest.approx(0.5)
    assert comparison["runs"]["theirs"]["mrr@8"][0] == pytest.approx(sum(1 / place for place in range(1, 9)) / 10)
    [slicing] = comparison["slices"]
    assert sorted(each["label"] for each in slicing["slices"]) == ["x", "y", "z"]
    assert "note: theirs has lists of up to 8 items" in capsys.readouterr().out


def test_runs_with_few_columns_are_compared_without_their_slices(runs, tmp_path, monkeypatch):
    for name in "ab":
        file = runs / name / "ranks.parquet"
        pq.write_table(pq.read_table(file).select(["user", "item", "rank"]), file)
    assert run_script(monkeypatch, "runs/a runs/b/ranks.parquet") == 0
    assert json.loads((tmp_path / "comparison" / "comparison.json").read_text())["slices"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("runs/a runs/other-split", "a and other-split are on different splits"),
        ("runs/a", "a alone cannot be compared"),
        ("runs/a runs/none", "runs/none does not exist"),
        ("runs/a runs/b --metrix mrr", "Unrecognized options: --metrix"),
        ("runs/a runs/b --metrics ndcg@7", "metric 'ndcg@7' is not among"),
        ("runs/a runs/b --slice-by genre", "cannot slice by 'genre'"),
        ("runs/a runs/b --top-k runs/a/ranks.parquet", "is not of the form NAME=FILE"),
        ("runs/a --top-k x=runs/a/metrics.json", "has no column 'user'"),
        ("runs/a runs/b --level 95", "level=95.0 is not a share in (0, 1)"),
        ("runs/a runs/b --n-resamples 0", "n_resamples=0 is below 1"),
        ("runs/a runs/b --output runs/a/metrics.json", "metrics.json cannot be written"),
    ],
)
def test_what_cannot_be_compared_gets_one_line(runs, tmp_path, monkeypatch, capsys, flags, message):
    assert run_script(monkeypatch, flags) == 2
    complaint = capsys.readouterr().err.splitlines()
    assert len(complaint) == 1
    assert message in complaint[0]
    assert not (tmp_path / "comparison").exists()
