"""Plots show each value at its place, in the page's colours, and legibly."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from page_reader import PageReader

from seqrec.pages.plots import Series, add_legend, draw_intervals, finish, new_figure, svg


def intervals(series, rows=("first", "second"), **options):
    figure = new_figure(2.0)
    axes = figure.subplots()
    draw_intervals(axes, rows, series, **options)
    return axes


def points(axes):
    return [container.lines[0].get_xydata().tolist() for container in axes.containers]


def test_rows_are_drawn_from_the_top_with_a_height_for_each_series():
    one, two = (Series([[value, value - 1, value + 1]] * 2, "red") for value in (1.0, 2.0))
    axes = intervals([one, two])
    (upper, _), (lower, _) = points(axes)
    assert (upper[0], lower[0]) == (1.0, 2.0)
    # The y axis points down: a smaller number is higher on the page, and rows are one apart.
    assert -0.5 < upper[1] < 0 < lower[1] < 0.5
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]


def test_what_is_unknown_is_not_drawn():
    known, unknown = Series([[0.5, 0.25, 1.0], [None] * 3], "red"), Series([[None] * 3] * 2, "blue")
    axes = intervals([known, unknown], side_by_side=False)
    [[first, second]] = points(axes)
    assert first == [0.5, 0.0]
    assert np.isnan(second[0])
    [bar] = axes.containers[0].lines[2]
    assert bar.get_segments()[0].tolist() == [[0.25, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.00123, 0.0045), (0.12345, 0.12351), (-123_456.0, 987_654.0)])
def test_tick_labels_do_not_run_into_each_other(low, high):
    figure = new_figure(2.5, width=9.0)
    for axes in figure.subplots(1, 2, sharey=True):
        draw_intervals(axes, ["a row with a rather long label (n = 1,234)"], [Series([[low, low, high]], "red")])
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        labels = [
            label
            for place, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
            if axes.get_xlim()[0] <= place <= axes.get_xlim()[1]
        ]
        assert len(labels) >= 2
        boxes = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("n_letters", [2, 25, 50])
def test_a_legend_fits_into_its_figure(n_letters):
    figure = new_figure(3.0)
    axes = figure.subplots()
    for number in range(4):
        axes.plot([0, number], label=f"{number}".rjust(n_letters, "n"))
    add_legend(figure)
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def plotted(values):
    figure = new_figure(2.0)
    axes = figure.subplots()
    axes.plot(values, label="values")
    axes.text(0, 0, "words")
    finish(axes, x="$x$", y="y")
    add_legend(figure)
    return figure


def test_lines_and_letters_take_the_pages_colour():
    picture = svg(plotted([1, 2]), 'a "quoted" name')
    # Nothing that a page loads, or seems to.
    assert "http" not in picture
    assert 'role="img" aria-label="a &quot;quoted&quot; name"' in picture
    assert "currentColor" in picture
    # Black letters would not show on a dark page.
    letters = re.findall(r"<text [^>]*>", picture)
    assert letters
    assert all("currentColor" in each for each in letters)


def test_pictures_on_one_page_do_not_share_the_names_of_their_parts():
    pictures = [svg(plotted(values), "") for values in ([1, 2], [2, 1])]
    parts = [set(PageReader(picture).ids) for picture in pictures]
    assert parts[0]
    assert not parts[0] & parts[1]
    for picture in pictures:
        reader = PageReader(picture)
        assert len(set(reader.ids)) == len(reader.ids)
        assert reader.stands_alone()


def test_a_picture_depends_on_what_it_shows_alone():
    # No date, no random names: a page that is made again of the same figures does not change.
    assert svg(plotted([1, 2]), "") == svg(plotted([1, 2]), "")
    assert svg(plotted([1, 2]), "") != svg(plotted([1, 3]), "")
