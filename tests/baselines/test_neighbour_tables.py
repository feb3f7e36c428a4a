"""Tables of item-to-item weights, of the sizes that a device can hold."""

import numpy as np
import pytest

from seqrec.baselines import neighbour_tables
from seqrec.baselines.neighbour_tables import fit_neighbour_table
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.types import InputError

STORE = store_from_sequences([[1, 2, 3, 1, 4], [2, 3, 4, 1, 2], [3, 2, 3, 4, 1]])
SPLIT = leave_last_out(STORE)  # 1 2 3, 2 3 4, 3 2 3 are for training


def dense(table):
    weights = np.zeros((STORE.n_items + 1, STORE.n_items + 1))
    np.add.at(weights, (np.arange(STORE.n_items + 1)[:, None], table.ids), table.weights)
    return weights[:, 1:]


def test_the_markov_table_counts_what_follows_in_training_and_reads_the_newest_item():
    table = fit_neighbour_table("markov", STORE, SPLIT)
    assert table.recency.tolist() == [1.0]
    assert dense(table).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert table.ids.shape[1] == 2  # as many as the longest row has


def test_rows_are_shorter_where_the_table_would_be_larger_than_it_may_be(monkeypatch):
    monkeypatch.setattr(neighbour_tables, "MOST_BYTES", 8 * (STORE.n_items + 1))
    table = fit_neighbour_table("markov", STORE, SPLIT)
    assert table.ids.shape == (STORE.n_items + 1, 1)
    assert dense(table)[2].tolist() == [0, 0, 3, 0]


def test_slim_is_refused_where_it_would_count_too_many_pairs(monkeypatch):
    assert fit_neighbour_table("slim", STORE, SPLIT).recency.tolist() == [1.0] * neighbour_tables.SLIM_LATEST
    monkeypatch.setattr(neighbour_tables, "MOST_PAIRS", 15)  # of 4 items there are 16
    with pytest.raises(InputError, match=r"slim counts 2e\+01 pairs .* leave it out"):
        fit_neighbour_table("slim", STORE, SPLIT)
