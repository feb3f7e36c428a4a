"""The gated recurrent encoder: GRU4Rec (Hidasi et al. 2016) over packed histories."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqrec.config import TRACED, Range, check_at_least, check_fields, check_share
from seqrec.layers import dense, dropout, history_lengths, item_table_spec, item_vectors, newest, put_rows, take_rows
from seqrec.params import Params, ParamSpec
from seqrec.types import Batch, BatchFormat, Encoder, Incremental, States

Cache = dict[str, list[Array]]
"""The newest state of each layer."""

_glorot = jax.nn.initializers.glorot_uniform()


@dataclass(frozen=True)
class GRUConfig:
    """Size and dropout of the GRU encoder."""

    d_model: int = 64
    """Width of item vectors and of the output states."""
    d_hidden: int = 128
    """Width of the recurrent state."""
    n_layers: int = 1
    """Number of recurrent layers."""
    embedding_dropout: Annotated[float, TRACED, Range(0.0, 0.6)] = 0.2
    """Dropout rate of the item embeddings, 0 to below 1."""
    dropout: Annotated[float, TRACED, Range(0.0, 0.6)] = 0.2
    """Dropout rate of each layer's output, 0 to below 1."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "d_model", "d_hidden", "n_layers")
        check_share(self, "embedding_dropout", "dropout", one=False)


def gru(config: GRUConfig, *, n_items: int, max_length: int) -> Encoder:
    """An encoder whose state at each position knows that item and those before it in the same history.

    >>> encoder = gru(GRUConfig(d_model=8), n_items=5, max_length=4)
    >>> encoder.d_model, encoder.causal
    (8, True)
    """
    specs: Params = {
        "item_table": item_table_spec(n_items, config.d_model),
        "layers": [
            _layer_specs(config.d_model if layer == 0 else config.d_hidden, config.d_hidden)
            for layer in range(config.n_layers)
        ],
        "out": ParamSpec((config.d_hidden, config.d_model), ("ff", "embed"), _glorot),
    }

    def encode(params: Params, batch: Batch, *, key: Array | None = None, added: States | None = None) -> States:
        keys = [None] * (1 + config.n_layers) if key is None else list(jax.random.split(key, 1 + config.n_layers))
        x = item_vectors(params["item_table"], batch.items, added=added)
        x = dropout(x, rate=config.embedding_dropout, key=keys.pop())
        for layer in params["layers"]:
            x = dropout(gru_layer(layer, x, starts=batch.positions == 0), rate=config.dropout, key=keys.pop())
        return dense(x, params["out"])

    def start(params: Params, batch: Batch) -> tuple[Array, Cache]:
        lengths = history_lengths(batch.segment_ids)
        x, kept = item_vectors(params["item_table"], batch.items), []
        for layer in params["layers"]:
            x = gru_layer(layer, x, starts=batch.positions == 0)
            kept.append(newest(x, lengths))
        return dense(kept[-1], params["out"]), {"layers": kept}

    def append(
        params: Params, cache: Cache, items: Array, *, rows: Array | None = None, times: Array | None = None
    ) -> tuple[Array, Cache]:
        del times
        x, kept = item_vectors(params["item_table"], items), []
        for layer, states in zip(params["layers"], cache["layers"], strict=True):
            x = gru_step(layer, take_rows(states, rows), x)
            kept.append(put_rows(states, x, rows))
        return dense(x, params["out"]), {"layers": kept}

    return Encoder(
        specs,
        encode,
        n_items=n_items,
        d_model=config.d_model,
        reads=BatchFormat(max_length),
        incremental=Incremental(start, append),
    )


def _layer_specs(d_in: int, d_hidden: int) -> Params:
    """Reset, update and candidate gates stand side by side in each array."""
    zeros = jax.nn.initializers.zeros
    return {
        "input": ParamSpec((d_in, 3 * d_hidden), ("embed", "ff"), _glorot),
        "input_bias": ParamSpec((3 * d_hidden,), ("ff",), zeros, decay=False),
        "recurrent": ParamSpec((d_hidden, 3 * d_hidden), ("embed", "ff"), _glorot),
        "recurrent_bias": ParamSpec((3 * d_hidden,), ("ff",), zeros, decay=False),
    }


def gru_layer(
    params: Params, x: Float[Array, "rows length d_in"], *, starts: Bool[Array, "rows length"]
) -> Float[Array, "rows length d_hidden"]:
    """The state after each position (Cho et al. 2014, eq. 5 to 8), from nothing wherever a history starts.

    The candidate state is reset after its product with the recurrent matrix, as cuDNN's form has it, so that one
    product serves all three gates.
    """

    def step(state: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, start = inputs
        state = gru_step(params, jnp.where(start[:, None], 0.0, state), x)
        return state, state

    # The inputs' product is taken step by step: that of all positions at once would write three times the states and
    # read them again, which on a CPU took two to three times as long forward, and up to 1.6 times in training.
    start = jnp.zeros((x.shape[0], params["recurrent"].shape[0]), x.dtype)
    _, states = jax.lax.scan(step, start, (x.swapaxes(0, 1), starts.swapaxes(0, 1)))
    return states.swapaxes(0, 1)


def gru_step(
    params: Params, state: Float[Array, "rows d_hidden"], x: Float[Array, "rows d_in"]
) -> Float[Array, "rows d_hidden"]:
    """The state after one more position, whose input is `x`."""
    from_input = jnp.split(dense(x, params["input"]) + params["input_bias"], 3, axis=-1)
    from_state = jnp.split(state @ params["recurrent"] + params["recurrent_bias"], 3, axis=-1)
    reset = jax.nn.sigmoid(from_input[0] + from_state[0])
    update = jax.nn.sigmoid(from_input[1] + from_state[1])
    candidate = jnp.tanh(from_input[2] + reset * from_state[2])
    return (1 - update) * candidate + update * state
