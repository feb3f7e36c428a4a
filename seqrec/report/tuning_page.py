"""A study of tuning as one HTML page that opens offline: the best config, every trial's curve, and what mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from seqrec.report.page_parts import document, svg, table, text

_BEST, _COMPLETE, _PRUNED = "#D55E00", "#0072B2", "#8a8f99"
_NOTHING = "\N{EN DASH}"


def page(found: Mapping[str, Any]) -> str:
    """The page of a study with a finished trial, as `tune.json` holds it."""
    trials, best = found["trials"], found["best"]
    states = {state: sum(trial["state"] == state for trial in trials) for state in ("complete", "pruned", "failed")}
    minutes = sum(trial["seconds"] or 0 for trial in trials) / 60
    begun = [trial for trial in trials if trial["curve"]]
    parts = [
        f"<h1>Tuning {text(found['script'])} on {text(found['dataset'])}</h1>",
        f'<p class="faint">{len(trials)} trials: '
        + ", ".join(f"{number} {state}" for state, number in states.items() if number)
        + f"; {minutes:.1f} minutes of training; seed {found['seed']}. Values are NDCG@10 of the validation items, "
        "ranked among the whole catalogue. No trial has seen the test items.</p>",
        f'<p class="verdict">{text(_verdict(found))}</p>',
        "<h2>Best config</h2>",
        table(
            ["", "searched", "as given", "best"],
            [
                [text(name), text(of), text(found["base"][name]), f"<b>{text(best['values'][name])}</b>"]
                for name, of in found["space"].items()
            ],
        ),
        "<p>This command trains it and tests it:</p>",
        f"<pre>{text(best['command'])}</pre>",
        "<h2>Every trial's course</h2>",
        svg(plot_curves(begun, best["number"]), "validation NDCG@10 of each trial by epoch"),
        "<h2>What mattered</h2>",
        _importances(found["importances"]),
        svg(plot_values(begun, best["number"], found["space"]), "NDCG@10 of each trial by the value of each field"),
        "<h2>All trials</h2>",
        _trials(found),
        _how_to_read(found),
    ]
    return document(f"Tuning {found['script']} on {found['dataset']}", "\n".join(parts))


def _verdict(found: Mapping[str, Any]) -> str:
    best = found["best"]
    as_given = next((trial for trial in found["trials"] if trial["values"] == found["base"] and trial["curve"]), None)
    said = f"Trial {best['number']} is the best: {best['ndcg@10']:.4f} in epoch {best['epoch']}"
    if as_given is None:
        return f"{said}."
    if as_given["number"] == best["number"]:
        return f"{said}. That is the config as given: nothing better was found."
    pruned = f", where it was pruned in epoch {len(as_given['curve'])}" if as_given["state"] == "pruned" else ""
    return f"{said}. The config as given reached {max(as_given['curve']):.4f}{pruned}."


def plot_curves(trials: Sequence[Mapping[str, Any]], best: int) -> Figure:
    """NDCG@10 by epoch: the best trial, those that came to their end, and those that were pruned, ending in a cross."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    named = set()
    for trial in sorted(trials, key=lambda trial: (trial["number"] == best, trial["state"] != "pruned")):
        kind, colour, width = _look(trial, best)
        epochs = np.arange(1, len(trial["curve"]) + 1)
        label = None if kind in named else kind
        named.add(kind)
        axes.plot(epochs, trial["curve"], color=colour, linewidth=width, label=label, marker="." if width < 2 else "o")
        if trial["state"] == "pruned":
            axes.plot(epochs[-1:], trial["curve"][-1:], color=colour, marker="x", markersize=7, markeredgewidth=2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation NDCG@10")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def plot_values(trials: Sequence[Mapping[str, Any]], best: int, space: Mapping[str, str]) -> Figure:
    """A plot a field: each trial's best NDCG@10 by its value."""
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(7.5, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, of) in zip(grid.flat, space.items(), strict=False):
        for trial in trials:
            value = trial["values"][name]
            _, colour, width = _look(trial, best)
            axes.plot(
                [value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)],
                [max(trial["curve"])],
                color=colour,
                marker="x" if trial["state"] == "pruned" else "o",
                markersize=4 + width,
            )
        if of.endswith(":log"):
            low, high = map(float, of.removesuffix(":log").split(".."))
            axes.set_xscale("log")
            # matplotlib labels every number of a short range, one over another.
            axes.set_xticks(ticks := [low, (low * high) ** 0.5, high], [f"{tick:.2g}" for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("NDCG@10")
    return figure


def _look(trial: Mapping[str, Any], best: int) -> tuple[str, str, float]:
    """What a trial is called in a legend, its colour and its line's width."""
    if trial["number"] == best:
        return f"best: trial {best}", _BEST, 2.5
    return ("pruned, ends in x", _PRUNED, 1.0) if trial["state"] == "pruned" else ("complete", _COMPLETE, 1.4)


def _importances(shares: Mapping[str, float]) -> str:
    if not shares:
        return '<p class="faint">Too few trials, or fields, to say which mattered most.</p>'
    bars = [
        [
            text(name),
            f'<div style="width:{12 * share:.2f}rem;height:.8rem;margin-top:.35rem;background:{_COMPLETE}"></div>',
            f"{share:.0%}",
        ]
        for name, share in shares.items()
    ]
    return table(["", "share of what sets the best quarter apart", ""], bars)


def _trials(found: Mapping[str, Any]) -> str:
    rows = []
    for trial in sorted(found["trials"], key=lambda trial: -max(trial["curve"], default=-1.0)):
        curve = trial["curve"]
        is_best = trial["number"] == found["best"]["number"]
        rows.append(
            [
                f"<b>{trial['number']}</b>" if is_best else str(trial["number"]),
                f"{max(curve):.4f}" if curve else _NOTHING,
                trial["state"] + (f" in epoch {len(curve)}" if trial["state"] == "pruned" else ""),
                *(text(trial["values"][name]) for name in found["space"]),
                _NOTHING if trial["seconds"] is None else f"{trial['seconds']:.0f}",
            ]
        )
    return table(["trial", "NDCG@10", "state", *found["space"], "seconds"], rows)


def _how_to_read(found: Mapping[str, Any]) -> str:
    size, eta = found["tune"]["population"], found["tune"]["reduction"]
    pruning = (
        f"Populations of {size} were trained side by side and cut to the best {eta}th at rungs (successive halving)"
        if size > 1
        else f"Hyperband pruned trials at rungs that lie a factor of {eta} apart, each against those that came there "
        "before it in its bracket"
    )
    return (
        "<details><summary>How to read this</summary><p>The first trial is the config as given, as far as the ranges "
        "hold it; a tree-structured Parzen estimator drew the others, the first few evenly. "
        f"{pruning}; a pruned trial might have ended higher than it stood. "
        "A trial counts with its best epoch. The best of many trials on the same validation users flatters itself: "
        "judge it by the test that the command above ends with, against the test of the config as given. "
        "What sets the best quarter apart is PED-ANOVA (Watanabe et al. 2023) over all trials, and a rough guide "
        "where they are few.</p></details>"
    )
