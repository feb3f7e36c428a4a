"""The learning curve of a run: training loss and validation NDCG@10 by epoch."""

from pathlib import Path

from seqrec.files import read_json_lines, replacing
from seqrec.pages import plots


def plot_learning_curve(metrics_file: Path, picture: Path, *, best_epoch: int | float) -> None:
    """Reads `metrics.jsonl` and writes a PNG; the epoch whose weights were kept is marked."""
    lines = read_json_lines(metrics_file)
    losses = [(line["epoch"], line["loss"]) for line in lines if "loss" in line]
    validations = [(line["epoch"], line["valid"]["ndcg@10"]) for line in lines if "valid" in line]
    figure, left = plots.new_axes(4.2, width=7.0)
    right = left.twinx()
    # A line through a single point would not show.
    marker = "." if len(losses) < 30 else ""
    left.plot(*zip(*losses, strict=True), color="tab:gray", marker=marker, label="training loss")
    right.plot(*zip(*validations, strict=True), color="tab:blue", marker="o", markersize=4, label="validation NDCG@10")
    best = dict(validations)[best_epoch]
    when = f"in epoch {best_epoch}" if isinstance(best_epoch, int) else f"after {best_epoch:.2f} epochs"
    label = f"best: {best:.4f} {when}"
    right.plot([best_epoch], [best], "o", color="tab:blue", markersize=11, fillstyle="none", label=label)
    left.set_xlabel("epoch")
    if validations[-1][0] > 1:
        plots.whole_numbers(left)
    left.set_xlim(0, validations[-1][0] * 1.03)
    left.set_ylabel("training loss (nats per event)")
    right.set_ylabel("validation NDCG@10", color="tab:blue")
    right.set_ylim(0, 1.1 * max(value for _, value in validations) or 1.0)
    left.grid(alpha=0.3)
    plots.add_legend(figure)
    with replacing(picture) as partial:
        figure.savefig(partial, format="png", dpi=120)
