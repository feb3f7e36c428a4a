"""Plots of effects."""

import math

import pytest

from seqrec.abtest.effect_plots import Bar, plot_days, plot_relative
from seqrec.pages.plots import BAD, COLOURS, GOOD

BARS = [Bar("rise", 0.1, 0.05, 0.15), Bar("fall", -0.1, -0.2, -0.01), Bar("neither", 0.0, -0.1, 0.1)]


@pytest.mark.parametrize(("more_is_better", "colours"), [(True, [GOOD, BAD]), (False, [BAD, GOOD])])
def test_a_bar_is_coloured_by_whether_its_side_is_better(more_is_better, colours):
    [axes] = plot_relative(BARS, x="", more_is_better=more_is_better).axes
    colour_at = {}
    for container in axes.containers:
        for x, row in container.lines[0].get_xydata():
            if not math.isnan(x):
                colour_at[round(row)] = container.lines[0].get_color()
    assert [colour_at[row] for row in range(3)] == [*colours, COLOURS[0]]


def test_unknown_effects_are_said_to_be_and_margins_are_drawn():
    [axes] = plot_relative([*BARS[:1], Bar("unknown", None, None, None, limit=-0.02)], x="").axes
    assert [words.get_text() for words in axes.texts] == ["not known"]
    margins = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [list(line.get_xdata()) for line in margins] == [[-0.02, -0.02]]
    # In the row of its own bar.
    assert min(margins[0].get_ydata()) > 0.5


def day(number, difference, half):
    ends = {"lower": -half, "upper": half, "fixed_lower": -half / 2, "fixed_upper": half / 2}
    known = {name: difference + end for name, end in ends.items()} if difference is not None else dict.fromkeys(ends)
    return {"day": number, "difference": difference, **known}


def test_the_scale_is_that_of_the_later_days():
    days = [day(1, None, 0.0), day(2, 0.0, 100.0), *(day(number, 1.0, 2.0) for number in range(3, 9))]
    figure = plot_days(days)
    [axes] = figure.axes
    low, high = axes.get_ylim()
    assert low < -1.0 < 3.0 < high < 10.0
    line = next(each for each in axes.lines if each.get_linewidth() > 2)
    assert line.get_xdata().tolist() == list(range(2, 9))
    assert plot_days([day(1, None, 0.0)]) is None
