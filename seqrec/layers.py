"""Norms, feed-forward, dropout and positions: pure functions, each with its `*_specs`."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt

from seqrec.params import Params, ParamSpec
from seqrec.sharding import look_up
from seqrec.types import ItemTable, Scalar

Norm = Literal["rms", "layer"]
FeedForward = Literal["swiglu", "gelu", "relu"]

_normal = jax.nn.initializers.normal(0.02)
_ones = jax.nn.initializers.ones
_zeros = jax.nn.initializers.zeros


def check_heads(*, d_model: int, n_heads: int) -> None:
    """Refuses heads that do not share the width evenly."""
    if d_model % n_heads:
        raise ValueError(
            f"d_model={d_model} is not a multiple of n_heads={n_heads}; "
            f"try d_model={n_heads * (d_model // n_heads + 1)}"
        )


def item_table_rows(n_items: int) -> int:
    """Rows of the item table: items, the padding row 0, and as many more as make a multiple of 64, or of 1024.

    The multiple lets the table split evenly over a mesh, whatever its size, so that a checkpoint fits any; rows
    beyond `n_items` are never looked up or scored.
    """
    multiple = 64 if n_items < 2**17 else 1024
    return -(-(n_items + 1) // multiple) * multiple


def item_table_spec(n_items: int, d_model: int) -> ParamSpec:
    """One vector an item, that states are made from and scored against."""
    return ParamSpec((item_table_rows(n_items), d_model), ("items", "embed"), _normal)


def item_vectors(
    item_table: ItemTable,
    items: Int[Array, "*shape"],
    *,
    added: Float[Array, "*shape d_model"] | None = None,
) -> Float[Array, "*shape d_model"]:
    """The vectors of the items, and what else is `added` to them, scaled as in Vaswani et al. 2017, section 3.4.

    The table itself stays small, since it also scores.
    """
    vectors = look_up(item_table, items)
    return (vectors if added is None else vectors + added) * math.sqrt(item_table.shape[1])


def dense(x: Float[Array, "*shape d_in"], kernel: Float[Array, "d_in d_out"]) -> Float[Array, "*shape d_out"]:
    """`x @ kernel`, as one product of two matrices whatever the shape of `x`."""
    # Else XLA sums the kernel's gradient over several axes, which on a CPU begins with a transposed copy of the
    # output's gradient: attention, forward and backward, took 1.3 times as long.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def norm_specs(kind: Norm, d_model: int) -> Params:
    """A scale, and for layer norm a bias."""
    specs = {"scale": ParamSpec((d_model,), ("embed",), _ones, decay=False)}
    if kind == "layer":
        specs["bias"] = ParamSpec((d_model,), ("embed",), _zeros, decay=False)
    return specs


def norm(params: Params, x: Float[Array, "*shape d_model"], *, kind: Norm) -> Float[Array, "*shape d_model"]:
    """Layer norm (Ba et al. 2016) or RMS norm (Zhang and Sennrich 2019, eq. 4) over the last axis."""
    wide = x.astype(jnp.float32)
    if kind == "layer":
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-6) * params["scale"]
    return (normed + params["bias"] if kind == "layer" else normed).astype(x.dtype)


def random_bytes(key: Array, shape: tuple[int, ...]) -> UInt[Array, "*shape"]:
    """Uniform bytes from an integer hash of the element's index and the key.

    Dropout needs speed, not cryptography: on a CPU threefry takes a tenth of a training step for these bits.
    Two rounds of the `lowbias32` mixer (Wellons 2018), four bytes a word; the key enters between the rounds,
    since an index that is xor-ed with it beforehand only permutes one fixed sequence.
    """
    *outer, last = shape
    n_words = -(-last // 4)
    index = jnp.zeros((*outer, n_words), jnp.uint32)
    stride = 1
    for axis in range(len(outer), -1, -1):
        index = index + jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, index.shape, axis)
        stride *= index.shape[axis]
    first, second = jax.random.key_data(key).astype(jnp.uint32)[-2:]
    words = _mix(_mix(index ^ first) + second)
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*outer, 4 * n_words)[..., :last]


def _mix(x: UInt[Array, "*shape"]) -> UInt[Array, "*shape"]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout(
    x: Float[Array, "*shape"],
    *,
    rate: Scalar,
    key: Array | None,
    part_of: tuple[tuple[int, ...], Any] | None = None,
) -> Float[Array, "*shape"]:
    """Zeroes a share `rate` of `x`, to the nearest 1/256, and rescales the rest; `key=None` means evaluation.

    With `part_of`, a shape and an index, `x` is the part at that index of an array of that shape, and loses what it
    loses there.
    """
    if key is None:
        return x
    # From float32, as a traced rate is, so that both round alike.
    n_dropped = jnp.round(256 * rate) if isinstance(rate, Array) else round(256 * float(np.float32(rate)))
    if isinstance(n_dropped, int) and n_dropped == 0:
        return x
    drawn = random_bytes(key, x.shape) if part_of is None else random_bytes(key, part_of[0])[part_of[1]]
    return jnp.where(drawn >= jnp.uint8(n_dropped), x * (256 / (256 - n_dropped)), 0.0)


Rotation = tuple[Float[Array, "rows 1 length pairs"], Float[Array, "rows 1 length pairs"]]


def rotation(positions: Int[Array, "rows length"], *, n_pairs: int, max_length: int) -> Rotation:
    """Cosine and sine of each position's angles, for all heads and blocks (Su et al. 2021, eq. 34)."""
    frequencies = 10_000.0 ** (-np.arange(n_pairs) / n_pairs)
    angles = np.arange(max_length)[:, None] * frequencies
    # Looked up: on a CPU, computing them in each block took a seventh of the attention's time.
    cos, sin = (jnp.asarray(table, jnp.float32)[positions][:, None] for table in (np.cos(angles), np.sin(angles)))
    return cos, sin


MINUTE, YEAR = 60, 365 * 24 * 60 * 60


def time_rotation(seconds: Int[Array, "rows length"], *, n_pairs: int) -> Rotation:
    """As `rotation`, by times in place of positions: waves of a minute to 4 years, even on a logarithmic scale."""
    waves = np.geomspace(MINUTE, 4 * YEAR, n_pairs).round().astype(np.int32)
    # The whole turns go while times are whole numbers: years of seconds in float32 would lose the minutes.
    angles = (2 * np.pi / waves) * (seconds[..., None] % waves)
    cos, sin = (values.astype(jnp.float32)[:, None] for values in (jnp.cos(angles), jnp.sin(angles)))
    return cos, sin


def rotate(x: Float[Array, "rows heads length d_head"], by: Rotation) -> Float[Array, "rows heads length d_head"]:
    """`x` turned by its position, so that products of two depend on their distance alone (Su et al. 2021)."""
    cos, sin = by
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1).astype(x.dtype)


def history_lengths(segment_ids: Int[Array, "rows length"]) -> Int[Array, " rows"]:
    """Items of each row, which holds one history from the first column on."""
    return jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)


def take_rows(kept: Shaped[Array, "n_rows *shape"], rows: Int[Array, " n"] | None) -> Shaped[Array, "n *shape"]:
    """These rows of what is kept of histories; all where None are named."""
    return kept if rows is None else kept[_with_one_again(rows)][:-1]


def put_rows(
    kept: Shaped[Array, "n_rows *shape"], new: Shaped[Array, "n *shape"], rows: Int[Array, " n"] | None
) -> Shaped[Array, "n_rows *shape"]:
    """What is kept of histories, with these rows of it new; all where None are named."""
    return new if rows is None else kept.at[_with_one_again(rows)].set(_with_one_again(new))


def _with_one_again(rows: Shaped[Array, "n *shape"]) -> Shaped[Array, "more *shape"]:
    """With the first a second time: of a single row XLA on CPUs copies all that is kept, of more it changes them."""
    return jnp.concatenate([rows, rows[:1]])


def newest(
    values: Float[Array, "rows length d"], lengths: Int[Array, " rows"], *, lag: int = 0
) -> Float[Array, "rows d"]:
    """The values at each row's newest item, or `lag` items before it; of a row without that item, zeros."""
    place = lengths - 1 - lag
    earlier = jnp.take_along_axis(values, jnp.maximum(place, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where(place[:, None] >= 0, earlier, 0.0)


def feed_forward_specs(kind: FeedForward, d_model: int, d_ff: int) -> Params:
    """Two matrices, or three for the gated form; biases for the published ReLU and GELU forms."""
    specs = {
        "up": ParamSpec((d_model, d_ff), ("embed", "ff"), _normal),
        "down": ParamSpec((d_ff, d_model), ("ff", "embed"), _normal),
    }
    if kind == "swiglu":
        specs["gate"] = ParamSpec((d_model, d_ff), ("embed", "ff"), _normal)
    else:
        specs["up_bias"] = ParamSpec((d_ff,), ("ff",), _zeros, decay=False)
        specs["down_bias"] = ParamSpec((d_model,), ("embed",), _zeros, decay=False)
    return specs


def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x * sigmoid(x)."""
    # By tanh: with jax.nn.silu a training step of the whole model took 1.05 times as long on a CPU.
    return x * (0.5 * jnp.tanh(0.5 * x) + 0.5)


def feed_forward(
    params: Params,
    x: Float[Array, "*shape d_model"],
    *,
    kind: FeedForward,
    dropout_rate: Scalar,
    key: Array | None,
) -> Float[Array, "*shape d_model"]:
    """The position-wise network; `swiglu` is Shazeer 2020, eq. 6; dropout acts on its hidden units."""
    if kind == "swiglu":
        hidden = silu(dense(x, params["gate"])) * dense(x, params["up"])
        return dense(dropout(hidden, rate=dropout_rate, key=key), params["down"])
    activation = jax.nn.relu if kind == "relu" else jax.nn.gelu
    hidden = activation(dense(x, params["up"]) + params["up_bias"])
    return dense(dropout(hidden, rate=dropout_rate, key=key), params["down"]) + params["down_bias"]
