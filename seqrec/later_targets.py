"""Later items as targets beside the next one, for states that are to know what comes soon, in whatever order."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from seqrec.model import Model
from seqrec.params import Params
from seqrec.questions import next_item
from seqrec.sharding import look_up
from seqrec.types import Ask, Batch, InputError, Question, States


def with_later_targets(model: Model, *, share: float, n_later: int) -> Model:
    """The model that a softmax teaches with a share of each target's probability on the items that came after it.

    The label of a position becomes 1 - share on the next item and share / n on each of the n <= `n_later` items after
    it in the same history; where there is none, the next item keeps all. Log-probabilities are linear in the label, and
    the normaliser does not depend on it, so the cross-entropy grows by share * (score of the next item - mean score of
    the later ones), whatever the catalogue's size. A softer form of training on all of a user's next actions at once
    (dense all action loss: Pancha et al. 2022, section 3.2). Items that are no targets, such as skips, are none here.

    Raises:
      InputError: the model's states know later events than their own.
    """
    _check_asks_next_items(model)
    earlier = model.auxiliary_loss

    def auxiliary_loss(params: Params, states: States, batch: Batch) -> Float[Array, ""]:
        total = share * score_differences(params["item_table"], states, batch, n_later=n_later)
        return total if earlier is None else total + earlier(params, states, batch)

    return dataclasses.replace(model, auxiliary_loss=auxiliary_loss)


def with_drawn_later_targets(model: Model, *, share: float, n_later: int) -> Model:
    """The model that learns later items as targets in their turn: for a head that has no scores of items to add up.

    Its loss is, in expectation, that of the labels of `with_later_targets`.

    Raises:
      InputError: the model's states know later events than their own.
    """
    _check_asks_next_items(model)
    ask = functools.partial(next_or_later_item, ask=model.ask, share=share, n_later=n_later)
    return dataclasses.replace(model, ask=ask)


def next_or_later_item(batch: Batch, *, key: Array, share: float, n_later: int, ask: Ask = next_item) -> Question:
    """The question of `ask`, where each target gives way with probability `share` to an item after it.

    That item is drawn from the n <= `n_later` targets after it in the same history, each as likely; where there is
    none, the target stays (Pancha et al. 2022, section 3.2, draw from all later items).

    >>> row = jnp.array([[1, 2, 3]])
    >>> batch = Batch(row, jnp.array([[2, 3, 4]]), segment_ids=jnp.ones_like(row), positions=jnp.arange(3)[None])
    >>> next_or_later_item(batch, key=jax.random.key(0), share=1.0, n_later=1).targets.tolist()
    [[3, 4, 4]]
    """
    question = ask(batch, key=key)
    targets = question.targets
    are_later = jnp.stack(list(_later_targets(targets > 0, batch, n_later=n_later)))
    later = jnp.stack([_shifted(targets, distance) for distance in range(1, n_later + 1)])
    gives_way, place = jax.random.uniform(key, (2, *targets.shape))
    n_each = jnp.sum(are_later, axis=0)
    is_drawn = are_later & (jnp.cumsum(are_later, axis=0) == 1 + (place * n_each).astype(jnp.int32))
    drawn = jnp.sum(jnp.where(is_drawn, later, 0), axis=0)
    gives_way = (gives_way < share) & (targets > 0) & (n_each > 0)
    return question._replace(targets=jnp.where(gives_way, drawn, targets))


def _check_asks_next_items(model: Model) -> None:
    if not model.encoder.causal or getattr(model.ask, "func", model.ask) is not next_item:
        raise InputError("later targets need a causal encoder that predicts each next item; leave --later-share at 0")


def _later_targets(
    is_target: Bool[Array, "rows length"], batch: Batch, *, n_later: int
) -> Iterator[Bool[Array, "rows length"]]:
    """Of each distance, whether a target of the same history follows so many places later."""
    for distance in range(1, n_later + 1):
        yield _shifted(is_target, distance) & (_shifted(batch.segment_ids, distance) == batch.segment_ids)


def score_differences(
    item_table: Float[Array, "n_rows d_model"], states: States, batch: Batch, *, n_later: int
) -> Float[Array, ""]:
    """Sum over positions of the score of the next item less the mean score of the items after it, each by its weight.

    >>> row = jnp.array([[1, 2, 3]])
    >>> batch = Batch(row, jnp.array([[2, 3, 4]]), segment_ids=jnp.ones_like(row), positions=jnp.arange(3)[None])
    >>> scores = jnp.array([0.0, 10.0, 20.0, 30.0, 50.0])  # of items 0 to 4, at every position
    >>> float(score_differences(scores[:, None], jnp.ones((1, 3, 1)), batch, n_later=2))  # 20 - 40 and 30 - 50
    -40.0
    """
    is_target = batch.next_items > 0 if batch.next_skips is None else (batch.next_items > 0) & ~batch.next_skips
    vectors = look_up(item_table, batch.next_items).astype(jnp.float32)
    total, count = jnp.zeros_like(vectors), jnp.zeros(is_target.shape, jnp.int32)
    for distance, is_later in enumerate(_later_targets(is_target, batch, n_later=n_later), start=1):
        total += jnp.where(is_later[..., None], _shifted(vectors, distance), 0.0)
        count += is_later
    differences = jnp.sum(states.astype(jnp.float32) * (vectors - total / jnp.maximum(count, 1)[..., None]), axis=-1)
    if batch.next_weights is not None:
        differences *= batch.next_weights
    return jnp.sum(differences, where=is_target & (count > 0))


def _shifted(values: Shaped[Array, "rows length *shape"], distance: int) -> Shaped[Array, "rows length *shape"]:
    """What stands `distance` places later in each row; 0 beyond its end."""
    return jnp.pad(values[:, distance:], [(0, 0), (0, min(distance, values.shape[1])), *[(0, 0)] * (values.ndim - 2)])
