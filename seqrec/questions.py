"""What a training step asks: a batch in, what the model reads and what it must predict out."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqrec.config import check_fields, check_share
from seqrec.types import Ask, Batch, Question


@dataclass(frozen=True)
class MaskedItemConfig:
    """Which items `masked_item` hides."""

    mask_share: float = 0.2
    """Share of each row's positions whose items are hidden in a training step."""
    last_share: float = 0.1
    """Share of rows in which only the newest item of each history is hidden, as in evaluation."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_share(self, "mask_share", "last_share", zero=False, one=False)


def masked_items(config: MaskedItemConfig) -> Ask:
    """`masked_item` with the shares of the config."""
    return functools.partial(masked_item, mask_share=config.mask_share, last_share=config.last_share)


def next_item(batch: Batch, *, key: Array | None = None, unwanted_skips: bool = False) -> Question:
    """Reads each history and predicts, at every position, the item that followed; `key` is not used.

    An item that was skipped is no target, and with `unwanted_skips` is to become less likely.

    >>> row = jnp.array([[4, 7, 9, 0]])
    >>> batch = Batch(row, jnp.array([[7, 9, 0, 0]]), segment_ids=jnp.sign(row), positions=jnp.arange(4)[None])
    >>> next_item(batch).targets.tolist()
    [[7, 9, 0, 0]]
    """
    del key
    if batch.next_skips is None:
        return Question(batch, batch.next_items, weights=batch.next_weights)
    skipped, others = (jnp.where(which, batch.next_items, 0) for which in (batch.next_skips, ~batch.next_skips))
    return Question(batch, others, weights=batch.next_weights, unwanted=skipped if unwanted_skips else None)


def _less_skips(eligible: Bool[Array, "rows length"], batch: Batch) -> Bool[Array, "rows length"]:
    return eligible if batch.next_skips is None else eligible & ~batch.next_skips


def _weights_at(batch: Batch, places: Int[Array, "rows queried"]) -> Float[Array, "rows queried"] | None:
    return None if batch.next_weights is None else jnp.take_along_axis(batch.next_weights, places, axis=1)


def masked_item(batch: Batch, *, key: Array, mask_share: float = 0.2, last_share: float = 0.1) -> Question:
    """Hides items of each history and predicts them from all others (BERT4Rec: Sun et al. 2019, section 3.5).

    For an encoder that reads `next_items`, where 0 inside a history is a hidden item. In each row `mask_share` of
    the positions are hidden, uniformly over all histories in it; in a share `last_share` of the rows instead only the
    newest item of each history, which is what evaluation asks.
    """
    pick_key, row_key = jax.random.split(key)
    rows, length = batch.next_items.shape
    known = batch.next_items > 0
    newest = known & (jnp.diff(batch.segment_ids, axis=1, append=0) != 0)
    last_only = jax.random.uniform(row_key, (rows, 1)) < last_share
    eligible = jnp.where(last_only, newest, known)
    n_targets = max(1, round(mask_share * length))
    targets, places = _pick(pick_key, batch.next_items, _less_skips(eligible, batch), n_targets=n_targets)
    hidden = jnp.zeros_like(batch.next_items).at[jnp.arange(rows)[:, None], places].max(targets > 0)
    inputs = batch._replace(next_items=jnp.where(hidden > 0, 0, batch.next_items))
    return Question(inputs, targets, places, _weights_at(batch, places))


def continuation(batch: Batch, *, key: Array, target_share: float = 0.75, first_only: bool = False) -> Question:
    """Cuts each history in two at a uniformly drawn position and predicts each item of the second part from all before.

    For an encoder-decoder, which takes an unknown next item (0) as the start of its own part; it reads that part's
    true items so far (teacher forcing: Williams and Zipser 1989). Both parts have at least one item. About half of all
    positions are targets, or with `first_only` one of each history, the first of its second part; where they are more
    than `target_share` of a row, some are dropped.
    """
    cut_key, pick_key = jax.random.split(key)
    rows, length = batch.items.shape
    row, segments = jnp.arange(rows)[:, None], batch.segment_ids
    n_pairs = jnp.zeros((rows, length + 1), jnp.int32).at[row, segments].add(1)
    draws = jax.random.uniform(cut_key, (rows, length + 1))
    newest = jnp.minimum((draws * n_pairs).astype(jnp.int32), n_pairs - 1)
    after = (batch.next_items > 0) & (batch.positions >= newest[row, segments])
    eligible = after & (batch.positions == newest[row, segments]) if first_only else after
    n_targets = max(1, round(target_share * length))
    targets, places = _pick(pick_key, batch.next_items, _less_skips(eligible, batch), n_targets=n_targets)
    inputs = batch._replace(next_items=jnp.where(after, 0, batch.next_items))
    return Question(inputs, targets, places, _weights_at(batch, places))


first_of_continuation = functools.partial(continuation, target_share=0.25, first_only=True)
"""For an encoder-decoder that continues a history by one item, as it is asked to in evaluation."""


def _pick(
    key: Array, items: Int[Array, "rows length"], eligible: Bool[Array, "rows length"], *, n_targets: int
) -> tuple[Int[Array, "rows n_targets"], Int[Array, "rows n_targets"]]:
    """Targets and their positions, any `n_targets` eligible ones of each row; where there are fewer, targets are 0."""
    chances = jnp.where(eligible, jax.random.uniform(key, items.shape), -1.0)
    largest, places = jax.lax.top_k(chances, n_targets)
    return jnp.where(largest >= 0, jnp.take_along_axis(items, places, axis=1), 0), places
