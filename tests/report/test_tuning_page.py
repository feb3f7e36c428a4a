"""The page of a study."""

import copy
import re

import pytest

from seqrec.report.tuning_page import page, plot_curves


def trial(number, state, curve, **values):
    return {"number": number, "state": state, "curve": curve, "values": values, "seconds": 60.0 if curve else None}


@pytest.fixture
def findings():
    trials = [
        trial(0, "complete", [0.1, 0.2, 0.25], **{"learning-rate": 0.002, "norm": "rms"}),
        trial(1, "pruned", [0.01], **{"learning-rate": 0.01, "norm": "layer"}),
        trial(2, "complete", [0.1, 0.3, 0.28], **{"learning-rate": 0.004, "norm": "layer"}),
        trial(3, "failed", [], **{"learning-rate": 0.004, "norm": "layer"}),
    ]
    return {
        "script": "sasrec",
        "dataset": "<events>",
        "space": {"learning-rate": "0.001..0.01:log", "norm": "rms,layer"},
        "base": {"learning-rate": 0.002, "norm": "rms"},
        "seed": 0,
        "tune": {"population": 1, "reduction": 3},
        "trials": trials,
        "importances": {"learning-rate": 0.75, "norm": 0.25},
        "best": {
            "number": 2,
            "ndcg@10": 0.3,
            "epoch": 2,
            "values": trials[2]["values"],
            "command": "python s.py --x '<'",
        },
    }


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_page_says_what_was_found_and_against_what(findings):
    message = words(page(findings))
    assert "Trial 2 is the best: 0.3000 in epoch 2. The config as given reached 0.2500." in message
    assert "4 trials: 2 complete, 1 pruned, 1 failed; 3.0 minutes of training" in message
    assert "pruned in epoch 1" in message
    assert "python s.py --x &#x27;&lt;&#x27;" in message
    assert "75%" in message
    assert "<events>" not in page(findings)


def test_a_study_in_which_the_given_config_was_best_says_so(findings):
    findings["best"] = {**findings["best"], "number": 0, "ndcg@10": 0.25, "values": findings["trials"][0]["values"]}
    assert "no trial was better" in page(findings)
    pruned = copy.deepcopy(findings)
    pruned["best"]["number"] = 2
    pruned["trials"][0] |= {"state": "pruned", "curve": [0.1, 0.25]}
    assert "reached 0.2500, where it was pruned in epoch 2" in words(page(pruned))


def test_a_study_of_few_trials_says_nothing_of_what_mattered(findings):
    assert "Too few trials" in page({**findings, "importances": {}})


def test_a_pruned_curve_ends_in_a_cross(findings):
    axes = plot_curves([each for each in findings["trials"] if each["curve"]], 2).axes[0]
    assert [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "x"] == [[1]]
    assert {line.get_label() for line in axes.lines} >= {"best: trial 2", "complete", "pruned, ends in x"}
