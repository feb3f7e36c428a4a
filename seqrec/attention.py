"""Attention over packed histories: projections, masks, products, and the keys and values kept of a history."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.layers import Rotation, dense, dropout, rotate
from seqrec.params import Params, ParamSpec
from seqrec.sharding import map_rows
from seqrec.types import Scalar

Implementation = Literal["xla", "fused"]
"""`fused` takes jax's Pallas kernels on GPUs and TPUs, whose scores never leave the chip's own memory."""

_normal = jax.nn.initializers.normal(0.02)


def history_mask(segment_ids: Int[Array, "rows length"]) -> Bool[Array, "rows length length"]:
    """[row, query, key]: True where the key is of the query's history."""
    return segment_ids[:, :, None] == segment_ids[:, None, :]


def causal_mask(segment_ids: Int[Array, "rows length"]) -> Bool[Array, "rows length length"]:
    """[row, query, key]: True where the key is of the query's history and not later than it."""
    length = segment_ids.shape[1]
    return history_mask(segment_ids) & jnp.tril(jnp.ones((length, length), bool))


def attention_specs(d_model: int) -> Params:
    """Projections without biases; queries, keys and values share one matrix, heads one after another in each."""
    return {
        "qkv": ParamSpec((d_model, 3 * d_model), ("embed", "heads"), _normal),
        "out": ParamSpec((d_model, d_model), ("heads", "embed"), _normal),
    }


def cross_attention_specs(d_model: int) -> Params:
    """As `attention_specs`, where keys and values are made from other states than queries."""
    return {
        "q": ParamSpec((d_model, d_model), ("embed", "heads"), _normal),
        "kv": ParamSpec((d_model, 2 * d_model), ("embed", "heads"), _normal),
        "out": ParamSpec((d_model, d_model), ("heads", "embed"), _normal),
    }


Heads = Float[Array, "_ n_heads _ d_head"]
"""Of rows and their positions, or of those that are kept."""


def split_heads(
    x: Float[Array, "rows length features"], *, n_parts: int, n_heads: int
) -> tuple[Float[Array, "rows n_heads length d_head"], ...]:
    """Queries, keys or values that stand side by side in `x`, each cut into its heads."""
    # Heads before length from the start: every product below then runs over contiguous [length, d_head] blocks. Cut
    # into parts first: to move the parts' axis as well took attention a seventh longer on a CPU.
    parts = jnp.split(x, n_parts, axis=-1)
    return tuple(part.reshape(*x.shape[:2], n_heads, -1).swapaxes(1, 2) for part in parts)


LEAST_BLOCK, MOST_BLOCKS = 50, 4
"""Queries of a causal row are taken in blocks of at least so many, and in at most so many blocks."""


def query_blocks(length: int) -> list[slice]:
    """Even parts of a row of queries, each of which reads keys up to its own end and not the later ones.

    >>> [(block.start, block.stop) for block in query_blocks(200)]
    [(0, 50), (50, 100), (100, 150), (150, 200)]
    """
    # Four blocks take 5/8 of the products of the whole square, and eight, twice as many operations, 9/16. On a CPU
    # smaller products save nothing: at length 200 blocks of 40 took as long as those of 50.
    size = -(-length // max(1, min(MOST_BLOCKS, length // LEAST_BLOCK)))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def mix_values(
    q: Float[Array, "rows n_heads n_queries d_head"],
    k: Float[Array, "rows n_heads n_keys d_head"],
    v: Float[Array, "rows n_heads n_keys d_head"],
    *,
    mask: Bool[Array, "rows n_queries n_keys"],
    dropout_rate: Scalar,
    key: Array | None,
) -> Float[Array, "rows n_queries d_model"]:
    """Each query's mean of the values that `mask` allows, weighted by its softmax over their keys, heads side by side.

    Vaswani et al. 2017, eq. 1; dropout acts on the weights.
    """
    return side_by_side(_mix_block(q, k, v, mask, {"rate": dropout_rate, "key": key}))


def mix_histories(
    q: Float[Array, "rows n_heads length d_head"],
    k: Float[Array, "rows n_heads length d_head"],
    v: Float[Array, "rows n_heads length d_head"],
    *,
    segment_ids: Int[Array, "rows length"],
    causal: bool,
    dropout_rate: Scalar,
    key: Array | None,
    implementation: Implementation = "xla",
) -> Float[Array, "rows length d_model"]:
    """As `mix_values` inside each history of packed rows; `causal` queries read no later position.

    The numbers drawn for dropout are those of `mix_values`. Only `xla` can drop weights.
    """
    if implementation == "fused":
        rows = q, k, v, segment_ids
        return side_by_side(map_rows(lambda rows, _: _mix_fused(*rows, causal=causal), rows, None))
    if not causal:
        return mix_values(q, k, v, mask=history_mask(segment_ids), dropout_rate=dropout_rate, key=key)
    mask, whole = causal_mask(segment_ids), (*q.shape[:3], k.shape[2])
    mixed = []
    for block in query_blocks(q.shape[2]):
        read = np.s_[..., block, : block.stop]
        drop = {"rate": dropout_rate, "key": key, "part_of": (whole, read)}
        mixed.append(_mix_block(q[:, :, block], k[:, :, : block.stop], v[:, :, : block.stop], mask[read], drop))
    return side_by_side(jnp.concatenate(mixed, axis=2))


def _mix_block(q: Array, k: Array, v: Array, mask: Array, drop: dict[str, Any]) -> Heads:
    scores = jnp.einsum("rhqd,rhkd->rhqk", q * (1 / math.sqrt(q.shape[-1])), k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None], scores, -1e30)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # Divided after the product, so over features and not over keys.
    mixed = jnp.einsum("rhqk,rhkd->rhqd", dropout(weights, **drop).astype(q.dtype), v)
    return (mixed / total).astype(q.dtype)


def _mix_fused(q: Heads, k: Heads, v: Heads, segment_ids: Int[Array, "rows length"], *, causal: bool) -> Heads:
    """By the kernel of the platform that the program is lowered for; elsewhere by jax's own composition."""
    # Here, since they import Pallas, and few programs are fused.
    from jax.experimental.pallas.ops.gpu import attention as gpu_kernel
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu_kernel

    length, scale = q.shape[2], 1 / math.sqrt(q.shape[-1])

    def padded(q, k, v, segment_ids):
        # To whole tiles. Segment 0 is padding, which no history reads.
        room = (0, -length % 128)
        q, k, v = (jnp.pad(each, ((0, 0), (0, 0), room, (0, 0))) for each in (q, k, v))
        return q, k, v, jnp.pad(segment_ids, ((0, 0), room))

    def on_tpu(q, k, v, segment_ids):
        q, k, v, ids = padded(q, k, v, segment_ids)
        return tpu_kernel.flash_attention(
            q, k, v, segment_ids=tpu_kernel.SegmentIds(ids, ids), causal=causal, sm_scale=scale
        )[:, :, :length]

    def on_gpu(q, k, v, segment_ids):
        q, k, v, ids = padded(q, k, v, segment_ids)
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))
        return gpu_kernel.mha(q, k, v, ids, sm_scale=scale, causal=causal).swapaxes(1, 2)[:, :, :length]

    def elsewhere(q, k, v, segment_ids):
        mask = (causal_mask if causal else history_mask)(segment_ids)[:, None]
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation="xla").swapaxes(1, 2)

    return jax.lax.platform_dependent(q, k, v, segment_ids, tpu=on_tpu, cuda=on_gpu, default=elsewhere)


def side_by_side(heads: Heads) -> Float[Array, "rows length d_model"]:
    """The features of all heads of each position, one head after another."""
    rows, n_heads, length, d_head = heads.shape
    return heads.transpose(0, 2, 1, 3).reshape(rows, length, n_heads * d_head)


def attention(
    params: Params,
    x: Float[Array, "rows length d_model"],
    *,
    segment_ids: Int[Array, "rows length"],
    causal: bool = True,
    angles: Rotation | None,
    n_heads: int,
    dropout_rate: Scalar,
    key: Array | None,
    implementation: Implementation = "xla",
) -> Float[Array, "rows length d_model"]:
    """Multi-head attention inside each history of packed rows; with `angles`, queries and keys are rotated."""
    q, k, v = queries_keys_values(params, x, angles=angles, n_heads=n_heads)
    mixed = mix_histories(
        q,
        k,
        v,
        segment_ids=segment_ids,
        causal=causal,
        dropout_rate=dropout_rate,
        key=key,
        implementation=implementation,
    )
    return dense(mixed, params["out"])


def queries_keys_values(
    params: Params, x: Float[Array, "rows length d_model"], *, angles: Rotation | None, n_heads: int
) -> tuple[Heads, Heads, Heads]:
    """What attention with the parameters of `attention_specs` makes of each position."""
    q, k, v = split_heads(dense(x, params["qkv"]), n_parts=3, n_heads=n_heads)
    return (q, k, v) if angles is None else (rotate(q, angles), rotate(k, angles), v)


KeysAndValues = tuple[Heads, Heads]
"""Those of one block."""


def start_keys_and_values(k: Heads, v: Heads, *, max_length: int) -> KeysAndValues:
    """Those of the first positions, and room for the others."""
    room = ((0, 0), (0, 0), (0, max_length - k.shape[2]), (0, 0))
    return jnp.pad(k, room), jnp.pad(v, room)


def append_keys_and_values(
    kept: KeysAndValues,
    k: Heads,
    v: Heads,
    *,
    rows: Int[Array, " n"] | None,
    places: Int[Array, " n"],
) -> tuple[KeysAndValues, KeysAndValues]:
    """What is `kept` with one more position in each of the `rows`, by default in all; and these rows of it."""
    where = jnp.arange(kept[0].shape[0]) if rows is None else rows
    keys, values = (each.at[where, :, places].set(new[:, :, 0]) for each, new in zip(kept, (k, v), strict=True))
    return (keys, values), (keys, values) if rows is None else (keys[rows], values[rows])
