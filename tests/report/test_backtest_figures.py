"""Figures, words and page of a backtest, on rank tables made by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from page_reader import PageReader

from seqrec.report.backtest_figures import ARMS, backtest_figures
from seqrec.report.backtest_page import as_text, page, sentences

COSTS = {"warm": {"n_steps": 2, "seconds": 3.0, "cpu_seconds": 1.0}, "anew": {"n_steps": 8, "seconds": 9.0}}
COSTS["anew"]["cpu_seconds"] = 4.0


@pytest.fixture
def backtest(tmp_path):
    """Three periods: all the same; user 1 found by two models and user 2 by one; and nobody."""

    def tables(number, **ranks):
        for arm, each in ranks.items():
            table = pa.table({"user": ["a", "b"], "rank": np.array(each, float)})
            pq.write_table(table, tmp_path / f"{number}-{arm}.parquet")
        return {arm: tmp_path / f"{number}-{arm}.parquet" for arm in ARMS}

    files = [
        tables(0, warm=[1, 1], anew=[1, 1], never=[1, 1]),
        tables(1, warm=[1, 30], anew=[1, 1], never=[30, 30]),
        None,
    ]
    periods = [
        {
            "start": f"2024-01-0{day}T00:00:00Z",
            "stop": f"2024-01-0{day + 1}T00:00:00Z",
            "n_targets": 2 if day < 3 else 0,
            "n_new_targets": 0,
            "n_events_before": 9,
            "n_items_before": 5,
            "costs": {arm: COSTS.get(arm, {}) if day > 1 else {} for arm in ARMS},
        }
        for day in (1, 2, 3)
    ]
    return {
        "experiment": "sasrec",
        "command": ["python", "experiments/backtest.py"],
        "backtest": {"period_days": 1.0, "n_periods": 3, "refresh_epochs": 2, "refresh_on": "active"},
        "max_epochs": 8,
        "data": {"n_users": 2, "n_items": 5, "n_events": 12},
        "protocol": {"targets": "first event <of a user>", "candidates": "items", "new_targets": "misses"},
        "base": {"cpu_seconds": 5.0},
        "periods": periods,
        "versions": {"device": "1 x cpu"},
        **backtest_figures(periods, files),
    }


def test_the_first_period_is_in_no_mean_and_one_without_targets_in_none(backtest):
    assert {arm: backtest["overall"][arm]["recall@10"][0] for arm in ARMS} == {"warm": 0.5, "anew": 1, "never": 0}
    assert [each is None for each in backtest["quality"]] == [False, False, True]
    assert backtest["quality"][0]["never"]["ndcg@10"] == [1, 1, 1]
    assert backtest["differences"]["warm - anew"]["ndcg@10"] == [-0.5, -1, 0]
    assert backtest["differences"]["anew - never"]["ndcg@10"] == [1, 1, 1]
    assert backtest["costs"]["warm"] == {"n_steps": 4, "seconds": 6, "cpu_seconds": 2, "share_of_anew": 0.25}
    assert backtest["costs"]["never"]["cpu_seconds"] == 0


def test_words_and_page_say_what_was_found(backtest):
    assert sentences(backtest) == [
        "refreshed warm against trained anew: no difference shown in NDCG@10 (-.5000 [-1.0000, .0000])",
        "refreshed warm against never refreshed: no difference shown in NDCG@10 (.5000 [.0000, 1.0000])",
        "a warm refresh takes 1.0 s of CPU, 25% of the 4.0 s of training anew",
    ]
    assert as_text(backtest).splitlines()[4].split() == ["2024-01-03", "0", "1.0", "4.0"]
    shown = PageReader(page(backtest))
    assert "How often should sasrec be refreshed?" in shown.text
    assert "first event <of a user>" in shown.text
    assert sentences(backtest)[2] in shown.text
    assert shown.tags.count("svg") == 2
