"""The gate's script: exit statuses, files and refusals."""

import json
import shlex
import subprocess
import sys
from xml.etree import ElementTree

import gate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CHAIN_FLAGS, EXPERIMENTS, train
from scripts import TRAINING

from seqrec import runtime
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.report.figures import write_ranks
from seqrec.run.experiment import open_trained

N_USERS = 2000


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A model with two seeds, which agree on most users; a worse model; and runs that cannot be compared with it."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    users = np.arange(1, N_USERS + 1)
    seed_0 = random.geometric(0.1, N_USERS)
    seed_1 = np.where(random.random(N_USERS) < 0.9, seed_0, random.geometric(0.1, N_USERS))
    protocol = {"split_hash": "one", "data_hash": "one"}
    for name, ranks, changes in (
        ("seed-0", seed_0, {}),
        ("seed-1", seed_1, {}),
        ("worse", seed_0 + 3, {}),
        ("other-data", seed_0, {"data_hash": "two"}),
        ("other-split", seed_0, {"split_hash": "two"}),
        ("other-ties", seed_0, {"ties": "best"}),
        ("fewer", seed_0[1:], {}),
    ):
        directory = tmp_path / name
        directory.mkdir()
        here = users[-len(ranks) :]
        columns = {"user": here, "item": here % 40, "rank": ranks.astype(float), "target_events": here % 5}
        pq.write_table(pa.table(columns), directory / "ranks.parquet")
        (directory / "metrics.json").write_text(json.dumps({"protocol": {**protocol, **changes}}))
    (tmp_path / "unfinished").mkdir()


def exit_status(monkeypatch, flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["gate.py", *shlex.split(flags)])
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(gate.decide, gate.Arguments)
    return stop.value.code


def test_two_seeds_pass_at_a_wide_margin_and_a_narrow_one_cannot_be_told(runs, monkeypatch, capsys):
    assert exit_status(monkeypatch, "seed-1 --against seed-0 --max-drop ndcg@10=0.02 --slice warm") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("pass: seed-1 in place of seed-0")
    assert exit_status(monkeypatch, "seed-1/ranks.parquet --against seed-0 --max-drop ndcg@10=0.0001") == 3
    table, *_, last = capsys.readouterr().out.splitlines()
    assert table.split()[0] == "metric"
    assert last.startswith("cannot tell: seed-1 in place of seed-0")


def test_a_worse_model_fails_and_files_say_so(runs, tmp_path, monkeypatch):
    files = "--json out/gate.json --junit out/gate.xml --markdown out/gate.md"
    assert exit_status(monkeypatch, f"worse --against seed-0 --max-drop ndcg@10=0.02 mrr=0.02 {files}") == 4
    verdict = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert (verdict["verdict"], [test["verdict"] for test in verdict["tests"]]) == ("fail", ["fail", "fail"])
    assert ElementTree.parse(tmp_path / "out" / "gate.xml").getroot().get("failures") == "2"
    assert "| NDCG@10 | all | 2,000 |" in (tmp_path / "out" / "gate.md").read_text()


def test_a_trained_model_whose_item_vectors_are_shuffled_fails(chain, tmp_path, monkeypatch):
    flags = ("--dataset", "s3rec", "--data-path", chain, *CHAIN_FLAGS, "--n-blocks", "1", "--max-epochs", "6")
    train(*flags, "--output", tmp_path / "trained")
    task, model, params = open_trained(tmp_path / "trained", TRAINING)
    table = np.array(params["item_table"])
    table[1 : task.n_items + 1] = np.random.default_rng(0).permutation(table[1 : task.n_items + 1])
    ranks = evaluate(make_eval_step(model), {**params, "item_table": table}, task.test)
    (tmp_path / "shuffled").mkdir()
    write_ranks(tmp_path / "shuffled" / "ranks.parquet", ranks, task.store, task.split)
    monkeypatch.chdir(tmp_path)
    assert exit_status(monkeypatch, "shuffled --against trained --max-drop ndcg@10=0.02") == 4
    assert exit_status(monkeypatch, "trained --against shuffled --max-drop ndcg@10=0.02") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("other-data --max-drop mrr=0.1", "not tested alike: data_hash is 'one' and 'two'"),
        ("other-split --max-drop mrr=0.1", "not tested alike: split_hash is 'one' and 'two'"),
        ("other-ties --max-drop mrr=0.1", "not tested alike: ties is None and 'best'"),
        ("fewer --max-drop mrr=0.1", "1 of seed-0 are users whom"),
        ("unfinished --max-drop mrr=0.1", "unfinished holds no ranks.parquet"),
        ("absent --max-drop mrr=0.1", "absent does not exist"),
        ("seed-0 --max-drop mrr=0.1", "is named twice"),
        ("seed-1 --max-drop ndgc@10=0.1", "metric 'ndgc@10' is unknown"),
        ("seed-1 --max-drop mrr=-0.1", "from 0 to below 1"),
        ("seed-1 --max-drop mrr=nan", "from 0 to below 1"),
        ("seed-1 --max-drop mrr=0.1 --slice frozen", "--slice frozen is not among the slices"),
        ("seed-1 --max-drop mrr=0.1 --level 95", "level=95.0 is outside"),
        ("seed-1", "max-drop"),
        ("seed-1 --max-drop mrr=0.1 --json seed-0/ranks.parquet/x", "cannot be written"),
    ],
)
def test_what_cannot_be_judged_gets_one_line(runs, monkeypatch, capsys, flags, message):
    assert exit_status(monkeypatch, f"{flags} --against seed-0") == 2
    [complaint] = capsys.readouterr().err.splitlines()
    assert message in complaint


def test_help_lists_the_exit_statuses():
    done = subprocess.run([sys.executable, EXPERIMENTS / "gate.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for status in ("0 if", "1 is a crash", "2, with", "3 if", "4 if"):
        assert status in " ".join(done.stdout.split())
