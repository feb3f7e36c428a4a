"""A comparison as one HTML page that opens offline: tables, verdicts and plots, nothing linked."""

import html
import io
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from seqrec.report.comparison_text import decimal, headline_metric, metric_label, verdict
from seqrec.report.slices import COLOURS, MARKERS, plain, plot_slices

# A colour that nothing else has; it becomes the page's text colour, light or dark.
_INK = "#010203"

_NOTHING = "\N{EN DASH}"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --faint: #5d636e; --line: #d9dce2; --page: #fff; --mark: #f3f5f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ed; --faint: #a3a9b5; --line: #3b3f48; --page: #16181c; --mark: #22262d; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p, ul { max-width: 44rem; }
.faint, caption, summary { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td.words { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
td small { color: var(--faint); }
.verdict { background: var(--mark); border-left: 4px solid var(--line); padding: .5rem .9rem; margin: .4rem 0; }
.better { border-left-color: #009e73; } .worse { border-left-color: #d55e00; }
svg { max-width: 100%; height: auto; color: var(--ink); }
details { margin: .3rem 0 1rem; } summary { cursor: pointer; }
"""


def page(comparison: Mapping[str, Any]) -> str:
    """The page of a comparison, as `compare` returns it, with `notes` and `config_differences` if it has."""
    reference, others = comparison["reference"], list(comparison["comparisons"])
    names = [reference, *others]
    title = " and ".join(others) + f" against {reference}"
    headline = headline_metric(comparison["metrics"])
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="faint">{comparison["n_users"]:,} users, the same in all; values are means over users with '
        f"{_percent(comparison['level'])} bootstrap intervals.</p>",
        *(_verdict(run, headline, comparison) for run in others),
        _list(comparison.get("notes", [])),
        "<h2>Metrics</h2>",
        _table(
            ["", *names],
            [
                [_text(metric_label(metric)), *(_figure(comparison["runs"][name][metric]) for name in names)]
                for metric in comparison["metrics"]
            ],
        ),
        f"<h2>Differences from {_text(reference)}</h2>",
        _svg(plot_differences(comparison), f"differences from {reference}, each with its interval"),
        *(_differences(run, comparison) for run in others),
        _how_to_read(comparison),
    ]
    if comparison["slices"]:
        parts.append(f"<h2>{_text(metric_label(headline))} by slices of the users</h2>")
        parts.append(
            '<p class="faint">Left, each run; right, the paired difference from '
            f"{_text(reference)}. These intervals are not adjusted for the number of slices: of twenty that hold no "
            "difference, about one will seem to show one.</p>"
        )
        parts += [_slices(figures, headline, others) for figures in comparison["slices"]]
    if comparison.get("config_differences"):
        parts += ["<h2>What differs in the configs</h2>", _configs(comparison["config_differences"])]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


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
    return f'<p class="verdict{kind}">{_text(verdict(run, metric, found, level=comparison["level"]))}.</p>'


def _differences(run: str, comparison: Mapping[str, Any]) -> str:
    rows = []
    for metric in comparison["metrics"]:
        found = comparison["comparisons"][run][metric]
        rows.append(
            [
                _text(metric_label(metric)),
                _figure([found["difference"], *found["interval"]]),
                _p_value(found["p"], comparison),
                _p_value(found["p_holm"], comparison),
                _decimal(found["detectable"]),
                _text(_short(found, comparison["level"])),
            ]
        )
    heads = ["", "difference", "p", "p (Holm)", "could have shown", ""]
    return f"<h3>{_text(run)}</h3>" + _table(heads, rows, words=(5,))


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


def _slices(figures: Mapping[str, Any], metric: str, others: Sequence[str]) -> str:
    rows = [
        [
            _text(each["label"]),
            f"{each['n_users']:,}",
            *(_figure(run[metric]) for run in each["runs"].values()),
            *(_figure(each["differences"][run][metric]) for run in others),
        ]
        for each in figures["slices"]
    ]
    heads = [figures["name"], "users", *figures["slices"][0]["runs"], *(f"{run}, difference" for run in others)]
    label = metric_label(metric)
    picture = _svg(plot_slices(dict(figures), metric=metric, title=label), f"{label} by {figures['name']}")
    return (
        f"<h3>By {_text(figures['name'])}</h3>{picture}"
        f"<details><summary>the numbers</summary>{_table(heads, rows, words=(0,))}</details>"
    )


def _configs(differences: Mapping[str, Mapping[str, Any]]) -> str:
    runs = list(next(iter(differences.values())))
    rows = []
    for name, values in differences.items():
        rows.append([_text(name), *(_NOTHING if values[run] is None else _text(values[run]) for run in runs)])
    return _table(["", *runs], rows, words=tuple(range(1, len(runs) + 1)))


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """Heads are escaped here, cells are HTML already; columns in `words` may break their lines."""
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    lines = []
    for row in rows:
        cells = [f"<td{' class=words' if i in words else ''}>{cell}</td>" for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _figure(figures: Sequence[float | None]) -> str:
    mean, lower, upper = figures
    return f"{_decimal(mean)} <small>[{_decimal(lower)}, {_decimal(upper)}]</small>"


def _decimal(value: float | None) -> str:
    return _NOTHING if value is None else decimal(value)


def _p_value(value: float | None, comparison: Mapping[str, Any]) -> str:
    if value is None:
        return _NOTHING
    smallest = 1.0 / (comparison["n_resamples"] + 1)
    return f"≤ {decimal(value)}" if value <= smallest * (1 + 1e-9) else decimal(value)


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _svg(figure: Figure, alternative: str) -> str:
    """The figure as inline SVG whose lines and letters take the page's colour."""
    stream = io.StringIO()
    # The same figure gives the same bytes, and letters stay letters: found, copied and in the page's colour.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seqrec"}), warnings.catch_warnings():
        # The letters are drawn by the browser, which has more fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for axes in figure.axes:
            axes.tick_params(color=_INK, labelcolor=_INK)
            axes.patch.set_visible(False)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set_color(_INK)
            for spine in axes.spines.values():
                spine.set_color(_INK)
        for legend in figure.legends:
            for text in legend.get_texts():
                text.set_color(_INK)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = stream.getvalue()
    picture = picture[picture.index("<svg") :].replace(_INK, "currentColor")
    # Several pictures share the page, and their parts must not share names.
    mark = f"f{zlib.crc32(picture.encode()):x}-"
    picture = re.sub(r'(\bid="|url\(#|href="#)', lambda found: found.group(1) + mark, picture)
    return picture.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1)
