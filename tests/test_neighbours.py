"""Item-to-item tables in the head, against the sums of sparse baselines in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.baselines.item_to_item import first_order_markov, item_knn, item_to_item_scorer
from seqrec.baselines.neighbour_tables import fit_neighbour_table
from seqrec.baselines.numpy_ranks import target_ranks
from seqrec.baselines.slim import slim
from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.evaluation import evaluate, make_eval_step, make_top_step, run_queries, top_items
from seqrec.heads.softmax import softmax_model
from seqrec.model import Model
from seqrec.neighbours import (
    SMALLEST_SHARE,
    TABLES,
    NeighbourTable,
    neighbour_shares,
    neighbour_table,
    summed_by_id,
    table_params,
    with_neighbours,
    without_neighbours,
)
from seqrec.params import init_params
from seqrec.repeats import with_repeats
from seqrec.retrieval import plain_vectors
from seqrec.types import InputError

N_ITEMS, LENGTH = 25, 10
RANDOM = np.random.default_rng(0)
# Histories without repeats, of which slim knows none, and as long as the model reads at most.
STORE = store_from_sequences(
    [(RANDOM.permutation(N_ITEMS)[: RANDOM.integers(3, LENGTH + 2)] + 1).tolist() for _ in range(60)], n_items=N_ITEMS
)
SPLIT = leave_last_out(STORE)
WEIGHTS = {"markov": 0.3, "item-kNN": 0.7, "slim": 1.1}
SCORERS = {
    "markov": lambda: item_to_item_scorer(STORE, first_order_markov(STORE, SPLIT)),
    "item-kNN": lambda: item_to_item_scorer(STORE, item_knn(STORE, SPLIT)),
    "slim": lambda: slim(STORE, SPLIT),
}


def base_model():
    return softmax_model(gru(GRUConfig(d_model=8), n_items=N_ITEMS, max_length=LENGTH))


def fitted_tables():
    return {
        name: neighbour_table(
            *fit_neighbour_table(name, STORE, SPLIT)[:2], recency=recency, weight=weight, n_items=N_ITEMS
        )
        for name, weight in WEIGHTS.items()
        for recency in [fit_neighbour_table(name, STORE, SPLIT).recency]
    }


def queries_of(*, mask_seen=True):
    return make_queries(STORE, SPLIT.test, max_length=LENGTH, batch_size=16, mask_seen=mask_seen)


@pytest.fixture(scope="module")
def extended():
    model = with_neighbours(base_model(), fitted_tables())
    params = init_params(model.specs, jax.random.key(0))
    return model, {**params, "item_table": 20 * params["item_table"], **table_params(fitted_tables())}


def slow_scores(model, params):
    """[queries, n_items + 1] by the baselines' own scores of all items."""
    step = jax.jit(lambda params, q: (plain_vectors(model.queries(params, q.batch, q.last)),))
    (states,) = run_queries(step, params, queries_of())
    scores = states.astype(np.float64) @ np.asarray(params["item_table"], np.float64)[: N_ITEMS + 1].T
    for name, weight in WEIGHTS.items():
        own = np.maximum(SCORERS[name]().query_scores(SPLIT.test).toarray().astype(np.float64), 0)
        own /= np.maximum(own.sum(axis=1, keepdims=True), 1e-30)
        scores += weight * np.log1p(own / SMALLEST_SHARE)
    return scores


@pytest.mark.parametrize("mask_seen", [False, True])
def test_ranks_are_those_of_the_sums_with_the_baselines_scores(extended, mask_seen):
    model, params = extended
    scores, targets = slow_scores(model, params), STORE.items[SPLIT.test]
    candidates = np.ones(scores.shape, bool)
    candidates[:, 0] = False
    if mask_seen:
        for row, (user, stop) in enumerate(zip(range(len(targets)), SPLIT.test, strict=True)):
            candidates[row, STORE.items[STORE.offsets[user] : stop]] = False
    ranks = evaluate(make_eval_step(model), params, queries_of(mask_seen=mask_seen))
    np.testing.assert_array_equal(ranks.rank, target_ranks(scores, targets, where=candidates))


def test_lists_hold_the_items_of_highest_score(extended):
    model, params = extended
    scores = slow_scores(model, params)
    scores[:, 0] = -np.inf
    lists = top_items(make_top_step(model, k=4), params, queries_of(mask_seen=False))
    best = np.argsort(-scores, axis=1)[:, :4]
    np.testing.assert_array_equal(lists.items, best)
    np.testing.assert_allclose(lists.scores, np.take_along_axis(scores, best, axis=1), rtol=1e-5, atol=1e-5)


def test_in_a_packed_row_a_history_is_not_another_ones():
    batch = rows_of([[5, 9, 5], [9, 5, 12]], length=8)
    ids = np.zeros((13, 1), np.int32)
    ids[[5, 9, 12], 0] = 1, 2, 3
    table = neighbour_table(ids, np.ones((13, 1)), recency=[1.0, 0.5, 0.25], n_items=12)
    items, shares = jax.jit(neighbour_shares)(jax.tree.map(jnp.asarray, table), batch, jnp.array([2, 4]))
    shares_by_item = [dict(zip(*each, strict=True)) for each in zip(items.tolist(), shares.tolist(), strict=True)]
    assert {item: share for item, share in shares_by_item[0].items() if item} == pytest.approx({1: 5 / 7, 2: 2 / 7})
    assert {item: share for item, share in shares_by_item[1].items() if item} == pytest.approx({1: 2 / 3, 2: 1 / 3})


@pytest.mark.parametrize("n_ids", [40, 2**31])  # sorted as one number, and as two
def test_sums_by_id_are_those_of_numpy(n_ids):
    ids = RANDOM.integers(0, 40, (5, 30)).astype(np.int32)
    values = RANDOM.normal(size=ids.shape).astype(np.float32)
    expected = np.zeros((5, 40))
    np.add.at(expected, (np.arange(5)[:, None], ids), values)
    found_ids, sums = map(np.asarray, jax.jit(functools.partial(summed_by_id, n_ids=n_ids))(ids, values))
    for row in range(5):
        listed = found_ids[row] > 0
        assert len(np.unique(found_ids[row][listed])) == listed.sum()
        np.testing.assert_allclose(sums[row][listed], expected[row][found_ids[row][listed]], rtol=1e-5, atol=1e-6)
        assert set(found_ids[row][listed]) == set(ids[row]) - {0}


def test_tables_raise_the_scores_of_a_repeat_mixture_too():
    """Whatever the mixture says, a table with a large weight puts what it knows first."""
    ids = np.zeros((N_ITEMS + 1, 1), np.int32)
    ids[1:, 0] = 1 + np.arange(N_ITEMS) % N_ITEMS
    table = neighbour_table(ids, np.ones(ids.shape), recency=[1.0], weight=100.0, n_items=N_ITEMS)
    model = with_neighbours(with_repeats(base_model()), {"markov": table})
    params = {**init_params(model.specs, jax.random.key(0)), **table_params({"markov": table})}
    lists = top_items(make_top_step(model, k=1), params, queries_of(mask_seen=False))
    np.testing.assert_array_equal(lists.items[:, 0], STORE.items[SPLIT.test - 1])


def test_without_its_tables_the_model_is_what_it_was(extended):
    model, _ = extended
    alone = without_neighbours(model)
    assert isinstance(alone, Model)
    assert alone.specs.keys() == model.specs.keys() - {TABLES}
    assert type(alone.head).__name__ == "SoftmaxHead"
    assert without_neighbours(alone) is None


def test_a_head_that_is_no_softmax_takes_no_table(extended):
    model = dataclasses.replace(base_model(), head=extended[0].head)
    with pytest.raises(InputError, match="NeighbourHead has none; leave --fuse out"):
        with_neighbours(model, fitted_tables())


def test_a_table_has_a_row_for_each_of_the_item_table():
    table = neighbour_table(np.ones((N_ITEMS + 1, 1), int), np.ones((N_ITEMS + 1, 1)), recency=[1.0], n_items=N_ITEMS)
    assert isinstance(table, NeighbourTable)
    assert len(table.ids) == base_model().specs["item_table"].shape[0]
    assert not table.ids[N_ITEMS + 1 :].any()
