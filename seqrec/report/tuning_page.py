"""A hyper-parameter search as an HTML page: the best config, the curve of each trial, and which fields mattered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from seqrec.pages import html, plots

_COMPLETE, _BEST = plots.COLOURS[:2]


def page(search: Mapping[str, Any]) -> str:
    """The page of a search with a finished trial, as `tune.json` holds it."""
    trials, best = search["trials"], search["best"]
    states = {state: sum(trial["state"] == state for trial in trials) for state in ("complete", "pruned", "failed")}
    counts = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    minutes = sum(trial["seconds"] or 0 for trial in trials) / 60
    begun = [trial for trial in trials if trial["curve"]]
    parts = [
        html.faint(
            f"{len(trials)} trials: {counts}; {minutes:.1f} minutes of training; seed {search['seed']}. Values are "
            "NDCG@10 on the validation items, ranked among the whole catalogue. No trial has used the test items."
        ),
        html.verdict_box(_verdict(search)),
        html.heading("Best config"),
        html.table(
            ["", "searched", "as given", "best"],
            [
                [name, values, search["base"][name], html.bold(best["values"][name])]
                for name, values in search["space"].items()
            ],
        ),
        html.paragraph("This command trains and tests it:"),
        html.paragraph(html.code(best["command"])),
        html.heading("Learning curves"),
        html.picture(plot_curves(begun, best["number"]), "validation NDCG@10 of each trial by epoch"),
        html.heading("Which fields mattered"),
        _importances(search["importances"]),
        html.picture(
            plot_values(begun, best["number"], search["space"]), "NDCG@10 of each trial by the value of each field"
        ),
        html.heading("All trials"),
        _trials(search),
        _how_to_read(search),
    ]
    return html.document(f"Tuning {search['script']} on {search.get('name') or search['dataset']}", parts)


def _verdict(search: Mapping[str, Any]) -> str:
    best = search["best"]
    as_given = next((trial for trial in search["trials"] if trial["values"] == search["base"] and trial["curve"]), None)
    sentence = f"Trial {best['number']} is the best: {best['ndcg@10']:.4f} in epoch {best['epoch']}"
    if as_given is None:
        return f"{sentence}."
    if as_given["number"] == best["number"]:
        return f"{sentence}. That is the config as given: no trial was better."
    pruned = f", where it was pruned in epoch {len(as_given['curve'])}" if as_given["state"] == "pruned" else ""
    return f"{sentence}. The config as given reached {max(as_given['curve']):.4f}{pruned}."


def plot_curves(trials: Sequence[Mapping[str, Any]], best: int) -> Figure:
    """NDCG@10 by epoch: the best trial, other complete trials, and pruned trials, which end in a cross."""
    figure, axes = plots.new_axes(4.2)
    named = set()
    for trial in sorted(trials, key=lambda trial: (trial["number"] == best, trial["state"] != "pruned")):
        kind, colour, width = _look(trial, best)
        epochs = np.arange(1, len(trial["curve"]) + 1)
        label = None if kind in named else kind
        named.add(kind)
        axes.plot(epochs, trial["curve"], color=colour, linewidth=width, label=label, marker="." if width < 2 else "o")
        if trial["state"] == "pruned":
            axes.plot(epochs[-1:], trial["curve"][-1:], color=colour, marker="x", markersize=7, markeredgewidth=2)
    axes.set_ylim(bottom=0)
    plots.whole_numbers(axes)
    plots.finish(axes, x="epoch", y="validation NDCG@10")
    plots.add_legend(figure)
    return figure


def plot_values(trials: Sequence[Mapping[str, Any]], best: int, space: Mapping[str, str]) -> Figure:
    """A plot for each field: the best NDCG@10 of each trial by its value."""
    columns = min(3, len(space))
    rows = -(-len(space) // columns)
    figure = plots.new_figure(2.4 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, searched) in zip(grid.flat, space.items(), strict=False):
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
        if searched.endswith(":log"):
            low, high = map(float, searched.removesuffix(":log").split(".."))
            axes.set_xscale("log")
            # matplotlib labels every number of a short range, one on top of another.
            axes.set_xticks(ticks := [low, (low * high) ** 0.5, high], [f"{tick:.2g}" for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif all(isinstance(trial["values"][name], int | float) for trial in trials):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        plots.finish(axes, x=plots.plain(name))
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("NDCG@10")
    return figure


def _look(trial: Mapping[str, Any], best: int) -> tuple[str, str, float]:
    """A trial's name in the legend, its colour and the width of its line."""
    if trial["number"] == best:
        return f"best: trial {best}", _BEST, 2.5
    return ("pruned, ends in x", plots.NEUTRAL, 1.0) if trial["state"] == "pruned" else ("complete", _COMPLETE, 1.4)


def _importances(shares: Mapping[str, float]) -> str:
    if not shares:
        return html.faint("Too few trials, or fields, to say which mattered most.")
    bar = '<div style="width:{:.2f}rem;height:.8rem;margin-top:.35rem;background:{}"></div>'
    rows = [[name, html.Html(bar.format(12 * share, _COMPLETE)), f"{share:.0%}"] for name, share in shares.items()]
    return html.table(["", "importance", ""], rows)


def _trials(search: Mapping[str, Any]) -> str:
    rows = []
    for trial in sorted(search["trials"], key=lambda trial: -max(trial["curve"], default=-1.0)):
        curve = trial["curve"]
        number, is_best = trial["number"], trial["number"] == search["best"]["number"]
        rows.append(
            [
                html.bold(number) if is_best else number,
                f"{max(curve):.4f}" if curve else None,
                trial["state"] + (f" in epoch {len(curve)}" if trial["state"] == "pruned" else ""),
                *(trial["values"][name] for name in search["space"]),
                html.number(trial["seconds"], "{:.0f}".format),
            ]
        )
    return html.table(["trial", "NDCG@10", "state", *search["space"], "seconds"], rows)


def _how_to_read(search: Mapping[str, Any]) -> str:
    size, eta = search["tune"]["population"], search["tune"]["reduction"]
    pruning = (
        f"Populations of {size} were trained side by side and cut to the best 1/{eta} at rungs (successive halving)"
        if size > 1
        else f"Hyperband pruned trials at rungs that lie a factor of {eta} apart, each against those of its bracket "
        "that reached the rung before it"
    )
    return html.details(
        "How to read this",
        html.paragraph(
            "The first trial is the config as given, clipped to the search ranges; a tree-structured Parzen estimator "
            f"chose the others, the first few at random. {pruning}; a pruned trial might have ended higher than where "
            "it stopped. A trial is judged by its best epoch. The best of many trials on the same validation users "
            "looks better than it is: compare the test result of the command above with that of the config as given. "
            "Importance is how far a field separates the best quarter of the trials from the rest (PED-ANOVA, Watanabe "
            "et al. 2023): a rough guide if there are few trials."
        ),
    )
