"""Sparse steps equal dense ones where every row is read; else decay and average are those of the missed steps."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.averaged import read_best
from seqrec.checkpoint import Progress, open_checkpoints, restore_latest, save
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.heads.softmax import softmax_model
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.losses.softmax import softmax_loss
from seqrec.negatives import uniform
from seqrec.row_updates import caught_up, init_sparse_state, make_sparse_step
from seqrec.training import (
    OptimizerConfig,
    init_state,
    learning_rate,
    make_optimizer,
    make_train_step,
    with_cooldown,
)
from seqrec.types import Batch, InputError

N_STEPS = 12
CONFIG = OptimizerConfig(
    learning_rate=0.05, warmup_steps=3, weight_decay=0.4, average_decay=0.7, second_moments="rows", clip_norm=0.5
)


def model_of(n_items, n_negatives=64):
    loss = sampled_loss(sampled_softmax, lambda key, _: uniform(key, n_negatives=n_negatives, n_items=n_items))
    return softmax_model(gru(GRUConfig(d_model=4, d_hidden=4), n_items=n_items, max_length=6), loss)


def batch_of(items):
    items = jnp.asarray(items, jnp.int32)
    is_item = items > 0
    following = jnp.pad(items[:, 1:], ((0, 0), (0, 1)))
    return Batch(items, following, is_item.astype(jnp.int32), jnp.where(is_item, jnp.arange(items.shape[1]), 0))


def in_state(state, cooldown):
    return with_cooldown(state, *cooldown) if cooldown else state


def dense_states(model, config, batches, cooldown=()):
    optimizer = make_optimizer(config, model.specs, n_steps=N_STEPS)
    step = make_train_step(model, optimizer, seed=0, average_decay=config.average_decay)
    state = in_state(init_state(model, optimizer, seed=0), cooldown)
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


def sparse_states(model, config, batches, cooldown=()):
    step = make_sparse_step(model, config, n_steps=N_STEPS, seed=0)
    state = in_state(init_sparse_state(model, config, n_steps=N_STEPS, seed=0), cooldown)
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


@pytest.mark.parametrize("cooldown", [(), (5, 4)], ids=["cosine", "plateau"])
def test_where_every_row_is_read_states_are_those_of_dense_steps(cooldown):
    config = replace(CONFIG, schedule="plateau") if cooldown else CONFIG
    model = model_of(5)  # 64 draws of 5 items: each is among them
    batches = [
        batch_of(np.random.default_rng(i).integers(1, 6, (2, 6)) * [[1] * 6, [1] * 4 + [0] * 2]) for i in range(9)
    ]
    dense, dense_metrics = dense_states(model, config, batches, cooldown)
    sparse, metrics = sparse_states(model, config, batches, cooldown)
    chex.assert_trees_all_close(metrics, dense_metrics, rtol=1e-5)
    # Rows behind the catalogue are never read: their decay is made up for.
    sparse = caught_up(sparse)
    chex.assert_trees_all_close(sparse.params, dense.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(sparse.averaged, dense.averaged, rtol=1e-4, atol=1e-6)


def test_a_row_that_is_not_read_decays_and_is_averaged_as_in_dense_steps():
    # Ten times the catalogue, items 1 to 5 alone in the batch, 1 draw a step.
    model, config = (
        model_of(50, n_negatives=1),
        OptimizerConfig(learning_rate=0.05, schedule="constant", warmup_steps=0, weight_decay=0.4, average_decay=0.7),
    )
    state = init_sparse_state(model, config, n_steps=N_STEPS, seed=0)
    first = np.asarray(state.params["item_table"])
    n_rows = len(first)
    step = make_sparse_step(model, config, n_steps=N_STEPS, seed=0)
    for _ in range(8):
        state, _ = step(state, batch_of([[1, 2, 3, 4, 5, 1]]))
    unread = np.flatnonzero(np.asarray(state.opt_state.table.step) == 0)
    assert 30 < len(unread) < n_rows - 5
    np.testing.assert_array_equal(state.params["item_table"][unread], first[unread])
    weights, average = first[unread], first[unread]
    for place in range(8):
        weights = weights * (1 - float(learning_rate(config, n_steps=N_STEPS)(place)) * 0.4)
        average = 0.7 * average + 0.3 * weights
    now = caught_up(state)
    np.testing.assert_allclose(now.params["item_table"][unread], weights, rtol=1e-5)
    np.testing.assert_allclose(now.averaged["item_table"][unread], average, rtol=1e-5)
    again = caught_up(now)
    chex.assert_trees_all_equal(again, now)
    # What a row missed is made up for when it is read again, too; here without a target, and so without a gradient.
    state, _ = step(state, batch_of([[9, 0, 0, 0, 0, 0]]))
    assert int(state.opt_state.table.step[9]) == 9
    weights = weights * (1 - float(learning_rate(config, n_steps=N_STEPS)(8)) * 0.4)
    average = 0.7 * average + 0.3 * weights
    now = caught_up(state)
    np.testing.assert_allclose(now.params["item_table"][unread], weights, rtol=1e-5)
    np.testing.assert_allclose(now.averaged["item_table"][unread], average, rtol=1e-5)


def test_a_row_that_misses_steps_of_a_cooldown_follows_its_rate_and_its_average(tmp_path):
    model = model_of(50, n_negatives=1)
    config = OptimizerConfig(learning_rate=0.05, schedule="plateau", warmup_steps=0, weight_decay=0.4)
    state, _ = sparse_states(model, config, [batch_of([[1, 2, 3, 4, 5, 1]])] * 8, cooldown := (4, 6))
    unread = np.flatnonzero(np.asarray(state.opt_state.table.step) == 0)
    first = np.asarray(state.params["item_table"])[unread]
    weights = average = first
    for step in range(8):
        rate = 0.05 * (1 - np.sqrt(max(step - cooldown[0], 0) / cooldown[1]))
        weights = weights * (1 - rate * 0.4)
        t = step + 1 if step < cooldown[0] else step + 1 - cooldown[0]
        average = average + 9 / (8 + t) * (weights - average)
    now = caught_up(state)
    np.testing.assert_allclose(now.params["item_table"][unread], weights, rtol=1e-5)
    np.testing.assert_allclose(now.averaged["item_table"][unread], average, rtol=1e-5)
    chex.assert_trees_all_equal(caught_up(now), now)
    with open_checkpoints(tmp_path) as manager:
        save(manager, state, Progress(seed=0, step=8, validations=((8, 0.5),)))
    for like in (None, state.averaged):
        chex.assert_trees_all_equal(read_best(tmp_path, like)[0], now.averaged)


def test_the_second_moment_of_a_row_falls_in_steps_that_do_not_read_it_as_in_dense_ones():
    # At a learning rate of almost 0 rows stay as they are, so that dense and sparse steps have equal gradients.
    config = OptimizerConfig(learning_rate=1e-30, schedule="constant", warmup_steps=0, b2=0.8, second_moments="rows")
    batches = [batch_of([items]) for items in ([1, 2, 3, 1, 2, 3], [4, 5, 4, 5, 4, 5], [1, 2, 1, 2, 1, 2])]
    model = model_of(50, n_negatives=1)
    dense, _ = dense_states(model, config, batches)
    sparse, _ = sparse_states(model, config, batches)
    (of_dense,) = [
        leaf.ravel()
        for path, leaf in jax.tree_util.tree_leaves_with_path(dense.opt_state)
        if ".nu" in jax.tree_util.keystr(path) and "item_table" in jax.tree_util.keystr(path)
    ]
    rows = sparse.opt_state.table
    missed = len(batches) - rows.step
    assert {0, 1, 2} <= set(missed[1:6].tolist())
    np.testing.assert_allclose(0.8**missed * rows.second, of_dense, rtol=1e-5)


def test_a_row_that_is_first_read_late_moves_as_its_moments_in_dense_steps_say():
    # The mean square of its gradients over all 7 steps is that of the last by 7, or so.
    model = model_of(50, n_negatives=1)
    config = OptimizerConfig(
        learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.0, average_decay=0.0
    )
    step = make_sparse_step(model, config, n_steps=N_STEPS, seed=0)
    state = init_sparse_state(model, config, n_steps=N_STEPS, seed=0)
    for _ in range(6):
        state, _ = step(state, batch_of([[1, 2, 3, 1, 2, 3]]))
    before = np.asarray(state.params["item_table"])
    unread = int(np.flatnonzero(np.asarray(state.opt_state.table.step)[:51] == 0)[-1])
    after, _ = step(state, batch_of([[unread, 1, unread, 1, unread, 1]]))
    moved = np.asarray(after.params["item_table"])[unread] - before[unread]
    of_all = (1 - 0.999) / (1 - 0.999**7)
    np.testing.assert_allclose(np.sqrt(np.mean(moved**2)), 0.01 / np.sqrt(of_all), rtol=1e-4)


def test_a_step_writes_no_array_of_the_tables_size():
    # In a million rows: what is allocated beside the state is small, since its memory is taken over.
    model = model_of(1_000_000)
    state = init_sparse_state(model, CONFIG, n_steps=N_STEPS, seed=0)
    step = make_sparse_step(model, CONFIG, n_steps=N_STEPS, seed=0)
    compiled = step.lower(state, batch_of(np.ones((2, 6)))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1_000_000 < state.params["item_table"].nbytes


def test_a_loss_over_the_whole_table_is_refused():
    model = softmax_model(gru(GRUConfig(d_model=4, d_hidden=4), n_items=5, max_length=6), softmax_loss)
    with pytest.raises(InputError, match=r"reads the whole item table.*--loss sampled-softmax"):
        sparse_states(model, CONFIG, [batch_of([[1, 2, 3, 4, 5, 1]])])


def test_a_restored_state_takes_the_same_step_to_the_bit(tmp_path):
    model, batch = model_of(50, n_negatives=1), batch_of([[1, 2, 3, 4, 5, 1]])
    state, _ = sparse_states(model, CONFIG, [batch] * 2)
    with open_checkpoints(tmp_path) as manager:
        save(manager, state, Progress(seed=0, step=2, validations=((2, 0.5),)))
    with open_checkpoints(tmp_path) as manager:
        restored = restore_latest(manager, init_sparse_state(model, CONFIG, n_steps=N_STEPS, seed=0))[0]
    # Read without the rest of the state, rows have made up for what they missed; with the model's shapes or not.
    for like in (None, state.averaged):
        chex.assert_trees_all_equal(read_best(tmp_path, like)[0], caught_up(state).averaged)
    step = make_sparse_step(model, CONFIG, n_steps=N_STEPS, seed=0)
    chex.assert_trees_all_equal(step(restored, batch)[0], step(state, batch)[0])
