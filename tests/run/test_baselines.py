"""Which baselines stand beside a model, and that they answer the model's own queries."""

import dataclasses

import numpy as np
import pytest

from seqrec.baselines.costs import Cost
from seqrec.data.ragged import ranges
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import sequence_store, store_from_sequences
from seqrec.run import baselines
from seqrec.run.baselines import CHEAP, baseline_ranks, choose_baselines
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig, make_task

HISTORIES = [[1 + (user + step) % 7 for step in range(4 + user % 3)] for user in range(12)]
STORE = store_from_sequences(HISTORIES)


def a_task(store=STORE, **config):
    return make_task(DataConfig("store", max_length=4, batch_size=4, **config), store, seed=0)


@pytest.fixture(scope="module")
def task():
    return a_task()


def test_auto_takes_all_that_small_data_affords(task):
    assert choose_baselines(task, ("auto",), train_seconds=1.0) == (CHEAP, {})
    assert choose_baselines(task, ("EASE", "popularity"), train_seconds=1.0).names == ("popularity", "EASE")
    assert choose_baselines(task, ("auto", "EASE"), train_seconds=1.0).names == (*CHEAP, "EASE")


def test_auto_spends_a_tenth_of_the_time_of_training(task, monkeypatch):
    # Item-kNN takes 8 seconds, sessions 4 seconds each, and others nothing.
    seconds = {"item-kNN": 8.0, "VS-SkNN": 4.0, "STAN": 4.0}
    monkeypatch.setattr(baselines, "estimated_cost", lambda name, *_, **__: Cost(seconds.get(name, 0.0), 0.0))
    names, left_out = choose_baselines(task, ("auto",), train_seconds=90.0)
    assert names == CHEAP[: -len(("VS-SkNN", "STAN"))]
    reason = "about 4 s, where a tenth of training's 90 s is to suffice; --baselines auto VS-SkNN tests it too"
    assert left_out["VS-SkNN"] == reason
    # One that is named is tested whatever it takes, and costs the others nothing.
    assert choose_baselines(task, ("auto", "VS-SkNN"), train_seconds=90.0).names == (*names, "VS-SkNN")
    assert choose_baselines(task, ("auto",), train_seconds=50.0).names == (*names[:-1], "VS-SkNN")


def test_what_memory_does_not_hold_is_left_out(task, monkeypatch):
    monkeypatch.setattr(baselines, "estimated_cost", lambda name, *_, **__: Cost(0.0, 5e9 * (name == "item-kNN")))
    names, left_out = choose_baselines(task, ("auto",), train_seconds=100.0)
    assert set(CHEAP) - set(names) == {"item-kNN"}
    assert left_out == {"item-kNN": "about 5 GB of memory; --baselines auto item-kNN tests it too"}


def test_what_weighs_by_time_is_left_out_where_times_were_not_kept(task):
    of_events = task._replace(config=dataclasses.replace(task.config, dataset="ml-1m"))
    names, left_out = choose_baselines(of_events, ("auto",), train_seconds=1.0)
    assert left_out.keys() == set(CHEAP) - set(names) == {"VS-SkNN", "STAN"}
    assert "experiments/baselines.py" in left_out["STAN"]
    for without_times in ({"dataset": "s3rec"}, {"columns": ("user", "item", "none")}):
        of_lists = task._replace(config=dataclasses.replace(task.config, **without_times))
        assert choose_baselines(of_lists, ("auto",), train_seconds=1.0).names == CHEAP


def test_no_baseline_at_all_is_refused():
    with pytest.raises(ValueError, match="popularity is there at no cost"):
        TrainingConfig(baselines=())


def with_times():
    lengths = np.array([len(one) for one in HISTORIES])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = ranges(np.arange(len(lengths)), lengths) * 3_600_000_000
    users = np.arange(len(lengths))
    return sequence_store(np.concatenate(HISTORIES), offsets, np.arange(1, 8), users, columns={"timestamp_us": times})


SPLITS = {
    "last": SplitConfig(),
    "several": SplitConfig(n_out=2),
    "temporal": SplitConfig(split="temporal"),
    "sessions": SplitConfig(split="users", window_target="every", valid_share=0.3, test_share=0.3),
}


@pytest.mark.parametrize("repeated_targets", ["exclude", "miss"])
@pytest.mark.parametrize("mask_seen", ["yes", "no"])
@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_baselines_rank_the_models_own_queries_among_its_candidates(split, mask_seen, repeated_targets):
    task = a_task(with_times(), split=split, mask_seen=mask_seen, repeated_targets=repeated_targets)
    queries = task.test
    n_seen = [
        len(set(task.store.items[start - length : start].tolist()) - {target})
        for start, length, target in zip(
            queries.target_positions, queries.history_lengths, queries.targets, strict=True
        )
    ]
    for name in CHEAP:
        table = baseline_ranks(task, name)
        np.testing.assert_array_equal(table.user, queries.users)
        np.testing.assert_array_equal(table.target, queries.targets)
        expected = task.n_items - (np.array(n_seen) if task.mask_seen else 0)
        np.testing.assert_array_equal(table.n_candidates, expected)
        is_miss = np.zeros(len(table.rank), bool) if queries.is_miss is None else queries.is_miss
        np.testing.assert_array_equal(table.rank[is_miss], table.n_candidates[is_miss] + 1)
        assert np.all(table.rank[~is_miss] <= table.n_candidates[~is_miss])
        assert np.all(table.rank >= 1)
