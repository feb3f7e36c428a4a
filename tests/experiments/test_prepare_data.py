"""Facts about the script: from a file to a store, a longer store, and a model trained on it."""

import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import prepare_data
import pyarrow.parquet as pq
import pytest
import sasrec
from conftest import EXPERIMENTS, TOY_MODEL, train

from seqrec import runtime
from seqrec.data.shards import write_shard
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.splits import check_no_leakage
from seqrec.data.store import open_store, read_preparation, sharded_store, write_files
from seqrec.report.data_profile_page import write_profile
from seqrec.run.data import open_task
from seqrec.run.experiment import open_run
from seqrec.run.results import protocol
from seqrec.types import InputError


def prepare(*flags: str | Path):
    return prepare_data.main(runtime.parse(prepare_data.Config, [str(flag) for flag in flags]))


@pytest.fixture
def prepared(ratings, tmp_path, capsys):
    """Directory of a store, and what was printed."""
    flags = ("--dataset", "movielens", "--data-path", ratings, "--extra", "rating", "--split", "temporal")
    prepare(*flags, "--min-item-events", "3", "--output", tmp_path / "store")
    return tmp_path / "store", capsys.readouterr().out


def test_each_step_has_a_line(prepared):
    store, printed = open_store(prepared[0]), prepared[1]
    lines = printed.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("found", "valid", "duplicates", "1-3-core"),
        *("ties", "split", "store", "profile"),
    ]
    n_events = {line.split()[0]: int(re.search(r"([\d,]+) events", line)[1].replace(",", "")) for line in lines[:4]}
    assert n_events["1-3-core"] == store.n_events < n_events["found"] + 1
    assert set(store.columns) == {"timestamp_us", "rating"}
    profile = (prepared[0] / "profile.html").read_text()
    assert "<h2>Drift from training</h2>" in profile
    assert "neighbours in a history with equal times" in profile


def test_a_model_is_trained_and_tested_on_a_temporal_split_of_the_store(prepared, tmp_path):
    directory, _ = prepared
    flags = ("--dataset", "store", "--data-path", directory, *TOY_MODEL, "--max-epochs", "1")
    results = train(*flags, "--output", tmp_path / "run")
    assert results["protocol"]["split_hash"] == read_preparation(directory)["split"]["hash"]
    assert results["protocol"]["split"].startswith("temporal: ")
    store = open_store(directory)
    split = split_store(store, SplitConfig(split="temporal"))
    check_no_leakage(store, split, is_temporal=True)
    ranks = pq.read_table(tmp_path / "run" / "ranks.parquet")
    users = np.flatnonzero(split.test >= 0)
    assert sorted(ranks["user"].to_pylist()) == sorted(store.user_keys[users].tolist())
    assert results["test"]["n_users"] == len(users)
    # The store is read where it is, not copied.
    assert not (tmp_path / "run" / "store").exists()


def task_of(*flags: str | Path):
    """What a run with these flags is trained and tested on."""
    config = runtime.parse(sasrec.Config, [str(flag) for flag in flags])
    with open_run(config, config.training.run, experiment="sasrec", dataset="toy") as run:
        return open_task(run, config.training.data, seed=0)


def test_a_temporal_split_of_a_file_and_of_its_store_are_the_same_evaluation(ratings, tmp_path):
    flags = ("--split", "temporal", "--valid-share", "0.2", "--test-share", "0.2")
    prepare("--dataset", "movielens", "--data-path", ratings, *flags, "--output", tmp_path / "store")
    model = (*flags, *TOY_MODEL)
    direct = task_of("--dataset", "movielens", "--data-path", ratings, *model, "--output", tmp_path / "direct")
    stored = task_of("--dataset", "store", "--data-path", tmp_path / "store", *model, "--output", tmp_path / "stored")
    assert protocol(direct) == protocol(stored)
    assert direct.split.content_hash == stored.split.content_hash
    assert direct.train.steps_per_epoch > 1
    for ours, theirs in zip(
        [*direct.valid.batches(), *direct.test.batches(), *map(direct.train.batch, range(3))],
        [*stored.valid.batches(), *stored.test.batches(), *map(stored.train.batch, range(3))],
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_more_events_extend_the_store(prepared, tmp_path, capsys):
    directory, _ = prepared
    before = open_store(directory)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,5,3,2000000000\n999,77,3,2000000001\n")
    flags = ("--dataset", "movielens", "--data-path", tmp_path / "ratings.csv", "--extra", "rating")
    prepare(*flags, "--append", "--output", directory)
    assert "2 events; 1 users and 1 items are new; 0 events were there already" in capsys.readouterr().out
    assert open_store(directory).n_events == before.n_events + 2


def test_an_append_goes_on_with_the_stores_order_of_ties(tmp_path, capsys):
    lines = [f"{user},{item},4.0,{10**9 + user}" for user in range(1, 5) for item in range(1, 9)]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    flags = ("--dataset", "movielens", "--data-path", tmp_path / "ratings.csv", "--output", tmp_path / "store")
    prepare(*flags, "--ties", "file")
    assert "equal times, of these 100.0% in the order of item ids (chance: 50%); ordered by file" in (
        capsys.readouterr().out
    )
    later = "".join(f"9,{item},4.0,{2 * 10**9}\n" for item in range(1, 30))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + later)
    with pytest.raises(InputError, match="was prepared with ties=file; leave ties=hash out"):
        prepare(*flags, "--append", "--ties", "hash")
    prepare(*flags, "--append")
    store = open_store(tmp_path / "store")
    assert store.items[store.offsets[-2] :].tolist() == list(range(1, 30))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset", "ml-1m", "--extra", "rating"), "has no columns beside user and item"),
        (("--min-user-events", "0"), "min_user_events=0 is below 1"),
        (("--max-events-per-day", "1"), "the step 'implausible users' leaves none"),
        (("--memory-limit", "lots"), "try memory_limit=4GB"),
    ],
)
def test_what_cannot_be_prepared_gets_one_line_and_leaves_nothing(
    flags, message, ratings, tmp_path, monkeypatch, capsys
):
    argv = ["--dataset", "movielens", "--data-path", str(ratings), *flags, "--output", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", [str(EXPERIMENTS / "prepare_data.py"), *argv])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(sys.argv[0], run_name="__main__")
    complaint = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_store_of_eight_shards_trains_and_tests_to_the_figures_of_one(prepared, tmp_path):
    one, several = open_store(prepared[0]), tmp_path / "several" / "store"
    several.mkdir(parents=True)
    shards = []
    for number, users in enumerate(np.array_split(np.arange(one.n_users), 8)):
        bounds = one.offsets[users[0] : users[-1] + 2]
        own = slice(bounds[0], bounds[-1])
        columns = {name: values[own] for name, values in one.columns.items()}
        keys = one.user_keys[users]
        shards.append(
            write_shard(
                several, number, items=one.items[own], offsets=bounds - bounds[0], user_keys=keys, columns=columns
            )
        )
    store = sharded_store(several, shards, item_keys=one.item_keys, titles=one.titles, attributes=one.attributes)
    write_files(several, store, preparation=read_preparation(prepared[0]))
    assert len(open_store(several).shards) == 8
    assert write_profile(several).read_text() == (prepared[0] / "profile.html").read_text()
    results = {}
    for directory in (prepared[0], several):
        flags = ("--dataset", "store", "--data-path", directory, *TOY_MODEL, "--max-epochs", "1", "--times", "history")
        results[directory] = train(*flags, "--output", tmp_path / "runs" / directory.parent.name)
        results[directory]["ranks"] = pq.read_table(tmp_path / "runs" / directory.parent.name / "ranks.parquet")
    ours, theirs = results.values()
    assert ours["test"] == theirs["test"]
    assert ours["ranks"].equals(theirs["ranks"])
