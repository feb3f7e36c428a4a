"""The learning curve of a run: training loss and validation NDCG@10 by epoch."""

import math
from pathlib import Path

from seqrec.files import read_json_lines, replacing


def plot_learning_curve(metrics_file: Path, picture: Path, *, best_epoch: int | float) -> None:
    """Reads `metrics.jsonl` and writes a PNG; the epoch whose weights were kept is marked, and where a cooldown starts.

    Curves are cut where training returns to earlier weights.
    """
    from seqrec.pages import plots  # matplotlib takes a fifth of the time in which a training script starts

    lines = read_json_lines(metrics_file)
    losses = [(line["epoch"], line["loss"]) for line in lines if "loss" in line]
    validations = [(line["epoch"], line["valid"]["ndcg@10"]) for line in lines if "valid" in line]
    # A resumed run may decide it again, at the same place.
    cooldown = next(
        ((line["epoch"], line["cooldown_from"]) for line in reversed(lines) if "cooldown_from" in line), None
    )
    figure, left = plots.new_axes(4.2, width=7.0)
    right = left.twinx()
    # A line through a single point would not show.
    marker = "." if len(losses) < 30 else ""
    left.plot(*_cut(losses, cooldown), color="tab:gray", marker=marker, label="training loss")
    right.plot(*_cut(validations, cooldown), color="tab:blue", marker="o", markersize=4, label="validation NDCG@10")
    if cooldown is not None:
        start, source = cooldown
        label = "cooldown" if source == start else f"cooldown from epoch {source:.4g}"
        left.axvline(start, color="tab:gray", linestyle=":", label=label)
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


Epochs = int | float
"""Whole numbers where an epoch ends."""


def _cut(
    points: list[tuple[Epochs, float]], cooldown: tuple[Epochs, Epochs] | None
) -> tuple[list[Epochs], list[float]]:
    """x and y of the points, with a gap where training returns to earlier weights."""
    if cooldown is not None and cooldown[1] != cooldown[0]:
        n_before = sum(epoch <= cooldown[0] for epoch, _ in points)
        points = [*points[:n_before], (cooldown[0], math.nan), *points[n_before:]]
    return [x for x, _ in points], [y for _, y in points]
