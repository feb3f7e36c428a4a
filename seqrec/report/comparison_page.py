"""A comparison of runs as an HTML page: verdicts, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from seqrec.pages.document import (
    DASH,
    bullets,
    document,
    faint,
    folded,
    interval_cell,
    picture,
    table,
    text,
    verdict_box,
)
from seqrec.pages.plots import (
    COLOURS,
    MARKERS,
    Series,
    add_legend,
    draw_intervals,
    draw_zero,
    finish,
    new_figure,
    plain,
    row_height,
)
from seqrec.report.comparison_text import decided_by_correction, decimal, headline_metric, metric_label, verdict


def page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison, as `compare` returns it, with its `notes` and `config_differences` if it has any."""
    reference, others = comparison["reference"], list(comparison["comparisons"])
    names = [reference, *others]
    headline = headline_metric(comparison["metrics"])
    parts = [
        faint(
            f"{comparison['n_users']:,} users, the same for all runs; values are means over users with "
            f"{_percent(comparison['level'])} bootstrap intervals."
        ),
        *(_verdict(run, headline, comparison) for run in others),
        bullets(comparison.get("notes", [])),
        "<h2>Metrics</h2>",
        table(
            ["", *names],
            [
                [text(metric_label(metric)), *(figure_cell(comparison["runs"][name][metric]) for name in names)]
                for metric in comparison["metrics"]
            ],
        ),
        f"<h2>Differences from {text(reference)}</h2>",
        picture(plot_differences(comparison), f"differences from {reference} with their intervals"),
        *(_differences(run, comparison) for run in others),
        _how_to_read(comparison),
    ]
    if comparison["slices"]:
        parts.append(f"<h2>{text(metric_label(headline))} by slices of the users</h2>")
        parts.append(
            faint(
                "Left: each run. Right: the paired difference from "
                f"{text(reference)}. These intervals are not adjusted for the number of slices: of twenty slices "
                "without a difference, about one will seem to show one."
            )
        )
        parts += [slice_section(figures, headline, others) for figures in comparison["slices"]]
    if comparison.get("config_differences"):
        parts += ["<h2>Differences between the configs</h2>", _configs(comparison["config_differences"])]
    return document(" and ".join(others) + f" against {reference}", parts)


def plot_differences(comparison: Mapping[str, Any]) -> Figure:
    """A row for each metric and a point for each run: its paired difference from the reference, with the interval."""
    metrics, runs = comparison["metrics"], comparison["comparisons"]
    figure = new_figure(row_height(len(metrics), len(runs)))
    axes = figure.subplots()
    series = [
        Series([[by_metric[name]["difference"], *by_metric[name]["interval"]] for name in metrics], *_look(place), run)
        for place, (run, by_metric) in enumerate(runs.items(), start=1)
    ]
    draw_intervals(axes, list(map(metric_label, metrics)), series)
    draw_zero(axes)
    finish(axes, x="difference; right of 0 is better", grid="x")
    add_legend(figure)
    return figure


def plot_slices(figures: Mapping[str, Any], *, metric: str) -> Figure:
    """A row for each slice, a point with its interval for each run; on the right the paired differences from the first.

    `figures` are those of `slice_figures`.
    """
    slices = figures["slices"]
    runs, others = list(slices[0]["runs"]), list(slices[0]["differences"])
    rows = [f"{each['label'][:40]}  (n = {each['n_users']:,})" for each in slices]
    figure = new_figure(row_height(len(slices), len(runs)), width=9.0)
    means, gains = figure.subplots(1, 2, sharey=True)
    for axes, part, shown in ((gains, "differences", others), (means, "runs", runs)):
        series = [
            Series(
                [each[part][run][metric] for each in slices],
                *_look(runs.index(run)),
                run if part == "runs" else "",
            )
            for run in shown
        ]
        draw_intervals(axes, rows, series)
    draw_zero(gains)
    label = metric_label(metric)
    finish(means, x=label, y=plain(figures["name"]), grid="x")
    finish(gains, x=f"difference in {label}", grid="x")
    add_legend(figure)
    return figure


def _look(place: int) -> tuple[str, str]:
    """Colour and marker of the run at this place among all runs."""
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def _verdict(run: str, metric: str, comparison: Mapping[str, Any]) -> str:
    difference = comparison["comparisons"][run][metric]
    kind = ""
    if difference["p_holm"] is not None and difference["p_holm"] <= 1.0 - comparison["level"]:
        kind = "good" if difference["difference"] > 0 else "bad"
    return verdict_box(f"{verdict(run, metric, difference, level=comparison['level'])}.", kind=kind)


def _differences(run: str, comparison: Mapping[str, Any]) -> str:
    rows = []
    for metric in comparison["metrics"]:
        difference = comparison["comparisons"][run][metric]
        rows.append(
            [
                text(metric_label(metric)),
                figure_cell([difference["difference"], *difference["interval"]]),
                _p_value(difference["p"], comparison),
                _p_value(difference["p_holm"], comparison),
                decimal_cell(difference["detectable"]),
                text(_short(difference, comparison["level"])),
            ]
        )
    heads = ["", "difference", "p", "p (Holm)", "detectable", "verdict"]
    return f"<h3>{text(run)}</h3>" + table(heads, rows, words=(5,))


def _short(difference: Mapping[str, Any], level: float) -> str:
    if difference["difference"] is None:
        return "not known for every user"
    if difference["p_holm"] > 1.0 - level:
        return "no difference shown" + (" after correction" if decided_by_correction(difference, level=level) else "")
    return "better" if difference["difference"] > 0 else "worse"


def _how_to_read(comparison: Mapping[str, Any]) -> str:
    n = len(comparison["comparisons"]) * len(comparison["metrics"])
    family = "the one comparison" if n == 1 else f"all {n} comparisons"
    return folded(
        "How to read this",
        "<p>Users are paired: a difference is the mean over users of the run's value minus the reference's. p is that "
        f"of a two-sided sign-flip test ({comparison['n_resamples']:,} resamples); p (Holm) is corrected for {family} "
        f"in the tables, and a difference counts as shown if it is at most {decimal(1 - comparison['level'], 2)}. The "
        "intervals are not corrected, so that one may leave out 0 where no difference counts as shown. “Detectable” is "
        "the smallest true difference that a test of this many users, with differences spread like these, finds with "
        f"{_percent(comparison['power'])} power, before any correction. That no difference was shown does not mean "
        "that there is none. All this is about other users with the same trained models: another training seed may "
        "move a model's metrics by more.</p>",
    )


def slice_section(figures: Mapping[str, Any], metric: str, others: Sequence[str]) -> str:
    """One slicing, as `slice_figures` has it, as a plot with its numbers folded below."""
    rows = [
        [
            text(each["label"]),
            f"{each['n_users']:,}",
            *(figure_cell(run[metric]) for run in each["runs"].values()),
            *(figure_cell(each["differences"][run][metric]) for run in others),
        ]
        for each in figures["slices"]
    ]
    heads = [figures["name"], "users", *figures["slices"][0]["runs"], *(f"{run}, difference" for run in others)]
    plot = picture(plot_slices(figures, metric=metric), f"{metric_label(metric)} by {figures['name']}")
    return f"<h3>By {text(figures['name'])}</h3>{plot}{folded('the numbers', table(heads, rows, words=(0,)))}"


def _configs(differences: Mapping[str, Mapping[str, Any]]) -> str:
    runs = list(next(iter(differences.values())))
    rows = []
    for name, values in differences.items():
        rows.append([text(name), *(DASH if values[run] is None else text(values[run]) for run in runs)])
    return table(["", *runs], rows, words=tuple(range(1, len(runs) + 1)))


def figure_cell(ends: Sequence[float | None]) -> str:
    """A mean with its interval, from [mean, lower, upper]."""
    return interval_cell(ends, decimal)


def decimal_cell(value: float | None) -> str:
    """A number, or a dash where it is not known."""
    return DASH if value is None else decimal(value)


def _p_value(value: float | None, comparison: Mapping[str, Any]) -> str:
    if value is None:
        return DASH
    smallest = 1.0 / (comparison["n_resamples"] + 1)
    return f"≤ {decimal(value)}" if value <= smallest * (1 + 1e-9) else decimal(value)


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
