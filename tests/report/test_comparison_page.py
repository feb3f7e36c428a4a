"""The page: whole, offline, escaped, and the same each time."""

import html.parser

import numpy as np
import pytest

from seqrec.report.comparison import compare
from seqrec.report.comparison_page import page
from seqrec.report.rank_tables import RankTableFile
from seqrec.report.slices import value_slices

VOID = {"meta", "br", "img"}


class Reader(html.parser.HTMLParser):
    """Notes tags, text and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def comparison():
    random = np.random.default_rng(0)
    users = np.arange(200)
    tables = {
        name: RankTableFile(users, users, random.geometric(chance, 200).astype(float))
        for name, chance in (("<b>base</b>", 0.05), ("better", 0.2), ('$odd_ & "name"', 0.05))
    }
    slicings = [
        value_slices(random.choice(["<i>", "$5", "ü"], 200).tolist(), name=name, column=name)
        for name in ("<script>", "plain")
    ]
    found = compare(tables, slicings=slicings, n_resamples=500)
    found["notes"] = ["mind the <gap>"]
    found["config_differences"] = {"model.d_model": {"<b>base</b>": 16, "better": None}}
    return found


def test_the_page_is_whole_and_refers_to_nothing_outside(comparison):
    text = page(comparison)
    reader = read(text)
    assert text.startswith("<!doctype html>")
    assert all(link.startswith("#") for link in reader.links)
    assert "url(http" not in text
    assert "@import" not in text
    assert "script" not in reader.tags


def test_what_users_named_is_shown_and_not_obeyed(comparison):
    reader = read(page(comparison))
    assert "i" not in reader.tags
    assert "b" not in reader.tags
    words = " ".join(reader.words)
    for name in ("<b>base</b>", '$odd_ & "name"', "mind the <gap>", "By <script>", "<i>", "$5", "ü"):
        assert name in words, name


def test_verdicts_figures_and_configs_are_on_the_page(comparison):
    text = page(comparison)
    words = " ".join(read(text).words)
    assert "better is better on NDCG@10 by ." in words
    assert "no difference shown" in words
    assert "model.d_model" in words
    assert f"{comparison['runs']['better']['ndcg@10'][0]:.4f}"[1:] in words
    assert "prefers-color-scheme: dark" in text


def test_each_plot_is_drawn_in_the_pages_colour_with_names_of_its_own(comparison):
    text = page(comparison)
    reader = read(text)
    assert reader.tags.count("svg") == 1 + len(comparison["slices"])
    assert text.count('role="img" aria-label=') == 1 + len(comparison["slices"])
    assert "currentColor" in text
    assert "#010203" not in text
    assert len(set(reader.ids)) == len(reader.ids)
    # Every reference inside a picture finds its part.
    assert {link[1:] for link in reader.links} <= set(reader.ids)


def test_the_same_comparison_gives_the_same_page(comparison):
    assert page(comparison) == page(comparison)


def test_a_comparison_of_one_user_without_slices_makes_a_page():
    users = np.arange(1)
    found = compare({"a": RankTableFile(users, users, np.ones(1)), "b": RankTableFile(users, users, np.ones(1))})
    text = page(found)
    assert "slices of the users" not in text
    assert "What differs" not in text
    read(text)
