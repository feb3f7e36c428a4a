"""What Weights & Biases keeps of a run, offline. Skipped without its package, which is large."""

import json
import time

import pytest

from seqrec.tracking.exporter import SENT, send_run
from tracking.recording_tracker import a_run

pytest.importorskip("wandb", reason='needs pip install "seqrec[wandb]"')


def test_a_run_is_written_beside_its_files_and_sent_nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody answers there
    run = a_run(tmp_path / "run")
    view = send_run(run, "wandb")
    identity = json.loads((run / SENT).read_text())["wandb"]["identity"]
    (directory,) = (tmp_path / "wandb").glob("offline-run-*")
    assert view == f"wandb sync --append {directory}"
    assert directory.name.endswith(identity)
    # A process of wandb's own writes the file, and may close it after the run is said to be finished.
    for _ in range(100):
        kept = b"".join(file.read_bytes() for file in directory.glob("*.wandb"))
        if b"test.intervals.ndcg@10.low" in kept:
            break
        time.sleep(0.1)
    for name in (b"valid.ndcg@10", b"test.intervals.ndcg@10.low", b"config.training.optimizer.learning_rate"):
        assert name in kept
    names = {path.name for path in (directory / "files").rglob("*") if path.is_file()}
    assert {"metrics.jsonl", "config.json", "metrics.json"} <= names
