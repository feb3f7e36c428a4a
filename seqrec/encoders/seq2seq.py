"""The encoder-decoder: a bidirectional Transformer reads a history, a causal one goes on from it.

Vaswani et al. 2017, section 3.1, on item ids. In a batch an item whose next one is known (`next_items` above 0) belongs
to the history, with the newest; from the newest on the decoder reads, and each of its states predicts the item that
follows. So a batch of queries asks for the first item of a continuation, as it asks any encoder for the next item.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from seqrec.attention import (
    KeysAndValues,
    attention_specs,
    causal_mask,
    cross_attention_specs,
    mix_values,
    queries_keys_values,
    split_heads,
)
from seqrec.config import check_at_least, check_fields
from seqrec.encoders.transformer import TransformerConfig, apply_parts, block_specs, embed, rotary_angles, transformer
from seqrec.layers import Rotation, dense, norm, norm_specs, rotate
from seqrec.params import Params
from seqrec.types import Batch, BatchFormat, Decoder, Encoder, InputError, States


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Size and architecture of the encoder-decoder."""

    encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(causal=False))
    """Architecture of encoder and decoder; n-blocks, rematerialise and scan-blocks apply to the encoder only."""
    n_decoder_blocks: int = 2
    """Number of decoder blocks, each self-attention, attention to the encoder's states and a feed-forward network."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "n_decoder_blocks")
        if self.encoder.causal:
            raise ValueError("the encoder of an encoder-decoder reads its history both ways; leave --causal out")


class Memory(NamedTuple):
    """What the decoder reads of a history."""

    blocks: list[KeysAndValues]
    """Keys and values for each block of the decoder."""
    mask: Bool[Array, "rows length n_memory"]
    """Which of them each position reads."""


def decoder_specs(config: TransformerConfig, n_blocks: int) -> Params:
    """Blocks of self-attention, attention to an encoder's states and a feed-forward network."""
    parts = {"attention": attention_specs(config.d_model), "cross_attention": cross_attention_specs(config.d_model)}
    specs: Params = {"blocks": [block_specs(config, parts) for _ in range(n_blocks)]}
    if config.norm_first:
        specs["final_norm"] = norm_specs(config.norm, config.d_model)
    return specs


def keys_and_values(
    config: TransformerConfig, params: Params, states: States, *, angles: Rotation | None
) -> list[KeysAndValues]:
    """Those of an encoder's states for each block of a decoder with these `params`."""
    memories = []
    for block in params["blocks"]:
        product = dense(states, block["cross_attention"]["kv"].astype(states.dtype))
        k, v = split_heads(product, n_parts=2, n_heads=config.n_heads)
        memories.append((k if angles is None else rotate(k, angles), v))
    return memories


def decode(
    config: TransformerConfig,
    params: Params,
    x: States,
    memory: Memory,
    *,
    mask: Bool[Array, "rows length n_keys"],
    angles: Rotation | None,
    caches: list[KeysAndValues] | None = None,
    place: Int[Array, ""] | int = 0,
    key: Array | None = None,
) -> tuple[States, list[KeysAndValues]]:
    """States of a decoder, and each block's own keys and values: put into `caches` at `place`, if there are any."""
    keys = None if key is None else jax.random.split(key, (len(params["blocks"]), 6))
    dtype = x.dtype
    new_caches: list[KeysAndValues] = []
    for index, (block, history) in enumerate(zip(params["blocks"], memory.blocks, strict=True)):
        block = jax.tree.map(lambda leaf: leaf.astype(dtype), block)
        weights_key, cross_key = (None, None) if keys is None else keys[index, :2]
        dropout_options = {"dropout_rate": config.attention_dropout}

        def attend(x, block=block, index=index, key=weights_key, dropout_options=dropout_options):
            q, k, v = queries_keys_values(block["attention"], x, angles=angles, n_heads=config.n_heads)
            if caches is not None:
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(cache, new, place, axis=2)
                    for cache, new in zip(caches[index], (k, v), strict=True)
                )
            new_caches.append((k, v))
            return dense(mix_values(q, k, v, mask=mask, key=key, **dropout_options), block["attention"]["out"])

        def cross_attend(x, block=block, history=history, key=cross_key, dropout_options=dropout_options):
            q = split_heads(dense(x, block["cross_attention"]["q"]), n_parts=1, n_heads=config.n_heads)[0]
            q = q if angles is None else rotate(q, angles)
            mixed = mix_values(q, *history, mask=memory.mask, key=key, **dropout_options)
            return dense(mixed, block["cross_attention"]["out"])

        parts = {"attention": attend, "cross_attention": cross_attend}
        x = apply_parts(config, block, x, parts, keys=None if keys is None else keys[index, 2:])
    if config.norm_first:
        x = norm(params["final_norm"], x, kind=config.norm)
    return x, new_caches


def history_segments(batch: Batch) -> Int[Array, "rows length"]:
    """Segments of the items whose next one is known, and of the newest after them; 0 for what is decoded later."""
    after_decoded = jnp.pad(batch.next_items == 0, ((0, 0), (1, 0)))[:, :-1]
    return jnp.where((batch.positions == 0) | ~after_decoded, batch.segment_ids, 0)


def seq2seq(config: Seq2SeqConfig, *, n_items: int, max_length: int) -> Encoder:
    """An encoder-decoder, whose `encode` gives the decoder's states and whose `decoder` continues with a cache.

    A history and its continuation share `max_length` positions. States of a history's items but the newest mean
    nothing: ask for none.

    >>> encoder = seq2seq(Seq2SeqConfig(), n_items=5, max_length=4)
    >>> encoder.causal, encoder.decoder is None
    (False, False)
    """
    sizes = config.encoder
    reader = transformer(sizes, n_items=n_items, max_length=max_length)

    def encode_history(
        params: Params,
        items: Int[Array, "rows length"],
        segment_ids: Int[Array, "rows length"],
        positions: Int[Array, "rows length"],
        *,
        key: Array | None = None,
    ) -> list[KeysAndValues]:
        """Keys and values of the histories' states for each block of the decoder."""
        states = reader.encode(params, Batch(items, items, segment_ids, positions), key=key)
        angles = rotary_angles(sizes, positions, max_length=max_length)
        return keys_and_values(sizes, params["decoder"], states, angles=angles)

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        if added is not None:
            raise InputError("an encoder-decoder reads item ids alone; use a causal encoder")
        read_key, embed_key, decode_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        items, segments, positions = batch.items, batch.segment_ids, batch.positions
        is_decoded, history = batch.next_items == 0, history_segments(batch)
        blocks = encode_history(params, items, history, positions, key=read_key)
        # Every position sees itself: those of which nothing is asked must see something.
        is_self = jnp.eye(items.shape[1], dtype=bool)
        states, _ = decode(
            sizes,
            params["decoder"],
            embed(sizes, params, items, positions, key=embed_key),
            Memory(blocks, segments[:, :, None] == history[:, None, :]),
            mask=causal_mask(segments) & (is_decoded[:, None, :] | is_self),
            angles=rotary_angles(sizes, positions, max_length=max_length),
            key=decode_key,
        )
        return states

    def start(params: Params, items: Int[Array, "rows length"], lengths: Int[Array, " rows"], *, n: int):
        rows, length = items.shape
        positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
        is_read = positions < lengths[:, None]
        blocks = encode_history(params, items, is_read.astype(jnp.int32), positions)
        shape = (rows, sizes.n_heads, n, sizes.d_model // sizes.n_heads)
        empty = jnp.zeros(shape, jnp.dtype(sizes.compute_dtype))
        return (blocks, is_read, lengths), [(empty, empty)] * config.n_decoder_blocks

    def step(params: Params, memory, cache: list[KeysAndValues], items: Int[Array, " rows"], place: Int[Array, ""]):
        blocks, is_read, lengths = memory
        positions = (lengths - 1 + place)[:, None]
        rows, n = len(items), cache[0][0].shape[2]
        states, cache = decode(
            sizes,
            params["decoder"],
            embed(sizes, params, items[:, None], positions),
            Memory(blocks, is_read[:, None, :]),
            mask=jnp.broadcast_to(jnp.arange(n) <= place, (rows, 1, n)),
            angles=rotary_angles(sizes, positions, max_length=max_length),
            caches=cache,
            place=place,
        )
        return states[:, 0], cache

    return Encoder(
        reader.specs | {"decoder": decoder_specs(sizes, config.n_decoder_blocks)},
        encode,
        n_items=n_items,
        d_model=sizes.d_model,
        reads=BatchFormat(max_length),
        causal=False,
        decoder=Decoder(start, step),
    )
