"""A tracker that only remembers what it was sent, and a run's directory without a training."""

import json
from pathlib import Path

LINES = [
    {"step": 2, "epoch": 0.5, "loss": 3.0},
    {"step": 4, "epoch": 1.0, "loss": 2.0},
    {"step": 4, "epoch": 1, "valid": {"ndcg@10": 0.25, "intervals": {"ndcg@10": [0.2, 0.3]}}},
    {"step": 6, "epoch": 1.5, "loss": 1.0},
]


class RecordingTracker:
    """Keeps metrics as (step, metrics); fails from the nth call on where it is told to."""

    view = "look here"

    def __init__(self, *, fails_at: int = 0):
        self.identity, self.opened_as = "run-1", []
        self.settings, self.metrics, self.files, self.bundles, self.statuses = {}, [], [], [], []
        self._n_calls, self._fails_at = 0, fails_at

    def open(self, name, run, identity):
        self.opened_as.append(identity)
        return self

    def log_settings(self, settings):
        self.settings |= settings

    def log_metrics(self, metrics, *, step):
        self._n_calls += 1
        if self._fails_at and self._n_calls >= self._fails_at:
            raise ConnectionError("no route to the server\nand a traceback")
        self.metrics.append((step, dict(metrics)))

    def log_file(self, file):
        self.files.append(file.name)

    def log_bundle(self, bundle, *, name, content_hash):
        self.bundles.append((bundle, name, content_hash))

    def close(self, status):
        self.statuses.append(status)

    @property
    def losses(self):
        return [(step, metrics["loss"]) for step, metrics in self.metrics if "loss" in metrics]


def a_run(directory: Path, *, lines=LINES, is_finished: bool = True) -> Path:
    """The files of a run that trackers read."""
    directory.mkdir()
    record = {
        "experiment": "sasrec",
        "config": {"training": {"optimizer": {"learning_rate": 0.002}, "data": {"dataset": "demo"}}},
        "command": ["python", "experiments/sasrec.py", "--d-model", "8"],
        "versions": {"jax": "0.10.2"},
    }
    (directory / "config.json").write_text(json.dumps(record))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (directory / "ranks.parquet").write_bytes(b"names users")
    if is_finished:
        test = {"ndcg@10": 0.5, "intervals": {"ndcg@10": [0.4, 0.6]}, "n_users": 7}
        (directory / "metrics.json").write_text(json.dumps({"test": test, "protocol": {"ties": "mean"}}))
        (directory / "learning_curve.png").write_bytes(PNG)
        (directory / "page.html").write_text("<p>a page</p>")
    return directory


PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\nIDATx\x9cc\x00\x01\x00\x00\x05\x00\x01\r\n-\xb4\x00\x00\x00\x00IEND\xaeB`\x82"
)
"""One transparent pixel."""
