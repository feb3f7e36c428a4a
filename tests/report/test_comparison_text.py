"""Sentences about differences, and what is printed."""

import pytest

from seqrec.report.comparison_text import as_text, verdict

SHOWN = {"difference": -0.0123, "interval": [-0.0194, -0.0051], "p": 0.001, "p_holm": 0.004, "detectable": 0.0101}


def test_a_worse_run_is_called_worse_by_a_positive_amount():
    assert verdict("B", "recall@5", SHOWN, level=0.95) == "B is worse on Recall@5 by .0123 [.0051, .0194]"


@pytest.mark.parametrize(("p_holm", "shown"), [(0.05, True), (0.0501, False)])
def test_a_difference_is_shown_up_to_the_level(p_holm, shown):
    assert ("is worse" in verdict("B", "mrr", {**SHOWN, "p_holm": p_holm}, level=0.95)) == shown


def test_what_is_shown_only_alone_is_said_to_be_one_of_several():
    text = verdict("B", "mrr", {**SHOWN, "p_holm": 0.2, "p": 0.03}, level=0.95)
    assert "no difference shown" in text
    assert "p = .030 alone, but .200 after correction for several comparisons" in text
    assert text.endswith("could have shown .0101")


def test_what_is_unknown_is_said_to_be():
    nothing = {"difference": None, "interval": [None, None], "p": None, "p_holm": None, "detectable": None}
    assert "not known for every user" in verdict("B", "mrr", nothing, level=0.95)
    one_user = {**SHOWN, "p_holm": 1.0, "p": 1.0, "detectable": None}
    assert verdict("B", "mrr", one_user, level=0.95).endswith("[-.0194, -.0051])")


def test_printed_tables_are_in_line():
    metrics = {"ndcg@10": [0.5, 0.4, 0.6]}
    slices = [
        {"label": label, "n_users": n, "runs": {"a": metrics, "b": metrics}, "differences": {"b": metrics}}
        for label, n in (("few", 9), ("very many", 12_345))
    ]
    text = as_text(
        {
            "reference": "a",
            "n_users": 12_354,
            "metrics": ["ndcg@10"],
            "level": 0.9,
            "runs": {"a": metrics, "b": metrics},
            "comparisons": {"b": {"ndcg@10": SHOWN}},
            "slices": [{"name": "size", "column": "size", "slices": slices}],
            "notes": ["mind the gap"],
        }
    )
    assert "12,354 users; mean over users [90% interval]" in text
    assert "b against a\n  b is worse on NDCG@10" in text
    assert text.endswith("note: mind the gap")
    lines = text.splitlines()
    start = lines.index("NDCG@10 by size")
    assert len({len(line) for line in lines[start + 1 : start + 4]}) == 1
    assert "12,345" in lines[start + 3]
