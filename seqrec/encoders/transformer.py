"""The Transformer: SASRec as published (Kang and McAuley 2018), its modern form and BERT4Rec's, by config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from seqrec.attention import (
    Heads,
    Implementation,
    append_keys_and_values,
    attention,
    attention_specs,
    mix_histories,
    mix_values,
    queries_keys_values,
    start_keys_and_values,
)
from seqrec.config import TRACED, Range, check_at_least, check_fields, check_share
from seqrec.layers import (
    FeedForward,
    Norm,
    Rotation,
    check_heads,
    dense,
    dropout,
    feed_forward,
    feed_forward_specs,
    history_lengths,
    item_table_spec,
    item_vectors,
    newest,
    norm,
    norm_specs,
    put_rows,
    rotation,
    take_rows,
    time_rotation,
)
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, BatchFormat, Encoder, Incremental, InputError, States, Times

Mix = Callable[[int, Heads, Heads, Heads], Array]
"""From the number of a block, its queries, keys and values to the mixed values."""
Cache = dict[str, Any]
"""The number of items of each row, and the keys and values of each block."""


@dataclass(frozen=True)
class TransformerConfig:
    """Size and architecture of the Transformer encoder."""

    d_model: int = 64
    """Width of item vectors and hidden states."""
    n_blocks: int = 2
    """Number of blocks, each self-attention and a feed-forward network."""
    causal: bool = True
    """Causal attention: each position sees itself and earlier positions only; otherwise attention is bidirectional."""
    n_heads: int = 2
    """Number of attention heads; must divide d-model."""
    d_ff: int = 0
    """Width of the feed-forward hidden layer; 0 means 2 x d-model for swiglu and d-model otherwise."""
    norm: Norm = "rms"
    """Normalisation layer: RMSNorm or LayerNorm."""
    norm_first: bool = True
    """Normalise before each sublayer (pre-norm); otherwise after its residual sum (post-norm)."""
    gated: bool = False
    """Multiply each sublayer's output by a learned gate (LiGR: Borisyuk et al. 2025)."""
    positions: Literal["rotary", "learned"] = "rotary"
    """Position encoding: rotary (RoPE), or a learned vector for each position."""
    feed_forward: FeedForward = "swiglu"
    """Type of the feed-forward network."""
    dropout: Annotated[float, TRACED, Range(0.0, 0.6)] = 0.3
    """Dropout rate of embeddings, hidden units and residual branches, 0 to below 1."""
    attention_dropout: Annotated[float, TRACED] = 0.0
    """Dropout rate of attention weights, 0 to below 1."""
    attention: Implementation = "xla"
    """Attention in training: by xla, or by fused kernels on GPUs and TPUs, which need attention-dropout 0."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of hidden states and matrix products; parameters, norms and attention weights stay in float32."""
    rematerialise: bool = False
    """Gradient checkpointing: recompute each block in the backward pass, to save memory."""
    scan_blocks: bool = False
    """Compile one block and loop over it, which shortens the compilation of models with many blocks."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "d_model", "n_blocks", "n_heads")
        check_at_least(self, 0, "d_ff")
        check_share(self, "dropout", "attention_dropout", one=False)
        check_heads(d_model=self.d_model, n_heads=self.n_heads)
        if self.attention == "fused" and (isinstance(self.attention_dropout, Array) or self.attention_dropout):
            raise ValueError(
                f"fused attention drops no weights, but attention_dropout={self.attention_dropout}; "
                "use attention_dropout=0 or attention=xla"
            )
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(
                f"rotary positions turn pairs, but a head has d_model/n_heads={self.d_model // self.n_heads} "
                f"features; try d_model={2 * self.d_model}"
            )


def block_specs(config: TransformerConfig, parts: Params) -> Params:
    """The `parts` of a block, such as its attention, by name, and its feed-forward; each with its norm and gate."""
    d_ff = config.d_ff or (2 * config.d_model if config.feed_forward == "swiglu" else config.d_model)
    parts = {**parts, "feed_forward": feed_forward_specs(config.feed_forward, config.d_model, d_ff)}
    specs = {**parts, **{f"{name}_norm": norm_specs(config.norm, config.d_model) for name in parts}}
    if config.gated:
        gate = ParamSpec((config.d_model, config.d_model), ("embed", "embed"), jax.nn.initializers.normal(0.02))
        specs |= {f"{name}_gate": gate for name in parts}
    return specs


def apply_parts(
    config: TransformerConfig,
    block: Params,
    x: States,
    parts: Mapping[str, Callable[[Array], Array]],
    *,
    keys: Array | None,
) -> States:
    """`x` and what each of the `parts`, by name, and last the block's feed-forward add to it, one after another.

    `keys` has one for what each part adds, then two for the feed-forward: hidden units, and what it adds.
    """
    *part_keys, hidden_key, output_key = [None] * (len(parts) + 2) if keys is None else keys

    def feed(x: Array) -> Array:
        return feed_forward(
            block["feed_forward"], x, kind=config.feed_forward, dropout_rate=config.dropout, key=hidden_key
        )

    each = zip({**parts, "feed_forward": feed}.items(), [*part_keys, output_key], strict=True)
    for (name, part), key in each:
        added = part(norm(block[f"{name}_norm"], x, kind=config.norm) if config.norm_first else x)
        added = dropout(added, rate=config.dropout, key=key)
        if config.gated:
            added = added * jax.nn.sigmoid(dense(x, block[f"{name}_gate"]))
        x = x + added
        if not config.norm_first:
            x = norm(block[f"{name}_norm"], x, kind=config.norm)
    return x


def embed(
    config: TransformerConfig,
    params: Params,
    items: Int[Array, "rows length"],
    positions: Int[Array, "rows length"],
    *,
    added: States | None = None,
    key: Array | None = None,
) -> States:
    """The vectors that the first block reads."""
    x = item_vectors(params["item_table"], items, added=added)
    if config.positions == "learned":
        x = x + params["position_table"][positions]
    return dropout(x.astype(jnp.dtype(config.compute_dtype)), rate=config.dropout, key=key)


def rotary_angles(
    config: TransformerConfig,
    positions: Int[Array, "rows length"],
    *,
    max_length: int,
    seconds: Int[Array, "rows length"] | None = None,
) -> Rotation | None:
    """How queries and keys at these positions are rotated, where they are; half of each by `seconds`, if given."""
    if config.positions != "rotary":
        return None
    n_pairs = config.d_model // config.n_heads // 2
    n_timed = 0 if seconds is None else n_pairs // 2
    by_place = rotation(positions, n_pairs=n_pairs - n_timed, max_length=max_length)
    if seconds is None:
        return by_place
    by_time = time_rotation(seconds, n_pairs=n_timed)
    cos, sin = (jnp.concatenate(halves, axis=-1) for halves in zip(by_place, by_time, strict=True))
    return cos, sin


def transformer(config: TransformerConfig, *, n_items: int, max_length: int, times: Times = "none") -> Encoder:
    """An encoder whose state at each position knows that item and those before it in the same history.

    A bidirectional one (`causal=False`) reads `next_items` instead: its state at each position knows what followed
    every item of the history, where that is not hidden (0), and so predicts what is.

    With `times="history"` half of each head's pairs of features turn by the items' times, not by their places: what
    one item is to another then depends on the time between them too, from minutes to years.

    >>> encoder = transformer(TransformerConfig(d_model=8, n_blocks=1), n_items=5, max_length=4)
    >>> sorted(encoder.specs)
    ['blocks', 'final_norm', 'item_table']

    Raises:
      InputError: this form of the model cannot read such times.
    """
    if times != "none":
        _check_times(config, times)
    parts = {"attention": attention_specs(config.d_model)}
    specs: Params = {
        "item_table": item_table_spec(n_items, config.d_model),
        "blocks": [block_specs(config, parts) for _ in range(config.n_blocks)],
    }
    if config.norm_first:
        specs["final_norm"] = norm_specs(config.norm, config.d_model)
    if config.positions == "learned":
        normal = jax.nn.initializers.normal(0.02)
        specs["position_table"] = ParamSpec((max_length, config.d_model), ("positions", "embed"), normal)

    def angles_of(positions: Array, seconds: Array | None) -> Rotation | None:
        if times != "none" and seconds is None:
            raise InputError("the batch does not hold what the encoder reads; make it with times=history")
        return rotary_angles(config, positions, max_length=max_length, seconds=None if times == "none" else seconds)

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        if added is not None and not config.causal:
            raise InputError("a bidirectional encoder would see the features of hidden items; use a causal one")
        n_keys = 1 + 4 * config.n_blocks
        keys = None if key is None else jax.random.split(key, n_keys)[::-1]
        dtype = jnp.dtype(config.compute_dtype)
        items = batch.items if config.causal else batch.next_items
        x = embed(config, params, items, batch.positions, added=added, key=None if keys is None else keys[0])
        angles = angles_of(batch.positions, batch.times)

        def apply_block(x, block_and_keys):
            block, keys = block_and_keys
            block = jax.tree.map(lambda leaf: leaf.astype(dtype), block)

            def attend(x: Array) -> Array:
                return attention(
                    block["attention"],
                    x,
                    segment_ids=batch.segment_ids,
                    causal=config.causal,
                    # Evaluation, and what bundles export of it, keep to programs that last beyond a version of jax.
                    implementation="xla" if keys is None else config.attention,
                    angles=angles,
                    n_heads=config.n_heads,
                    dropout_rate=config.attention_dropout,
                    key=None if keys is None else keys[0],
                )

            return apply_parts(config, block, x, {"attention": attend}, keys=None if keys is None else keys[1:]), None

        if config.rematerialise:
            apply_block = jax.checkpoint(apply_block)
        block_keys = None if keys is None else keys[1:].reshape(config.n_blocks, 4)
        if config.scan_blocks:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params["blocks"])
            x, _ = jax.lax.scan(apply_block, x, (stacked, block_keys))
        else:
            for index, block in enumerate(params["blocks"]):
                x, _ = apply_block(x, (block, None if block_keys is None else block_keys[index]))
        return norm(params["final_norm"], x, kind=config.norm) if config.norm_first else x

    def read(params: Params, x: States, angles: Rotation | None, mix: Mix) -> States:
        """As `encode` without dropout, block by block; `mix` mixes the values of each block and may keep some."""
        dtype = x.dtype
        for index, block in enumerate(params["blocks"]):
            block = jax.tree.map(lambda leaf: leaf.astype(dtype), block)

            def attend(x: Array, block=block, index=index) -> Array:
                q, k, v = queries_keys_values(block["attention"], x, angles=angles, n_heads=config.n_heads)
                return dense(mix(index, q, k, v), block["attention"]["out"])

            x = apply_parts(config, block, x, {"attention": attend}, keys=None)
        return norm(params["final_norm"], x, kind=config.norm) if config.norm_first else x

    def start(params: Params, batch: Batch) -> tuple[Array, Cache]:
        kept = []

        def mix(index: int, q: Heads, k: Heads, v: Heads) -> Array:
            del index
            kept.append(start_keys_and_values(k, v, max_length=max_length))
            return mix_histories(q, k, v, segment_ids=batch.segment_ids, causal=True, dropout_rate=0.0, key=None)

        x = embed(config, params, batch.items, batch.positions)
        states = read(params, x, angles_of(batch.positions, batch.times), mix)
        lengths = history_lengths(batch.segment_ids)
        return newest(states, lengths), {"lengths": lengths, "blocks": kept}

    def append(
        params: Params, cache: Cache, items: Array, *, rows: Array | None = None, times: Array | None = None
    ) -> tuple[Array, Cache]:
        places = take_rows(cache["lengths"], rows)
        mask = jnp.arange(max_length) <= places[:, None, None]
        blocks = []

        def mix(index: int, q: Heads, k: Heads, v: Heads) -> Array:
            kept, cached = append_keys_and_values(cache["blocks"][index], k, v, rows=rows, places=places)
            blocks.append(kept)
            return mix_values(q, *cached, mask=mask, dropout_rate=0.0, key=None)

        x = embed(config, params, items[:, None], places[:, None])
        states = read(params, x, angles_of(places[:, None], None if times is None else times[:, None]), mix)
        return states[:, 0], {"lengths": put_rows(cache["lengths"], places + 1, rows), "blocks": blocks}

    return Encoder(
        specs,
        encode,
        n_items=n_items,
        d_model=config.d_model,
        reads=BatchFormat(max_length, times=times),
        causal=config.causal,
        incremental=Incremental(start, append) if config.causal else None,
    )


def _check_times(config: TransformerConfig, times: Times) -> None:
    """Refuses what would see the answer's time, or has no pair of features to turn by it."""
    if times == "query":
        raise InputError("a Transformer turns by the times of its history alone; use times=history, or HSTU")
    if not config.causal:
        raise InputError("a bidirectional encoder would see when what it is to restore came; use times=none")
    if config.positions != "rotary" or config.d_model // config.n_heads < 4:
        raise InputError(
            f"times turn half of the rotary pairs of a head, of which positions={config.positions} with "
            f"d_model/n_heads={config.d_model // config.n_heads} leaves none; use rotary positions and d_head of 4"
        )
