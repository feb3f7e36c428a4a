"""Cross-entropy over the whole catalogue, in blocks of positions and items, also where a mesh splits the table."""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from seqrec.losses.blocks import Mixture, Positions, Sums, by_blocks, by_chunks
from seqrec.sharding import CatalogueShard, Output, map_catalogue
from seqrec.types import Batch, InputError, ItemTable, LossSum, Scalar, States

BLOCK_ELEMENTS = 2**21
"""Scores held at a time: 8 MB of float32. On 2 CPU cores blocks of 1 to 4 MB and 16 MB took 1.0 to 1.3x the time."""

LEAST_POSITIONS = 128
"""Fewest positions in a block that scores all items. On 2 CPU cores and 100,000 items 20 took 1.4 times as long."""

MOST_POSITIONS = 2048
"""Positions that share a chunk of the catalogue."""

MOST_PROBABILITY = 1.0 - 1e-4
"""A higher probability of an unwanted item costs no more, because the slope of log(1 - p) has no bound."""


class LossContext(NamedTuple):
    """What a loss may know of each position beside its target; a loss without probabilities refuses what needs them."""

    history: Batch | None = None
    """The batch whose items up to each position are known there."""
    mixture: Mixture | None = None
    """A second source of the target's probability."""
    unwanted: Int[Array, "rows length"] | None = None
    """Item that is to become less likely, where there is no target; 0 where there is none."""
    constants: Any = None
    """The loss's own `constants` as the step has them, such as split over a mesh; None where it is to use them as they
    were made."""

    def refuse(self, *names: str, loss: str) -> None:
        """Refuses, for a loss without probabilities, what needs them."""
        for name in names:
            if getattr(self, name) is not None:
                raise InputError(f"{name} needs probabilities, which {loss} does not have; use softmax_loss")


NO_CONTEXT = LossContext()


@runtime_checkable
class CatalogueLoss(Protocol):
    """A loss over states, the item table that they are scored against, and a target for each state.

    A loss that reads other arrays as long as the catalogue has them as its attribute `constants`.
    """

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
        """(sum over the targets above 0, their number), or with `weights` the weighted sum and the sum of weights."""


class SoftmaxSettings(NamedTuple):
    """How `softmax_loss` departs from the plain cross-entropy."""

    temperature: Scalar = 1.0
    """Scores are divided by it."""
    label_smoothing: Scalar = 0.0
    """Share of the label that all items divide evenly (Szegedy et al. 2016, section 7)."""
    z_loss: float = 0.0
    """Weight of the squared log of the normaliser, which is added (Chowdhery et al. 2022, section 5)."""
    seen_weight: float = 1.0
    """Weight, in the normaliser, of the items that a position's history holds up to there, but for its target: where
    evaluation leaves out what was seen, a model need not learn to. Above 0 their scores stay bounded; without that the
    sum of the others would be lost in rounding."""
    unwanted_weight: float = 1.0
    """Weight of the loss of unwanted items."""


PLAIN = SoftmaxSettings()


def tile_sizes(n_positions: int, n_rows: int, *, budget: int = BLOCK_ELEMENTS) -> tuple[int, int]:
    """How many positions are scored against how many rows of the item table at a time.

    All rows, in three products, while 8 budgets hold enough positions to be worth it; else chunks of them, in four.
    """
    if LEAST_POSITIONS * n_rows <= 8 * budget:
        return min(n_positions, max(LEAST_POSITIONS, budget // n_rows)), n_rows
    n_blocks = -(-n_positions // MOST_POSITIONS)
    block = -(-n_positions // n_blocks)  # as even as can be: a last block that is mostly padding is waste
    return block, min(n_rows, budget // block)


def check_item_table(item_table: ItemTable, n_items: int) -> None:
    """Refuses a table without a row for padding and for each item: ids of the last items would be clamped."""
    if item_table.shape[0] <= n_items:
        raise InputError(
            f"item_table has {item_table.shape[0]} rows for n_items={n_items}; give it at least one row more than "
            "there are items, row 0 being padding"
        )


def softmax_loss(
    hidden: States,
    item_table: ItemTable,
    targets: Int[Array, "rows length"],
    *,
    n_items: int,
    weights: Float[Array, "rows length"] | None = None,
    context: LossContext = NO_CONTEXT,
    settings: SoftmaxSettings = PLAIN,
    key: Array | None = None,
) -> LossSum:
    """Sum of cross-entropies against the whole catalogue, in nats, and the number of targets; target 0 is skipped.

    A target, or unwanted item, above `n_items` makes the sum NaN. With `weights`, which are constants, each target
    counts as much as its own. Products are taken in the type of `hidden` and summed in float32. Nothing is drawn, so
    `key` is not used.

    With a mixture as `context` a target's probability is exactly that of the mixture. An unwanted item adds its weight
    times -log(1 - its probability) to the sum alone (unlikelihood: Welleck et al. 2020, eq. 4), as if no probability
    were above 1 - 1e-4.

    Nothing of size positions x items exists, and where a mesh splits the item table, each device scores its own
    items: only maxima, sums and hidden states travel.

    >>> states, table, targets = jnp.zeros((1, 2, 4)), jnp.ones((6, 4)), jnp.array([[3, 0]])
    >>> total, count = softmax_loss(states, table, targets, n_items=5)  # equal scores: -log(1/5)
    >>> round(float(jnp.exp(total)), 4), int(count)
    (5.0, 1)
    """
    chex.assert_rank([hidden, item_table, targets], [3, 2, 2])
    chex.assert_type(targets, int)
    chex.assert_equal_shape_prefix([hidden, targets], 2)
    check_item_table(item_table, n_items)
    targets = targets.astype(jnp.int32)  # int8 holds no n_items
    weights = None if weights is None else jax.lax.stop_gradient(weights)
    hidden, label_smoothing = hidden / settings.temperature, settings.label_smoothing
    if context.mixture is not None:
        _check_plain(settings, "a mixture", "temperature", "seen_weight")
    labels, label_weights, skips = targets, weights, None
    if context.mixture is not None or context.unwanted is not None:
        _check_plain(settings, "a mixture or an unwanted item", "label_smoothing")
    if context.unwanted is not None:
        skips = (context.unwanted > 0) & (targets == 0)
        labels = jnp.where(skips, context.unwanted, targets)
        label_weights = jnp.where(skips, settings.unwanted_weight, 1.0 if weights is None else weights)
    seen = None
    if settings.seen_weight < 1.0:
        if context.history is None:
            raise InputError(
                f"seen_weight={settings.seen_weight:g} needs the history before each target, which this question "
                "does not give; use seen_weight=1"
            )
        seen = (context.history.items, context.history.segment_ids)
    inputs = _LossInputs(labels, label_weights, seen, context.mixture, skips)
    total = _softmax_loss(
        hidden, item_table, inputs, 1.0 - label_smoothing, n_items, settings.z_loss, settings.seen_weight
    )
    if isinstance(label_smoothing, Array) or label_smoothing:
        # The mean score over all items is a product of two sums, which need no block.
        ids = jnp.arange(item_table.shape[0])[:, None]
        is_item = (ids >= 1) & (ids <= n_items)
        mean_item = jnp.sum(item_table, axis=0, where=is_item, dtype=jnp.float32) / n_items
        weighed = hidden if weights is None else hidden * weights[..., None]
        sum_of_states = jnp.sum(weighed, axis=(0, 1), where=(targets > 0)[..., None], dtype=jnp.float32)
        total -= label_smoothing * jnp.dot(sum_of_states, mean_item)
    return nan_if_outside(total, labels, n_items), count_targets(targets, weights)


def nan_if_outside(total: Float[Array, ""], targets: Int[Array, "*shape"], n_items: int) -> Float[Array, ""]:
    """The total, or NaN if a target is no item: under jit no error can be raised, and a wrong sum would go unseen."""
    return jnp.where(jnp.any(targets > n_items), jnp.nan, total)


def count_targets(targets: Int[Array, "*shape"], weights: Float[Array, "*shape"] | None = None) -> Shaped[Array, ""]:
    """How many targets there are, or the sum of their weights."""
    return jnp.sum(targets > 0) if weights is None else jnp.sum(weights, where=targets > 0)


def _check_plain(settings: SoftmaxSettings, what: str, *names: str) -> None:
    """Refuses settings that are not those of the plain softmax."""
    for name in names:
        value, plain = getattr(settings, name), getattr(PLAIN, name)
        if isinstance(value, Array) or value != plain:
            raise InputError(f"{what} needs the plain softmax; leave {name} at {plain:g}")


class _LossInputs(NamedTuple):
    """What each position is to predict, and how its loss is counted."""

    labels: Int[Array, "rows length"] | None
    """None only in a gradient, which they have none of."""
    weights: Float[Array, "rows length"] | None
    seen: tuple[Int[Array, "rows n"], Int[Array, "rows n"]] | None
    """Items and segment ids of the histories, where seen items weigh less."""
    mixture: Mixture | None
    unwanted: Bool[Array, "rows length"] | None
    """Where the label is an item that is to become less likely."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _softmax_loss(*arguments):
    """Weighted sum over targets of log_normaliser + z_loss * log_normaliser**2 - target_share * target_score.

    With `mixture` or `unwanted` of -log(probability), or of -log(1 - probability), + z_loss * log_normaliser**2.
    """
    return _sums(*arguments, with_gradients=False)[0]


def _forward(*arguments):
    total, *gradients = _sums(*arguments, with_gradients=True)
    return total, gradients


def _backward(n_items, z_loss, seen_weight, gradients, cotangent):
    d_hidden, d_table, *d_mixture = gradients
    changes = (cotangent * d_hidden).astype(d_hidden.dtype), (cotangent * d_table).astype(d_table.dtype)
    scaled = Mixture(*(cotangent * each for each in d_mixture)) if d_mixture else None
    return *changes, _LossInputs(None, None, None, scaled, None), None


_softmax_loss.defvjp(_forward, _backward)


def _look_up(ids: Array, shard: CatalogueShard) -> tuple[Array, Array]:
    """The ids' vectors, 0 for those of another shard, and their places in the table, -1 there."""
    places = ids - shard.first
    places = jnp.where((places >= 0) & (places < len(shard.table)), places, -1)
    return jnp.where(places[..., None] >= 0, shard.table[jnp.maximum(places, 0)], 0.0), places


def _seen_scores(hidden: Array, targets: Array, items: Array, segment_ids: Array, shard: CatalogueShard) -> Array:
    """Score of each position with each item of its row, -inf for those that it has not seen or another shard holds."""
    length = items.shape[1]
    vectors, places = _look_up(items, shard)
    scores = jnp.einsum("rpd,rqd->rpq", hidden, vectors.astype(hidden.dtype), preferred_element_type=jnp.float32)
    same_history = segment_ids[:, :, None] == segment_ids[:, None, :]
    before = jnp.tril(jnp.ones((length, length), bool), -1)
    # An item that occurs twice in a history counts once.
    repeated = jnp.any(same_history & before & (items[:, :, None] == items[:, None, :]), axis=-1)
    is_scored = (places >= 0) & (items > 0) & ~repeated
    seen = same_history & (before | jnp.eye(length, dtype=bool)) & is_scored[:, None, :]
    return jnp.where(seen & (items[:, None, :] != targets[:, :, None]), scores, -jnp.inf)


def _sums(
    hidden: Array,
    item_table: Array,
    inputs: _LossInputs,
    target_share: Scalar,
    n_items: int,
    z_loss: float,
    seen_weight: float,
    *,
    with_gradients: bool,
) -> tuple[Array, ...]:
    """The loss and optionally its gradients (d_hidden, d_table, d_mixture), computed in the same pass over scores."""

    def local(hidden, inputs, shard):
        targets, weights, seen, mixture, unwanted = inputs
        n_positions, d_model = targets.size, hidden.shape[-1]
        block, chunk = tile_sizes(n_positions, len(shard.table))
        padding = -n_positions % block
        states = jnp.pad(hidden.reshape(n_positions, d_model), ((0, padding), (0, 0))).reshape(-1, block, d_model)

        def in_blocks(each):
            return jnp.pad(each.reshape(-1), (0, padding)).reshape(-1, block)

        labels = in_blocks(targets)
        weights, mixture, unwanted = jax.tree.map(in_blocks, (weights, mixture, unwanted))
        seen_scores = None
        if seen is not None:
            seen_scores = _seen_scores(hidden, targets, seen[0], seen[1], shard).reshape(n_positions, -1)
            seen_scores = jnp.pad(seen_scores, ((0, padding), (0, 0)), constant_values=-jnp.inf)
            seen_scores = seen_scores.reshape(*labels.shape, -1)
        vectors_of_targets, places = _look_up(labels, shard)
        accumulate = by_blocks if chunk == len(shard.table) else by_chunks
        positions = Positions(states, labels, places, weights, seen_scores, mixture, unwanted)
        finish = functools.partial(
            _finish, shard=shard, target_share=target_share, z_loss=z_loss, removed_share=1.0 - seen_weight
        )
        loss, highest, scale, slopes, d_states, d_table = accumulate(
            positions, shard, chunk, n_items, finish, with_gradients=with_gradients
        )
        if not with_gradients:
            return (loss,)
        if seen is not None:
            # Subtracts what the pass added for seen items beyond their weight.
            extra = (1.0 - seen_weight) * scale[..., None] * jnp.exp(seen_scores - highest[..., None])
            extra = extra.reshape(-1, seen[0].shape[1])[:n_positions].reshape(*seen[0].shape, -1).astype(hidden.dtype)
            vectors, item_places = _look_up(seen[0], shard)
            less = jnp.einsum("rpq,rqd->rpd", extra, vectors.astype(hidden.dtype), preferred_element_type=jnp.float32)
            d_states -= jnp.pad(less.reshape(n_positions, d_model), ((0, padding), (0, 0))).reshape(d_states.shape)
            less = jnp.einsum("rpq,rpd->rqd", extra, hidden, preferred_element_type=jnp.float32)
            d_table = d_table.at[item_places].add(-less, mode="drop", wrap_negative_indices=False)
        of_target = jnp.full(labels.shape, target_share) if slopes is None else slopes[0]
        weight = _weigh(of_target, labels, weights)[..., None]
        d_states -= weight * vectors_of_targets
        d_table = d_table.at[places].add(-weight * states, mode="drop", wrap_negative_indices=False)
        d_hidden = shard.total(d_states).reshape(-1, d_model)[:n_positions].reshape(hidden.shape)
        results = loss, d_hidden.astype(hidden.dtype), d_table.astype(shard.table.dtype)
        if mixture is None:
            return results
        d_mixture = (-_weigh(slope, labels, weights).reshape(-1)[:n_positions] for slope in slopes)
        return *results, *(each.reshape(targets.shape) for each in d_mixture)

    outputs: tuple[Output, ...] = ("sum",)
    if with_gradients:
        outputs = ("sum", "rows", "items") if inputs.mixture is None else ("sum", "rows", "items", "rows", "rows")
    return map_catalogue(local, (hidden, inputs), item_table, outputs=outputs)


def _weigh(values: Array, labels: Array, weights: Array | None) -> Array:
    # Padding has target 0, whose score is -inf: selected out by where, because a weight of 0 would make it NaN.
    values = jnp.where(labels > 0, values, 0.0)
    return values if weights is None else values * weights


def _finish(
    sums: Sums,
    positions: Positions,
    *,
    shard: CatalogueShard,
    target_share: Scalar,
    z_loss: float,
    removed_share: float,
) -> tuple[Any, ...]:
    """The loss, each position's highest score over all shards, and what exp(score - highest) weighs in gradients.

    Last, where there is a mixture or an unwanted item, how much the loss falls as the logs of the two parts of the
    target's probability rise: of the softmax, and of the mixture's other part.
    """
    highest = shard.highest(sums.highest)
    total = sums.total * jnp.exp(sums.highest - highest)
    if positions.seen_scores is not None:
        total -= removed_share * jnp.sum(jnp.exp(positions.seen_scores - highest[..., None]), axis=-1)
    total, target_score = shard.total((total, sums.target_score))
    log_normaliser = jnp.log(total) + highest
    slopes = None
    if positions.mixture is None and positions.unwanted is None:
        losses = log_normaliser + z_loss * log_normaliser**2 - target_share * target_score
    else:
        losses, slopes = _by_probability(target_score - log_normaliser, positions)
        losses += z_loss * log_normaliser**2
    scale = ((1.0 if slopes is None else slopes[0]) + 2.0 * z_loss * log_normaliser) / total
    scale = _weigh(scale, positions.labels, positions.weights)
    return jnp.sum(_weigh(losses, positions.labels, positions.weights)), highest, scale, slopes


def _by_probability(log_softmax: Array, positions: Positions) -> tuple[Array, tuple[Array, Array]]:
    """The loss of the target's probability, and the slopes that `_finish` says."""
    of_softmax = log_probability = log_softmax
    if positions.mixture is not None:
        of_softmax = positions.mixture.log_share + log_softmax
        log_probability = jnp.logaddexp(of_softmax, positions.mixture.log_mass)
    losses, slope = -log_probability, jnp.ones_like(log_probability)
    if positions.unwanted is not None:
        probability = jnp.minimum(jnp.exp(log_probability), MOST_PROBABILITY)
        losses = jnp.where(positions.unwanted, -jnp.log1p(-probability), losses)
        slope = jnp.where(positions.unwanted, -probability / (1.0 - probability), slope)
    share = jnp.exp(of_softmax - log_probability)
    return losses, (slope * share, slope * (1.0 - share))
