"""The picture of a run: training loss and validation NDCG@10 by epoch."""

import json
from pathlib import Path

from matplotlib.figure import Figure


def plot_learning_curve(metrics_file: Path, picture: Path, *, best_epoch: int) -> None:
    """Reads `metrics.jsonl` and draws a PNG; the epoch whose weights were kept is marked."""
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "valid" in line]
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    left.plot(
        [line["epoch"] for line in steps],
        [line["loss"] for line in steps],
        color="tab:gray",
        label="training loss",
    )
    left.set_xlabel("epoch")
    left.set_ylabel("training loss (nats per event)")
    left.set_xlim(left=0)
    right = left.twinx()
    epochs = [line["epoch"] for line in validations]
    values = [line["valid"]["ndcg@10"] for line in validations]
    right.plot(epochs, values, color="tab:blue", marker="o", markersize=3, label="validation NDCG@10")
    right.set_ylabel("validation NDCG@10", color="tab:blue")
    right.set_ylim(bottom=0)
    right.axvline(best_epoch, color="tab:blue", linestyle=":", label=f"best epoch ({best_epoch})")
    handles = [handle for axis in (left, right) for handle in axis.get_legend_handles_labels()[0]]
    right.legend(handles=handles, loc="center right")
    figure.savefig(picture, dpi=120)
