"""Softmax sums and gradients over the scores of positions and items, in blocks of both."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.metrics.ranks import take
from seqrec.sharding import CatalogueShard

LEAST_SCORE = -1e30
"""Below any score that is a number, and finite, so that a difference to it is no NaN."""


class Mixture(NamedTuple):
    """A second source of the target's probability: P(target) = exp(log_share) * softmax + exp(log_mass)."""

    log_share: Float[Array, "*positions"]
    """Log of the probability that the softmax distributes."""
    log_mass: Float[Array, "*positions"]
    """Log of the target's probability from elsewhere."""


class Sums(NamedTuple):
    """What a pass over the items keeps of each position's scores, for its loss and gradient."""

    highest: Float[Array, "*positions"]
    total: Float[Array, "*positions"]
    """Sum of exp(score - highest)."""
    target_score: Float[Array, "*positions"]
    """0 if the target is not among the items."""


class Positions(NamedTuple):
    """States and their targets, in blocks."""

    states: Float[Array, "*positions d_model"]
    labels: Int[Array, "*positions"]
    """Their targets."""
    places: Int[Array, "*positions"]
    """Rows of the targets in the shard's table; -1 where another shard holds it."""
    weights: Float[Array, "*positions"] | None
    seen_scores: Float[Array, "*positions length"] | None
    """Scores of the seen items that the normaliser weighs less, as `softmax._seen_scores` returns them."""
    mixture: Mixture | None
    unwanted: Bool[Array, "*positions"] | None
    """Whether the target is to become less likely."""


def _product(states: Array, other: Array) -> Array:
    """A matrix product in the type of `states`, summed in float32."""
    return jnp.matmul(states, other.astype(states.dtype), preferred_element_type=jnp.float32)


def by_blocks(positions: Positions, shard: CatalogueShard, chunk: int, n_items: int, finish, *, with_gradients: bool):
    """One pass over blocks of positions, each scored once against the whole shard: three matrix products."""
    is_item = _is_item(jnp.arange(len(shard.table)), shard, n_items)
    # Padding scores as one of the items does, so that the highest score needs no mask, which would copy all scores.
    rows = jnp.where(is_item[:, None], shard.table, shard.table[jnp.argmax(is_item)])

    def step(totals, block):
        loss, d_table = totals
        scores = _product(block.states, rows.T)
        highest = jnp.where(jnp.any(is_item), jnp.max(scores, axis=-1), LEAST_SCORE)
        sums, exponentials = _sums(scores, highest, block.places, is_item)
        more, highest, scale, slopes = finish(sums, block)
        if not with_gradients:
            return (loss + more, d_table), None
        local_scale = scale * jnp.exp(sums.highest - highest)
        d_states, d_rows = _gradients(exponentials, local_scale, block.states, rows)
        return (loss + more, d_table + d_rows), (highest, scale, slopes, d_states)

    start = (jnp.zeros(()), jnp.zeros(shard.table.T.shape) if with_gradients else None)
    (loss, d_table), per_block = jax.lax.scan(step, start, positions)
    if d_table is None:
        return loss, None, None, None, None, None
    return loss, *per_block, d_table.T


def by_chunks(positions: Positions, shard: CatalogueShard, chunk: int, n_items: int, finish, *, with_gradients: bool):
    """Two passes over chunks of the catalogue, for the normalisers and for the gradients: four matrix products.

    Each row of the table, and of its gradient, is read and written once a pass, however many positions there are.
    """
    starts = jnp.arange(0, len(shard.table), chunk)

    def sums_of(block):
        def step(before, start):
            scores, _ = _scores(block[0], shard, start, chunk, n_items)
            places = jnp.where(block[1] >= start, block[1] - _begin(shard, start, chunk), -1)
            new, _ = _sums(scores, jnp.max(scores, axis=-1, initial=LEAST_SCORE), places)
            highest = jnp.maximum(before.highest, new.highest)
            old_total, new_total = (each.total * jnp.exp(each.highest - highest) for each in (before, new))
            return Sums(highest, old_total + new_total, before.target_score + new.target_score), None

        nothing = jnp.zeros(block[1].shape)
        return jax.lax.scan(step, Sums(nothing + LEAST_SCORE, nothing, nothing), starts)[0]

    loss, highest, scale, slopes = finish(jax.lax.map(sums_of, (positions.states, positions.places)), positions)
    if not with_gradients:
        return loss, None, None, None, None, None

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
        d_rows, more = jax.lax.scan(add_block, d_rows, (positions.states, highest, scale))
        return (d_states + more, jax.lax.dynamic_update_slice_in_dim(d_table, d_rows, begin, 0)), None

    zeros = (jnp.zeros(positions.states.shape), jnp.zeros(shard.table.shape))
    (d_states, d_table), _ = jax.lax.scan(step, zeros, starts)
    return loss, highest, scale, slopes, d_states, d_table


def _begin(shard: CatalogueShard, start, chunk: int):
    """First row of the chunk at `start`; the last chunk starts earlier, so that it is complete."""
    return jnp.minimum(start, len(shard.table) - chunk)


def _scores(states, shard: CatalogueShard, start, chunk: int, n_items: int) -> tuple[Array, Array]:
    """Scores of a chunk's rows, -inf for padding and rows before `start`; and the rows."""
    begin = _begin(shard, start, chunk)
    rows = jax.lax.dynamic_slice_in_dim(shard.table, begin, chunk)
    row = begin + jnp.arange(chunk)
    is_scored = (row >= start) & _is_item(row, shard, n_items)
    return _product(states, rows.T) + jnp.where(is_scored, 0.0, -jnp.inf), rows


def _is_item(row: Array, shard: CatalogueShard, n_items: int) -> Array:
    """Whether rows of a shard's table are items and not padding, which is first and last in the catalogue."""
    return (row + shard.first >= 1) & (row + shard.first <= n_items)


def _sums(scores: Array, highest: Array, places: Array, is_item: Array | None = None) -> tuple[Sums, Array]:
    """What a pass keeps of these scores, and exp(score - highest), 0 for rows that are padding."""
    target_score = take(scores, places[:, None], fill=0.0)[:, 0]
    # Once nothing else needs the scores, the exponentials take their place in memory.
    scores, highest, target_score = jax.lax.optimization_barrier((scores, highest, target_score))
    exponentials = jnp.exp(scores - highest[:, None])
    if is_item is not None:
        exponentials = jnp.where(is_item, exponentials, 0.0)
    return Sums(highest, jnp.sum(exponentials, axis=-1), target_score), exponentials


def _gradients(exponentials, scale, states, rows) -> tuple[Array, Array]:
    """Gradients of the log-normalisers with respect to states and, transposed, to rows."""
    # Probabilities are never formed: their normaliser scales the small side of both products.
    exponentials = exponentials.astype(states.dtype)
    # Transposed, since a CPU then reads the large side in order: in .6 of the time.
    return scale[:, None] * _product(exponentials, rows), _product((scale[:, None] * states).T, exponentials)
