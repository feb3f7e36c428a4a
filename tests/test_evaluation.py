"""Packed, batched and in blocks, ranks equal those of each history encoded alone and scored in full."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec import evaluation
from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step, make_top_step, top_items, top_items_in_parts
from seqrec.heads.softmax import softmax_model
from seqrec.metrics.ranks import target_ranks
from seqrec.params import init_params
from seqrec.recommendation import make_recommend
from seqrec.types import Batch

N_ITEMS, MAX_LENGTH = 70, 6


@pytest.fixture(scope="module")
def case():
    generator = np.random.default_rng(0)
    histories = [generator.integers(1, N_ITEMS + 1, generator.integers(2, 15)).tolist() for _ in range(25)]
    store = store_from_sequences(histories, n_items=N_ITEMS)
    config = TransformerConfig(d_model=8, n_blocks=1, positions="learned", dropout=0.5)
    model = softmax_model(transformer(config, n_items=N_ITEMS, max_length=MAX_LENGTH))
    params = init_params(model.specs, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, params)
    return histories, store, leave_last_out(store), model, params


def queries_of(case, *, mask_seen=True, batch_size=4):
    _, store, split, _, _ = case
    return make_queries(store, split.test, max_length=MAX_LENGTH, batch_size=batch_size, mask_seen=mask_seen)


def one_row(history) -> Batch:
    """One history in a row of its own."""
    read = history[-MAX_LENGTH:]
    fields = np.zeros((4, 1, MAX_LENGTH), np.int32)
    fields[0, 0, : len(read)] = read
    fields[2, 0, : len(read)] = 1
    fields[3, 0, : len(read)] = range(len(read))
    return Batch(*map(jnp.asarray, fields))


@pytest.mark.parametrize("mask_seen", [True, False])
def test_ranks_are_those_of_each_history_alone(case, mask_seen):
    histories, _, _, model, params = case
    table = evaluate(make_eval_step(model), params, queries_of(case, mask_seen=mask_seen))
    encode = jax.jit(model.encoder.encode)
    evaluated = [(user, history) for user, history in enumerate(histories) if len(history) >= 3]
    assert table.user.tolist() == [user for user, _ in evaluated]
    for row, (_, history) in enumerate(evaluated):
        before, target = history[:-1], history[-1]
        state = encode(params, one_row(before))[0, min(len(before), MAX_LENGTH) - 1]
        candidates = np.zeros(len(params["item_table"]), bool)
        candidates[1 : N_ITEMS + 1] = True
        if mask_seen:
            candidates[before] = False
        candidates[target] = True
        scores = (params["item_table"] @ state)[None]
        assert table.rank[row] == target_ranks(scores, jnp.array([target]), where=jnp.array(candidates)[None])[0]
        assert table.n_candidates[row] == candidates.sum()
        assert table.target[row] == target
        assert table.history_length[row] == len(before)


def test_ranks_do_not_depend_on_the_size_of_a_batch(case):
    eval_step, params = make_eval_step(case[3]), case[4]
    tables = [evaluate(eval_step, params, queries_of(case, batch_size=size)) for size in (2, 100)]
    chex.assert_trees_all_equal(*tables)


def test_the_step_is_traced_once_for_all_batches_and_parameters(case):
    _, _, _, model, params = case
    chex.clear_trace_counter()
    encode = chex.assert_max_traces(model.encoder.encode, n=1)
    counted = dataclasses.replace(model.encoder, encode=encode)
    eval_step, queries = make_eval_step(softmax_model(counted)), queries_of(case)
    assert len(queries.row_groups) >= 3
    for scale in (1.0, 2.0):
        evaluate(eval_step, jax.tree.map(lambda leaf, scale=scale: scale * leaf, params), queries)
    assert eval_step._cache_size() == 1


@pytest.mark.parametrize(("value", "place"), [(0.0, 0.5), (float("nan"), 1.0)])
def test_a_model_that_gives_every_item_one_score_ranks_in_the_middle_and_a_broken_one_last(case, value, place):
    _, _, _, model, params = case
    broken = params | {"item_table": jnp.full_like(params["item_table"], value)}
    table = evaluate(make_eval_step(model), broken, queries_of(case))
    np.testing.assert_array_equal(table.rank, 1 + place * (table.n_candidates - 1))


def test_lists_in_parts_are_those_of_all_queries_and_vectors_multiply_to_scores(case, monkeypatch):
    monkeypatch.setattr(evaluation, "ROWS_PER_PART", 20)
    monkeypatch.setattr(evaluation, "N_IN_FLIGHT", 1)
    _, _, _, model, params = case
    queries, reports = queries_of(case), []
    whole = top_items(make_top_step(model, k=5), params, queries)
    step = make_top_step(model, k=5, with_vectors=True)
    parts = list(top_items_in_parts(step, params, queries, report=reports.append))
    assert len(parts) > 2
    assert sum(reports) == len(queries.users)
    assert sorted(np.concatenate([part.query for part in parts]).tolist()) == list(range(len(queries.users)))
    for part in parts:
        chex.assert_trees_all_equal(part[:4], tuple(array[part.query] for array in whole[:4]))
        items = params["item_table"][part.items]
        np.testing.assert_allclose(jnp.einsum("qkd,qd->qk", items, part.vectors), part.scores, rtol=1e-4, atol=1e-4)


def test_no_more_batches_are_begun_than_are_waited_for(case, monkeypatch):
    monkeypatch.setattr(evaluation, "N_IN_FLIGHT", 2)
    queries, begun = queries_of(case), []

    def step(params, batch):
        begun.append(batch)
        return (jnp.asarray(batch.query),)

    assert len(queries.row_groups) > 4
    for done, (query, (own,)) in enumerate(evaluation.query_parts(step, {}, queries), start=1):
        np.testing.assert_array_equal(query, own)
        assert len(begun) <= done + 2


def test_a_query_after_the_whole_history_sees_all_of_it_and_no_target(case):
    histories, store, _, model, params = case
    users = np.array([24, 3, 11])  # the last user of the store is one: nothing comes after
    queries = make_queries(
        store, store.offsets[users + 1], users=users, max_length=MAX_LENGTH, batch_size=4, mask_seen=True
    )
    assert queries.targets.tolist() == [0, 0, 0]
    assert queries.history_lengths.tolist() == [len(histories[user]) for user in users]
    lists = top_items(make_top_step(model, k=5), params, queries)
    for user, items in zip(users, lists.items, strict=True):
        best = make_recommend(model)(params, histories[user], 5)
        assert items[items > 0].tolist() == best
