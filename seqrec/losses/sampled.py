"""Losses over a target and sampled items: each a function of one position's scores, made a loss by `sampled_loss`."""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.losses.softmax import (
    NO_CONTEXT,
    CatalogueLoss,
    LossContext,
    check_item_table,
    count_targets,
    nan_if_outside,
)
from seqrec.negatives import Negatives, Sampler
from seqrec.types import InputError, ItemTable, LossSum, Scalar, States

Losses = Float[Array, "*shape"]
Scores = Float[Array, "*shape"]
NegativeScores = Float[Array, "*shape negatives"]
Where = Bool[Array, "*shape negatives"]
LogQ = Float[Array, "*#shape negatives"]


@runtime_checkable
class ScoreLoss(Protocol):
    """The loss of positions, given the scores of their targets and of the drawn negatives."""

    def __call__(self, target: Scores, negatives: NegativeScores, *, where: Where, log_q: LogQ) -> Losses:
        """`where` is False for draws that are the position's own target, which the loss leaves out; `log_q` is the
        log-probability of each draw."""


def sampled_softmax(target: Scores, negatives: NegativeScores, *, where: Where, log_q: LogQ) -> Losses:
    """Cross-entropy of the target against the draws, whose sum estimates that over all other items without bias.

    Each draw is divided by its expected count (the logQ correction: Bengio and Senécal 2008, eq. 8).
    """
    corrected = jnp.where(where, negatives - log_q - math.log(negatives.shape[-1]), -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([target[..., None], corrected], axis=-1), axis=-1) - target


def binary_cross_entropy(
    target: Scores, negatives: NegativeScores, *, where: Where, log_q: LogQ, from_base_rate: bool = False
) -> Losses:
    """The target against 1 and each draw against 0 (Kang and McAuley 2018, eq. 6, there with one draw).

    `from_base_rate` is as in `generalised_binary_cross_entropy`.
    """
    return _binary(target, negatives, where, weight=1.0, from_base_rate=from_base_rate)


def generalised_binary_cross_entropy(
    target: Scores,
    negatives: NegativeScores,
    *,
    where: Where,
    log_q: LogQ,
    n_items: int,
    t: float,
    from_base_rate: bool = False,
) -> Losses:
    """As `binary_cross_entropy`, the target's part scaled against overconfidence (Petrov and Macdonald 2023, eq. 11).

    `t` is the calibration, 0 (none) to 1 (scores become log-odds under the full softmax's probabilities). Scores
    are log-odds, or with `from_base_rate` log-odds above those of a random guess, which gives the same ranking.
    """
    if not 0 <= t <= 1:
        raise InputError(f"t={t} is not in [0, 1]; try t=0.75")
    rate = negatives.shape[-1] / max(1, n_items - 1)
    return _binary(
        target, negatives, where, weight=rate * (t * (1 - 1 / rate) + 1 / rate), from_base_rate=from_base_rate
    )


def _binary(target: Scores, negatives: NegativeScores, where: Where, *, weight: float, from_base_rate: bool) -> Losses:
    # The prior of Lin et al. 2017, section 3.3. Without it the draws, being many, first push all scores down together:
    # a model without a bias to take that up leaves what it has learned, and Adam's steps stay small long after.
    base_rate = math.log(weight / negatives.shape[-1]) if from_base_rate else 0.0
    of_negatives = jnp.sum(jax.nn.softplus(negatives + base_rate), axis=-1, where=where)
    return weight * jax.nn.softplus(-target - base_rate) + of_negatives


def bayesian_personalised_ranking(target: Scores, negatives: NegativeScores, *, where: Where, log_q: LogQ) -> Losses:
    """Mean over the draws of -log sigmoid(target - draw) (Rendle et al. 2009, section 4.1)."""
    losses = jax.nn.softplus(negatives - target[..., None])
    return jnp.sum(losses, axis=-1, where=where) / jnp.maximum(jnp.sum(where, axis=-1), 1)


def bpr_max(
    target: Scores, negatives: NegativeScores, *, where: Where, log_q: LogQ, regularisation: float = 1.0
) -> Losses:
    """-log of the chance that the target beats a draw, draws weighted by their softmax (Hidasi and Karatzoglou 2018).

    Their eq. 10 and 11: `regularisation` weighs the draws' squared scores. A position whose draws are all its target
    has loss 0.
    """
    weights = jax.nn.softmax(jnp.where(where, negatives, -jnp.inf), axis=-1, where=where)
    log_weights = jax.nn.log_softmax(jnp.where(where, negatives, -1e30), axis=-1)
    beaten = jnp.where(where, log_weights + jax.nn.log_sigmoid(target[..., None] - negatives), -1e30)
    any_left = jnp.any(where, axis=-1)
    loss = -jax.nn.logsumexp(beaten, axis=-1) + regularisation * jnp.sum(weights * negatives**2, axis=-1, where=where)
    return jnp.where(any_left, loss, 0.0)


@dataclass(frozen=True, eq=False)
class SampledLoss:
    """A `CatalogueLoss` that draws negatives at every call and sums `score_loss` over the targets."""

    score_loss: ScoreLoss
    sampler: Sampler
    temperature: Scalar = 1.0
    constants: Any = None
    """The tables that the sampler reads."""

    def __call__(
        self,
        hidden: States,
        item_table: ItemTable,
        targets: Int[Array, "rows length"],
        *,
        n_items: int,
        weights: Float[Array, "rows length"] | None = None,
        context: LossContext = NO_CONTEXT,
        key: Array,
    ) -> LossSum:
        """As `CatalogueLoss`."""
        context.refuse("unwanted", loss="a sampled loss")
        check_item_table(item_table, n_items)
        targets = targets.astype(jnp.int32)  # int8 holds no n_items
        tables = self.constants if context.constants is None else context.constants
        negatives = self.sampler(key, targets) if tables is None else self.sampler(key, targets, tables)
        losses = position_losses(hidden / self.temperature, item_table, targets, negatives, score_loss=self.score_loss)
        if context.mixture is not None:
            if self.score_loss is not sampled_softmax:
                raise InputError("mixture needs probabilities; use sampled_softmax or softmax_loss")
            losses = -jnp.logaddexp(context.mixture.log_share - losses, context.mixture.log_mass)
        losses = losses if weights is None else losses * jax.lax.stop_gradient(weights)
        total = nan_if_outside(jnp.sum(losses, where=targets > 0), targets, n_items)
        return total, count_targets(targets, weights)


def sampled_loss(
    score_loss: ScoreLoss, sampler: Sampler, *, temperature: Scalar = 1.0, tables: Any = None
) -> SampledLoss:
    """The loss that draws negatives by `sampler` at every call and sums `score_loss` over the targets.

    Scores are divided by `temperature`. With a mixture, which needs `sampled_softmax`, a target's
    probability is that of the mixture, whose softmax is estimated. `tables` are host arrays that the sampler reads,
    with a row an item or a block of items: as an argument of the training step, split as the item table, they are no
    constants of its program.

    >>> import functools
    >>> from seqrec.negatives import uniform
    >>> loss = sampled_loss(sampled_softmax, lambda key, targets: uniform(key, n_negatives=50, n_items=5))
    >>> states, table, targets = jnp.zeros((1, 2, 4)), jnp.ones((6, 4)), jnp.array([[3, 0]])
    >>> total, count = jax.jit(functools.partial(loss, n_items=5))(states, table, targets, key=jax.random.key(0))
    >>> round(float(jnp.exp(total)), 4), int(count)  # equal scores: -log(1/5), as with all items
    (5.0, 1)
    """
    return SampledLoss(score_loss, sampler, temperature, tables)


def position_losses(
    hidden: States,
    item_table: ItemTable,
    targets: Int[Array, "rows length"],
    negatives: Negatives,
    *,
    score_loss: ScoreLoss,
) -> Float[Array, "rows length"]:
    """`score_loss` at each position; the value at a position without a target is meaningless.

    Products are taken in the type of `hidden` and summed in float32.
    """
    chex.assert_rank([hidden, item_table, targets], [3, 2, 2])
    chex.assert_equal_shape_prefix([hidden, targets], 2)
    ids, log_q = (jnp.atleast_2d(field) for field in negatives)  # [rows or 1, negatives]
    target_scores = jnp.sum(hidden * item_table[targets], axis=-1, dtype=jnp.float32)
    vectors = item_table[ids].astype(hidden.dtype)
    product = "rld,nd->rln" if len(ids) == 1 else "rld,rnd->rln"
    vectors = vectors[0] if len(ids) == 1 else vectors
    scores = jnp.einsum(product, hidden, vectors, preferred_element_type=jnp.float32)
    where = ids[:, None] != targets[..., None]
    return score_loss(target_scores, scores, where=where, log_q=log_q[:, None])


def scalable_cross_entropy_loss(
    *, n_buckets: int, bucket_positions: int, bucket_items: int, temperature: Scalar = 1.0
) -> CatalogueLoss:
    """Cross-entropy of each position against the items nearest to it, found by buckets (SCE: Mezentsev et al. 2024).

    A bucket is a random mixture of the states, with the `bucket_positions` states and `bucket_items` items that have
    the largest products with it. A position in several buckets costs its largest loss there; one in none is not
    counted. With one bucket of everything it is the full cross-entropy. Scores are divided by `temperature`.
    """

    def loss(
        hidden: States,
        item_table: ItemTable,
        targets: Int[Array, "rows length"],
        *,
        n_items: int,
        weights: Float[Array, "rows length"] | None = None,
        context: LossContext = NO_CONTEXT,
        key: Array,
    ) -> LossSum:
        context.refuse("mixture", "unwanted", loss="scalable_cross_entropy_loss")
        chex.assert_rank([hidden, item_table, targets], [3, 2, 2])
        check_item_table(item_table, n_items)
        targets = targets.astype(jnp.int32)  # int8 holds no n_items
        states, labels = (hidden / temperature).reshape(-1, hidden.shape[-1]), targets.reshape(-1)
        valid, ids = labels > 0, jnp.arange(item_table.shape[0])
        of_states = jax.random.normal(key, (n_buckets, len(states))) * valid
        # The content of a bucket is a selection, through which no gradient flows.
        centres = jax.lax.stop_gradient(of_states @ states)
        near_states = jnp.where(valid, centres @ jax.lax.stop_gradient(states).T, -jnp.inf)
        items = (ids >= 1) & (ids <= n_items)
        near_items = jnp.where(items, centres @ jax.lax.stop_gradient(item_table).T, -jnp.inf)
        places = jax.lax.top_k(near_states, min(bucket_positions, len(states)))[1]
        candidates = jax.lax.top_k(near_items, min(bucket_items, n_items))[1]
        target_scores = jnp.sum(states * item_table[labels], axis=-1)[places]
        scores = jnp.einsum("bpd,bid->bpi", states[places], item_table[candidates])
        others = jnp.where(candidates[:, None] == labels[places][..., None], -jnp.inf, scores)
        of_all = jnp.concatenate([target_scores[..., None], others], axis=-1)
        losses = jnp.where(valid[places], jax.nn.logsumexp(of_all, axis=-1) - target_scores, -jnp.inf)
        largest = jnp.full(len(states), -jnp.inf).at[places].max(losses)
        labels_in_buckets = jnp.where(largest > -jnp.inf, labels, 0)
        if weights is not None:
            weights = jax.lax.stop_gradient(weights.reshape(-1))
            largest = largest * weights
        total = nan_if_outside(jnp.sum(largest, where=labels_in_buckets > 0), targets, n_items)
        return total, count_targets(labels_in_buckets, weights)

    return loss
