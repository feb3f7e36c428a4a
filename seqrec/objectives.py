"""A batch in, what the model reads and what it must predict out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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


def next_item(batch: Batch, *, key: Array | None = None) -> Question:
    """Reads each history and predicts, at every position, the item that followed; nothing is drawn by `key`."""
    del key
    return Question(batch, batch.next_items)


def masked_item(batch: Batch, *, key: Array, mask_share: float = 0.2, last_share: float = 0.1) -> Question:
    """Hides items of each history and predicts them from all others (BERT4Rec: Sun et al. 2019, section 3.5).

    For an encoder that reads `next_items`, where 0 inside a history is a hidden item. In each row `mask_share` of
    the positions are hidden, evenly over all histories in it; in a share `last_share` of the rows instead the
    newest item of each history alone, which is what evaluation asks.
    """
    pick_key, row_key = jax.random.split(key)
    rows, length = batch.next_items.shape
    n_asked = max(1, round(mask_share * length))
    known = batch.next_items > 0
    newest = known & (jnp.diff(batch.segment_ids, axis=1, append=0) != 0)
    last_only = jax.random.uniform(row_key, (rows, 1)) < last_share
    eligible = jnp.where(last_only, newest, known)
    chances = jnp.where(eligible, jax.random.uniform(pick_key, (rows, length)), -1.0)
    largest, places = jax.lax.top_k(chances, n_asked)
    targets = jnp.where(largest >= 0, jnp.take_along_axis(batch.next_items, places, axis=1), 0)
    hidden = jnp.zeros_like(batch.next_items).at[jnp.arange(rows)[:, None], places].max(targets > 0)
    return Question(batch._replace(next_items=jnp.where(hidden > 0, 0, batch.next_items)), targets, places)
