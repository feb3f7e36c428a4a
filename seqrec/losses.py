"""Losses over the catalogue: (hidden, item table, targets) in, (sum, count) out, in blocks of positions."""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec import negatives
from seqrec.sharding import map_rows
from seqrec.types import InputError

BLOCK_ELEMENTS = 2**21
"""Scores held at a time: 8 MB of float32. On 2 CPU cores blocks of 1 to 4 MB and 16 MB took 1.0 to 1.3x the time."""


def block_size(n_rows: int, n_columns: int, *, budget: int = BLOCK_ELEMENTS) -> int:
    """How many of `n_rows` fit into `budget` scores of `n_columns` each; at least 8, so that products stay dense."""
    return max(1, min(n_rows, max(8, budget // n_columns)))


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
    key: Array | None = None,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Sum of cross-entropies against the whole catalogue, in nats, and the number of targets; target 0 is skipped.

    Nothing is drawn, so `key` is not used.

    Gradients are taken while a block's scores are at hand, so a backward pass makes no second product and
    nothing of size positions x items exists.
    """
    _check_shapes(hidden, item_table, targets, n_items)
    return _softmax_loss(hidden, item_table, targets, n_items), jnp.sum(targets > 0)


def sampled_softmax_loss(
    hidden: Float[Array, "rows length d_model"],
    item_table: Float[Array, "n_rows d_model"],
    targets: Int[Array, "rows length"],
    *,
    n_items: int,
    n_negatives: int,
    key: Array,
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """As `softmax_loss`, with the sum over other items estimated from uniform draws that all positions share.

    Each draw is divided by its expected count (the logQ correction: Bengio and Senécal 2008, eq. 8), and draws
    that hit the target are left out, so the estimated sum is unbiased.
    """
    _check_shapes(hidden, item_table, targets, n_items)
    ids, log_q = negatives.uniform(key, n_negatives=n_negatives, n_items=n_items)
    target_scores = jnp.sum(hidden * item_table[targets], axis=-1, keepdims=True)
    scores = hidden @ item_table[ids].T - (log_q + math.log(n_negatives))
    scores = jnp.where(ids == targets[..., None], -jnp.inf, scores)
    losses = jax.nn.logsumexp(jnp.concatenate([target_scores, scores], axis=-1), axis=-1) - target_scores[..., 0]
    return jnp.sum(losses, where=targets > 0), jnp.sum(targets > 0)


def _check_shapes(hidden: Array, item_table: Array, targets: Array, n_items: int) -> None:
    chex.assert_rank([hidden, item_table, targets], [3, 2, 2])
    chex.assert_type(targets, int)
    chex.assert_equal_shape_prefix([hidden, targets], 2)
    check_item_table(item_table, n_items)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _softmax_loss(hidden, item_table, targets, n_items):
    return _sums(hidden, item_table, targets, n_items, with_gradients=False)[0]


def _forward(hidden, item_table, targets, n_items):
    return _sums(hidden, item_table, targets, n_items, with_gradients=True)


def _backward(n_items, gradients, cotangent):
    d_hidden, d_table = gradients
    return cotangent * d_hidden, cotangent * d_table, None


_softmax_loss.defvjp(_forward, _backward)


def _sums(hidden, item_table, targets, n_items: int, *, with_gradients: bool) -> tuple[Array, Any]:
    """The loss and, if asked for, its gradients (d_hidden, d_table)."""

    def local(hidden, targets, item_table):
        d_model = hidden.shape[-1]
        n_positions, n_rows = targets.size, item_table.shape[0]
        block = block_size(n_positions, n_rows)
        n_blocks = -(-n_positions // block)
        padding = n_blocks * block - n_positions
        hidden_blocks = jnp.pad(hidden.reshape(-1, d_model), ((0, padding), (0, 0))).reshape(n_blocks, block, d_model)
        target_blocks = jnp.pad(targets.reshape(-1), (0, padding)).reshape(n_blocks, block)
        bias = catalogue_bias(n_rows, n_items)

        def step(totals, block):
            loss, d_table = totals
            hidden, targets = block
            weight = jnp.where(targets > 0, 1.0, 0.0)
            scores = hidden @ item_table.T + bias
            top = jnp.max(scores, axis=-1)
            target_score = jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
            # Padding has target 0, whose score is -inf: chosen away before it meets a 0 weight and makes NaN.
            target_score = jnp.where(targets > 0, target_score, top)
            exponentials = jnp.exp(scores - top[:, None])
            normaliser = jnp.sum(exponentials, axis=-1)
            loss += jnp.sum(weight * (jnp.log(normaliser) + top - target_score))
            if not with_gradients:
                return (loss, d_table), None
            # Probabilities are never formed: their normaliser scales the small side of both products.
            scale = (weight / normaliser)[:, None]
            d_hidden = scale * (exponentials @ item_table)
            return (loss, d_table + exponentials.T @ (scale * hidden)), d_hidden

        start: Any = (jnp.zeros(()), jnp.zeros_like(item_table) if with_gradients else None)
        (loss, d_table), d_hidden = jax.lax.scan(step, start, (hidden_blocks, target_blocks))
        if not with_gradients:
            return (), (loss,)
        d_hidden = d_hidden.reshape(-1, d_model)[:n_positions].reshape(hidden.shape)
        weight = jnp.where(targets > 0, 1.0, 0.0)[..., None]
        d_hidden = d_hidden - weight * item_table[targets]
        d_table = d_table.at[targets].add(-weight * hidden)
        return d_hidden, (loss, d_table)

    per_row, totals = map_rows(local, (hidden, targets), (item_table,))
    return totals[0], (per_row, totals[1]) if with_gradients else None
