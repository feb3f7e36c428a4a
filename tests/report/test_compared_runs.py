"""Names, protocols and files of compared runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from seqrec.report.compared_runs import (
    config_differences,
    named_paths,
    protocol_notes,
    protocol_of,
    run_names,
    table_notes,
    with_ranks,
)
from seqrec.report.rank_tables import RankTableFile
from seqrec.types import InputError


def test_names_are_the_shortest_ends_that_differ(tmp_path, monkeypatch):
    assert run_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert run_names([Path("x/a/last"), Path("x/b/last/ranks.parquet"), Path("x/c")]) == ["a/last", "b/last", "x/c"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_names([Path(), Path("../there")]) == ["here", "there"]


def test_the_weights_that_an_unfinished_run_started_from_do_not_stand_for_it(tmp_path):
    for name in ("start", "popularity"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "start" / "ranks.parquet").touch()
    assert with_ranks(tmp_path / "run") == [tmp_path / "run"]
    (tmp_path / "run" / "popularity" / "ranks.parquet").touch()
    assert with_ranks(tmp_path / "run") == [tmp_path / "run" / "popularity"]
    assert with_ranks(tmp_path / "run" / "start") == [tmp_path / "run" / "start"]
    # A folder of runs may hold one of that name.
    (tmp_path / "run" / "start" / "config.json").touch()
    assert len(with_ranks(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("runs", "top_k", "message"),
    [
        ([], [], "no run is given"),
        (["a"], [], "a alone cannot be compared"),
        (["a", "./a"], [], "named twice"),
        (["a"], ["lists.csv"], "--top-k lists.csv is not of the form NAME=FILE"),
        (["a"], ["=x"], "not of the form"),
        (["a"], ["b=x", "b=y"], "--top-k names b twice"),
        (["a", "b"], ["b=x"], "--top-k b=x has the name of a run"),
    ],
)
def test_what_cannot_be_named_is_refused(runs, top_k, message):
    with pytest.raises(InputError, match=message):
        named_paths([Path(run) for run in runs], top_k)


def test_a_file_may_have_an_equals_sign():
    assert named_paths([Path("a")], ["b=x=y.csv"]).lists == {"b": Path("x=y.csv")}


def test_other_splits_are_refused():
    with pytest.raises(InputError, match=r"a and c are on different splits \(split_hash s1 and s2\)") as refusal:
        protocol_notes({"a": {"split_hash": "s1"}, "b": {}, "c": {"split_hash": "s2"}})
    assert "\n" not in str(refusal.value)


def test_other_candidates_are_noted():
    like = {"split_hash": "s", "candidates": "all", "ties": "mean"}
    assert protocol_notes({"a": like, "b": like}) == []
    [note] = protocol_notes({"a": like, "b": {**like, "candidates": "all less the seen"}})
    assert "a and b were not tested alike: candidates is 'all' and 'all less the seen'" in note
    [note] = protocol_notes({"a": like, "b": {}})
    assert "how b was tested" in note
    [note] = protocol_notes({"a": {**like, "time_aware": False}, "b": {**like, "time_aware": True}})
    assert note == "b is time-aware: it read the time of each target."


def test_protocols_and_configs_are_read_beside_the_ranks(tmp_path):
    for name, d_model in (("a", 16), ("b", 32)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"protocol": {"split_hash": name}}))
        config = {"model": {"d_model": d_model, "dropout": 0.2}, "run": {"output": name, "seed": 0}}
        (tmp_path / name / "config.json").write_text(json.dumps({"config": config}))
    paths = {"a": tmp_path / "a", "b": tmp_path / "b" / "ranks.parquet"}
    assert [protocol_of(path) for path in paths.values()] == [{"split_hash": "a"}, {"split_hash": "b"}]
    # Where a run is kept is no difference, and what has no config is left out.
    assert config_differences({**paths, "c": tmp_path / "c"}) == {"model.d_model": {"a": 16, "b": 32}}
    assert protocol_of(tmp_path / "c") == {}


def test_missing_users_are_told_of():
    users = np.arange(3)
    whole = RankTableFile(users, users, np.ones(3))
    lists = RankTableFile(users, users, np.ones(3), list_length=7, n_without_list=1, n_unknown=1200)
    notes = table_notes({"a": whole, "b": lists}, {"a": 2, "b": 0})
    assert [note.split()[0] for note in notes] == ["2", "1", "Lists", "b"]
    assert "1,200" in notes[2]
    assert "no cut-off beyond 7" in notes[3]


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"protocol": 3}', "{"])
def test_a_damaged_metrics_file_is_told_in_one_line(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json"):
        protocol_of(tmp_path)
