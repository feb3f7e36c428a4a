"""Unwanted items cost -log(1 - probability), beside targets that cost what they did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from naive_softmax import a_case

from seqrec.losses import softmax as losses
from seqrec.losses.blocks import Mixture
from seqrec.losses.config import LossConfig
from seqrec.losses.softmax import LossContext, SoftmaxSettings, softmax_loss
from seqrec.types import InputError

N_ITEMS, SKIP_WEIGHT = 37, 0.3
TILES = {"one pass": losses.tile_sizes, "blocks and chunks": lambda n_positions, n_rows: (4, 25)}


def a_case_with_skips():
    hidden, table, items = a_case(rows=3, length=7, n_items=N_ITEMS, n_rows=64, scale=0.7)
    rng = np.random.default_rng(1)
    skipped = rng.random(items.shape) < 0.4
    weights = jnp.asarray(rng.uniform(0, 2, items.shape), jnp.float32)
    own, mass = rng.uniform(0.1, 0.6, (2, *items.shape))
    mixture = Mixture(jnp.asarray(np.log(own), jnp.float32), jnp.asarray(np.log(mass * (1 - own)), jnp.float32))
    return hidden, table, jnp.where(skipped, 0, items), jnp.where(skipped, items, 0), weights, mixture


def dense(hidden, table, mixture, targets, unwanted, weights):
    """Every probability at once, in whatever type comes in."""
    probabilities = jax.nn.softmax(hidden @ table[1 : N_ITEMS + 1].T, axis=-1)

    def of(items):
        softmax = jnp.take_along_axis(probabilities, jnp.maximum(items - 1, 0)[..., None], axis=-1)[..., 0]
        return softmax if mixture is None else jnp.exp(mixture.log_share) * softmax + jnp.exp(mixture.log_mass)

    wanted = jnp.sum(jnp.where(targets > 0, -weights * jnp.log(of(targets)), 0.0))
    return wanted + SKIP_WEIGHT * jnp.sum(jnp.where(unwanted > 0, -jnp.log(1 - of(unwanted)), 0.0))


@pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)
@pytest.mark.parametrize("with_mixture", [False, True])
def test_the_loss_and_its_gradients_are_those_of_all_probabilities_at_once(tiles, with_mixture, monkeypatch):
    monkeypatch.setattr(losses, "tile_sizes", tiles)
    hidden, table, targets, unwanted, weights, mixture = a_case_with_skips()
    mixture = mixture if with_mixture else None

    def loss(hidden, table, mixture):
        options = {"weights": weights, "context": LossContext(mixture=mixture, unwanted=unwanted)}
        settings = SoftmaxSettings(unwanted_weight=SKIP_WEIGHT)
        return softmax_loss(hidden, table, targets, n_items=N_ITEMS, settings=settings, **options)

    (total, count), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(hidden, table, mixture)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (hidden, table, mixture))
        rest = [np.asarray(each) for each in (targets, unwanted, weights)]
        expected, theirs = jax.value_and_grad(dense, (0, 1, 2))(*wide, *rest)
        expected, theirs = jax.tree.map(np.asarray, (expected, theirs))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_allclose(count, np.sum(np.where(targets > 0, weights, 0)), rtol=1e-6)
    for ours, exact in zip(*map(jax.tree.leaves, (gradients, theirs)), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-5)


def test_an_unwanted_item_of_probability_one_leaves_a_finite_loss():
    table = jnp.zeros((64, 2)).at[5].set(jnp.array([100.0, 0.0]))
    hidden, nothing, unwanted = jnp.ones((1, 1, 2)), jnp.zeros((1, 1), int), jnp.full((1, 1), 5)

    def loss(hidden):
        return softmax_loss(hidden, table, nothing, n_items=N_ITEMS, context=LossContext(unwanted=unwanted))[0]

    total, gradient = jax.value_and_grad(loss)(hidden)
    np.testing.assert_allclose(total, -np.log(1e-4), rtol=1e-2)  # of float32, 1 - 1e-4 has but three digits
    assert jnp.isfinite(gradient).all()


def test_unwanted_items_of_0_change_nothing():
    hidden, table, targets, *_ = a_case_with_skips()
    plain = softmax_loss(hidden, table, targets, n_items=N_ITEMS)
    nothing = LossContext(unwanted=jnp.zeros_like(targets))
    same = softmax_loss(hidden, table, targets, n_items=N_ITEMS, context=nothing)
    np.testing.assert_allclose(plain, same, rtol=1e-6)


def test_a_loss_without_plain_probabilities_is_refused():
    hidden, table, targets, unwanted, *_ = a_case_with_skips()
    options = {"context": LossContext(unwanted=unwanted), "settings": SoftmaxSettings(label_smoothing=0.1)}
    with pytest.raises(InputError, match="leave label_smoothing at 0"):
        softmax_loss(hidden, table, targets, n_items=N_ITEMS, **options)
    for bad in ({"loss": "gbce"}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="skip_weight needs probabilities; use loss=softmax"):
            LossConfig(skip_weight=1.0, **bad)
    with pytest.raises(ValueError, match=r"skip_weight=-1\.0 is below 0; try skip_weight=0"):
        LossConfig(skip_weight=-1.0)
