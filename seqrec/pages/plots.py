"""Plots of pages, as matplotlib figures and as inline SVG that takes the page's colours."""

import html
import io
import re
import warnings
import zlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which all kinds of colour vision tell apart, without those that are faint on white or black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
GOOD, BAD, NEUTRAL = "#009E73", "#D55E00", "#7F8894"

# A colour that nothing else has; in the SVG it becomes the page's text colour, light or dark.
_INK = "#010203"


class Series(NamedTuple):
    """Values with intervals, one for each row of a plot."""

    ends: Sequence[Sequence[float | None]]
    """[value, lower, upper] for each row; a row whose value is None is not drawn."""
    colour: str
    marker: str = "o"
    label: str = ""
    """Name in the legend; a series without one is not in it."""


def new_figure(height: float, *, width: float = 6.4) -> Figure:
    """An empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(height: float, *, width: float = 6.4) -> tuple[Figure, Axes]:
    """`new_figure` and the only plot in it."""
    figure = new_figure(height, width=width)
    return figure, figure.subplots()


def look(place: int) -> tuple[str, str]:
    """Colour and marker of the series at this place among all series of a page."""
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def row_height(n_rows: int, n_series: int) -> float:
    """Inches that `draw_intervals` takes for this many rows and series."""
    return 1.1 + n_rows * (0.2 + 0.13 * n_series)


def draw_intervals(axes: Axes, rows: Sequence[str], series: Sequence[Series], *, side_by_side: bool = True) -> None:
    """A row a label, from the top, and in it a point with a bar for each series.

    `side_by_side` gives each series a height of its own in a row; without it, they share one, as where only one of
    them has a value in each row.
    """
    for number, each in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.7 / len(series) if side_by_side else 0.0
        value, lower, upper = np.array(each.ends, float).T
        if not np.isnan(value).all():
            axes.errorbar(
                value,
                np.arange(len(rows)) + shift,
                xerr=np.maximum([value - lower, upper - value], 0.0),
                fmt=each.marker,
                markersize=4.5,
                capsize=2.5,
                color=each.colour,
                label=plain(each.label) if each.label else None,
            )
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    # More ticks would run into each other on numbers of several digits.
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))


def draw_zero(axes: Axes) -> None:
    """The line of no difference."""
    axes.axvline(0.0, color=NEUTRAL, linewidth=1, zorder=0)


def finish(axes: Axes, *, x: str = "", y: str = "", grid: Literal["both", "x", "y"] = "both") -> None:
    """Names the axes, draws the grid behind the data and takes away the upper and right edges."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure) -> None:
    """Names the series above the plots, in as many columns as fit."""
    names = [name for axes in figure.axes for name in axes.get_legend_handles_labels()[1]]
    # Inches of a line and its name; a letter takes about .08.
    width = 0.6 + 0.08 * max(map(len, names), default=0)
    n_columns = max(1, min(len(names), int(figure.get_figwidth() / width)))
    figure.legend(loc="outside upper center", ncols=n_columns, frameon=False)


def whole_numbers(axes: Axes) -> None:
    """Whole numbers only along x, as of epochs and days."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def plain(words: str) -> str:
    """`words` for matplotlib, which takes dollars for formulas and hides a legend's names that begin with "_"."""
    return (" " if words.startswith("_") else "") + words.replace("$", r"\$")


def svg(figure: Figure, alternative: str) -> str:
    """The figure as inline SVG whose lines and letters take the page's colour."""
    stream = io.StringIO()
    # The same figure gives the same bytes, and letters stay letters: searchable, copied, and in the page's colour.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seqrec"}), warnings.catch_warnings():
        # The letters are drawn by the browser, which has more fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for axes in figure.axes:
            axes.tick_params(color=_INK, labelcolor=_INK)
            axes.patch.set_visible(False)
            for words in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
                words.set_color(_INK)
            for spine in axes.spines.values():
                spine.set_color(_INK)
        for words in (each for legend in figure.legends for each in legend.get_texts()):
            words.set_color(_INK)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = stream.getvalue()
    picture = picture[picture.index("<svg") :].replace(_INK, "currentColor")
    # Inside HTML, neither metadata nor the names of XML namespaces are needed.
    picture = re.sub(r'<metadata>.*?</metadata>|\sxmlns(:\w+)?="[^"]*"', "", picture, flags=re.DOTALL)
    # Several pictures share the page, and their parts must not share names.
    prefix = f"f{zlib.crc32(picture.encode()):x}-"
    picture = re.sub(r'(\bid="|url\(#|href="#)', lambda match: match.group(1) + prefix, picture)
    return picture.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1)
