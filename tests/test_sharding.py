"""Eight devices compute what one does. The runs on fake devices take a process of their own, made by this same file."""

import contextlib
import functools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.data.batches import make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.layers import random_bytes
from seqrec.losses import sampled_softmax_loss, softmax_loss
from seqrec.metrics import metric_sums
from seqrec.objectives import next_item
from seqrec.retrieval import rank_targets, top_k_items
from seqrec.sharding import MESH_AXES, MeshConfig, constrain_params, make_mesh, map_rows, n_data_shards, split_rows
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

pytestmark = pytest.mark.xdist_group("eight devices")  # one process makes the runs that all tests look at

MESHES = {"8x1": MeshConfig(data=8, model=1), "4x2": MeshConfig(data=-1, model=2), "1x8": MeshConfig(data=1, model=8)}
N_ITEMS, MAX_LENGTH, N_STEPS = 100, 8, 3


# Without a mesh


def test_without_a_mesh_everything_is_left_as_it_is():
    assert n_data_shards() == 1
    batch = {"items": np.ones((3, 2))}
    assert split_rows(batch) is batch
    encoder = transformer(TransformerConfig(d_model=8), n_items=10, max_length=4)
    assert constrain_params(batch, encoder.specs) is batch
    per_row, total = map_rows(lambda x, y: (x * y, x.sum()), (jnp.arange(3.0),), (jnp.float32(2.0),))
    assert per_row.tolist() == [0, 2, 4]
    assert float(total) == 3


def test_every_axis_that_a_model_names_is_in_the_table():
    assert set(MESH_AXES.values()) <= {"data", "model", None}
    for positions in ("rotary", "learned"):
        for kind in ("swiglu", "relu"):
            config = TransformerConfig(d_model=8, norm="layer", positions=positions, feed_forward=kind)
            for spec in jax.tree.leaves(transformer(config, n_items=10, max_length=4).specs):
                assert set(spec.axes) <= set(MESH_AXES)
                mesh_axes = [MESH_AXES[axis] for axis in spec.axes if MESH_AXES[axis]]
                assert len(mesh_axes) == len(set(mesh_axes))  # no mesh axis splits two axes of one array


@pytest.mark.parametrize("bad", [{"model": 0}, {"data": 0}, {"data": -2}])
def test_a_count_of_devices_is_positive(bad):
    with pytest.raises(ValueError, match="both count devices"):
        MeshConfig(**bad)


def test_a_mesh_uses_all_devices_or_is_refused():
    n_devices = jax.device_count()
    assert dict(make_mesh(MeshConfig()).shape) == {"data": n_devices, "model": 1}
    with pytest.raises(ValueError, match=f"data={n_devices + 1} x model=1 .* {n_devices} devices"):
        make_mesh(MeshConfig(data=n_devices + 1))


# With eight


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What `measure` found without a mesh and with each, on eight fake devices."""
    path = tmp_path_factory.mktemp("runs") / "runs.npz"
    root = Path(__file__).parents[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, __file__, str(path)], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    return {
        mesh: {name.partition("/")[2]: value for name, value in found.items() if name.startswith(mesh)}
        for mesh in ("none", *MESHES)
    }


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("what", ["loss", "gradients", "params", "averaged", "ranks", "metrics", "sampled"])
def test_eight_devices_compute_what_one_does(runs, mesh, what):
    names = [name for name in runs["none"] if name.startswith(what)]
    assert names
    for name in names:
        np.testing.assert_allclose(runs[mesh][name], runs["none"][name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mesh", MESHES)
def test_dropout_and_recommended_items_are_the_same_to_the_bit(runs, mesh):
    for name in ("bytes", "top"):
        np.testing.assert_array_equal(runs[mesh][name], runs["none"][name])


def test_the_item_table_and_its_moments_are_split_over_model_and_batches_over_data(runs):
    # 128 rows for 100 items; what one device holds of them.
    assert runs["none"]["table_on_a_device"].tolist() == [[128, 8]] * 4
    assert runs["8x1"]["table_on_a_device"].tolist() == [[128, 8]] * 4
    assert runs["4x2"]["table_on_a_device"].tolist() == [[64, 8]] * 4
    assert runs["1x8"]["table_on_a_device"].tolist() == [[16, 8]] * 4
    n_rows = {mesh: run["batch_rows"].tolist() for mesh, run in runs.items()}
    assert n_rows["8x1"][1] == n_rows["8x1"][0] / 8
    assert n_rows["4x2"][1] == n_rows["4x2"][0] / 4


@pytest.mark.parametrize("mesh", ["4x2", "1x8"])
def test_ranking_a_split_catalogue_sends_neither_table_nor_scores(runs, mesh):
    n_users, k, n_shards = 24, 5, MESHES[mesh].model
    assert 0 < runs[mesh]["sent_by_rank_targets"] <= 2 * n_users  # per user and target a score and a count
    assert 0 < runs[mesh]["sent_by_top_k_items"] <= n_users * k * n_shards
    assert n_users * k * n_shards < n_users * N_ITEMS / 2
    # One device has nobody to send to.
    assert runs["none"]["sent_by_rank_targets"] == runs["none"]["sent_by_top_k_items"] == 0


def largest_message(program, *arguments, **options) -> int:
    """Elements of the largest array that a collective of the compiled program yields."""
    text = program.lower(*arguments, **options).compile().as_text()
    collective = r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    shapes = [shape for found in re.findall(collective, text) for shape in re.findall(r"\w+\[([\d,]*)\]", found)]
    return max((math.prod(int(n) for n in shape.split(",") if n) for shape in shapes), default=0)


def measure() -> dict[str, np.ndarray]:
    """A short training run and its evaluation under the current mesh, if there is one."""
    generator = np.random.default_rng(0)
    histories = [generator.integers(1, N_ITEMS + 1, generator.integers(3, 12)).tolist() for _ in range(60)]
    store = store_from_sequences(histories, n_items=N_ITEMS)
    split = leave_last_out(store)
    shards = n_data_shards()
    batches = training_batches(store, split, max_length=MAX_LENGTH, batch_size=25, seed=0, n_shards=shards)
    queries = make_queries(store, split.test, max_length=MAX_LENGTH, batch_size=25, mask_seen=True, n_shards=shards)
    config = TransformerConfig(d_model=8, n_blocks=1, dropout=0.3, attention_dropout=0.3)
    encoder = transformer(config, n_items=N_ITEMS, max_length=MAX_LENGTH)
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup_steps=1), encoder.specs, n_steps=100)
    state = init_state(encoder, optimizer, seed=0)
    found = {}

    def loss_of(params, batch, loss):
        hidden = encoder.encode(params, batch, key=jax.random.key(3))
        return loss(hidden, params["item_table"], batch.next_items, n_items=N_ITEMS, key=jax.random.key(4))[0]

    first = split_rows(batches.batch(0))
    gradient = jax.jit(jax.value_and_grad(loss_of), static_argnums=2)
    # Sums over the targets of a batch: one figure for each of them, as a step's mean has it.
    n_targets = np.count_nonzero(batches.batch(0).next_items)
    mean = functools.partial(jax.tree.map, lambda leaf: leaf / n_targets)
    found["loss"], gradients = mean(gradient(state.params, first, softmax_loss))
    found["sampled_loss"], sampled = mean(
        gradient(state.params, first, functools.partial(sampled_softmax_loss, n_negatives=32))
    )
    step = make_train_step(encoder, next_item, softmax_loss, optimizer, seed=0, average_decay=0.9)
    for number in range(N_STEPS):
        state, metrics = step(state, split_rows(batches.batch(number)))
    found["loss_of_the_last_step"] = metrics.loss
    trees = {"gradients": gradients, "sampled": sampled, "params": state.params, "averaged": state.averaged}
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[name + jax.tree_util.keystr(path)] = leaf
    found["ranks"] = evaluate(make_eval_step(encoder), state.params, queries).rank
    # Far from the start, where scores are small and close to each other.
    table = 50 * state.params["item_table"]
    users = split_rows(generator.normal(size=(24, 8)).astype(np.float32))
    excluded = split_rows(generator.integers(0, N_ITEMS + 1, (24, 5)).astype(np.int32))
    top = jax.jit(functools.partial(top_k_items, k=5, n_items=N_ITEMS))
    found["top"] = top(users, table, exclude=excluded)[0]
    found["sent_by_top_k_items"] = largest_message(top, users, table, exclude=excluded)
    rank = jax.jit(functools.partial(rank_targets, n_items=N_ITEMS))
    targets = split_rows(generator.integers(1, N_ITEMS + 1, (24, 2)).astype(np.int32))
    found["ranks_of_several"] = rank(users, table, targets, exclude=excluded)[0]
    found["sent_by_rank_targets"] = largest_message(rank, users, table, targets, exclude=excluded)
    rows = split_rows(np.zeros((16, 5, 9), np.float32))
    found["bytes"] = jax.jit(lambda x: jnp.where(x == 0, random_bytes(jax.random.key(5), x.shape), 0))(rows)
    sums = jax.jit(metric_sums)(split_rows(found["ranks"].astype(np.float32)[:56]))
    found["metrics"] = [*sums.totals.values(), sums.n_users]
    adam = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == state.params["item_table"].shape]
    tables = [state.params["item_table"], state.averaged["item_table"], *adam]
    found["table_on_a_device"] = [table.addressable_shards[0].data.shape for table in tables]
    items = jnp.asarray(first.items)
    found["batch_rows"] = [items.shape[0], items.addressable_shards[0].data.shape[0]]
    chex.assert_tree_all_finite({name: value for name, value in found.items() if name != "bytes"})
    return {name: np.asarray(value) for name, value in found.items()}


def main(path: str) -> None:
    assert jax.device_count() == 8
    found = {}
    for mesh in ("none", *MESHES):
        with jax.set_mesh(make_mesh(MESHES[mesh])) if mesh in MESHES else contextlib.nullcontext():
            found |= {f"{mesh}/{name}": value for name, value in measure().items()}
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
