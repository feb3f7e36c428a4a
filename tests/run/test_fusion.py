"""Queries that the weights of item-to-item tables are fitted on."""

from unittest import mock

import numpy as np
import pytest

from seqrec.data.batches import make_queries
from seqrec.data.store import store_from_sequences
from seqrec.run import fusion
from seqrec.run.data import DataConfig, Task

N_USERS, N_QUERIES = 40, 12


@pytest.mark.parametrize(
    ("n_items", "n_users", "n_per_user"),
    [
        (10, N_USERS, N_QUERIES),
        (64, N_USERS, 3),  # 2^13 / 64 = 128 of 480: every fourth
        (1000, 8, 1),  # 2^13 / 1000 = 8 users, of whose queries every twelfth
        (10_000, 4, 1),
    ],
)
def test_their_scores_are_bounded_however_many_queries_a_user_has(monkeypatch, n_items, n_users, n_per_user):
    monkeypatch.setattr(fusion, "LEAST_USERS", 4)
    monkeypatch.setattr(fusion, "MOST_SCORES", 1 << 13)
    store = store_from_sequences([range(1, N_QUERIES + 2)] * N_USERS)
    positions = np.setdiff1d(np.arange(store.n_events), store.offsets)
    settings = {"max_length": N_QUERIES, "mask_seen": False}
    valid = make_queries(store, positions, batch_size=8, **settings)
    config = DataConfig(batch_size=8, max_length=N_QUERIES)
    task = mock.MagicMock(spec=Task, valid=valid, store=store, n_items=n_items, config=config, **settings)
    users, n_each = np.unique(fusion.weight_queries(task).users, return_counts=True)
    assert len(users) == n_users
    assert n_each.tolist() == [n_per_user] * n_users
