"""The hierarchical sequential transduction unit (HSTU: Zhai et al. 2024): attention without a softmax, gated."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from seqrec.attention import (
    Heads,
    append_keys_and_values,
    causal_mask,
    query_blocks,
    side_by_side,
    split_heads,
    start_keys_and_values,
)
from seqrec.config import TRACED, Range, check_at_least, check_fields, check_share
from seqrec.layers import (
    check_heads,
    dense,
    dropout,
    history_lengths,
    item_table_spec,
    item_vectors,
    newest,
    norm,
    norm_specs,
    put_rows,
    silu,
    take_rows,
)
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, BatchFormat, Encoder, Incremental, InputError, States, Times

Cache = dict[str, Any]
"""The number of items of each row, the keys and values of each block, and the times of the items."""

_normal = jax.nn.initializers.normal(0.02)

N_TIME_BUCKETS = 72
"""Time spans are told apart by their logarithm over .301, to 2 ** 31 seconds."""


@dataclass(frozen=True)
class HSTUConfig:
    """Size and dropout of the HSTU encoder."""

    d_model: int = 64
    """Width of item vectors and hidden states."""
    n_blocks: int = 4
    """Number of blocks."""
    n_heads: int = 2
    """Number of attention heads; must divide d-model."""
    learned_positions: bool = True
    """Add a learned vector for each position to the item vectors."""
    relative_positions: bool = True
    """Add a learned bias for the distance between two positions to their attention score."""
    dropout: Annotated[float, TRACED, Range(0.0, 0.6)] = 0.2
    """Dropout rate of embeddings and of each block's output, 0 to below 1."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "d_model", "n_blocks", "n_heads")
        check_share(self, "dropout", one=False)
        check_heads(d_model=self.d_model, n_heads=self.n_heads)


def hstu(config: HSTUConfig, *, n_items: int, max_length: int, times: Times = "none") -> Encoder:
    """An encoder whose state at each position knows that item and those before it in the same history.

    With `times` each attention score has a learned number of the time since the key's item: until the query
    position's own item ("history"), or until the item that is to be predicted ("query"), as published. The second
    knows when the answer came, so its figures are `time-aware` and stand beside no others.

    >>> encoder = hstu(HSTUConfig(d_model=8), n_items=5, max_length=4, times="history")
    >>> encoder.reads
    BatchFormat(max_length=4, times='history', event_features=())
    """
    zeros = jax.nn.initializers.zeros
    biases: Params = {}
    if config.relative_positions:
        biases["distance_bias"] = ParamSpec((max_length,), ("positions",), zeros, decay=False)
    if times != "none":
        biases["time_bias"] = ParamSpec((N_TIME_BUCKETS,), (None,), zeros, decay=False)
    specs: Params = {
        "item_table": item_table_spec(n_items, config.d_model),
        "blocks": [
            {
                "norm": norm_specs("layer", config.d_model),
                "uvqk": ParamSpec((config.d_model, 4 * config.d_model), ("embed", "heads"), _normal),
                "mixed_norm": norm_specs("layer", config.d_model),
                "out": ParamSpec((config.d_model, config.d_model), ("heads", "embed"), _normal),
                **biases,
            }
            for _ in range(config.n_blocks)
        ],
        "final_norm": norm_specs("layer", config.d_model),
    }
    if config.learned_positions:
        specs["position_table"] = ParamSpec((max_length, config.d_model), ("positions", "embed"), _normal)

    def embed(params: Params, items: Array, positions: Array, *, added: States | None = None) -> States:
        x = item_vectors(params["item_table"], items, added=added)
        return x + params["position_table"][positions] if config.learned_positions else x

    def spans_of(batch: Batch) -> Int[Array, "rows length length"] | None:
        if times == "none":
            return None
        query_times = batch.next_times if times == "query" else batch.times
        if batch.times is None or query_times is None:
            raise InputError(f"the batch does not hold what the encoder reads; make it with times={times}")
        return time_buckets(batch.times, query_times=query_times)

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        keys = [None] * (1 + config.n_blocks) if key is None else list(jax.random.split(key, 1 + config.n_blocks))
        x = dropout(embed(params, batch.items, batch.positions, added=added), rate=config.dropout, key=keys.pop())
        mask, spans = causal_mask(batch.segment_ids), spans_of(batch)
        for block in params["blocks"]:
            unit = hstu_unit(block, x, mask=mask, n_heads=config.n_heads, max_length=max_length, spans=spans)
            x = x + dropout(unit, rate=config.dropout, key=keys.pop())
        return norm(params["final_norm"], x, kind="layer")

    def start(params: Params, batch: Batch) -> tuple[Array, Cache]:
        lengths, mask = history_lengths(batch.segment_ids), causal_mask(batch.segment_ids)
        x, spans = embed(params, batch.items, batch.positions), spans_of(batch)
        blocks = []
        for block in params["blocks"]:
            u, q, k, v = _unit_heads(block, x, n_heads=config.n_heads)
            blocks.append(start_keys_and_values(k, v, max_length=max_length))
            x = x + _unit_output(block, u, q, k, v, mask=mask, max_length=max_length, spans=spans)
        cache: Cache = {"lengths": lengths, "blocks": blocks}
        if batch.times is not None and times != "none":
            cache["times"] = jnp.pad(batch.times, ((0, 0), (0, max_length - x.shape[1])))
        return newest(norm(params["final_norm"], x, kind="layer"), lengths), cache

    def append(
        params: Params, cache: Cache, items: Array, *, rows: Array | None = None, times: Array | None = None
    ) -> tuple[Array, Cache]:
        places = take_rows(cache["lengths"], rows)
        changed: Cache = {"lengths": put_rows(cache["lengths"], places + 1, rows)}
        spans = None
        if "times" in cache:
            if times is None:
                raise InputError("an event has no time, which the encoder reads; give times")
            updated_times = jnp.where(
                jnp.arange(max_length) == places[:, None], times[:, None], take_rows(cache["times"], rows)
            )
            changed["times"] = put_rows(cache["times"], updated_times, rows)
            spans = time_buckets(updated_times, query_times=times[:, None])
        x = embed(params, items[:, None], places[:, None])
        distances = places[:, None, None] - jnp.arange(max_length)
        blocks = []
        for block, kept in zip(params["blocks"], cache["blocks"], strict=True):
            u, q, k, v = _unit_heads(block, x, n_heads=config.n_heads)
            kept, (k, v) = append_keys_and_values(kept, k, v, rows=rows, places=places)
            blocks.append(kept)
            x = x + _unit_output(
                block, u, q, k, v, mask=distances >= 0, max_length=max_length, spans=spans, distances=distances
            )
        return norm(params["final_norm"], x[:, 0], kind="layer"), {**changed, "blocks": blocks}

    return Encoder(
        specs,
        encode,
        n_items=n_items,
        d_model=config.d_model,
        reads=BatchFormat(max_length, times=times),
        # With the query's time the state of the newest item changes once it is no longer the newest.
        incremental=None if times == "query" else Incremental(start, append),
    )


def time_buckets(
    times: Int[Array, "rows n_keys"], *, query_times: Int[Array, "rows n_queries"]
) -> Int[Array, "rows n_queries n_keys"]:
    """[row, query, key]: the bucket of the seconds from the key's time to the query's (Zhai et al. 2024, section 3)."""
    seconds = jnp.maximum(query_times[:, :, None] - times[:, None, :], 1)
    return (jnp.log(seconds.astype(jnp.float32)) / 0.301).astype(jnp.int32)


def hstu_unit(
    params: Params,
    x: States,
    *,
    mask: Bool[Array, "rows length length"],
    n_heads: int,
    max_length: int,
    spans: Int[Array, "rows length length"] | None = None,
) -> States:
    """One unit without its residual (Zhai et al. 2024, eq. 1 to 3).

    Weights are silu(score) / max_length, not a softmax: their sum grows with the number of alike items in a history,
    so the unit can count them. `spans` has the bucket of the time between query and key, where times are read.
    """
    u, q, k, v = _unit_heads(params, x, n_heads=n_heads)
    return _unit_output(params, u, q, k, v, mask=mask, max_length=max_length, spans=spans)


def _unit_heads(params: Params, x: States, *, n_heads: int) -> tuple[States, Heads, Heads, Heads]:
    """The gate, and queries, keys and values."""
    d_model = x.shape[-1]
    uvqk = silu(dense(norm(params["norm"], x, kind="layer"), params["uvqk"]))
    u, vqk = uvqk[..., :d_model], uvqk[..., d_model:]
    v, q, k = split_heads(vqk, n_parts=3, n_heads=n_heads)
    return u, q, k, v


def _unit_output(
    params: Params,
    u: States,
    q: Heads,
    k: Heads,
    v: Heads,
    *,
    mask: Bool[Array, "rows n_queries n_keys"],
    max_length: int,
    spans: Int[Array, "rows n_queries n_keys"] | None,
    distances: Int[Array, "rows n_queries n_keys"] | None = None,
) -> States:
    """From `u` and heads to what the unit adds; without `distances` from query to key, those of a causal row."""
    between: Any  # an array of either kind
    if distances is None:
        # Inside a history positions differ as places in the row do, so one table of distances serves all rows.
        places = np.arange(u.shape[1])
        between, blocks = places[None, :, None] - places, query_blocks(len(places))
    else:
        between, blocks = distances, [slice(None)]
    parts = []
    for block in blocks:
        read = np.s_[:, block, : block.stop]
        scores = jnp.einsum("rhqd,rhkd->rhqk", q[:, :, block], k[:, :, : block.stop])
        if "distance_bias" in params:
            scores = scores + params["distance_bias"][between[read].clip(0, max_length - 1)][:, None]
        if spans is not None:
            scores = scores + params["time_bias"][spans[read]][:, None]
        weights = jnp.where(mask[read][:, None], silu(scores) * (1 / max_length), 0.0)
        parts.append(jnp.einsum("rhqk,rhkd->rhqd", weights, v[:, :, : block.stop]))
    mixed = side_by_side(jnp.concatenate(parts, axis=2))
    return dense(norm(params["mixed_norm"], mixed, kind="layer") * u, params["out"])
