"""A comparison of runs as an HTML page: verdicts, tables and plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from seqrec.pages import html, plots
from seqrec.report.comparison_text import (
    decided_by_correction,
    decimal,
    difference_ends,
    headline_metric,
    metric_label,
    verdict,
)


def page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison, as `compare` returns it, with its `notes` and `config_differences` if it has any."""
    reference, others = comparison["reference"], list(comparison["comparisons"])
    names = [reference, *others]
    headline = headline_metric(comparison["metrics"])
    parts = [
        html.faint(
            f"{comparison['n_users']:,} users, the same for all runs; values are means over users with "
            f"{_percent(comparison['level'])} bootstrap intervals."
        ),
        *(_verdict(run, headline, comparison) for run in others),
        html.bullets(comparison.get("notes", [])),
        html.heading("Metrics"),
        html.table(
            ["", *names],
            [
                [metric_label(metric), *(figure_cell(comparison["runs"][name][metric]) for name in names)]
                for metric in comparison["metrics"]
            ],
        ),
        html.heading(f"Differences from {reference}"),
        html.picture(plot_differences(comparison), f"differences from {reference} with their intervals"),
        *(_differences(run, comparison) for run in others),
        _how_to_read(comparison),
    ]
    if comparison["slices"]:
        note = f"Left: each run. Right: the paired difference from {reference}. These intervals"
        parts += slice_sections(comparison["slices"], headline, others, note=note)
    if differences := comparison.get("config_differences"):
        runs = list(next(iter(differences.values())))
        rows = [[name, *(values[run] for run in runs)] for name, values in differences.items()]
        parts.append(html.heading("Differences between the configs"))
        parts.append(html.table(["", *runs], rows, words=tuple(range(1, len(runs) + 1))))
    return html.document(" and ".join(others) + f" against {reference}", parts)


def plot_differences(comparison: Mapping[str, Any]) -> Figure:
    """A row for each metric and a point for each run: its paired difference from the reference, with the interval."""
    metrics, runs = comparison["metrics"], comparison["comparisons"]
    figure, axes = plots.new_axes(plots.row_height(len(metrics), len(runs)))
    series = [
        plots.Series([difference_ends(by_metric[name]) for name in metrics], *plots.look(place), run)
        for place, (run, by_metric) in enumerate(runs.items(), start=1)
    ]
    plots.draw_intervals(axes, list(map(metric_label, metrics)), series)
    plots.draw_zero(axes)
    plots.finish(axes, x="difference; right of 0 is better", grid="x")
    plots.add_legend(figure)
    return figure


def plot_slices(figures: Mapping[str, Any], *, metric: str) -> Figure:
    """A row for each slice, a point with its interval for each run; on the right the paired differences from the first.

    `figures` are those of `slice_figures`.
    """
    slices = figures["slices"]
    runs, others = list(slices[0]["runs"]), list(slices[0]["differences"])
    rows = [f"{each['label'][:40]}  (n = {each['n_users']:,})" for each in slices]
    figure = plots.new_figure(plots.row_height(len(slices), len(runs)), width=9.0)
    means, gains = figure.subplots(1, 2, sharey=True)
    for axes, part, shown in ((gains, "differences", others), (means, "runs", runs)):
        series = [
            plots.Series(
                [each[part][run][metric] for each in slices],
                *plots.look(runs.index(run)),
                run if part == "runs" else "",
            )
            for run in shown
        ]
        plots.draw_intervals(axes, rows, series)
    plots.draw_zero(gains)
    label = metric_label(metric)
    plots.finish(means, x=label, y=plots.plain(figures["name"]), grid="x")
    plots.finish(gains, x=f"difference in {label}", grid="x")
    plots.add_legend(figure)
    return figure


def _verdict(run: str, metric: str, comparison: Mapping[str, Any]) -> str:
    difference = comparison["comparisons"][run][metric]
    kind = {"better": "good", "worse": "bad"}.get(_short(difference, comparison["level"]), "")
    return html.verdict_box(f"{verdict(run, metric, difference, level=comparison['level'])}.", kind=kind)


def _differences(run: str, comparison: Mapping[str, Any]) -> str:
    rows = [
        [
            metric_label(metric),
            figure_cell(difference_ends(each)),
            *(_p_value(each[name], comparison) for name in ("p", "p_holm")),
            html.number(each["detectable"], decimal),
            _short(each, comparison["level"]),
        ]
        for metric, each in comparison["comparisons"][run].items()
    ]
    heads = ["", "difference", "p", "p (Holm)", "detectable", "verdict"]
    return html.heading(run, level=3) + html.table(heads, rows, words=(5,))


def _short(difference: Mapping[str, Any], level: float) -> str:
    if difference["difference"] is None:
        return "not known for every user"
    if difference["p_holm"] > 1.0 - level:
        return "no difference shown" + (" after correction" if decided_by_correction(difference, level=level) else "")
    return "better" if difference["difference"] > 0 else "worse"


def _how_to_read(comparison: Mapping[str, Any]) -> str:
    n = len(comparison["comparisons"]) * len(comparison["metrics"])
    family = "the one comparison" if n == 1 else f"all {n} comparisons"
    return html.details(
        "How to read this",
        html.paragraph(
            "Users are paired: a difference is the mean over users of the run's value minus the reference's. p is that "
            f"of a two-sided sign-flip test ({comparison['n_resamples']:,} resamples); p (Holm) is corrected for "
            f"{family} in the tables, and a difference counts as shown if it is at most "
            f"{decimal(1 - comparison['level'], 2)}. The intervals are not corrected, so that one may leave out 0 "
            "where no difference counts as shown. “Detectable” is the smallest true difference that a test of this "
            f"many users, with differences spread like these, finds with {_percent(comparison['power'])} power, before "
            "any correction. That no difference was shown does not mean that there is none. All this is about other "
            "users with the same trained models: another training seed may move a model's metrics by more."
        ),
    )


def slice_sections(slices: Sequence[Mapping[str, Any]], metric: str, others: Sequence[str], *, note: str) -> list[str]:
    """The part of a page on slices of the users, each as a plot with its numbers folded below.

    `slices` are as `slice_figures` has them; `note` explains the plot and ends in the subject of the next sentence.
    """
    label = metric_label(metric)
    parts: list[str] = [
        html.heading(f"{label} by slices of the users"),
        html.faint(
            f"{note} are not adjusted for the number of slices: of twenty slices without a difference, about one will "
            "seem to show one."
        ),
    ]
    for figures in slices:
        rows = [
            [
                each["label"],
                f"{each['n_users']:,}",
                *(figure_cell(run[metric]) for run in each["runs"].values()),
                *(figure_cell(each["differences"][run][metric]) for run in others),
            ]
            for each in figures["slices"]
        ]
        heads = [figures["name"], "users", *figures["slices"][0]["runs"], *(f"{run}, difference" for run in others)]
        parts += [
            html.heading(f"By {figures['name']}", level=3),
            html.picture(plot_slices(figures, metric=metric), f"{label} by {figures['name']}"),
            html.details("the numbers", html.table(heads, rows, words=(0,))),
        ]
    return parts


def figure_cell(ends: Sequence[float | None]) -> str:
    """A mean with its interval, from [mean, lower, upper]."""
    return html.interval_cell(ends, decimal)


def _p_value(value: float | None, comparison: Mapping[str, Any]) -> str | None:
    if value is None:
        return None
    smallest = 1.0 / (comparison["n_resamples"] + 1)
    return f"≤ {decimal(value)}" if value <= smallest * (1 + 1e-9) else decimal(value)


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
