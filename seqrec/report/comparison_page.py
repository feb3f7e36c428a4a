"""A comparison as one HTML page that opens offline: tables, verdicts and plots, nothing linked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqrec.report.comparison_text import decimal, headline_metric, metric_label, verdict
from seqrec.report.page_parts import document, svg, table, text
from seqrec.report.slices import COLOURS, MARKERS, plain, plot_slices

_NOTHING = "\N{EN DASH}"


def page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison, as `compare` returns it, with `notes` and `config_differences` if it has."""
    reference, others = comparison["reference"], list(comparison["comparisons"])
    names = [reference, *others]
    title = " and ".join(others) + f" against {reference}"
    headline = headline_metric(comparison["metrics"])
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="faint">{comparison["n_users"]:,} users, the same in all; values are means over users with '
        f"{_percent(comparison['level'])} bootstrap intervals.</p>",
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
        svg(plot_differences(comparison), f"differences from {reference}, each with its interval"),
        *(_differences(run, comparison) for run in others),
        _how_to_read(comparison),
    ]
    if comparison["slices"]:
        parts.append(f"<h2>{text(metric_label(headline))} by slices of the users</h2>")
        parts.append(
            '<p class="faint">Left, each run; right, the paired difference from '
            f"{text(reference)}. These intervals are not adjusted for the number of slices: of twenty that hold no "
            "difference, about one will seem to show one.</p>"
        )
        parts += [slice_section(figures, headline, others) for figures in comparison["slices"]]
    if comparison.get("config_differences"):
        parts += ["<h2>What differs in the configs</h2>", _configs(comparison["config_differences"])]
    body = "\n".join(part for part in parts if part)
    return document(title, body)


def plot_differences(comparison: Mapping[str, Any]) -> Figure:
    """A row a metric and a point a run: its paired difference from the reference, with the interval as a bar."""
    metrics, runs = comparison["metrics"], comparison["comparisons"]
    figure = Figure(figsize=(7.5, 1.1 + len(metrics) * (0.18 + 0.12 * len(runs))), layout="constrained")
    axes = figure.subplots()
    for number, (run, by_metric) in enumerate(runs.items(), start=1):
        ends = [(by_metric[name]["difference"], *by_metric[name]["interval"]) for name in metrics]
        mean, lower, upper = np.array(ends, float).T
        axes.errorbar(
            mean,
            np.arange(len(metrics)) + (number - (len(runs) + 1) / 2) * 0.7 / len(runs),
            xerr=np.maximum([mean - lower, upper - mean], 0.0),
            fmt=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            capsize=2.5,
            color=COLOURS[number % len(COLOURS)],
            label=plain(run),
        )
    axes.axvline(0.0, color="tab:gray", linewidth=1)
    axes.set_yticks(range(len(metrics)), [metric_label(name) for name in metrics])
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlabel(f"difference from {plain(comparison['reference'])}; right of 0 is better")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _verdict(run: str, metric: str, comparison: Mapping[str, Any]) -> str:
    found = comparison["comparisons"][run][metric]
    kind = ""
    if found["p_holm"] is not None and found["p_holm"] <= 1.0 - comparison["level"]:
        kind = " better" if found["difference"] > 0 else " worse"
    return f'<p class="verdict{kind}">{text(verdict(run, metric, found, level=comparison["level"]))}.</p>'


def _differences(run: str, comparison: Mapping[str, Any]) -> str:
    rows = []
    for metric in comparison["metrics"]:
        found = comparison["comparisons"][run][metric]
        rows.append(
            [
                text(metric_label(metric)),
                figure_cell([found["difference"], *found["interval"]]),
                _p_value(found["p"], comparison),
                _p_value(found["p_holm"], comparison),
                decimal_cell(found["detectable"]),
                text(_short(found, comparison["level"])),
            ]
        )
    heads = ["", "difference", "p", "p (Holm)", "could have shown", ""]
    return f"<h3>{text(run)}</h3>" + table(heads, rows, words=(5,))


def _short(found: Mapping[str, Any], level: float) -> str:
    if found["difference"] is None:
        return "not known of every user"
    if found["p_holm"] > 1.0 - level:
        return "no difference shown"
    return "better" if found["difference"] > 0 else "worse"


def _how_to_read(comparison: Mapping[str, Any]) -> str:
    n = len(comparison["comparisons"]) * len(comparison["metrics"])
    family = "the one comparison" if n == 1 else f"all {n} comparisons"
    return (
        "<details><summary>How to read this</summary><p>Users are paired: a difference is the mean over users of the "
        f"run's value less the reference's. p is that of a two-sided sign-flip test ({comparison['n_resamples']:,} "
        f"resamples); p (Holm) is adjusted for {family} in the tables, and a difference counts as shown where it is "
        f"at most {decimal(1 - comparison['level'], 2)}. “Could have shown” is the smallest true difference that a "
        "test of so many users, with differences spread as these are, would have found with "
        f"{_percent(comparison['power'])} power, before any adjustment. That no difference was shown does not say "
        "that there is none. All this is about other users with the same trained models: another seed of training "
        "may move a model's metrics by more.</p></details>"
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
    label = metric_label(metric)
    picture = svg(plot_slices(dict(figures), metric=metric, title=label), f"{label} by {figures['name']}")
    return (
        f"<h3>By {text(figures['name'])}</h3>{picture}"
        f"<details><summary>the numbers</summary>{table(heads, rows, words=(0,))}</details>"
    )


def _configs(differences: Mapping[str, Mapping[str, Any]]) -> str:
    runs = list(next(iter(differences.values())))
    rows = []
    for name, values in differences.items():
        rows.append([text(name), *(_NOTHING if values[run] is None else text(values[run]) for run in runs)])
    return table(["", *runs], rows, words=tuple(range(1, len(runs) + 1)))


def bullets(sentences: Sequence[str]) -> str:
    """The sentences as a list; nothing where there are none."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def figure_cell(figures: Sequence[float | None]) -> str:
    """A mean with its interval, from [mean, lower, upper]."""
    mean, lower, upper = figures
    return f"{decimal_cell(mean)} <small>[{decimal_cell(lower)}, {decimal_cell(upper)}]</small>"


def decimal_cell(value: float | None) -> str:
    """A number, or a dash where it is not known."""
    return _NOTHING if value is None else decimal(value)


def _p_value(value: float | None, comparison: Mapping[str, Any]) -> str:
    if value is None:
        return _NOTHING
    smallest = 1.0 / (comparison["n_resamples"] + 1)
    return f"≤ {decimal(value)}" if value <= smallest * (1 + 1e-9) else decimal(value)


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
