"""Eight devices compute what one does. The runs on fake devices are in a process of their own, started by this file."""

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import chex
import garbage
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from examples import at_night
from programs import compiled, largest_message, messages

from seqrec.attention import mix_histories
from seqrec.data.batches import Share, make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.fusion import fit_weights
from seqrec.heads.softmax import softmax_model
from seqrec.layers import item_vectors, random_bytes
from seqrec.losses import softmax as losses
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.losses.softmax import LossContext, SoftmaxSettings, softmax_loss
from seqrec.metrics import metric_sums
from seqrec.negatives import popular, popularity_distribution, uniform
from seqrec.neighbours import neighbour_table, table_params, with_neighbours
from seqrec.params import init_params
from seqrec.questions import next_item
from seqrec.repeats import with_repeats
from seqrec.retrieval import rank_targets, top_k_items
from seqrec.row_updates import caught_up, init_sparse_state, make_sparse_step
from seqrec.sharding import (
    MeshConfig,
    constrain_params,
    constrain_state,
    make_mesh,
    n_data_shards,
    split_items,
    split_rows,
)
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Encoder

MESHES = {
    "8x1": MeshConfig(data=8, model=1),
    "4x2": MeshConfig(data=-1, model=2),
    "2x4": MeshConfig(data=2, model=4),
    "1x8": MeshConfig(data=1, model=8),
    "2x2 fsdp 2": MeshConfig(data=2, model=2, fsdp=2),
}
QUICK = ("4x2",)
"""It splits rows and catalogue; the others split one of them alone, or by other numbers."""
STEPS_QUICK = ("4x2", "2x4", "2x2 fsdp 2")
"""Of these the quick tests have training steps: with many and with few table rows a device, and a third axis."""
# The table has 448 rows, a number that no other array has for a dimension: nor has any the rows of a device.
N_ITEMS, TABLE_ROWS, D_MODEL, MAX_LENGTH, N_STEPS = 400, 448, 8, 8, 3
N_DRAWS = 6
STEPS_ALONE = ": steps"


def each_mesh(*meshes, quick=QUICK):
    """A test for each of these meshes, of which it takes some at night alone."""
    return pytest.mark.parametrize("mesh", at_night(meshes, quick=quick))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    """What `measure` returns without a mesh and with each that a test asks for, on eight fake devices."""
    tests = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {each.callspec.params["mesh"] for each in tests if "mesh" in each.callspec.params}
    meshes = [mesh for mesh in MESHES if mesh in asked]
    whole = meshes if any(each.get_closest_marker("slow") for each in tests) else QUICK
    path = tmp_path_factory.mktemp("runs") / "runs.npz"
    root = Path(__file__).parents[1]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles in half the time; what devices send is the same
    done = subprocess.run(
        [sys.executable, __file__, str(path), *(mesh if mesh in whole else mesh + STEPS_ALONE for mesh in meshes)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as arrays:
        numbers = {name: arrays[name] for name in arrays.files}
    return {
        mesh: {name.partition("/")[2]: value for name, value in numbers.items() if name.startswith(mesh)}
        for mesh in ("none", *meshes)
    }


@each_mesh(*MESHES, quick=STEPS_QUICK)
@pytest.mark.parametrize("what", ["loss", "params", "averaged", "sparse"])
def test_steps_on_eight_devices_are_those_on_one(runs, mesh, what):
    assert_same(runs[mesh], runs["none"], what)


@each_mesh(*MESHES)
@pytest.mark.parametrize(
    "what",
    [
        "softmax",
        "seen",
        "few_items",
        "in_chunks",
        "sampled",
        "ranks",
        "metrics",
        "mixture",
        "allowed",
        "fused",
        "neighbours",
    ],
)
def test_eight_devices_compute_what_one_does(runs, mesh, what):
    assert_same(runs[mesh], runs["none"], what)


def assert_same(ours, expected, what):
    names = [name for name in expected if name.startswith(what)]
    assert names
    for name in names:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@each_mesh(*MESHES)
def test_dropout_and_recommended_items_are_the_same_to_the_bit(runs, mesh):
    for name in ("bytes", "top", "top_of_allowed"):
        np.testing.assert_array_equal(runs[mesh][name], runs["none"][name])


@each_mesh(*MESHES, quick=STEPS_QUICK)
def test_draws_are_the_same_to_the_bit(runs, mesh):
    for name in ("draws", "draws_log_q"):
        np.testing.assert_array_equal(runs[mesh][name], runs["none"][name])


def test_the_item_table_and_its_moments_are_split_over_model_and_batches_over_data(runs):
    # Table, average and two moments, before the first step and after the last.
    for mesh, run in runs.items():
        config = MESHES.get(mesh, MeshConfig(data=1))
        parts = config.model * config.fsdp
        assert run["table_on_a_device"].tolist() == [[TABLE_ROWS // parts, D_MODEL]] * 8, mesh
        n_rows, on_a_device = run["batch_rows"].tolist()
        assert on_a_device == n_rows // run["n_data_shards"]
        assert run["row_moments_on_a_device"].tolist() == [TABLE_ROWS // parts, 1]
    expected = {"none": 1, "8x1": 8, "4x2": 4, "2x4": 2, "1x8": 1, "2x2 fsdp 2": 4}
    assert {mesh: int(run["n_data_shards"]) for mesh, run in runs.items()} == {mesh: expected[mesh] for mesh in runs}
    assert len(runs) > 1


@each_mesh("4x2", "2x4", "1x8")
@pytest.mark.parametrize("program", ["softmax", "seen", "in_chunks", "sampled", "mixture", "eval_step"])
def test_no_program_sends_the_item_table_or_scores(runs, mesh, program):
    assert_sends_no_table(runs, mesh, program)


@each_mesh("4x2", "2x4", "1x8", quick=STEPS_QUICK)
def test_no_training_step_sends_the_item_table_or_scores(runs, mesh):
    assert_sends_no_table(runs, mesh, "train_step")


def assert_sends_no_table(runs, mesh, program):
    messages = [line.split() for line in runs[mesh][f"messages_of_{program}"].tolist()]
    assert messages
    on_a_device = TABLE_ROWS // MESHES[mesh].model
    for kind, *shape in messages:
        assert str(TABLE_ROWS) not in shape, kind
        # A device's own part of the table's gradient is added up over `data`, and its part of the table stays.
        assert str(on_a_device) not in shape or (kind == "all-reduce" and shape == [str(on_a_device), str(D_MODEL)])


@each_mesh("4x2", "2x2 fsdp 2", quick=STEPS_QUICK)
def test_drawing_by_split_tables_sends_a_row_a_draw_and_no_table(runs, mesh):
    # A row has the bounds of 64 items; together the rows of the draws are shorter than the table.
    assert 0 < runs[mesh]["sent_by_draws"] <= N_DRAWS * 65 < N_ITEMS
    assert runs["none"]["sent_by_draws"] == 0


@each_mesh("8x1", "4x2", "2x4", quick=STEPS_QUICK)
def test_a_step_adds_up_one_table_and_another_where_a_device_holds_fewer_rows_than_are_looked_up(runs, mesh):
    sent = runs[mesh]["messages_of_train_step"].tolist()
    n_rows, on_a_device = int(runs[mesh]["batch_rows"][0]), TABLE_ROWS // MESHES[mesh].model
    few = n_rows * MAX_LENGTH < on_a_device
    assert few == (mesh != "2x4")  # both are met
    assert sent.count(f"all-reduce {on_a_device} {D_MODEL}") == (1 if few else 2)
    assert (f"all-gather {n_rows} {MAX_LENGTH} {D_MODEL}" in sent) == few


@each_mesh("4x2", "1x8")
def test_ranking_a_split_catalogue_sends_neither_table_nor_scores(runs, mesh):
    n_users, k, n_shards = 24, 5, MESHES[mesh].model
    assert 0 < runs[mesh]["sent_by_rank_targets"] <= 2 * n_users  # per user and target a score and a count
    assert 0 < runs[mesh]["sent_by_top_k_items"] <= n_users * k * n_shards
    assert n_users * k * n_shards < n_users * N_ITEMS / 2
    # One device has nobody to send to.
    assert runs["none"]["sent_by_rank_targets"] == runs["none"]["sent_by_top_k_items"] == 0


def tables_on_a_device(state) -> list[tuple[int, ...]]:
    """What a device holds of the item table, its average and its moments."""
    tables = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == state.params["item_table"].shape]
    return [table.addressable_shards[0].data.shape for table in tables]


def without_blocks(encoder: Encoder) -> Encoder:
    """Whose states are its items' vectors: of losses and heads, what blocks compute changes nothing."""

    def encode(params, batch, *, key=None):
        return 20 * item_vectors(params["item_table"], batch.items)

    return dataclasses.replace(encoder, specs={"item_table": encoder.specs["item_table"]}, encode=encode)


def named(name: str, tree) -> dict[str, jax.Array]:
    return {name + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def finite(numbers: dict) -> dict[str, np.ndarray]:
    chex.assert_tree_all_finite({name: value for name, value in numbers.items() if not name.startswith(("b", "mess"))})
    return {name: np.asarray(value) for name, value in numbers.items()}


def few_items_loss(hidden, item_table, targets, *, n_items, context, key):
    """Of three items whose scores are hundreds below those of padding, which is all that most devices then hold."""
    return softmax_loss(jnp.abs(hidden), item_table.at[1:4].add(-50.0), jnp.minimum(targets, 3), n_items=3)


def measure(*, steps_alone: bool = False) -> dict[str, np.ndarray]:
    """A short training run and, unless `steps_alone`, losses and its evaluation under the mesh, if there is one."""
    generator = np.random.default_rng(0)
    histories = [generator.integers(1, N_ITEMS + 1, generator.integers(3, 12)).tolist() for _ in range(60)]
    store = store_from_sequences(histories, n_items=N_ITEMS)
    split = leave_last_out(store)
    share = Share(n_data_shards())
    batches = training_batches(store, split, max_length=MAX_LENGTH, batch_size=25, seed=0, share=share)
    queries = make_queries(store, split.test, max_length=MAX_LENGTH, batch_size=25, mask_seen=True, share=share)
    config = TransformerConfig(d_model=D_MODEL, n_blocks=1, dropout=0.3, attention_dropout=0.3)
    encoder = transformer(config, n_items=N_ITEMS, max_length=MAX_LENGTH)
    model = softmax_model(encoder)
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup_steps=1), model.specs, n_steps=100)
    state = init_state(model, optimizer, seed=0)
    numbers = {"n_data_shards": share.n_shards, "table_on_a_device": tables_on_a_device(state)}

    row_wise = make_optimizer(OptimizerConfig(second_moments="rows"), encoder.specs, n_steps=100)
    first_moments = jax.jit(lambda params: constrain_state(row_wise.init(params), encoder.specs))
    (moments,) = (leaf for leaf in jax.tree.leaves(first_moments(state.params)) if leaf.shape == (TABLE_ROWS, 1))
    numbers["row_moments_on_a_device"] = moments.addressable_shards[0].data.shape

    items_alone = without_blocks(encoder)
    first = split_rows(batches.batch(0))

    def sampler(key, targets):
        return uniform(key, n_negatives=32, n_items=N_ITEMS)

    popularity = split_items(popularity_distribution(np.arange(N_ITEMS + 1)))
    draw = compiled(functools.partial(popular, n_negatives=N_DRAWS), jax.random.key(0), popularity)
    numbers["draws"], numbers["draws_log_q"] = draw(jax.random.key(0), popularity)
    numbers["sent_by_draws"] = largest_message(draw)
    start = {"item_table": jnp.copy(state.params["item_table"])}  # a step gives away what it was given
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    step = compiled(step, state, first)
    numbers["messages_of_train_step"] = messages(step)
    for number in range(N_STEPS):
        state, metrics = step(state, split_rows(batches.batch(number)))
    numbers["loss_of_the_last_step"] = metrics.loss
    sampled_model = softmax_model(items_alone, sampled_loss(sampled_softmax, sampler))
    sparse = init_sparse_state(sampled_model, OptimizerConfig(warmup_steps=1), n_steps=100, seed=0)
    sparse_step = make_sparse_step(sampled_model, OptimizerConfig(warmup_steps=1), n_steps=100, seed=0)
    for number in range(N_STEPS):
        sparse, _ = sparse_step(sparse, split_rows(batches.batch(number)))
    assert tables_on_a_device(sparse) == tables_on_a_device(state)[:3]  # one moment a row is no table
    numbers |= named("params", state.params) | named("averaged", state.averaged)
    numbers |= named("sparse", caught_up(sparse).averaged)
    numbers["table_on_a_device"] += tables_on_a_device(state)
    items = jnp.asarray(first.items)
    numbers["batch_rows"] = [items.shape[0], items.addressable_shards[0].data.shape[0]]
    if steps_alone:
        return finite(numbers)

    def loss_of(params, batch, loss):
        hidden = items_alone.encode(params, batch)
        options = {"n_items": N_ITEMS, "context": LossContext(batch), "key": jax.random.key(4)}
        return loss(hidden, params["item_table"], batch.next_items, **options)[0]

    n_targets = np.count_nonzero(batches.batch(0).next_items)

    def value_and_gradients(params, batch, loss):
        """Means over the targets: one figure for each of them, as a step's loss has it."""
        value, gradients = jax.value_and_grad(loss_of)(params, batch, loss)
        gradients = constrain_params(gradients, items_alone.specs)  # as a training step lays them out
        return jax.tree.map(lambda leaf: leaf / n_targets, (value, gradients))

    def gradients_of(name, loss):
        program = compiled(functools.partial(value_and_gradients, loss=loss), start, first)
        numbers[f"messages_of_{name}"] = messages(program)
        value, gradients = program(start, first)
        numbers.update({f"{name}_loss": value, **named(name, gradients)})

    gradients_of("softmax", softmax_loss)
    gradients_of("seen", functools.partial(softmax_loss, settings=SoftmaxSettings(seen_weight=0.1)))
    gradients_of("few_items", few_items_loss)
    gradients_of("sampled", sampled_loss(sampled_softmax, sampler))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "tile_sizes", lambda n_positions, n_rows: (min(16, n_positions), min(10, n_rows)))
        gradients_of("in_chunks", softmax_loss)
    eval_step = compiled(make_eval_step(model), state.params, split_rows(next(queries.batches())))
    numbers["ranks"] = evaluate(eval_step, state.params, queries).rank
    numbers["messages_of_eval_step"] = messages(eval_step)
    unwanted = functools.partial(softmax_loss, settings=SoftmaxSettings(unwanted_weight=0.5))
    repeating = with_repeats(softmax_model(items_alone, unwanted))
    own = init_params(repeating.specs, jax.random.key(1))
    own = jax.jit(lambda: constrain_params(jax.tree.map(lambda leaf: 3 * leaf, own), repeating.specs))()

    def mixture_loss(params, batch):
        states = repeating.encoder.encode(params, batch)
        question = next_item(batch._replace(next_skips=batch.next_items % 3 == 0), unwanted_skips=True)
        return repeating.head.loss(params, states, question, key=jax.random.key(0))[0] / n_targets

    def mixture_gradients(params, batch):
        value, gradients = jax.value_and_grad(mixture_loss)(params, batch)
        return value, constrain_params(gradients, repeating.specs)

    program = compiled(mixture_gradients, own, first)
    numbers["messages_of_mixture"] = messages(program)
    numbers["mixture_loss"], gradients = program(own, first)
    numbers |= named("mixture", gradients)
    numbers["mixture_ranks"] = evaluate(make_eval_step(repeating), own, queries._replace(n_excluded=0)).rank
    ids = generator.integers(0, N_ITEMS + 1, (N_ITEMS + 1, 7)).astype(np.int32)
    weights = generator.normal(size=ids.shape).astype(np.float32)
    tables = {"similar": neighbour_table(ids, weights, recency=0.8 ** np.arange(3), n_items=N_ITEMS)}
    raised = with_neighbours(softmax_model(items_alone), tables)
    own = {"item_table": state.params["item_table"], **table_params(tables)}
    own = jax.jit(lambda params: constrain_params(params, raised.specs))(own)
    numbers["neighbours_ranks"] = evaluate(make_eval_step(raised), own, queries).rank
    fitted = fit_weights(raised, own, queries)
    numbers["neighbours_weights"] = np.array([*fitted.models, *fitted.tables.values()])
    # Far from the start, where scores are small and close to each other.
    table = 50 * state.params["item_table"]
    users = split_rows(generator.normal(size=(24, 8)).astype(np.float32))
    excluded = split_rows(generator.integers(0, N_ITEMS + 1, (24, 5)).astype(np.int32))
    targets = split_rows(generator.integers(1, N_ITEMS + 1, (24, 2)).astype(np.int32))
    top = compiled(lambda *rows: top_k_items(*rows[:2], k=5, n_items=N_ITEMS, exclude=rows[2]), users, table, excluded)
    numbers["top"] = top(users, table, excluded)[0]
    numbers["sent_by_top_k_items"] = largest_message(top)
    rank = compiled(
        lambda *rows: rank_targets(*rows[:3], n_items=N_ITEMS, exclude=rows[3]), users, table, targets, excluded
    )
    numbers["ranks_of_several"] = rank(users, table, targets, excluded)[0]
    numbers["sent_by_rank_targets"] = largest_message(rank)
    # One row of allowed items for all users, of which most shards hold none.
    allowed = jnp.array([[7, 30, 31, 390, 0]])
    some_targets = split_rows(np.tile(np.array([30, 8], np.int32), (24, 1)))

    @jax.jit
    def among_allowed(users, table, targets, excluded, allowed):
        options = {"n_items": N_ITEMS, "exclude": excluded, "allow": allowed}
        ranks, n_candidates = rank_targets(users, table, targets, **options)
        return ranks, n_candidates, top_k_items(users, table, k=4, **options)[0]

    ranks, numbers["allowed_n_candidates"], numbers["top_of_allowed"] = among_allowed(
        users, table, some_targets, excluded, allowed
    )
    numbers["allowed_ranks"] = jnp.where(jnp.isnan(ranks), -1.0, ranks)
    rows = split_rows(np.zeros((16, 5, 9), np.float32))
    heads = [split_rows(generator.standard_normal((16, 2, 8, 4)).astype(np.float32)) for _ in range(3)]
    ids = split_rows(np.arange(128, dtype=np.int32).reshape(16, 8) // 3 % 3)
    options = {"causal": True, "dropout_rate": 0.0, "key": None, "implementation": "fused"}
    numbers["fused"] = jax.jit(functools.partial(mix_histories, **options))(*heads, segment_ids=ids)
    numbers["bytes"] = jax.jit(lambda x: jnp.where(x == 0, random_bytes(jax.random.key(5), x.shape), 0))(rows)
    sums = jax.jit(metric_sums)(split_rows(numbers["ranks"].astype(np.float32)[:56]))
    numbers["metrics"] = [*sums.totals.values(), sums.n_users]
    return finite(numbers)


def main(path: str, *meshes: str) -> None:
    assert jax.device_count() == 8
    garbage.collect_seldom()
    numbers = {}
    for each in ("none", *meshes):
        mesh = each.removesuffix(STEPS_ALONE)
        with jax.set_mesh(make_mesh(MESHES[mesh])) if mesh in MESHES else contextlib.nullcontext():
            numbers |= {f"{mesh}/{name}": value for name, value in measure(steps_alone=mesh != each).items()}
    np.savez(path, **numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
