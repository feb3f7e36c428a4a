"""The loss in blocks equals the naive one, gradients too, without an array of positions x items."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive_softmax import a_case, naive_loss, naive_value_and_gradients
from programs import array_sizes

from seqrec.losses import softmax as losses
from seqrec.losses.config import LossConfig, make_loss
from seqrec.losses.softmax import LossContext, softmax_loss, tile_sizes

TILES = {
    "blocks of positions": lambda n_positions, n_rows: (min(4, n_positions), n_rows),
    "chunks of items too": lambda n_positions, n_rows: (min(4, n_positions), min(25, n_rows)),
}


@pytest.fixture(params=TILES.values(), ids=TILES)
def in_tiles(request, monkeypatch):
    """Makes the loss pass over positions in blocks, and over items in chunks too."""
    monkeypatch.setattr(losses, "tile_sizes", request.param)


CASES = {
    "several blocks, the last one short": {"rows": 3, "length": 7, "n_items": 37, "n_rows": 64},
    "no row beyond the items": {"rows": 2, "length": 12, "n_items": 63, "n_rows": 64},
    "a table of an odd size": {"rows": 5, "length": 5, "n_items": 90, "n_rows": 101},
    "a single position": {"rows": 1, "length": 1, "n_items": 5, "n_rows": 64, "share_padding": 0.0},
    "a single item": {"rows": 2, "length": 5, "n_items": 1, "n_rows": 64},
    "nothing but padding": {"rows": 2, "length": 5, "n_items": 20, "n_rows": 64, "share_padding": 1.0},
}


@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES)
def test_value_and_gradients_are_those_of_the_naive_form(sizes, in_tiles):
    hidden, table, targets = a_case(**sizes)
    n_items = sizes["n_items"]

    def blocked(hidden, table):
        return softmax_loss(hidden, table, targets, n_items=n_items)

    total, count = jax.jit(blocked)(hidden, table)
    assert int(count) == np.count_nonzero(targets)
    expected, expected_gradients = naive_value_and_gradients(hidden, table, targets, n_items=n_items)
    (value, _), gradients = jax.jit(jax.value_and_grad(blocked, (0, 1), has_aux=True))(hidden, table)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def loss_of(name, n_items=37):
    config = LossConfig(loss=name, n_negatives=9, n_buckets=3, bucket_positions=4, bucket_items=5)
    return make_loss(config, counts=np.ones(n_items + 1, int))


@pytest.mark.parametrize(
    ("name", "in_tiles"),
    [
        *(("softmax", tiles) for tiles in TILES.values()),
        *((name, TILES["blocks of positions"]) for name in ("sampled-softmax", "bce", "gbce", "bpr", "bpr-max", "sce")),
    ],
    indirect=["in_tiles"],
)
def test_a_weight_counts_a_target_as_often(name, in_tiles):
    hidden, table, targets = a_case(rows=3, length=7, n_items=37, n_rows=64)
    times = np.random.default_rng(1).integers(0, 4, targets.shape)
    options = {"n_items": 37, "key": jax.random.key(0)}

    def weighed(hidden, table, weights):
        return loss_of(name)(hidden, table, targets, weights=weights, **options)

    def by_hand(hidden, table):
        # A loss is linear in the losses of its positions: a weight at one position alone gives that of the position.
        one = jnp.eye(targets.size).reshape(-1, *targets.shape)
        return jnp.dot(jax.vmap(lambda weights: weighed(hidden, table, weights)[0])(one), times.reshape(-1))

    weights = jnp.asarray(times, jnp.float32)
    (total, count), gradients = jax.jit(jax.value_and_grad(weighed, (0, 1), has_aux=True))(hidden, table, weights)
    expected, expected_gradients = jax.jit(jax.value_and_grad(by_hand, (0, 1)))(hidden, table)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    plain = jax.jit(lambda *given: loss_of(name)(*given, targets, **options))(hidden, table)
    evenly = jax.jit(weighed)(hidden, table, jnp.ones(targets.shape))
    assert [float(each) for each in plain] == pytest.approx([float(each) for each in evenly], rel=1e-6)
    if name != "sce":  # which leaves positions out
        assert float(count) == np.sum(times, where=np.asarray(targets) > 0)


@pytest.mark.parametrize("name", ["softmax", "bce", "sce"])  # one of each kind
def test_a_target_beyond_the_catalogue_makes_a_loss_nan(name):
    hidden, table, targets = a_case(rows=2, length=5, n_items=37, n_rows=64)
    total = jax.jit(lambda targets: loss_of(name)(hidden, table, targets, n_items=37, key=jax.random.key(0))[0])
    assert np.isfinite(total(targets))
    for beyond in (38, 63, 64):  # two rows of padding, and none
        assert np.isnan(total(targets.at[0, 0].set(beyond)))


def test_an_unwanted_item_beyond_the_catalogue_makes_the_loss_nan():
    hidden, table, targets = a_case(rows=2, length=5, n_items=37, n_rows=64)

    @jax.jit
    def total(unwanted):
        return softmax_loss(hidden, table, targets, n_items=37, context=LossContext(unwanted=unwanted))[0]

    assert np.isfinite(total(jnp.where(targets == 0, 37, 0)))
    assert np.isnan(total(jnp.where(targets == 0, 38, 0)))


@pytest.mark.parametrize("name", ["softmax", "bce", "sce"])
def test_targets_of_a_type_that_holds_no_catalogue_are_the_same_targets(name):
    n_items = 300  # beyond int8
    hidden, table, targets = a_case(rows=2, length=5, n_items=100, n_rows=304)
    loss = jax.jit(functools.partial(loss_of(name, n_items), n_items=n_items, key=jax.random.key(0)))
    assert loss(hidden, table, targets) == loss(hidden, table, targets.astype(jnp.int8))


def oracle(hidden, table, targets, *, n_items, temperature, label_smoothing, z_loss):
    """The definition in float64, one position after another: the loss, and its gradients by hand."""
    hidden, table = np.asarray(hidden, np.float64), np.asarray(table, np.float64)
    total, d_hidden, d_table = 0.0, np.zeros_like(hidden), np.zeros_like(table)
    items = table[1 : n_items + 1]
    for place in zip(*np.nonzero(targets), strict=True):
        scores = items @ hidden[place] / temperature
        log_normaliser = np.log(np.sum(np.exp(scores - scores.max()))) + scores.max()
        label = np.full(n_items, label_smoothing / n_items)
        label[targets[place] - 1] += 1 - label_smoothing
        total += log_normaliser - label @ scores + z_loss * log_normaliser**2
        d_scores = np.exp(scores - log_normaliser) * (1 + 2 * z_loss * log_normaliser) - label
        d_hidden[place] = d_scores @ items / temperature
        d_table[1 : n_items + 1] += np.outer(d_scores, hidden[place]) / temperature
    return total, d_hidden, d_table


OPTIONS = {
    "temperature": {"temperature": 0.3},
    "label smoothing": {"label_smoothing": 0.2},
    "z-loss": {"z_loss": 0.05},
    "all": {"temperature": 2.0, "label_smoothing": 0.1, "z_loss": 0.01},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_temperature_smoothing_and_z_loss_are_as_defined(options, in_tiles):
    hidden, table, targets = a_case(rows=3, length=7, n_items=37, n_rows=64)
    config = LossConfig(**options)
    loss = jax.jit(
        jax.value_and_grad(
            functools.partial(make_loss(config, counts=np.ones(38, int)), n_items=37), (0, 1), has_aux=True
        )
    )
    (value, count), gradients = loss(hidden, table, targets)
    settings = {"temperature": 1.0, "label_smoothing": 0.0, "z_loss": 0.0} | options
    expected, *expected_gradients = oracle(hidden, table, np.asarray(targets), n_items=37, **settings)
    assert int(count) == np.count_nonzero(targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_states_in_half_precision_are_summed_in_float32(in_tiles):
    hidden, table, targets = a_case(rows=3, length=7, n_items=37, n_rows=64)
    rounded = hidden.astype(jnp.bfloat16)
    rounded_table = table.astype(jnp.bfloat16).astype(jnp.float32)
    loss = jax.jit(jax.value_and_grad(functools.partial(softmax_loss, n_items=37), (0, 1), has_aux=True))
    (value, _), (d_hidden, d_table) = loss(rounded, table, targets)
    assert (value.dtype, d_hidden.dtype, d_table.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    # bfloat16 inputs are the only rounding of the value; exponentials are rounded once more in its gradients.
    (exact, _), (exact_d_hidden, exact_d_table) = loss(rounded.astype(jnp.float32), rounded_table, targets)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    largest = np.abs(exact_d_table).max()
    np.testing.assert_allclose(d_table, exact_d_table, atol=2**-7 * largest)
    np.testing.assert_allclose(d_hidden.astype(jnp.float32), exact_d_hidden, atol=2**-7 * np.abs(exact_d_hidden).max())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 is not above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 is not a share in \[0, 1\)"),
        ({"z_loss": -1.0}, "z_loss=-1.0 is below 0"),
        ({"n_negatives": 0}, "n_negatives=0 is below 1"),
        ({"loss": "sampled-softmax", "z_loss": 0.1}, "leave them at 0, 0 and 1, or use loss=softmax"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**bad)


def test_gradients_follow_the_chain_rule(in_tiles):
    n_items = 37
    hidden, table, targets = a_case(rows=3, length=7, n_items=n_items, n_rows=64)

    def after(loss, hidden, table):
        # A mean, a square and other uses of the parameters: the cotangent is neither 1 nor constant nor the only one.
        return (loss(hidden, table) / 14) ** 2 + jnp.sum(hidden**2) + 0.1 * jnp.sum(table[:5])

    ours = jax.grad(functools.partial(after, lambda h, t: softmax_loss(h, t, targets, n_items=n_items)[0]), (0, 1))
    naive = jax.grad(functools.partial(after, lambda h, t: naive_loss(h, t, targets, n_items=n_items)), (0, 1))
    for one, other in zip(jax.jit(ours)(hidden, table), jax.jit(naive)(hidden, table), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_padding_and_rows_that_are_no_items_get_no_gradient(in_tiles):
    n_items = 37
    hidden, table, targets = a_case(rows=3, length=7, n_items=n_items, n_rows=64)
    gradients = jax.grad(lambda h, t: softmax_loss(h, t, targets, n_items=n_items)[0], (0, 1))
    d_hidden, d_table = jax.jit(gradients)(hidden, table)
    assert not np.any(np.asarray(d_hidden)[np.asarray(targets) == 0])
    assert not np.any(d_table[0])
    assert not np.any(d_table[n_items + 1 :])
    assert np.all(np.any(np.asarray(d_table[1 : n_items + 1]), axis=1))


def test_values_of_rows_that_are_no_items_do_not_matter():
    n_items = 37
    hidden, table, targets = a_case(rows=3, length=7, n_items=n_items, n_rows=64)
    # Their scores are hundreds above and below those of items: a sum relative to the highest of all would be 0.
    other = table.at[0].set(1000.0).at[n_items + 1 :].set(-1000.0)
    gradients = jax.value_and_grad(lambda h, t: softmax_loss(h, t, targets, n_items=n_items)[0], argnums=(0, 1))
    jax.tree.map(np.testing.assert_array_equal, gradients(hidden, table), gradients(hidden, other))


def test_a_uniform_guess_costs_the_log_of_the_catalogue_a_target():
    n_items = 1000
    _, table, targets = a_case(rows=4, length=9, n_items=n_items, n_rows=1024)
    total, count = softmax_loss(jnp.zeros((4, 9, 8)), table, targets, n_items=n_items)
    np.testing.assert_allclose(total / count, math.log(n_items), rtol=1e-6)


@pytest.mark.parametrize("scale", [30.0, 1e3])
def test_scores_far_beyond_what_exp_can_hold_are_finite(scale):
    hidden, table, targets = a_case(rows=2, length=6, n_items=37, n_rows=64, scale=scale)
    value, gradient = jax.jit(jax.value_and_grad(lambda h: softmax_loss(h, table, targets, n_items=37)[0]))(hidden)
    np.testing.assert_allclose(value, naive_loss(hidden, table, targets, n_items=37), rtol=1e-5)
    assert np.isfinite(gradient).all()


def shapes_of_a_large_case(*, n_positions=4096, n_rows=100_032, d_model=16):
    return (
        jax.ShapeDtypeStruct((32, n_positions // 32, d_model), jnp.float32),
        jax.ShapeDtypeStruct((n_rows, d_model), jnp.float32),
        jax.ShapeDtypeStruct((32, n_positions // 32), jnp.int32),
    )


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("n_items", [100_000, 1_000_000])
def test_nothing_of_size_positions_times_items_exists(with_gradients, n_items):
    def loss(hidden, table, targets):
        return softmax_loss(hidden, table, targets, n_items=n_items)[0]

    traced = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)) if with_gradients else loss)
    shapes = shapes_of_a_large_case(n_rows=n_items + 64)
    sizes = array_sizes(traced(*shapes).jaxpr)
    assert any(size > losses.BLOCK_ELEMENTS / 2 for size in sizes)  # so the tiles were counted
    assert max(sizes) <= max(8 * losses.BLOCK_ELEMENTS, shapes[1].size) < 4096 * n_items / 20


def test_the_compiled_step_needs_a_fraction_of_the_naive_memory():
    n_bytes = 4 * 512 * 20_032
    shapes = shapes_of_a_large_case(n_positions=512, n_rows=20_032)

    def loss(hidden, table, targets):
        return softmax_loss(hidden, table, targets, n_items=20_000)[0]

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * losses.BLOCK_ELEMENTS < n_bytes


def test_there_is_no_conditional_branch():
    # Under vmap, as in a population, every branch would run in every step.
    shapes = shapes_of_a_large_case(n_positions=512, n_rows=4096)

    def loss(hidden, table, targets):
        return softmax_loss(hidden, table, targets, n_items=4000)[0]

    lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).as_text()
    assert "stablehlo.while" in lowered  # so the loop over tiles is there
    assert "stablehlo.case" not in lowered


@pytest.mark.parametrize("n_positions", [1, 8, 100, 5000, 10**6])
@pytest.mark.parametrize("n_rows", [1, 1000, 10**6, 10**9])
def test_a_tile_fits_its_budget_or_is_as_small_as_is_useful(n_positions, n_rows):
    block, chunk = tile_sizes(n_positions, n_rows, budget=2**20)
    assert 1 <= block <= n_positions
    assert 1 <= chunk <= n_rows
    assert block * chunk <= 8 * 2**20
    # A table that is cut serves many positions at a time.
    assert chunk == n_rows or block >= min(n_positions, 1000)
