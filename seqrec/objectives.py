"""A batch in, what the model reads and what it must predict out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.types import Batch


class Question(NamedTuple):
    """What a model is asked about a batch."""

    inputs: Batch
    """What it reads."""
    targets: Int[Array, "rows asked"]
    """Item id to predict; 0 is not scored."""
    places: Int[Array, "rows asked"] | None = None
    """In its row, the position whose state is asked; None where each position is, in order."""
    weights: Float[Array, "rows asked"] | None = None
    """How much each target counts; None where all count alike."""
    unwanted: Int[Array, "rows asked"] | None = None
    """Item id that is to become less likely there, where there is no target; 0 where there is none."""


def next_item(batch: Batch, *, key: Array | None = None, unwanted_skips: bool = False) -> Question:
    """Reads each history and predicts, at every position, the item that followed; nothing is drawn by `key`.

    An item that was skipped is no target, and with `unwanted_skips` is to become less likely.
    """
    del key
    if batch.next_skips is None:
        return Question(batch, batch.next_items, weights=batch.next_weights)
    skipped, others = (jnp.where(which, batch.next_items, 0) for which in (batch.next_skips, ~batch.next_skips))
    return Question(batch, others, weights=batch.next_weights, unwanted=skipped if unwanted_skips else None)


def _less_skips(eligible: Bool[Array, "rows length"], batch: Batch) -> Bool[Array, "rows length"]:
    return eligible if batch.next_skips is None else eligible & ~batch.next_skips


def _weights_at(batch: Batch, places: Int[Array, "rows asked"]) -> Float[Array, "rows asked"] | None:
    return None if batch.next_weights is None else jnp.take_along_axis(batch.next_weights, places, axis=1)


def masked_item(batch: Batch, *, key: Array, mask_share: float = 0.2, last_share: float = 0.1) -> Question:
    """Hides items of each history and predicts them from all others (BERT4Rec: Sun et al. 2019, section 3.5).

    For an encoder that reads `next_items`, where 0 inside a history is a hidden item. In each row `mask_share` of
    the positions are hidden, evenly over all histories in it; in a share `last_share` of the rows instead the
    newest item of each history alone, which is what evaluation asks.
    """
    pick_key, row_key = jax.random.split(key)
    rows, length = batch.next_items.shape
    known = batch.next_items > 0
    newest = known & (jnp.diff(batch.segment_ids, axis=1, append=0) != 0)
    last_only = jax.random.uniform(row_key, (rows, 1)) < last_share
    eligible = jnp.where(last_only, newest, known)
    n_asked = max(1, round(mask_share * length))
    targets, places = _pick(pick_key, batch.next_items, _less_skips(eligible, batch), n_asked=n_asked)
    hidden = jnp.zeros_like(batch.next_items).at[jnp.arange(rows)[:, None], places].max(targets > 0)
    inputs = batch._replace(next_items=jnp.where(hidden > 0, 0, batch.next_items))
    return Question(inputs, targets, places, _weights_at(batch, places))


def continuation(batch: Batch, *, key: Array, asked_share: float = 0.75) -> Question:
    """Cuts each history in two at a place drawn evenly and predicts each item of the second part from all before it.

    For an encoder-decoder, to which an unknown next item (0) says that its own part has begun; it is given that part's
    true items so far (teacher forcing: Williams and Zipser 1989). The first part has one item at least and so has the
    second. About half of all positions are asked; where they are more than `asked_share` of a row, some are dropped.
    """
    cut_key, pick_key = jax.random.split(key)
    rows, length = batch.items.shape
    row, segments = jnp.arange(rows)[:, None], batch.segment_ids
    n_pairs = jnp.zeros((rows, length + 1), jnp.int32).at[row, segments].add(1)
    draws = jax.random.uniform(cut_key, (rows, length + 1))
    newest = jnp.minimum((draws * n_pairs).astype(jnp.int32), n_pairs - 1)
    eligible = (batch.next_items > 0) & (batch.positions >= newest[row, segments])
    n_asked = max(1, round(asked_share * length))
    targets, places = _pick(pick_key, batch.next_items, _less_skips(eligible, batch), n_asked=n_asked)
    inputs = batch._replace(next_items=jnp.where(eligible, 0, batch.next_items))
    return Question(inputs, targets, places, _weights_at(batch, places))


def _pick(
    key: Array, items: Int[Array, "rows length"], eligible: Bool[Array, "rows length"], *, n_asked: int
) -> tuple[Int[Array, "rows n_asked"], Int[Array, "rows n_asked"]]:
    """Targets and their places, any `n_asked` that are eligible in each row; where they are fewer, targets are 0."""
    chances = jnp.where(eligible, jax.random.uniform(key, items.shape), -1.0)
    largest, places = jax.lax.top_k(chances, n_asked)
    return jnp.where(largest >= 0, jnp.take_along_axis(items, places, axis=1), 0), places
