"""The gate's slices, checks and forms, on rank tables made by hand."""

import json
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.report.gate import judge, metric_of_users, parse_max_drops, users_in_slices
from seqrec.report.gate_text import as_junit, as_markdown, as_text
from seqrec.report.slices import Slicing
from seqrec.types import InputError

N_USERS = 400
PROTOCOL = {"data_hash": "d", "split_hash": "s", "candidates": "all", "ties": "mean", "time_aware": False}


def write_run(directory, ranks, *, users=None, **changes):
    """A run that ranked user u's item u % 40, every fifth of which is cold."""
    directory.mkdir()
    users = np.arange(1, len(ranks) + 1) if users is None else users
    columns = {
        "user": users,
        "item": users % 40,
        "rank": ranks,
        "target_events": users % 5,
        "history_length": users % 7,
    }
    pq.write_table(pa.table(columns), directory / "ranks.parquet")
    (directory / "metrics.json").write_text(json.dumps({"protocol": {**PROTOCOL, **changes}}))
    return directory


@pytest.fixture
def pair(tmp_path):
    """The incumbent finds every item at rank 2; the candidate loses those that are cold."""
    ranks = np.full(N_USERS, 2.0)
    worse = np.where(np.arange(1, N_USERS + 1) % 5 == 0, 20.0, 2.0)
    return {"old": write_run(tmp_path / "old", ranks), "new": write_run(tmp_path / "new", worse)}


def test_a_drop_in_a_slice_fails_the_gate_where_the_mean_passes(pair):
    gate = judge(pair, {"recall@10": 0.25}, slices=["cold", "warm"])
    assert gate["verdict"] == "fail"
    everyone, cold, warm = gate["tests"]
    assert [test["slice"] for test in gate["tests"]] == [
        "all",
        "cold: not in training (cold targets)",
        "warm (cold targets)",
    ]
    # A fifth of all users and each of those with a cold target lose a recall of 1.
    assert (everyone["n_users"], everyone["drop"], everyone["verdict"]) == (N_USERS, 0.2, "pass")
    assert (cold["n_users"], cold["drop"], cold["verdict"]) == (N_USERS // 5, 1.0, "fail")
    assert (warm["drop"], warm["verdict"]) == (0.0, "pass")
    assert judge(pair, {"recall@10": 0.25})["verdict"] == "pass"
    assert judge(pair, {"recall@10": 0.2})["verdict"] == "cannot tell"
    assert judge(pair, {"recall@10": 0.1, "recall@20": 0.1})["verdict"] == "fail"
    assert judge({"new": pair["new"], "old": pair["old"]}, {"recall@10": 0.0})["verdict"] == "pass"


def test_a_day_without_cold_targets_has_nothing_to_judge_in_that_slice(tmp_path):
    users = 5 * np.arange(N_USERS) + 1  # every target has an event in training
    runs = {name: write_run(tmp_path / name, np.full(N_USERS, 2.0), users=users) for name in ("old", "new")}
    cold = "cold: not in training (cold targets)"
    gate = judge(runs, {"recall@10": 0.1}, slices=["cold", "warm"])
    assert (gate["verdict"], gate["empty_slices"]) == ("pass", [cold])
    assert [test["n_users"] for test in gate["tests"]] == [N_USERS, N_USERS]
    assert f"note: No user is in the slice {cold}" in as_text(gate)
    assert judge(runs, {"recall@10": 0.1}, slices=["warm"], strict=True)["verdict"] == "pass"
    strict = judge(runs, {"recall@10": 0.1}, slices=["cold"], strict=True)
    assert as_text(strict).splitlines()[-1].startswith("cannot tell: new in place of old: a slice has no users")
    with pytest.raises(InputError, match="--slice frozen is not among the slices"):
        judge(runs, {"recall@10": 0.1}, slices=["frozen"])


def test_users_need_not_stand_in_one_order(pair, tmp_path):
    table = pq.read_table(pair["new"] / "ranks.parquet")
    pq.write_table(table.take(np.arange(N_USERS)[::-1]), pair["new"] / "ranks.parquet")
    assert judge(pair, {"recall@10": 0.25})["tests"][0]["drop"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_hash": "e"}, "data_hash is 'd' and 'e'"),
        ({"split_hash": "t"}, "split_hash is 's' and 't'"),
        ({"candidates": "100 drawn"}, "candidates is 'all' and '100 drawn'"),
        ({"time_aware": True}, "time_aware is False and True"),
    ],
)
def test_runs_that_were_tested_in_another_way_are_refused(pair, tmp_path, changes, message):
    other = write_run(tmp_path / "other", np.full(N_USERS, 2.0), **changes)
    with pytest.raises(InputError, match=f"old and other were not tested alike: {message}"):
        judge({"old": pair["old"], "other": other}, {"mrr": 0.1})


def test_other_users_are_refused_and_counted(pair, tmp_path):
    more = write_run(tmp_path / "more", np.full(N_USERS + 7, 2.0))
    with pytest.raises(InputError, match="7 of more are users whom the other run was not tested on"):
        judge({"old": pair["old"], "more": more}, {"mrr": 0.1})


def test_ranks_without_a_protocol_are_noted(pair):
    (pair["new"] / "metrics.json").unlink()
    [note] = judge(pair, {"mrr": 0.1})["notes"]
    assert note.startswith("No metrics.json says how new was tested")


def test_metrics_have_any_cut_off():
    ranks = np.array([1.0, 3.0, np.nan])
    for metric in ("ndcg@3", "ndcg@03"):
        assert metric_of_users(metric, ranks).tolist() == [1.0, 0.5, 0.0]
    assert metric_of_users("mrr@2", ranks).tolist() == [1.0, 0.0, 0.0]
    assert metric_of_users("mrr", ranks) == pytest.approx([1.0, 1 / 3, 0.0])


@pytest.mark.parametrize("metric", ["ndgc@10", "ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@1.5", "mean_rank", "@10"])
def test_an_unknown_metric_is_refused(metric):
    with pytest.raises(InputError, match=f"metric {metric!r} is unknown; write hit@10, .* or mrr"):
        metric_of_users(metric, np.array([1.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "names no metric"),
        (["ndcg@10"], "is not METRIC=MARGIN"),
        (["ndcg@10="], "is not METRIC=MARGIN"),
        (["=0.1"], "is not METRIC=MARGIN"),
        (["mrr=-0.1"], "from 0 to below 1"),
        (["mrr=nan"], "from 0 to below 1"),
        (["mrr=2"], "from 0 to below 1"),
        (["mrr=0.1", "mrr=0.2"], "names mrr twice"),
    ],
)
def test_margins_that_cannot_be_used_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_max_drops(arguments)


LENGTHS = Slicing("history length", "history_length", ("1\N{EN DASH}2", "3"), np.array([0, 1, 1]))
GENRES = Slicing("genre", "genre", ("Comedy", "3"), np.array([0, 0, 1]))


@pytest.mark.parametrize(
    ("name", "slices"),
    [
        ("1-2", ["1\N{EN DASH}2 (history length)"]),
        ("history_length", ["1\N{EN DASH}2 (history length)", "3 (history length)"]),
        ("genre=3", ["3 (genre)"]),
        ("comedy", ["Comedy (genre)"]),
    ],
)
def test_slices_are_found_by_names_that_are_easy_to_type(name, slices):
    assert list(users_in_slices([LENGTHS, GENRES], [name])) == slices


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("3", "is in history length and genre: write SLICING=LABEL"),
        ("tragedy", "is not among the slices; these users have history length: 1.2, 3; genre: Comedy, 3"),
        ("genre=1-2", "is not among the slices"),
        ("", "is not among the slices"),
    ],
)
def test_slices_that_are_unknown_or_not_one_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        users_in_slices([LENGTHS, GENRES], [name])


def test_each_form_has_the_verdict_and_the_figures(pair):
    gate = judge(pair, {"recall@10": 0.25, "ndcg@10": 0.125}, slices=["cold"])
    # ndcg@10 at rank 2 is .63, which a fifth of the users loses.
    assert [test["verdict"] for test in gate["tests"]] == ["pass", "fail", "cannot tell", "fail"]
    text, markdown, junit = as_text(gate), as_markdown(gate), ElementTree.fromstring(as_junit(gate).encode())
    assert text.splitlines()[-1].startswith(
        "fail: new in place of old: a drop is beyond its margin (95%, corrected for 4"
    )
    assert "about" in text
    assert markdown.startswith("**fail: ")
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == 2 + len(gate["tests"])
    assert (junit.tag, junit.get("tests"), junit.get("failures"), junit.get("errors")) == ("testsuite", "4", "2", "1")
    assert [len(case) for case in junit] == [0, 1, 1, 1]
    for form in (text, markdown):
        assert ".2000" in form
        assert "Recall@10" in form


def test_labels_cannot_break_a_form(pair):
    gate = judge(pair, {"recall@10": 0.1})
    gate["tests"][0]["slice"] = "a|b\x00<&>"
    assert "a\\|b" in as_markdown(gate)
    assert (
        ElementTree.fromstring(as_junit(gate).encode())[0].get("name") == "recall@10 of a|b\N{REPLACEMENT CHARACTER}<&>"
    )
