"""Seen items enter the normaliser by their weight, and nothing else of the loss changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_rows import rows_of

from seqrec.losses import softmax as losses
from seqrec.losses.config import LossConfig, make_loss
from seqrec.losses.softmax import LossContext, SoftmaxSettings, softmax_loss
from seqrec.types import InputError

N_ITEMS, D_MODEL, LENGTH = 37, 6, 10
TILES = {
    "one pass": losses.tile_sizes,
    "blocks of positions": lambda n_positions, n_rows: (4, n_rows),
    "chunks of items too": lambda n_positions, n_rows: (4, 25),
}
# Several histories in a row, items that come back in one and in its neighbour, and targets that were there before.
BATCH = rows_of([[5, 9, 5, 5, 30], [9, 5, 12]], [[1, 2, 3, 1, 2, 3, 1, 37, 36, 1]], [[7, 8]], length=LENGTH)


@pytest.fixture(params=TILES.values(), ids=TILES)
def in_tiles(request, monkeypatch):
    monkeypatch.setattr(losses, "tile_sizes", request.param)


def arrays(scale=1.0):
    rng = np.random.default_rng(0)
    hidden, table = rng.normal(size=(3, LENGTH, D_MODEL)), rng.normal(size=(64, D_MODEL))
    return jnp.asarray(scale * hidden, jnp.float32), jnp.asarray(table, jnp.float32)


def oracle(hidden, table, *, seen_weight, z_loss=0.0):
    """The definition in float64, position by position: the loss, and its gradients by hand."""
    hidden, table = np.asarray(hidden, np.float64), np.asarray(table, np.float64)
    items, targets, segments = (np.asarray(field) for field in (BATCH.items, BATCH.next_items, BATCH.segment_ids))
    total, d_hidden, d_table = 0.0, np.zeros_like(hidden), np.zeros_like(table)
    catalogue = np.arange(1, N_ITEMS + 1)
    for row, position in zip(*np.nonzero(targets), strict=True):
        seen = items[row, : position + 1][segments[row, : position + 1] == segments[row, position]]
        target = targets[row, position]
        weight = np.where(np.isin(catalogue, seen) & (catalogue != target), seen_weight, 1.0)
        scores = table[catalogue] @ hidden[row, position]
        log_normaliser = np.log(np.sum(weight * np.exp(scores - scores.max()))) + scores.max()
        total += log_normaliser + z_loss * log_normaliser**2 - scores[target - 1]
        d_scores = weight * np.exp(scores - log_normaliser) * (1 + 2 * z_loss * log_normaliser)
        d_scores[target - 1] -= 1
        d_hidden[row, position] = d_scores @ table[catalogue]
        d_table[catalogue] += np.outer(d_scores, hidden[row, position])
    return total, d_hidden, d_table


@pytest.mark.parametrize(("seen_weight", "z_loss"), [(0.25, 0.0), (0.001, 0.0), (0.01, 0.05)])
def test_seen_items_weigh_less_in_the_normaliser(seen_weight, z_loss, in_tiles):
    hidden, table = arrays()

    def loss(hidden, table):
        settings = SoftmaxSettings(z_loss=z_loss, seen_weight=seen_weight)
        options = {"n_items": N_ITEMS, "settings": settings, "context": LossContext(history=BATCH)}
        return softmax_loss(hidden, table, BATCH.next_items, **options)[0]

    total, gradients = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, table)
    expected, *expected_gradients = oracle(hidden, table, seen_weight=seen_weight, z_loss=z_loss)
    np.testing.assert_allclose(total, expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(loss)(hidden, table), expected, rtol=1e-4)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_weight_of_one_is_the_plain_softmax():
    hidden, table = arrays()
    plain = softmax_loss(hidden, table, BATCH.next_items, n_items=N_ITEMS)
    options = {"settings": SoftmaxSettings(seen_weight=1.0), "context": LossContext(history=BATCH)}
    same = softmax_loss(hidden, table, BATCH.next_items, n_items=N_ITEMS, **options)
    assert [float(each) for each in plain] == [float(each) for each in same]


def test_seen_items_that_score_far_above_all_others_leave_a_finite_loss():
    hidden, table = arrays(scale=30.0)
    table = table.at[BATCH.items[0, 0]].set(hidden[0, 4])  # its own score is in the thousands

    def loss(hidden):
        options = {"settings": SoftmaxSettings(seen_weight=0.01), "context": LossContext(history=BATCH)}
        return softmax_loss(hidden, table, BATCH.next_items, n_items=N_ITEMS, **options)[0]

    total, gradient = jax.value_and_grad(loss)(hidden)
    np.testing.assert_allclose(total, oracle(hidden, table, seen_weight=0.01)[0], rtol=1e-3)
    assert jnp.isfinite(gradient).all()


def test_bad_weights_and_a_missing_history_are_refused():
    hidden, table = arrays()
    loss = make_loss(LossConfig(seen_weight=0.5), counts=np.ones(N_ITEMS + 1, int))
    with pytest.raises(InputError, match=r"seen_weight=0\.5 needs the history before each target"):
        loss(hidden, table, BATCH.next_items, n_items=N_ITEMS, key=None)
    with pytest.raises(ValueError, match=r"seen_weight=0.0 is outside 0.001 to 1; try"):
        LossConfig(seen_weight=0.0)
    with pytest.raises(ValueError, match="loss=bce has no label_smoothing, z_loss and seen_weight"):
        LossConfig(loss="bce", seen_weight=0.5)
