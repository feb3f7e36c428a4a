"""Losses over sampled items: each equals its formula, and the sampled softmax tends to the full one."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive_softmax import a_case, naive_value_and_gradients

from seqrec.losses import sampled as sampled_losses
from seqrec.losses.sampled import (
    generalised_binary_cross_entropy,
    position_losses,
    sampled_loss,
    sampled_softmax,
    scalable_cross_entropy_loss,
)
from seqrec.losses.softmax import softmax_loss
from seqrec.negatives import Negatives, in_batch, per_row, popular, popularity_distribution, uniform
from seqrec.types import InputError

N_ITEMS, D_MODEL = 20, 6


def gbce(t=0.75, **options):
    return functools.partial(generalised_binary_cross_entropy, n_items=N_ITEMS, t=t, **options)


def a_small_case(seed=0, rows=3, length=5):
    random = np.random.default_rng(seed)
    targets = random.integers(1, N_ITEMS + 1, (rows, length))
    targets[0, :2] = 0
    hidden = random.normal(size=(rows, length, D_MODEL))
    table = random.normal(size=(64, D_MODEL))
    return jnp.asarray(hidden, jnp.float32), jnp.asarray(table, jnp.float32), jnp.asarray(targets, jnp.int32)


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


# One position, plain floats: the target's score, the scores of the draws that are other items, their log_q, and the
# number of all draws.


def slow_sampled_softmax(target, drawn, log_q, n):
    total = math.exp(target) + sum(math.exp(s) / (n * math.exp(q)) for s, q in zip(drawn, log_q, strict=True))
    return math.log(total) - target


def slow_binary(target, drawn, log_q, n):
    return -log_sigmoid(target) - sum(log_sigmoid(-s) for s in drawn)


def slow_beta(n, t=0.75):
    rate = n / (N_ITEMS - 1)
    return rate * (t * (1 - 1 / rate) + 1 / rate)


def slow_gbce(target, drawn, log_q, n):
    return -slow_beta(n) * log_sigmoid(target) - sum(log_sigmoid(-s) for s in drawn)


def slow_gbce_from_base_rate(target, drawn, log_q, n):
    base_rate = math.log(slow_beta(n) / n)
    return slow_gbce(target + base_rate, drawn + base_rate, log_q, n)


def slow_bpr(target, drawn, log_q, n):
    return -sum(log_sigmoid(target - s) for s in drawn) / len(drawn)


def slow_bpr_max(target, drawn, log_q, n, regularisation=1.0):
    weights = np.exp(drawn) / np.exp(drawn).sum()
    beaten = sum(w * math.exp(log_sigmoid(target - s)) for w, s in zip(weights, drawn, strict=True))
    return -math.log(beaten) + regularisation * sum(w * s * s for w, s in zip(weights, drawn, strict=True))


LOSSES = {
    "sampled softmax": (sampled_softmax, slow_sampled_softmax),
    "binary": (sampled_losses.binary_cross_entropy, slow_binary),
    "generalised binary": (gbce(), slow_gbce),
    "generalised binary from the base rate": (gbce(from_base_rate=True), slow_gbce_from_base_rate),
    "BPR": (sampled_losses.bayesian_personalised_ranking, slow_bpr),
    "BPR-max": (sampled_losses.bpr_max, slow_bpr_max),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one list", "a list a row"])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_its_formula_without_draws_of_the_target(name, shared):
    ours, slow = LOSSES[name]
    hidden, table, targets = a_small_case()
    random = np.random.default_rng(1)
    shape = (7,) if shared else (3, 7)
    ids = random.integers(1, N_ITEMS + 1, shape)
    ids[..., 0] = targets[1, 3]  # a draw that is some position's target
    log_q = np.log(random.uniform(0.01, 0.1, shape))
    negatives = Negatives(jnp.asarray(ids), jnp.asarray(log_q, jnp.float32))
    losses = jax.jit(functools.partial(position_losses, score_loss=ours))(hidden, table, targets, negatives)
    scores = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64).T
    for row, place in zip(*np.nonzero(np.asarray(targets)), strict=True):
        drawn, chances = (ids, log_q) if shared else (ids[row], log_q[row])
        others = drawn != int(targets[row, place])
        expected = slow(
            scores[row, place, int(targets[row, place])], scores[row, place, drawn[others]], chances[others], 7
        )
        assert float(losses[row, place]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_all_draws_are_the_target(name):
    hidden, table, _ = a_small_case()
    targets = jnp.full((3, 5), 4)
    draws = Negatives(jnp.full((6,), 4), jnp.full((6,), -1.0))

    def total(hidden, table):
        return position_losses(hidden, table, targets, draws, score_loss=LOSSES[name][0]).sum()

    for gradient in jax.jit(jax.grad(total, (0, 1)))(hidden, table):
        assert np.isfinite(gradient).all()


def uniform_softmax(n_items, n_negatives):
    return sampled_loss(sampled_softmax, lambda key, targets: uniform(key, n_negatives=n_negatives, n_items=n_items))


def draw_each_item(n_items, times):
    """A sampler that draws item i `times[i - 1]` times, and gives these as the expected counts."""
    ids = np.repeat(np.arange(1, n_items + 1), times)
    log_q = np.log(np.asarray(times)[ids - 1] / len(ids))

    return lambda key, targets: Negatives(jnp.array(ids), jnp.array(log_q, jnp.float32))


@pytest.mark.parametrize("times", [np.ones(37, int), 1 + np.arange(37) % 4], ids=["evenly", "unevenly"])
def test_draws_that_come_as_often_as_expected_give_the_full_loss(times):
    # Draws over their expected count sum to the exact sum over the other items, if hits of the target are left out
    # and every draw is divided by its own q.
    loss = sampled_loss(sampled_softmax, draw_each_item(37, times))
    hidden, table, targets = a_case(rows=3, length=7, n_items=37, n_rows=64)

    def sampled(hidden, table):
        return loss(hidden, table, targets, n_items=37, key=jax.random.key(0))

    (total, count), gradients = jax.jit(jax.value_and_grad(sampled, (0, 1), has_aux=True))(hidden, table)
    expected, expected_gradients = naive_value_and_gradients(hidden, table, targets, n_items=37)
    assert int(count) == np.count_nonzero(targets)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_draws_of_the_target_are_left_out():
    # One item only: every draw hits the target, nothing competes with it, and the loss is 0.
    hidden, table, targets = a_case(rows=2, length=3, n_items=1, n_rows=64, share_padding=0.0)
    loss = jax.jit(functools.partial(uniform_softmax(1, 5), n_items=1))
    total, _ = loss(hidden, table, targets, key=jax.random.key(0))
    assert float(total) == 0.0


def test_the_sampled_gradient_converges_to_the_full_one():
    n_items, n_keys = 40, 256
    hidden, table, targets = a_case(
        rows=1, length=3, n_items=n_items, n_rows=64, share_padding=0.0, d_model=4, scale=0.7
    )
    full = naive_value_and_gradients(hidden, table, targets, n_items=n_items)[1][1]

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(n_negatives):
        def gradient(key):
            return jax.grad(
                lambda t: uniform_softmax(n_items, n_negatives)(hidden, t, targets, n_items=n_items, key=key)[0]
            )(table)

        return jax.vmap(gradient)(jax.random.split(jax.random.key(0), n_keys))

    squared_error, squared_bias, noise = {}, {}, {}
    for n_negatives in (4, 64, 512):
        errors = np.asarray(gradients(n_negatives) - full, np.float64)
        squared_error[n_negatives] = np.sum(np.mean(errors**2, axis=0))
        squared_bias[n_negatives] = np.sum(np.mean(errors, axis=0) ** 2)
        noise[n_negatives] = np.sum(np.var(errors, axis=0)) / n_keys
    # A smooth function of a mean of n draws: its mean squared error falls as 1 / n, and its squared bias faster.
    assert 6 < squared_error[64] / squared_error[512] < 12
    assert squared_bias[4] > 10 * noise[4]  # with few draws the bias is beyond chance
    assert squared_bias[512] < squared_bias[4] / 100


def test_padding_costs_nothing_and_has_no_gradient():
    hidden, table, targets = a_case(rows=2, length=6, n_items=37, n_rows=64)

    @jax.jit
    def total(hidden):
        return uniform_softmax(37, 50)(hidden, table, targets, n_items=37, key=jax.random.key(0))[0]

    padding = np.asarray(targets) == 0
    assert padding.any()
    changed = jnp.where(padding[..., None], 100.0, hidden)
    np.testing.assert_array_equal(total(hidden), total(changed))
    assert not np.any(np.asarray(jax.jit(jax.grad(total))(hidden))[padding])


SAMPLERS = {
    "popular": lambda n: (
        lambda key, targets: popular(
            key, popularity_distribution(np.arange(N_ITEMS + 1), uniform_share=0.2), n_negatives=n
        )
    ),
    "a list a row": lambda n: per_row(lambda key, targets: uniform(key, n_negatives=n, n_items=N_ITEMS)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_sampled_softmax_has_the_gradient_of_the_full_one_as_the_sample_grows(name):
    hidden, table, targets = a_small_case()

    def gradient(loss, **options):
        return jax.jit(jax.grad(lambda table: loss(hidden, table, targets, n_items=N_ITEMS, **options)[0]))(table)

    full = gradient(softmax_loss)
    errors = []
    for n in (100, 10_000):
        loss = sampled_loss(sampled_softmax, SAMPLERS[name](n))
        errors.append(np.linalg.norm(gradient(loss, key=jax.random.key(3)) - full) / np.linalg.norm(full))
    # A hundredfold sample has a tenth of the error, by chance somewhat more or less.
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("uniform_share", [0.0, 0.25])
def test_targets_of_the_batch_are_draws_by_popularity_when_the_batch_is_drawn_by_it(uniform_share):
    random = np.random.default_rng(0)
    counts = np.concatenate([[0], random.integers(1, 50, N_ITEMS)])
    targets = jnp.asarray(random.choice(N_ITEMS + 1, (200, 300), p=counts / counts.sum()), jnp.int32)
    n_uniform = round(uniform_share * 40_000)
    of = popularity_distribution(counts)
    draws = in_batch(
        jax.random.key(0), targets, of, n_items=N_ITEMS, n_negatives=40_000 - n_uniform, n_uniform=n_uniform
    )
    share = np.bincount(np.asarray(draws.ids), minlength=N_ITEMS + 1) / 40_000
    expected = (1 - uniform_share) * counts / counts.sum()
    expected[1:] += uniform_share / N_ITEMS
    # Five standard deviations of a share of 40,000 draws out of 60,000 targets.
    np.testing.assert_allclose(share, expected, atol=5 * math.sqrt(0.1 * 0.9 * (1 / 40_000 + 1 / 60_000)))
    np.testing.assert_allclose(np.exp(draws.log_q), expected[np.asarray(draws.ids)], rtol=1e-4)


def test_gbce_is_bce_without_calibration_and_weighs_the_target_by_the_sampling_rate_with_all_of_it():
    target, drawn = jnp.array([0.3]), jnp.array([[0.1, -0.2, 1.0]])
    where, log_q = jnp.ones((1, 3), bool), jnp.zeros((1, 3))
    losses = [
        float(loss(target, drawn, where=where, log_q=log_q)[0])
        for loss in (
            sampled_losses.binary_cross_entropy,
            gbce(0.0),
            gbce(1.0),
        )
    ]
    assert losses[0] == pytest.approx(losses[1])
    rate = 3 / (N_ITEMS - 1)
    assert losses[2] == pytest.approx(losses[0] - (1 - rate) * math.log1p(math.exp(-0.3)))
    with pytest.raises(InputError, match=r"t=2.0 is not in \[0, 1\]; try t=0.75"):
        gbce(2.0)(target, drawn, where=where, log_q=log_q)


@pytest.mark.parametrize("loss", [sampled_losses.binary_cross_entropy, gbce(), gbce(1.0)])
@pytest.mark.parametrize("n_negatives", [5, 3 * N_ITEMS])
def test_from_the_base_rate_equal_scores_are_as_high_as_they_should_be(loss, n_negatives):
    where, log_q = jnp.ones((1, n_negatives), bool), jnp.zeros((1, n_negatives))

    def slope(**options):
        # Of the loss, where all scores rise together from 0.
        def total(rise):
            return loss(rise[None], jnp.full((1, n_negatives), rise), where=where, log_q=log_q, **options)[0]

        return jax.jit(jax.grad(total))(0.0)

    assert slope() > 0.5  # as published: down with all of them, the target's too
    assert abs(slope(from_base_rate=True)) < 1e-4


def test_one_bucket_of_everything_is_the_full_cross_entropy():
    hidden, table, targets = a_small_case()
    sizes = {"n_buckets": 1, "bucket_positions": targets.size, "bucket_items": N_ITEMS}

    def by(loss):
        def total(hidden, table):
            return loss(hidden, table, targets, n_items=N_ITEMS, key=jax.random.key(0))[0]

        return jax.jit(jax.value_and_grad(total, (0, 1)))(hidden, table)

    (value, gradients), (expected, expected_gradients) = by(scalable_cross_entropy_loss(**sizes)), by(softmax_loss)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_bucketed_loss_is_below_the_full_one_and_counts_each_position_once():
    hidden, table, targets = a_small_case(rows=4, length=8)
    loss = scalable_cross_entropy_loss(n_buckets=5, bucket_positions=6, bucket_items=4)
    total, count = jax.jit(functools.partial(loss, n_items=N_ITEMS))(hidden, table, targets, key=jax.random.key(0))
    full, n_targets = jax.jit(functools.partial(softmax_loss, n_items=N_ITEMS))(hidden, table, targets)
    assert 6 <= int(count) <= int(n_targets)
    assert 0 < float(total) < float(full)
