"""Pages are whole and offline, and show what people wrote as text."""

import json

import pytest
from page_reader import PageReader

from seqrec.pages.html import (
    Html,
    bold,
    bullets,
    code,
    details,
    document,
    faint,
    heading,
    interval_cell,
    picture,
    table,
    text,
    verdict_box,
    write_report,
)
from seqrec.pages.plots import new_figure
from seqrec.types import InputError

HOSTILE = '<script>alert("x")</script> & co'


def test_a_document_is_whole_and_stands_alone():
    figure = new_figure(2.0)
    figure.subplots().plot([1, 2])
    page = document(HOSTILE, ["<p>first</p>", "", picture(figure, HOSTILE), "<p>last</p>"])
    reader = PageReader(page)
    assert page.startswith("<!doctype html>")
    assert reader.tags.count("h1") == 1
    assert reader.stands_alone()
    for loaded in ("url(http", "@import"):
        assert loaded not in page
    assert reader.text.startswith(f"{HOSTILE} {HOSTILE} first")
    assert reader.text.endswith("last")


@pytest.mark.parametrize(
    "part",
    [
        text(HOSTILE),
        verdict_box(HOSTILE, title=HOSTILE, kind="good"),
        bullets([HOSTILE]),
        details(HOSTILE, ""),
        details("", HOSTILE),
        code(HOSTILE),
        heading(HOSTILE),
        faint(HOSTILE),
        bold(HOSTILE),
        table([HOSTILE], []),
        table([], [[HOSTILE]]),
    ],
)
def test_text_is_shown_and_not_obeyed(part):
    reader = PageReader(part)
    assert "script" not in reader.tags
    assert HOSTILE in reader.text


def test_a_table_has_its_heads_and_cells_in_order():
    reader = PageReader(table(["", "a"], [[Html("<b>x</b>"), "1"], ["y", 2]], words=(1,)))
    assert reader.text == "a x 1 y 2"
    assert [tag for tag in reader.tags if tag in ("th", "td", "b")] == ["th", "th", "td", "b", "td", "td", "td"]
    # A row of empty heads would be a blank line on the page.
    assert "thead" not in PageReader(table([], [["x"]])).tags
    assert "thead" not in PageReader(table(["", ""], [["x", "y"]])).tags


def test_a_command_may_break_between_its_words_only():
    command = "python train.py --item-features year:buckets"
    reader = PageReader(code(command))
    # Each word is a box of its own, which has no place to break at while it fits on a line.
    assert [word for word in reader.words if word != " "] == command.split()
    assert "".join(reader.words) == command


def test_nothing_is_shown_of_what_is_empty_or_unknown():
    assert bullets([]) == ""
    assert interval_cell([None, 0.1, 0.2], str) == text(None) == "\N{EN DASH}"
    assert PageReader(interval_cell([0.5, 0.25, 0.75], "{:.2f}".format)).text == "0.50 [0.25, 0.75]"


def test_a_result_and_its_page_are_written_whole_in_place_of_earlier_ones(tmp_path, capsys):
    directory = tmp_path / "new" / "place"
    for words in ("first", "second"):
        write_report(directory / "numbers.json", {"text": words}, words)
    assert json.loads((directory / "numbers.json").read_text()) == {"text": "second"}
    assert (directory / "numbers.html").read_text() == "second"
    assert len(list(directory.iterdir())) == 2
    assert str(directory / "numbers.html") in capsys.readouterr().out


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file cannot be written \(File exists"):
        write_report(tmp_path / "file" / "numbers.json", {}, "")
