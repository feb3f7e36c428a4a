"""Gated linear recurrences in place of attention: Hawk (De et al. 2024) over packed histories."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqrec.config import TRACED, Range, check_at_least, check_fields, check_share
from seqrec.layers import (
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
    take_rows,
)
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, BatchFormat, Encoder, Incremental, States

Cache = dict[str, Array]
"""The number of items of each row and, of each block, the inputs that the convolution still reads, newest first, and
the recurrent state."""

_normal = jax.nn.initializers.normal(0.02)
_zeros = jax.nn.initializers.zeros

SHARPNESS = 8.0
"""The c of De et al. 2024, eq. 3: how far an open gate shortens a unit's memory."""


@dataclass(frozen=True)
class HawkConfig:
    """Size and dropout of the Hawk encoder."""

    d_model: int = 64
    """Width of item vectors and hidden states."""
    d_recurrent: int = 0
    """Width of the recurrent state; 0 means d-model."""
    n_blocks: int = 2
    """Number of blocks, each a recurrence and a feed-forward network."""
    convolution_width: int = 4
    """Number of latest positions that the convolution before each recurrence mixes."""
    dropout: Annotated[float, TRACED, Range(0.0, 0.6)] = 0.3
    """Dropout rate of embeddings, hidden units and residual branches, 0 to below 1."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "d_model", "n_blocks", "convolution_width")
        check_at_least(self, 0, "d_recurrent")
        check_share(self, "dropout", one=False)


def hawk(config: HawkConfig, *, n_items: int, max_length: int) -> Encoder:
    """An encoder whose state at each position knows that item and those before it in the same history.

    >>> encoder = hawk(HawkConfig(d_model=8), n_items=5, max_length=4)
    >>> encoder.d_model, encoder.causal
    (8, True)
    """
    d_recurrent = config.d_recurrent or config.d_model
    block: Params = {
        "recurrence_norm": norm_specs("rms", config.d_model),
        "recurrence": recurrence_specs(config.d_model, d_recurrent, convolution_width=config.convolution_width),
        "feed_forward_norm": norm_specs("rms", config.d_model),
        "feed_forward": feed_forward_specs("swiglu", config.d_model, 2 * config.d_model),
    }
    specs: Params = {
        "item_table": item_table_spec(n_items, config.d_model),
        "blocks": [block] * config.n_blocks,
        "final_norm": norm_specs("rms", config.d_model),
    }

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        n_keys = 1 + 3 * config.n_blocks
        keys = [None] * n_keys if key is None else list(jax.random.split(key, n_keys))
        x = item_vectors(params["item_table"], batch.items, added=added)
        x = dropout(x, rate=config.dropout, key=keys.pop())
        for block in params["blocks"]:
            mixed = recurrence(block["recurrence"], norm(block["recurrence_norm"], x, kind="rms"), batch=batch)
            x = x + dropout(mixed, rate=config.dropout, key=keys.pop())
            normed = norm(block["feed_forward_norm"], x, kind="rms")
            fed = feed_forward(
                block["feed_forward"], normed, kind="swiglu", dropout_rate=config.dropout, key=keys.pop()
            )
            x = x + dropout(fed, rate=config.dropout, key=keys.pop())
        return norm(params["final_norm"], x, kind="rms")

    def read(params: Params, x: Array, mix: Callable[[int, Params, Array], Array]) -> Array:
        """As `encode` without dropout; `mix(index, parameters, x)` is what each block's recurrence adds."""
        for index, block in enumerate(params["blocks"]):
            x = x + mix(index, block["recurrence"], norm(block["recurrence_norm"], x, kind="rms"))
            normed = norm(block["feed_forward_norm"], x, kind="rms")
            x = x + feed_forward(block["feed_forward"], normed, kind="swiglu", dropout_rate=0.0, key=None)
        return norm(params["final_norm"], x, kind="rms")

    # One array for all that is kept of a row: each array of its own costs a small append a tenth of its time.
    shape = (config.n_blocks, config.convolution_width, d_recurrent)

    def start(params: Params, batch: Batch) -> tuple[Array, Cache]:
        lengths = history_lengths(batch.segment_ids)
        kept: list[Array] = []

        def mix(index: int, block_params: Params, x: Array) -> Array:
            del index
            branch, inputs = jnp.split(dense(x, block_params["in"]), 2, axis=-1)
            states = _states(block_params, inputs, batch)
            kept.extend(newest(inputs, lengths, lag=lag) for lag in range(config.convolution_width - 1))
            kept.append(newest(states, lengths))
            return _output(block_params, branch, states)

        states = read(params, item_vectors(params["item_table"], batch.items), mix)
        return newest(states, lengths), {"lengths": lengths, "blocks": jnp.stack(kept, axis=1).reshape(-1, *shape)}

    def append(
        params: Params, cache: Cache, items: Array, *, rows: Array | None = None, times: Array | None = None
    ) -> tuple[Array, Cache]:
        del times
        places, blocks = take_rows(cache["lengths"], rows), take_rows(cache["blocks"], rows)
        kept: list[Array] = []

        def mix(index: int, block_params: Params, x: Array) -> Array:
            branch, inputs = jnp.split(dense(x, block_params["in"]), 2, axis=-1)
            window = jnp.concatenate([inputs[:, None], blocks[:, index, :-1]], axis=1)
            decay, entering = _gated(block_params, jnp.sum(window * block_params["convolution"], axis=1), places == 0)
            state = decay * blocks[:, index, -1] + entering
            kept.append(jnp.concatenate([window[:, :-1], state[:, None]], axis=1))
            return _output(block_params, branch, state)

        states = read(params, item_vectors(params["item_table"], items), mix)
        new = {"lengths": places + 1, "blocks": jnp.stack(kept, axis=1)}
        return states, {name: put_rows(cache[name], each, rows) for name, each in new.items()}

    return Encoder(
        specs,
        encode,
        n_items=n_items,
        d_model=config.d_model,
        reads=BatchFormat(max_length),
        incremental=Incremental(start, append),
    )


def recurrence_specs(d_model: int, d_recurrent: int, *, convolution_width: int) -> Params:
    """Of one recurrent block; the gates of memory and of input stand side by side."""
    return {
        "in": ParamSpec((d_model, 2 * d_recurrent), ("embed", "ff"), _normal),
        "convolution": ParamSpec((convolution_width, d_recurrent), (None, "ff"), jax.nn.initializers.normal(0.3)),
        "gates": ParamSpec((d_recurrent, 2 * d_recurrent), ("embed", "ff"), _normal),
        "gates_bias": ParamSpec((2 * d_recurrent,), ("ff",), _zeros, decay=False),
        "memory": ParamSpec((d_recurrent,), ("ff",), _memories, decay=False),
        "out": ParamSpec((d_recurrent, d_model), ("ff", "embed"), _normal),
    }


def _memories(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Values whose units, with open gates, keep .9 to .999 of their state at a step (De et al. 2024, section 2.4)."""
    kept = jax.random.uniform(key, shape, dtype, 0.9, 0.999)
    return jnp.log(jnp.expm1(-jnp.log(kept) / SHARPNESS))


def recurrence(params: Params, x: States, *, batch: Batch) -> States:
    """What a recurrent block adds at each position (De et al. 2024, section 2.4 and eq. 1 to 4)."""
    branch, inputs = jnp.split(dense(x, params["in"]), 2, axis=-1)
    return _output(params, branch, _states(params, inputs, batch))


def _states(params: Params, inputs: Array, batch: Batch) -> Array:
    mixed = jnp.zeros_like(inputs)
    for lag, weights in enumerate(params["convolution"]):
        earlier = jnp.pad(inputs, ((0, 0), (lag, 0), (0, 0)))[:, : inputs.shape[1]]
        # Histories share a row: what lies before a history's first position is another's.
        mixed += jnp.where((batch.positions >= lag)[..., None], earlier, 0.0) * weights
    return linear_recurrence(*_gated(params, mixed, batch.positions == 0))


def _gated(
    params: Params, mixed: Float[Array, "*shape d"], starts: Bool[Array, "*shape"]
) -> tuple[Float[Array, "*shape d"], Float[Array, "*shape d"]]:
    """What stays of the earlier state at each position, and what enters."""
    memory_gate, input_gate = jnp.split(
        jax.nn.sigmoid(dense(mixed, params["gates"]) + params["gates_bias"]), 2, axis=-1
    )
    log_decay = -SHARPNESS * jax.nn.softplus(params["memory"]) * memory_gate
    # What enters is scaled so that states keep the size of their inputs, however long they last.
    scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2.0 * log_decay), 1e-12))  # at 0 the root has no slope
    decay = jnp.where(starts[..., None], 0.0, jnp.exp(log_decay))
    # A history's first input enters whole, as in the authors' code: there is no state beside it.
    scale = jnp.where(starts[..., None], 1.0, scale)
    return decay, scale * input_gate * mixed


def _output(params: Params, branch: Float[Array, "*shape d"], states: Float[Array, "*shape d"]) -> Array:
    return dense(jax.nn.gelu(branch) * states, params["out"])


def linear_recurrence(
    decay: Float[Array, "rows length d"], inputs: Float[Array, "rows length d"]
) -> Float[Array, "rows length d"]:
    """States h[t] = decay[t] * h[t - 1] + inputs[t], from h[-1] = 0, in about 2 log2(length) steps."""

    def then(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    # On 2 CPU cores a loop over 200 positions takes half the time, of a fiftieth of a training step.
    return jax.lax.associative_scan(then, (decay, inputs), axis=1)[1]
