"""The optimizer by hand at known steps, and models that learn all that can be learned and no more."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrec.data.batches import make_queries, training_batches
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.heads.softmax import softmax_model
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.losses.softmax import softmax_loss
from seqrec.negatives import uniform
from seqrec.params import ParamSpec
from seqrec.recommendation import make_recommend
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step, with_cooldown
from seqrec.types import Batch

SPECS = {
    "weight": ParamSpec((2,), ("embed",), jax.nn.initializers.ones),
    "scale": ParamSpec((2,), ("embed",), jax.nn.initializers.ones, decay=False),
}


def updates_of(config, gradients, *, n_steps=100):
    """What the optimizer adds to parameters of 1 in each of these steps."""
    optimizer = make_optimizer(config, SPECS, n_steps=n_steps)
    params = jax.tree.map(lambda spec: jnp.ones(spec.shape), SPECS)
    state, updates = optimizer.init(params), []
    step = jax.jit(
        lambda gradient, state: optimizer.update(jax.tree.map(lambda p: p * gradient, params), state, params)
    )
    for gradient in gradients:
        update, state = step(jnp.float32(gradient), state)
        updates.append(jax.tree.map(lambda leaf: float(leaf[0]), update))
    return updates


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup_steps", [10, 0])
def test_the_step_size_rises_in_the_warm_up_and_follows_its_schedule(schedule, warmup_steps):
    config = OptimizerConfig(learning_rate=0.1, schedule=schedule, warmup_steps=warmup_steps, weight_decay=0.0)
    # Under a gradient that stays the same, Adam's step is the step size itself.
    sizes = [-update["weight"] for update in updates_of(config, [3.0] * 100)]
    for step in (0, 5, 9, 10, 11, 55, 80, 99):
        if step < warmup_steps:
            expected = 0.1 * step / warmup_steps
        elif schedule == "constant":
            expected = 0.1
        else:  # Loshchilov and Hutter 2017, eq. 5
            expected = 0.1 * (1 + math.cos(math.pi * (step - warmup_steps) / (100 - warmup_steps))) / 2
        assert sizes[step] == pytest.approx(expected, rel=1e-3, abs=1e-6), step


def test_a_run_shorter_than_its_warm_up_only_rises():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=100, weight_decay=0.0)
    sizes = [-update["weight"] for update in updates_of(config, [1.0] * 4, n_steps=4)]
    assert sizes == pytest.approx([0.0, 0.025, 0.05, 0.075], rel=1e-3)


def test_decay_shrinks_weights_and_leaves_norms():
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.2)
    (update,) = updates_of(config, [0.0])
    assert update == pytest.approx({"weight": -0.1 * 0.2 * 1.0, "scale": 0.0})


def test_a_clipped_outlier_weighs_no_more_than_other_gradients():
    config = OptimizerConfig(learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.0)
    clipped = dataclasses.replace(config, clip_norm=1.0)
    # Four entries of 5 or 5000 are both cut to norm 1: the second step is as if both were equal.
    assert updates_of(clipped, [5000.0, 5.0])[1]["weight"] == pytest.approx(-0.1, rel=1e-3)
    assert abs(updates_of(config, [5000.0, 5.0])[1]["weight"] + 0.1) > 0.02


def test_row_wise_adam_has_one_second_moment_an_item_and_elsewhere_is_adam():
    specs = {
        "item_table": ParamSpec((4, 3), ("items", "embed"), jax.nn.initializers.ones),
        "scale": ParamSpec((3,), ("embed",), jax.nn.initializers.ones, decay=False),
    }
    config = OptimizerConfig(
        learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.2, b2=0.9, second_moments="rows"
    )
    optimizer = make_optimizer(config, specs, n_steps=10)
    params = {name: np.ones(spec.shape) for name, spec in specs.items()}
    state = optimizer.init(jax.tree.map(jnp.float32, params))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (3,), (3,), (4, 1), (4, 3)]
    generator = np.random.default_rng(0)
    first, second = (dict.fromkeys(params, 0.0) for _ in range(2))
    for number in range(1, 5):
        gradients = {name: generator.normal(size=value.shape) for name, value in params.items()}
        updates, state = jax.jit(optimizer.update)(*jax.tree.map(jnp.float32, (gradients, state, params)))
        for name, gradient in gradients.items():
            square = np.mean(gradient**2, axis=1, keepdims=True) if name == "item_table" else gradient**2
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.9 * second[name] + 0.1 * square
            step = first[name] / (1 - 0.9**number) / (np.sqrt(second[name] / (1 - 0.9**number)) + 1e-8)
            decay = 0.2 * params[name] if name == "item_table" else 0.0
            np.testing.assert_allclose(updates[name], -0.1 * (step + decay), rtol=2e-5, atol=1e-6)
            params[name] = params[name] + np.asarray(updates[name])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"accumulation_steps": 0}, "accumulation_steps=0 is below 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not above 0"),
        ({"b2": 1.0}, r"b2=1.0 is not a share in \[0, 1\)"),
        ({"average_decay": -0.1}, r"average_decay=-0.1 is not a share in \[0, 1\)"),
        ({"warmup_steps": -1}, "warmup_steps=-1 is below 0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 is below 0"),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**bad)


# Steps

MAX_LENGTH = 8


def a_run(histories, *, n_items, seed=0, dropout=0.0, n_steps=200, max_length=MAX_LENGTH, loss=softmax_loss, **options):
    """A model, its first state, its step and its batches."""
    store = store_from_sequences(histories, n_items=n_items)
    split = leave_last_out(store)
    batches = training_batches(store, split, max_length=max_length, batch_size=16, seed=seed)
    config = TransformerConfig(d_model=16, n_blocks=1, n_heads=2, dropout=dropout)
    model = softmax_model(transformer(config, n_items=n_items, max_length=max_length), loss)
    options = {"learning_rate": 1e-2, "warmup_steps": 10, "weight_decay": 0.0, "average_decay": 0.9} | options
    optimizer_config = OptimizerConfig(**options)
    optimizer = make_optimizer(optimizer_config, model.specs, n_steps=n_steps)
    step = make_train_step(model, optimizer, seed=seed, average_decay=optimizer_config.average_decay)
    return model, init_state(model, optimizer, seed=seed), step, batches, (store, split)


def random_histories(n_users=20, n_items=30):
    generator = np.random.default_rng(0)
    return [generator.integers(1, n_items + 1, generator.integers(3, 12)).tolist() for _ in range(n_users)]


def copy(state):
    return jax.tree.map(jnp.copy, state)


def test_the_rate_of_a_cooldown_is_1_minus_sqrt_and_the_average_covers_a_ninth_of_the_steps():
    # The optimizer takes a step of -1, so that weights move by the rate itself.
    optimizer = optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: -jnp.ones_like(leaf), updates))
    model, *_, batches, _ = a_run(random_histories(), n_items=30)
    step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    start, n_falling = 12, 5
    state = with_cooldown(init_state(model, optimizer, seed=0), start, n_falling)
    weights = [float(state.params["item_table"][1, 0])]
    for number in range(start + n_falling + 1):
        before = float(state.params["item_table"][1, 0])
        state, _ = step(state, batches.batch(number))
        share = 1 if number < start else max(0, 1 - math.sqrt((number - start) / n_falling))
        weights.append(weights[-1] - share)
        assert before - float(state.params["item_table"][1, 0]) == pytest.approx(share, abs=1e-5)
        # Shamir and Zhang 2013, with eta = 8; from the first step, and afresh from that of the cooldown.
        phase = weights[1:] if number < start else weights[start + 1 :]
        average = 0.0
        for t, value in enumerate(phase, start=1):
            average = (1 - 9 / (t + 8)) * average + 9 / (t + 8) * value
        assert float(state.averaged["item_table"][1, 0]) == pytest.approx(average, abs=1e-4)


@pytest.fixture(scope="module")
def with_dropout():
    """A run whose steps are random, past the warm-up's first step, whose size is 0; and what that step reported."""
    _, state, step, batches, _ = a_run(random_histories(), n_items=30, dropout=0.3)
    state, metrics = step(state, batches.batch(0))
    return metrics, state, step, batches


def test_a_step_reports_the_mean_over_its_targets_and_is_traced_once(with_dropout):
    metrics, state, step, batches = with_dropout
    # At the start a score varies by about .02 * sqrt(16) = .08, and so does the mean, at most.
    assert float(metrics.loss) == pytest.approx(math.log(30), abs=0.08)
    state = copy(state)
    for number in (1, 2, 3):
        batch = batches.batch(number)
        state, metrics = step(state, batch)
        assert int(metrics.n_targets) == np.count_nonzero(batch.next_items)
    assert step._cache_size() == 1


def test_a_step_repeats_itself_bit_for_bit(with_dropout):
    _, state, step, batches = with_dropout
    one, again = (step(copy(state), batches.batch(1)) for _ in range(2))
    chex.assert_trees_all_equal(one, again)


def test_the_randomness_of_a_step_depends_on_its_number_and_on_nothing_else(with_dropout):
    _, state, step, batches = with_dropout
    losses = [
        float(step(copy(state).replace(step=jnp.int32(number)), batches.batch(1))[1].loss) for number in (1, 2, 7, 2)
    ]
    assert losses[1] == losses[3]
    assert len(set(losses)) == 3


def test_the_average_moves_by_its_share_towards_the_new_weights(with_dropout):
    _, state, step, batches = with_dropout
    before = copy(state)
    after, _ = step(copy(state), batches.batch(1))
    assert int(after.step) == int(before.step) + 1
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, before.averaged, after.params)
    chex.assert_trees_all_close(after.averaged, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(after.params["item_table"] - before.params["item_table"]).max() > 1e-4


def test_a_batch_of_padding_has_no_loss_and_no_gradient(with_dropout):
    _, state, step, batches = with_dropout
    empty = jax.tree.map(np.zeros_like, batches.batch(0))
    after, metrics = step(copy(state), empty)
    assert (float(metrics.loss), int(metrics.n_targets), float(metrics.gradient_norm)) == (0.0, 0, 0.0)
    chex.assert_tree_all_finite(after.params)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    model, _, _, batches, _ = a_run(random_histories(), n_items=30)
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup_steps=0), model.specs, n_steps=10)
    state, batch = init_state(model, optimizer, seed=0), batches.batch(0)
    assert len(batch.items) % 5  # an uneven split too
    (whole, metrics), *in_parts = (
        make_train_step(model, optimizer, seed=0, average_decay=0.5, accumulation_steps=n)(copy(state), batch)
        for n in (1, 2, 5)
    )
    for after, part_metrics in in_parts:
        chex.assert_trees_all_close(part_metrics, metrics, rtol=1e-5)
        # Adam's first step is the sign of the gradient: its first moment tells the gradient itself.
        chex.assert_trees_all_close(after.opt_state, whole.opt_state, rtol=1e-4, atol=1e-7)


# Learning


def test_a_cycle_is_memorised_and_its_successors_are_recommended():
    n_items = 12
    histories = [[1 + (start + i) % n_items for i in range(MAX_LENGTH + 3)] for start in range(n_items)]
    model, state, step, batches, (store, split) = a_run(histories, n_items=n_items, n_steps=300)
    for number in range(300):
        state, metrics = step(state, batches.batch(number))
    # The chain has no entropy; the model is more than 99% sure of each successor.
    assert float(metrics.loss) < -math.log(0.99)
    recommend = make_recommend(model)
    for item in range(1, n_items + 1):
        history = [1 + (item - 3) % n_items, 1 + (item - 2) % n_items, item]
        assert recommend(state.averaged, history, 1, mask_seen=False) == [1 + item % n_items]
    queries = make_queries(store, split.test, max_length=MAX_LENGTH, batch_size=12, mask_seen=True)
    np.testing.assert_array_equal(evaluate(make_eval_step(model), state.averaged, queries).rank, 1.0)


N_STATES, P_NEXT = 8, 0.75


def chain_histories(n_users, length, seed):
    """Item i is followed by the next one on a circle with chance 3/4, by the third next with chance 1/4."""
    generator = np.random.default_rng(seed)
    moves = np.where(generator.random((n_users, length)) < P_NEXT, 1, 3)
    return 1 + (generator.integers(N_STATES, size=(n_users, 1)) + np.cumsum(moves, axis=1)) % N_STATES


@pytest.mark.parametrize("loss", ["softmax", "sampled"])
def test_a_markov_chain_is_learned_to_its_entropy(loss):
    def sampler(key, targets):
        return uniform(key, n_negatives=64, n_items=N_STATES)

    losses = {"softmax": softmax_loss, "sampled": sampled_loss(sampled_softmax, sampler)}
    model, state, step, batches, _ = a_run(
        chain_histories(600, 18, seed=0).tolist(), n_items=N_STATES, n_steps=300, max_length=15, loss=losses[loss]
    )
    for number in range(300):
        state, _ = step(state, batches.batch(number))
    fresh = chain_histories(300, 16, seed=1)
    items, targets = jnp.asarray(fresh[:, :-1], jnp.int32), jnp.asarray(fresh[:, 1:], jnp.int32)
    places = jnp.broadcast_to(jnp.arange(15, dtype=jnp.int32), items.shape)
    batch = Batch(items, targets, jnp.ones_like(items), places)
    hidden = jax.jit(model.encoder.encode)(state.averaged, batch)
    total, count = softmax_loss(hidden, state.averaged["item_table"], targets, n_items=N_STATES)
    moved_one = np.mean((fresh[:, 1:] - fresh[:, :-1]) % N_STATES == 1)
    chain = -(moved_one * math.log(P_NEXT) + (1 - moved_one) * math.log(1 - P_NEXT))
    entropy = -(P_NEXT * math.log(P_NEXT) + (1 - P_NEXT) * math.log(1 - P_NEXT))
    # On 4,500 fresh transitions the chain's own cost is within 4 standard errors of its entropy …
    spread = math.sqrt(P_NEXT * (1 - P_NEXT)) * math.log(P_NEXT / (1 - P_NEXT))
    assert abs(chain - entropy) < 4 * spread / math.sqrt(int(count))
    # … and the model's is near the chain's and hardly below it, which only luck on this sample allows.
    assert -0.01 < float(total) / int(count) - chain < 0.03
