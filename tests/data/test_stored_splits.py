"""Splits that lie with their store."""

import os

import numpy as np
import pytest

from seqrec.baselines.popularity import training_counts
from seqrec.data import split_config
from seqrec.data.order_statistics import order_statistics
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.store import open_store, store_from_sequences, write_store
from seqrec.types import InputError

STORE = store_from_sequences([[1, 2, 3, 2], [2, 3], [3, 1, 1, 2, 4]], n_items=5)
LAST, EVERY = SplitConfig(split="leave-last-out"), SplitConfig(split="leave-last-out", window_target="every")


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "store", STORE)


def kept_splits(store):
    return sorted(store.directory.glob("splits/*/*/split.json"))


@pytest.mark.parametrize("config", [LAST, EVERY], ids=["last", "every"])
def test_a_split_is_worked_out_once(store, monkeypatch, config):
    first = split_store(store, config)
    monkeypatch.setattr(split_config, "leave_last_n_out", None)
    again = split_store(open_store(store.directory), config)
    for name in first._fields:
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name), err_msg=name)
    assert len(kept_splits(store)) == 1
    assert training_counts(store, again) is again.training_counts


def test_what_is_kept_is_what_is_worked_out_without_a_disk(store):
    for config in (LAST, EVERY, SplitConfig(split="users", valid_share=0.3, test_share=0.3)):
        in_memory, kept = split_store(STORE, config), split_store(store, config)
        assert in_memory.training_counts is None
        assert in_memory.content_hash == kept.content_hash
        np.testing.assert_array_equal(training_counts(STORE, in_memory), kept.training_counts)
    assert len(kept_splits(store)) == 3


@pytest.mark.parametrize("name", ["train_stop.npy", "training_counts.npy", "split.json"])
def test_a_damaged_split_is_refused_in_one_line(store, name):
    split_store(store, LAST)
    file = kept_splits(store)[0].with_name(name)
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        split_store(store, LAST)
    assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_written_is_split_all_the_same(store, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert split_store(store, LAST).valid.tolist() == [2, -1, 9]
    assert not (store.directory / "splits").exists()


@pytest.mark.parametrize("spread", [1, 1000, 10**15])
def test_order_statistics_are_those_of_the_sorted_values(spread):
    values = np.random.default_rng(0).integers(-spread, spread, 500)
    places = [0, 3, 250, 498, 499]
    assert order_statistics(values, places, n_in_memory=20) == np.sort(values)[places].tolist()
