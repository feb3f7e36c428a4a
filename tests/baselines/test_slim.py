"""The sparse linear model: a ridge regression on an item's neighbours."""

import numpy as np
import pytest

from seqrec.baselines import slim as slim_module
from seqrec.baselines.scored import ease
from seqrec.baselines.slim import slim
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences


@pytest.fixture(scope="module")
def task():
    random = np.random.default_rng(0)
    store = store_from_sequences([random.integers(1, 9, random.integers(3, 9)).tolist() for _ in range(40)], n_items=9)
    return store, leave_last_out(store)


def test_with_all_items_as_neighbours_it_is_ease(task):
    store, split = task
    sparse, dense = slim(store, split, n_neighbours=8, l2=3.0), ease(store, split, l2=3.0)
    np.testing.assert_allclose(
        sparse.query_scores(split.test).toarray(), dense.query_scores(split.test).toarray(), atol=1e-9
    )


@pytest.mark.parametrize("per_block", [1 << 22, 1])
def test_weights_are_those_of_a_regression_on_the_most_similar_items(task, per_block, monkeypatch):
    monkeypatch.setattr(slim_module, "_VALUES_PER_BLOCK", per_block)
    store, split = task
    interactions = np.zeros((store.n_users, store.n_items + 1))
    for user in range(store.n_users):
        interactions[user, store.items[store.offsets[user] : split.train_stop[user]]] = 1
    both = interactions.T @ interactions
    weights = np.zeros_like(both)
    for item in range(1, 9):
        similarity = both[item] / (np.sqrt(both[item, item] * np.diag(both)) + 20)
        similarity[item] = 0
        near = np.argsort(-similarity, kind="stable")[:3]
        near = near[similarity[near] > 0]
        gram = both[np.ix_(near, near)] + 2.0 * np.eye(len(near))
        weights[near, item] = np.linalg.solve(gram, both[near, item])
    history = np.zeros((store.n_users, store.n_items + 1))
    for user in range(store.n_users):
        history[user, store.items[store.offsets[user] : split.test[user]]] = 1
    scorer = slim(store, split, n_neighbours=3, l2=2.0)
    np.testing.assert_allclose(scorer.query_scores(split.test).toarray(), history @ weights, atol=1e-9)
    assert np.all(np.diff(scorer.query_scores(split.test).indptr) <= scorer.n_query_scores(split.test))
