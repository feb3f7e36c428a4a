"""Cross-entropy over the whole catalogue, in blocks of positions and items, also where a mesh splits the table."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from seqrec.ranking import take
from seqrec.sharding import CatalogueShard, Output, map_catalogue
from seqrec.types import Batch, InputError, Scalar

BLOCK_ELEMENTS = 2**21
"""Scores held at a time: 8 MB of float32. On 2 CPU cores blocks of 1 to 4 MB and 16 MB took 1.0 to 1.3x the time."""

LEAST_POSITIONS = 128
"""Positions that are worth a walk over the whole table. On 2 CPU cores and 100,000 items 20 took 1.4 times as long."""

MOST_POSITIONS = 2048
"""Positions that share a chunk of the catalogue."""

LEAST_SCORE = -1e30
"""Below any score that is a number, and finite, so that a difference to it is no NaN."""


def tile_sizes(n_positions: int, n_rows: int, *, budget: int = BLOCK_ELEMENTS) -> tuple[int, int]:
    """How many positions are scored against how many rows of the item table at a time.

    All rows, in three products, while 8 budgets hold enough positions to be worth it; else chunks of them, in four.
    """
    if LEAST_POSITIONS * n_rows <= 8 * budget:
        return min(n_positions, max(LEAST_POSITIONS, budget // n_rows)), n_rows
    n_blocks = -(-n_positions // MOST_POSITIONS)
    block = -(-n_positions // n_blocks)  # as even as can be: a last block that is mostly padding is waste
    return block, min(n_rows, budget // block)


def check_item_table(item_table: Float[Array, "n_rows d_model"], n_items: int) -> None:
    """Refuses a table without a row for each item beside the padding row 0: its last items would be clamped."""
    if item_table.shape[0] <= n_items:
        raise InputError(
            f"item_table has {item_table.shape[0]} rows for n_items={n_items}; give it at least one row more than "
            "there are items, row 0 being padding"
        )


def catalogue_bias(n_rows: int, n_items: int) -> Float[Array, " n_rows"]:
    """0 for items, -inf for the padding row 0 and the rows beyond `n_items`."""
    ids = jnp.arange(n_rows)
    return jnp.where((ids >= 1) & (ids <= n_items), 0.0, -jnp.inf)


def softmax_loss(
    hidden: Float[Array, "rows length d_model"],
    item_table: Float[Array, "n_rows d_model"],
    targets: Int[Array, "rows length"],
    *,
    n_items: int,
    weights: Float[Array, "rows length"] | None = None,
    temperature: Scalar = 1.0,
    label_smoothing: Scalar = 0.0,
    z_loss: float = 0.0,
    seen_weight: float = 1.0,
    history: Batch | None = None,
    key: Array | None = None,
) -> tuple[Float[Array, ""], Shaped[Array, ""]]:
    """Sum of cross-entropies against the whole catalogue, in nats, and the number of targets; target 0 is skipped.

    With `weights`, which are constants, each target counts as much as its own. Scores are divided by `temperature`.
    With `label_smoothing` the label keeps the rest of that share, which all items divide evenly (Szegedy et al. 2016,
    section 7). `z_loss` times the squared log of the normaliser is added (Chowdhery et al. 2022, section 5). Products
    are taken in the type of `hidden` and summed in float32. Nothing is drawn, so `key` is not used.

    With a `seen_weight` below 1 the items that a position's `history` holds up to there, but for its target, enter the
    normaliser by that weight alone: where evaluation leaves out what was seen, a model need not learn to. Above 0
    it keeps their scores within reach, without which the others' sum would drown in rounding.

    Nothing of size positions x items exists, and where a mesh splits the item table, each device scores its own
    items: only maxima, sums and hidden states travel.
    """
    _check_shapes(hidden, item_table, targets, n_items)
    weights = None if weights is None else jax.lax.stop_gradient(weights)
    hidden = hidden / temperature
    seen = None
    if seen_weight < 1.0:
        if history is None:
            raise InputError(
                f"seen_weight={seen_weight:g} needs the history before each target, which this objective does not "
                "give; use seen_weight=1"
            )
        seen = (history.items, history.segment_ids)
    total = _softmax_loss(
        hidden, item_table, targets, weights, seen, 1.0 - label_smoothing, n_items, z_loss, seen_weight
    )
    if isinstance(label_smoothing, Array) or label_smoothing:
        # The mean score over all items is a product of two sums, which need no block.
        is_item = jnp.isfinite(catalogue_bias(item_table.shape[0], n_items))[:, None]
        mean_item = jnp.sum(item_table, axis=0, where=is_item, dtype=jnp.float32) / n_items
        weighed = hidden if weights is None else hidden * weights[..., None]
        sum_of_states = jnp.sum(weighed, axis=(0, 1), where=(targets > 0)[..., None], dtype=jnp.float32)
        total -= label_smoothing * jnp.dot(sum_of_states, mean_item)
    return total, count_targets(targets, weights)


def count_targets(targets: Int[Array, "*shape"], weights: Float[Array, "*shape"] | None = None) -> Shaped[Array, ""]:
    """How many targets there are, or the sum of their weights."""
    return jnp.sum(targets > 0) if weights is None else jnp.sum(weights, where=targets > 0)


def _check_shapes(hidden: Array, item_table: Array, targets: Array, n_items: int) -> None:
    chex.assert_rank([hidden, item_table, targets], [3, 2, 2])
    chex.assert_type(targets, int)
    chex.assert_equal_shape_prefix([hidden, targets], 2)
    check_item_table(item_table, n_items)


def _product(states: Array, other: Array) -> Array:
    """A matrix product in the type of `states`, summed in float32."""
    return jnp.matmul(states, other.astype(states.dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _softmax_loss(hidden, item_table, targets, weights, seen, target_share, *options):
    """Weighted sum over targets of log_normaliser + z_loss * log_normaliser**2 - target_share * target_score."""
    return _sums(hidden, item_table, targets, weights, seen, target_share, *options, with_gradients=False)[0]


def _forward(hidden, item_table, targets, weights, seen, target_share, *options):
    total, *gradients = _sums(hidden, item_table, targets, weights, seen, target_share, *options, with_gradients=True)
    return total, gradients


def _backward(n_items, z_loss, seen_weight, gradients, cotangent):
    d_hidden, d_table = gradients
    changes = (cotangent * d_hidden).astype(d_hidden.dtype), (cotangent * d_table).astype(d_table.dtype)
    return *changes, None, None, None, None


_softmax_loss.defvjp(_forward, _backward)


class _Walk(NamedTuple):
    """What a walk over items leaves of each position's scores: enough for its loss and its gradient."""

    highest: Float[Array, "*positions"]
    total: Float[Array, "*positions"]
    """Sum of exp(score - highest)."""
    target_score: Float[Array, "*positions"]
    """0 where the target was not met."""


class _Asked(NamedTuple):
    """Positions, in blocks."""

    states: Float[Array, "*positions d_model"]
    labels: Int[Array, "*positions"]
    """Their targets."""
    places: Int[Array, "*positions"]
    """Of the targets in the shard's table; -1 where another shard holds it."""
    weights: Float[Array, "*positions"] | None
    seen_scores: Float[Array, "*positions length"] | None
    """With what the history holds that the normaliser counts less, as `_seen_scores` says."""


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
    # What a history holds twice is one item of the catalogue.
    repeated = jnp.any(same_history & before & (items[:, :, None] == items[:, None, :]), axis=-1)
    held = (places >= 0) & (items > 0) & ~repeated
    seen = same_history & (before | jnp.eye(length, dtype=bool)) & held[:, None, :]
    return jnp.where(seen & (items[:, None, :] != targets[:, :, None]), scores, -jnp.inf)


def _sums(
    hidden,
    item_table,
    targets,
    weights,
    seen,
    target_share: Scalar,
    n_items: int,
    z_loss: float,
    seen_weight: float,
    *,
    with_gradients: bool,
) -> tuple[Array, ...]:
    """The loss and, if asked for, its gradients (d_hidden, d_table), taken while the scores are at hand."""

    def local(hidden, targets, weights, seen, shard):
        n_positions, d_model = targets.size, hidden.shape[-1]
        block, chunk = tile_sizes(n_positions, len(shard.table))
        padding = -n_positions % block
        states = jnp.pad(hidden.reshape(n_positions, d_model), ((0, padding), (0, 0))).reshape(-1, block, d_model)
        labels = jnp.pad(targets.reshape(-1), (0, padding)).reshape(-1, block)
        if weights is not None:
            weights = jnp.pad(weights.reshape(-1), (0, padding)).reshape(-1, block)
        seen_scores = None
        if seen is not None:
            seen_scores = _seen_scores(hidden, targets, seen[0], seen[1], shard).reshape(n_positions, -1)
            seen_scores = jnp.pad(seen_scores, ((0, padding), (0, 0)), constant_values=-jnp.inf)
            seen_scores = seen_scores.reshape(*labels.shape, -1)
        vectors_of_targets, places = _look_up(labels, shard)
        walk = _by_blocks if chunk == len(shard.table) else _by_chunks
        asked = _Asked(states, labels, places, weights, seen_scores)
        finish = functools.partial(
            _finish, shard=shard, target_share=target_share, z_loss=z_loss, taken=1.0 - seen_weight
        )
        loss, highest, scale, d_states, d_table = walk(
            asked, shard, chunk, n_items, finish, with_gradients=with_gradients
        )
        if not with_gradients:
            return (loss,)
        if seen is not None:
            # What the walk gave to seen items beyond their weight, taken back.
            extra = (1.0 - seen_weight) * scale[..., None] * jnp.exp(seen_scores - highest[..., None])
            extra = extra.reshape(-1, seen[0].shape[1])[:n_positions].reshape(*seen[0].shape, -1).astype(hidden.dtype)
            vectors, item_places = _look_up(seen[0], shard)
            less = jnp.einsum("rpq,rqd->rpd", extra, vectors.astype(hidden.dtype), preferred_element_type=jnp.float32)
            d_states -= jnp.pad(less.reshape(n_positions, d_model), ((0, padding), (0, 0))).reshape(d_states.shape)
            less = jnp.einsum("rpq,rpd->rqd", extra, hidden, preferred_element_type=jnp.float32)
            d_table = d_table.at[item_places].add(-less, mode="drop", wrap_negative_indices=False)
        weight = _weigh(jnp.full(labels.shape, target_share), labels, weights)[..., None]
        d_states -= weight * vectors_of_targets
        d_table = d_table.at[places].add(-weight * states, mode="drop", wrap_negative_indices=False)
        d_hidden = shard.total(d_states).reshape(-1, d_model)[:n_positions].reshape(hidden.shape)
        return loss, d_hidden.astype(hidden.dtype), d_table.astype(shard.table.dtype)

    outputs: tuple[Output, ...] = ("sum", "rows", "items") if with_gradients else ("sum",)
    return map_catalogue(local, (hidden, targets, weights, seen), item_table, outputs=outputs)


def _by_blocks(asked: _Asked, shard: CatalogueShard, chunk: int, n_items: int, finish, *, with_gradients: bool):
    """One walk over blocks of positions, each scored once against the whole shard: three products in all."""

    def step(totals, block):
        loss, d_table = totals
        scores = _mask_ends(_product(block.states, shard.table.T), shard, n_items)
        walk, exponentials = _find(scores, block.places)
        more, highest, scale = finish(walk, block)
        if not with_gradients:
            return (loss + more, d_table), None
        local_scale = scale * jnp.exp(walk.highest - highest)
        d_states, d_rows = _gradients(exponentials, local_scale, block.states, shard.table)
        return (loss + more, d_table + d_rows), (highest, scale, d_states)

    start = (jnp.zeros(()), jnp.zeros(shard.table.T.shape) if with_gradients else None)
    (loss, d_table), found = jax.lax.scan(step, start, asked)
    if d_table is None:
        return loss, None, None, None, None
    return loss, *found, d_table.T


def _by_chunks(asked: _Asked, shard: CatalogueShard, chunk: int, n_items: int, finish, *, with_gradients: bool):
    """Two walks over chunks of the catalogue, one for the normalisers and one for the gradients: four products.

    Each row of the table, and of its gradient, is read and written once a walk, however many positions there are.
    """
    starts = jnp.arange(0, len(shard.table), chunk)

    def find(block):
        def step(found, start):
            scores, _ = _scores(block[0], shard, start, chunk, n_items)
            new, _ = _find(scores, jnp.where(block[1] >= start, block[1] - _begin(shard, start, chunk), -1))
            highest = jnp.maximum(found.highest, new.highest)
            old_total, new_total = (each.total * jnp.exp(each.highest - highest) for each in (found, new))
            return _Walk(highest, old_total + new_total, found.target_score + new.target_score), None

        nothing = jnp.zeros(block[1].shape)
        return jax.lax.scan(step, _Walk(nothing + LEAST_SCORE, nothing, nothing), starts)[0]

    loss, highest, scale = finish(jax.lax.map(find, (asked.states, asked.places)), asked)
    if not with_gradients:
        return loss, None, None, None, None

    def step(totals, start):
        d_states, d_table = totals

        def add_block(d_rows, block):
            states, highest, scale = block
            scores, rows = _scores(states, shard, start, chunk, n_items)
            d_states, more = _gradients(jnp.exp(scores - highest[:, None]), scale, states, rows)
            return d_rows + more.T, d_states

        begin = _begin(shard, start, chunk)
        # The last chunk may overlap the one before it, whose rows it leaves as they are.
        d_rows = jax.lax.dynamic_slice_in_dim(d_table, begin, chunk)
        d_rows, more = jax.lax.scan(add_block, d_rows, (asked.states, highest, scale))
        return (d_states + more, jax.lax.dynamic_update_slice_in_dim(d_table, d_rows, begin, 0)), None

    zeros = (jnp.zeros(asked.states.shape), jnp.zeros(shard.table.shape))
    (d_states, d_table), _ = jax.lax.scan(step, zeros, starts)
    return loss, highest, scale, d_states, d_table


def _begin(shard: CatalogueShard, start, chunk: int):
    """Where a chunk from `start` on is read: earlier than that at the end, so that it is whole."""
    return jnp.minimum(start, len(shard.table) - chunk)


def _scores(states, shard: CatalogueShard, start, chunk: int, n_items: int) -> tuple[Array, Array]:
    """Scores of a chunk's rows, -inf for those that are no items or come before `start`; and the rows."""
    begin = _begin(shard, start, chunk)
    rows = jax.lax.dynamic_slice_in_dim(shard.table, begin, chunk)
    row = begin + jnp.arange(chunk)
    is_item = (row >= start) & (row + shard.first >= 1) & (row + shard.first <= n_items)
    return _product(states, rows.T) + jnp.where(is_item, 0.0, -jnp.inf), rows


def _mask_ends(scores: Array, shard: CatalogueShard, n_items: int) -> Array:
    """Scores of a whole shard, -inf for those that are no items: these are at its ends."""
    n_rows = len(shard.table)
    row = shard.first + jnp.arange(n_rows)
    bias = jnp.where((row >= 1) & (row <= n_items), 0.0, -jnp.inf)
    n_last = min(n_rows, shard.n_rows - 1 - n_items)
    # Only there: over all scores it would be one more walk through memory.
    for end in (slice(0, 1), slice(n_rows - n_last, n_rows)):
        scores = scores.at[:, end].add(bias[end])
    return scores


def _find(scores: Array, places: Array) -> tuple[_Walk, Array]:
    """What a walk keeps of these scores, and exp(score - highest)."""
    highest = jnp.max(scores, axis=-1, initial=LEAST_SCORE)
    target_score = take(scores, places[:, None], fill=0.0)[:, 0]
    # Once nothing else needs the scores, the exponentials take their place in memory.
    scores, highest, target_score = jax.lax.optimization_barrier((scores, highest, target_score))
    exponentials = jnp.exp(scores - highest[:, None])
    return _Walk(highest, jnp.sum(exponentials, axis=-1), target_score), exponentials


def _weigh(values: Array, labels: Array, weights: Array | None) -> Array:
    # Padding has target 0, whose score is -inf: chosen away, since a weight of 0 would make it NaN.
    values = jnp.where(labels > 0, values, 0.0)
    return values if weights is None else values * weights


def _finish(
    found: _Walk, asked: _Asked, *, shard: CatalogueShard, target_share: Scalar, z_loss: float, taken: float
) -> tuple[Array, ...]:
    """The loss, each position's highest score over all shards, and what exp(score - highest) weighs in gradients."""
    highest = shard.highest(found.highest)
    total = found.total * jnp.exp(found.highest - highest)
    if asked.seen_scores is not None:
        total -= taken * jnp.sum(jnp.exp(asked.seen_scores - highest[..., None]), axis=-1)
    total, target_score = shard.total((total, found.target_score))
    log_normaliser = jnp.log(total) + highest
    losses = log_normaliser + z_loss * log_normaliser**2 - target_share * target_score
    scale = _weigh((1.0 + 2.0 * z_loss * log_normaliser) / total, asked.labels, asked.weights)
    return jnp.sum(_weigh(losses, asked.labels, asked.weights)), highest, scale


def _gradients(exponentials, scale, states, rows) -> tuple[Array, Array]:
    """Of the log-normalisers, with respect to states and, transposed, to rows."""
    # Probabilities are never formed: their normaliser scales the small side of both products.
    exponentials = exponentials.astype(states.dtype)
    # Transposed, since a CPU then reads the large side in order: in .6 of the time.
    return scale[:, None] * _product(exponentials, rows), _product((scale[:, None] * states).T, exponentials)
