"""The page of a comparison is whole, offline and escaped, and shows the figures."""

import numpy as np
import pytest
from page_reader import PageReader

from seqrec.report.comparison import compare
from seqrec.report.comparison_page import page, plot_slices
from seqrec.report.rank_tables import RankTableFile
from seqrec.report.slices import slice_figures, value_slices


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
    result = compare(tables, slicings=slicings, n_resamples=500)
    result["notes"] = ["mind the <gap>"]
    result["config_differences"] = {"model.d_model": {"<b>base</b>": 16, "better": None}}
    return result


def test_the_page_is_whole_and_refers_to_nothing_outside(comparison):
    text = page(comparison)
    assert text.startswith("<!doctype html>")
    assert PageReader(text).stands_alone()


def test_what_users_named_is_shown_and_not_obeyed(comparison):
    reader = PageReader(page(comparison))
    assert not {"i", "b"} & set(reader.tags)
    words = reader.text
    for name in ("<b>base</b>", '$odd_ & "name"', "mind the <gap>", "By <script>", "<i>", "$5", "ü"):
        assert name in words, name


def test_verdicts_figures_and_configs_are_on_the_page(comparison):
    text = page(comparison)
    words = PageReader(text).text
    assert "better is better on NDCG@10 by ." in words
    assert "no difference shown" in words
    assert "model.d_model" in words
    assert f"{comparison['runs']['better']['ndcg@10'][0]:.4f}"[1:] in words
    assert "prefers-color-scheme: dark" in text


def test_each_slicing_has_a_plot_of_its_own(comparison):
    reader = PageReader(page(comparison))
    assert reader.tags.count("svg") == 1 + len(comparison["slices"])
    assert len(set(reader.ids)) == len(reader.ids)


def test_each_slice_and_run_is_drawn_at_its_mean():
    slicing = value_slices(["x", "y", "x"], name="a $name$", column="c")
    values = {
        "a": {"mrr": np.array([0.0, 1.0, 1.0])},
        "_b": {"mrr": np.array([1.0, 0.5, 1.0])},
    }
    means, gains = plot_slices(slice_figures(slicing, values), metric="mrr").axes
    drawn = [container.lines[0].get_xdata().tolist() for container in means.containers]
    assert drawn == [[0.5, 1.0], [1.0, 0.5]]
    [gain] = gains.containers
    assert gain.lines[0].get_xdata().tolist() == [0.5, -0.5]
    assert [text.get_text() for text in means.get_yticklabels()] == ["x  (n = 2)", "y  (n = 1)"]
    # A run whose name begins with "_" has its place in the legend, and dollars are no formula.
    [legend] = means.figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["a", "_b"]
    assert means.get_ylabel() == r"a \$name\$"


def test_a_difference_that_the_correction_hides_says_so(comparison):
    # Among 7 metrics, a p-value of .02 is not enough, though the interval of one alone leaves out 0.
    one = {"difference": 0.0049, "interval": [0.0007, 0.0091], "p": 0.02, "p_holm": 0.14, "detectable": 0.005}
    corrected = {**comparison, "comparisons": {"better": dict.fromkeys(comparison["metrics"], one)}}
    words = PageReader(page(corrected)).text
    assert "p = .020 alone, but .140 after correction for several comparisons" in words
    assert words.count("no difference shown after correction") == len(comparison["metrics"])


def test_a_comparison_of_one_user_without_slices_makes_a_page():
    users = np.arange(1)
    result = compare({"a": RankTableFile(users, users, np.ones(1)), "b": RankTableFile(users, users, np.ones(1))})
    text = page(result)
    assert "slices of the users" not in text
    assert "Differences between the configs" not in text
    assert "<svg" in text
