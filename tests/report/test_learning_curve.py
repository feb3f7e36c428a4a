"""The picture of a run."""

import json
import struct

import pytest
from matplotlib.figure import Figure

from seqrec.report.learning_curve import plot_learning_curve


def drawn(tmp_path, monkeypatch, n_epochs: int, *, n_steps: int, best_epoch: int) -> Figure:
    lines = []
    for epoch in range(1, n_epochs + 1):
        lines += [{"step": 0, "epoch": epoch - 1 + n / n_steps, "loss": 5.0 / epoch} for n in range(1, n_steps + 1)]
        lines.append({"step": 0, "epoch": epoch, "valid": {"ndcg@10": 0.1 if epoch != best_epoch else 0.2}})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = []
    save = Figure.savefig

    def save_and_keep(figure, *arguments, **options):
        figures.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    plot_learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", best_epoch=best_epoch)
    return figures[0]


@pytest.mark.parametrize(("n_epochs", "n_steps"), [(1, 1), (2, 1), (25, 5)])
def test_loss_validation_and_best_epoch_are_all_drawn(tmp_path, monkeypatch, n_epochs, n_steps):
    figure = drawn(tmp_path, monkeypatch, n_epochs, n_steps=n_steps, best_epoch=n_epochs)
    left, right = figure.axes
    (loss,), (validation, best) = left.lines, right.lines
    assert len(loss.get_xdata()) == n_epochs * n_steps
    # A lone point without a marker would be invisible.
    assert n_epochs * n_steps > 1 or loss.get_marker() == "."
    assert list(validation.get_xdata()) == list(range(1, n_epochs + 1))
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([n_epochs], [0.2])
    assert left.get_xlim()[0] == right.get_ylim()[0] == 0


def test_a_best_validation_inside_an_epoch_is_marked_there(tmp_path, monkeypatch):
    lines = [{"step": 2, "epoch": 0.4, "loss": 5.0}]
    lines += [{"step": step, "epoch": step / 5, "valid": {"ndcg@10": value}} for step, value in ((2, 0.1), (3, 0.2))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (figures.append(figure), save(figure, *args, **kw))
    )
    plot_learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", best_epoch=0.6)
    (marked,) = [line for line in figures[0].axes[1].get_lines() if str(line.get_label()).startswith("best")]
    assert marked.get_label() == "best: 0.2000 after 0.60 epochs"
    assert (marked.get_xdata()[0], marked.get_ydata()[0]) == (0.6, 0.2)


@pytest.mark.parametrize(("source", "gaps"), [(1, [2]), (2, [])])
def test_a_cooldown_is_marked_and_curves_are_cut_where_weights_return(tmp_path, monkeypatch, source, gaps):
    lines = [{"step": n, "epoch": n, "loss": 5.0 - n} for n in (1, 2)]
    lines += [{"step": n, "epoch": n, "valid": {"ndcg@10": value}} for n, value in ((1, 0.2), (2, 0.1))]
    lines += [{"step": 2, "epoch": 2, "cooldown_from": source}]
    lines += [{"step": 3, "epoch": 3, "loss": 3.5}, {"step": 3, "epoch": 3, "valid": {"ndcg@10": 0.3}}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **kw: (figures.append(figure), save(figure, *args, **kw))
    )
    plot_learning_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", best_epoch=3)
    left, right = figures[0].axes
    for curve in (left.lines[0], right.lines[0]):
        points = list(zip(curve.get_xdata(), curve.get_ydata(), strict=True))
        assert [x for x, y in points if y != y] == gaps
        assert [x for x, y in points if y == y] == [1, 2, 3]
    cooldown = left.lines[1]
    assert list(cooldown.get_xdata()) == [2, 2]
    assert str(cooldown.get_label()).endswith("from epoch 1" if gaps else "cooldown")


def test_the_picture_is_a_png_of_readable_size(tmp_path, monkeypatch):
    drawn(tmp_path, monkeypatch, 3, n_steps=2, best_epoch=2)
    content = (tmp_path / "curve.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 800
    assert height >= 480
