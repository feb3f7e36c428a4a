"""Plots of an A/B result."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from seqrec.pages import plots


class Bar(NamedTuple):
    """A relative difference with its interval; None where there is none."""

    label: str
    value: float | None
    lower: float | None
    upper: float | None
    limit: float | None = None
    """The margin of a guardrail."""


def plot_relative(bars: Sequence[Bar], *, x: str, more_is_better: bool = True) -> Figure:
    """A row for each bar, coloured good or bad where its whole interval lies on one side of 0.

    A margin is a dashed mark.
    """
    figure, axes = plots.new_axes(plots.row_height(len(bars), 1))
    sign = 1 if more_is_better else -1
    sides = {plots.GOOD: sign, plots.BAD: -sign, plots.COLOURS[0]: 0}
    series = [
        plots.Series([bar[1:4] if _side(bar) == side else (None, None, None) for bar in bars], colour)
        for colour, side in sides.items()
    ]
    plots.draw_intervals(axes, [_short(bar.label) for bar in bars], series, side_by_side=False)
    plots.draw_zero(axes)
    for row, bar in enumerate(bars):
        if bar.limit is not None:
            axes.plot([bar.limit] * 2, [row - 0.3, row + 0.3], color=plots.BAD, linestyle="--", linewidth=1.4)
        if _side(bar) is None:
            axes.annotate("not known", (0.0, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+.3g}%" if share else "0%"))
    plots.finish(axes, x=x, grid="x")
    return figure


def _side(bar: Bar) -> int | None:
    """1: above 0, -1: below 0, 0: neither is shown; None: not known."""
    if bar.value is None or bar.lower is None or bar.upper is None:
        return None
    return int(bar.lower > 0) - int(bar.upper < 0)


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}\N{HORIZONTAL ELLIPSIS}"


def plot_days(days: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The difference to date by day: a line, the confidence sequence as a band, the fixed interval as dashes.

    None where no day has a difference.
    """
    days_with_effect = [day for day in days if day["difference"] is not None]
    if not days_with_effect:
        return None
    names = ("day", "difference", "lower", "upper", "fixed_lower", "fixed_upper")
    columns = np.array([[each[name] for name in names] for each in days_with_effect], float).T
    day, difference, lower, upper, *fixed = columns
    figure, axes = plots.new_axes(3.2)
    axes.fill_between(day, lower, upper, color=plots.COLOURS[0], alpha=0.18, linewidth=0)
    for ends in fixed:
        axes.plot(day, ends, color=plots.NEUTRAL, linestyle="--", linewidth=1.2)
    axes.plot(day, difference, color=plots.COLOURS[0], linewidth=2.2, marker="." if len(days_with_effect) < 3 else "")
    axes.axhline(0.0, color=plots.NEUTRAL, linewidth=1)
    # The first days' intervals are so wide that the rest would look like a line: the scale is that of the later days.
    later = slice(len(days_with_effect) // 4, None)
    low, high = min(0.0, *lower[later]), max(0.0, *upper[later])
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(1, max(2, days[-1]["day"]))
    plots.whole_numbers(axes)
    plots.finish(axes, x="day", y="difference", grid="y")
    return figure
