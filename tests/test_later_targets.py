"""Later items as targets: the cross-entropy with their labels, in NumPy, and what they leave as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from packed_rows import rows_of

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import softmax_model
from seqrec.later_targets import next_or_later_item, with_drawn_later_targets, with_later_targets
from seqrec.losses.config import LossConfig, make_loss
from seqrec.model import loss_keys
from seqrec.params import init_params
from seqrec.types import InputError

N_ITEMS, LENGTH, SHARE = 12, 10, 0.3
SMALL = TransformerConfig(d_model=8, n_blocks=1, dropout=0.0)
BATCH = rows_of([[5, 9, 5, 5], [9, 5, 12]], [[1, 2, 3, 1, 2], [7, 8]])


def model_of(**config):
    encoder = transformer(SMALL, n_items=N_ITEMS, max_length=LENGTH)
    return softmax_model(encoder, make_loss(LossConfig(**config), counts=np.ones(N_ITEMS + 1, int)))


def loss_of(model, batch):
    params = init_params(model.specs, jax.random.key(0))
    params = {**params, "item_table": 20 * params["item_table"]}
    total, count = model.loss(params, None, batch, keys=loss_keys(jax.random.key(1)))
    return params, float(total), float(count)


def following_of(batch):
    """Of each target its row and place, and all targets of its history from there on."""
    items, segments = np.asarray(batch.next_items), np.asarray(batch.segment_ids)
    for row, place in np.argwhere(items > 0):
        following = items[row, place:][segments[row, place:] == segments[row, place]]
        yield row, place, following[following > 0]


@pytest.mark.parametrize("n_later", [1, 2, 20])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_with_labels_on_the_items_that_follow(n_later, label_smoothing):
    weights = np.random.default_rng(0).uniform(0.5, 2.0, BATCH.items.shape).astype(np.float32)
    batch = BATCH._replace(next_weights=jnp.asarray(weights))
    plain = model_of(label_smoothing=label_smoothing)
    params, total, count = loss_of(with_later_targets(plain, share=SHARE, n_later=n_later), batch)

    states = np.asarray(plain.encoder.encode(params, batch))
    scores = states @ np.asarray(params["item_table"])[1 : N_ITEMS + 1].T
    log_p = scipy.special.log_softmax(scores, axis=-1)
    expected = 0.0
    for row, place, following in following_of(batch):
        label = np.full(N_ITEMS, label_smoothing / N_ITEMS)
        later = following[1 : 1 + n_later]
        label[following[0] - 1] += 1 - label_smoothing - SHARE * (len(later) > 0)
        for item in later:
            label[item - 1] += SHARE / len(later)
        expected -= weights[row, place] * label @ log_p[row, place]
    assert total == pytest.approx(expected, rel=1e-5)
    assert count == pytest.approx(weights[np.asarray(batch.next_items) > 0].sum(), rel=1e-6)


def test_histories_of_two_items_and_skipped_items_have_no_later_targets():
    pairs = rows_of([[5, 9], [9, 5]], [[1, 2]])
    skipped = BATCH._replace(next_skips=BATCH.positions > 0)  # each history has one target, its second item
    for batch in (pairs, skipped):
        assert (
            loss_of(with_later_targets(model_of(), share=SHARE, n_later=2), batch)[1:] == loss_of(model_of(), batch)[1:]
        )


@pytest.mark.parametrize("with_later", [with_later_targets, with_drawn_later_targets])
def test_models_that_see_later_items_are_refused(with_later):
    bidirectional = transformer(
        TransformerConfig(d_model=8, n_blocks=1, causal=False), n_items=N_ITEMS, max_length=LENGTH
    )
    with pytest.raises(InputError, match="later targets need a causal encoder"):
        with_later(softmax_model(bidirectional), share=SHARE, n_later=2)


@pytest.mark.parametrize(
    "config", [{"loss": "bce"}, {"temperature": 2.0}, {"repeat_mixture": True}, {"label_smoothing": 0.8}]
)
def test_losses_whose_label_is_no_distribution_or_would_have_no_share_left_are_refused(config):
    with pytest.raises(ValueError, match=r"later_share=0.3 divides the label of a plain softmax"):
        LossConfig(later_share=SHARE, **config)


@pytest.mark.parametrize("n_later", [1, 3])
def test_drawn_targets_are_later_items_of_the_same_history_as_often_as_their_labels_say(n_later):
    n_draws, counts = 4000, np.zeros((*BATCH.next_items.shape, N_ITEMS + 1))
    draw = jax.jit(jax.vmap(lambda key: next_or_later_item(BATCH, key=key, share=SHARE, n_later=n_later).targets))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), n_draws)))
    np.add.at(counts, (*np.indices(drawn.shape)[1:], drawn), 1 / n_draws)
    expected = np.zeros_like(counts)
    expected[np.asarray(BATCH.next_items) == 0, 0] = 1.0
    for row, place, following in following_of(BATCH):
        later = following[1 : 1 + n_later]
        expected[row, place, following[0]] += 1 - SHARE * (len(later) > 0)
        np.add.at(expected[row, place], later, SHARE / max(len(later), 1))
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(SHARE * (1 - SHARE) / n_draws))
