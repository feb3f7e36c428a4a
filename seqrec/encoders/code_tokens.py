"""Flat tokens: a Transformer that reads one position for each code of each item (Rajput et al. 2023, section 3.2)."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from seqrec.encoders.seq2seq import history_segments
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.params import Params
from seqrec.types import Batch, BatchFormat, Encoder, InputError, States, Times


def code_tokens(
    config: TransformerConfig, *, n_items: int, n_levels: int, max_length: int, times: Times = "none"
) -> Encoder:
    """An encoder of items with `n_levels` codes, whose states are [rows, length x n_levels, d_model], for a decoder.

    Token n_levels x item + level, of the item's code at that level, is looked up in the item table, which composed
    parameters hold for it. A bidirectional one (`causal=False`) reads each history up to the first item whose next one
    is unknown (0), as `seq2seq` does; a causal one reads all, and serves a question about any position.

    >>> encoder = code_tokens(TransformerConfig(d_model=8), n_items=5, n_levels=3, max_length=4)
    >>> encoder.reads.max_length, encoder.causal
    (4, True)
    """
    reader = transformer(config, n_items=n_items, max_length=n_levels * max_length, times=times)

    def each(values: Int[Array, "rows length"]) -> Int[Array, "rows n_tokens"]:
        return jnp.repeat(values, n_levels, axis=1)

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        if added is not None:
            raise InputError("flat tokens are codes of items alone; leave --event-features out, or use --tokens items")
        levels = jnp.tile(jnp.arange(n_levels), batch.items.shape[1])
        tokens = n_levels * each(batch.items) + levels
        segments = batch.segment_ids if config.causal else history_segments(batch)
        flat = Batch(
            tokens,
            tokens,
            each(segments),
            n_levels * each(batch.positions) + levels,
            times=None if batch.times is None else each(batch.times),
        )
        return reader.encode(params, flat, key=key)

    reads = BatchFormat(max_length, times=times)
    return Encoder(reader.specs, encode, n_items, config.d_model, reads, causal=config.causal)
