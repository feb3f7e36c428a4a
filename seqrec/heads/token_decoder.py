"""A head that writes the next item's code by a Transformer decoder, from the states of all codes of a history."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.attention import KeysAndValues
from seqrec.encoders.seq2seq import Memory, decode, decoder_specs, keys_and_values
from seqrec.encoders.transformer import TransformerConfig, rotary_angles
from seqrec.heads.code_probabilities import code_losses, loss_of_targets, refuse_unwanted
from seqrec.heads.code_search import (
    CODES,
    PARAMS,
    TREE,
    SearchSizes,
    beam_search,
    leaves_of,
    rank_leaves,
    scores_by_leaf,
    top_k_leaves,
)
from seqrec.layers import Rotation, dropout
from seqrec.params import Params, ParamSpec
from seqrec.prefix_tree import nodes_above
from seqrec.types import (
    Allow,
    Batch,
    BestItems,
    Exclude,
    LossSum,
    Question,
    Scalar,
    States,
    TargetRanks,
    Targets,
)


class TokensRead(NamedTuple):
    """What the decoder reads of each query's history."""

    blocks: list[KeysAndValues]
    """Keys and values of all tokens of its row, for each block of the decoder."""
    is_read: Bool[Array, "queries n_tokens"]
    position: Int[Array, " queries"]
    """0-based, of the newest item."""


def token_decoder_specs(config: TransformerConfig, n_codes: tuple[int, ...], *, n_blocks: int) -> Params:
    """A vector for each code of each level, a first token, and the decoder's blocks."""
    normal = jax.nn.initializers.normal(0.02)
    specs = decoder_specs(config, n_blocks)
    specs["codes"] = [ParamSpec((n, config.d_model), (None, "embed"), normal) for n in n_codes]
    specs["first"] = ParamSpec((config.d_model,), ("embed",), normal, decay=False)
    if config.positions == "learned":
        specs["level_table"] = ParamSpec((len(n_codes), config.d_model), (None, "embed"), normal)
    return specs


@dataclass(frozen=True, eq=False)
class TokenDecoder:
    """A `types.Head` that goes on from the states of all codes of a history, as `encoders.code_tokens` makes them.

    p(item | history) = p(c1 | history) p(c2 | c1, history) … (Rajput et al. 2023, section 3.2): the decoder starts with
    a token of its own, reads the codes so far, and attends to the history. Codes' vectors are read and scored. Where
    the encoder is causal, a decoder goes on from each position of a row; a bidirectional one serves one position of
    each history. Ranks and lists are those of a beam, and exact where it is as wide as the catalogue.
    """

    n_items: int
    config: TransformerConfig
    max_length: int
    """Items of a history."""
    beam_width: int = 50
    label_smoothing: Scalar = 0.0
    """Share of the label that all codes that may follow divide evenly."""

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """The sum over levels of the cross-entropy of each target's code, given those before it.

        Raises:
          InputError: the question has unwanted items.
        """
        refuse_unwanted(question)
        batch, targets = question.inputs, question.targets
        decoder, codes = params[PARAMS], params[CODES][targets].astype(jnp.int32)
        rows, n_queried, n_levels = codes.shape
        segments, positions = batch.segment_ids, batch.positions
        if question.positions is not None:
            segments, positions = (jnp.take_along_axis(each, question.positions, axis=1) for each in batch[2:4])
        is_read = batch.segment_ids[:, None, :] == segments[:, :, None]
        is_read &= batch.positions[:, None, :] <= positions[:, :, None]
        # Items become tokens, on the side of the queries and on that of what they read.
        is_read = jnp.repeat(jnp.repeat(is_read, n_levels, axis=1), n_levels, axis=2)
        item, level = np.divmod(np.arange(n_queried * n_levels), n_levels)
        is_earlier = (item[:, None] == item) & (level <= level[:, None])
        vectors = [jnp.broadcast_to(decoder["first"], (rows, n_queried, self.config.d_model))]
        vectors += [table[codes[..., depth]] for depth, table in enumerate(decoder["codes"][:-1])]
        embed_key, decode_key = jax.random.split(key)
        written, _ = decode(
            self.config,
            decoder,
            self._embedded(decoder, jnp.stack(vectors, axis=2), np.arange(n_levels), states.dtype, key=embed_key),
            Memory(self._keys_and_values(decoder, states, batch.positions), is_read),
            mask=jnp.broadcast_to(is_earlier, (rows, *is_earlier.shape)),
            angles=self._angles(_places(positions + 1, n_levels), n_levels),
            key=decode_key,
        )
        written, losses = written.reshape(rows, n_queried, n_levels, -1), jnp.zeros(targets.shape)
        tree, smoothing = params[TREE], self.label_smoothing
        nodes = nodes_above(tree, leaves_of(tree, targets))
        for depth, table in enumerate(decoder["codes"]):
            scores = _scores(table, written[:, :, depth], precision=None)
            losses += code_losses(
                tree.levels[depth], nodes[depth], scores, codes[..., depth], label_smoothing=smoothing
            )
        return loss_of_targets(losses, question)

    def queries(self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]) -> TokensRead:
        """The histories that end at the positions `last` of the flattened batch."""
        length = batch.items.shape[1]
        row, column = jnp.divmod(last, length)
        segment, position = batch.segment_ids[row, column], batch.positions[row, column]
        is_read = (batch.segment_ids[row] == segment[:, None]) & (batch.positions[row] <= position[:, None])
        blocks = jax.tree.map(lambda leaf: leaf[row], self._keys_and_values(params[PARAMS], states, batch.positions))
        return TokensRead(blocks, jnp.repeat(is_read, states.shape[1] // length, axis=1), position)

    def rank(
        self, params: Params, queries: TokensRead, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """Ranks by the beam's list; targets that are not on it have the mean of the places behind it."""

        def score(params: Params, read: TokensRead, targets: Array, valid: Array) -> Array:
            return scores_by_leaf(*self._beam(params, read, valid, width=self.beam_width), valid)

        sizes = SearchSizes(self.n_items, self.config.d_model, self.beam_width)
        return rank_leaves(score, params, queries, targets, sizes, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: TokensRead, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """Ids of the `k` likeliest candidates that a beam finds, and their log-probabilities, as `DepthDecoder`."""
        sizes = SearchSizes(self.n_items, self.config.d_model, max(k, self.beam_width), has_leaf_scores=False)

        def search(params: Params, read: TokensRead, valid: Array | None) -> tuple[Array, Array]:
            return self._beam(params, read, valid, width=sizes.width)

        return top_k_leaves(search, params, queries, sizes, k=k, exclude=exclude, allow=allow)

    def _beam(
        self, params: Params, read: TokensRead, valid: Bool[Array, "#users n_leaves"] | None, *, width: int
    ) -> tuple[Int[Array, "users beams"], Float[Array, "users beams"]]:
        """As `beam_search`, with the keys and values of all tokens that any beam has written in one cache.

        A beam attends to those of its own prefix alone, so nothing is moved as beams come and go.
        """
        decoder, tree, config = params[PARAMS], params[TREE], self.config
        n_users, n_levels = len(read.position), len(tree.levels)
        room, dtype = 1 + width * (n_levels - 1), read.blocks[0][0].dtype
        empty = jnp.zeros((n_users, config.n_heads, room, config.d_model // config.n_heads), dtype)
        start = _Beams(
            jnp.broadcast_to(decoder["first"], (n_users, 1, config.d_model)),
            jnp.zeros((n_users, 1, room), bool),
            [(empty, empty)] * len(read.blocks),
            0,
        )

        def score(depth: int, beams: _Beams) -> tuple[Array, _Beams]:
            n_beams = beams.vectors.shape[1]
            is_own = np.arange(room) == beams.place + np.arange(n_beams)[:, None]
            own_prefix = beams.own_prefix | is_own
            places = jnp.broadcast_to(n_levels * (read.position + 1)[:, None] + depth, (n_users, n_beams))
            states, caches = decode(
                config,
                decoder,
                self._embedded(decoder, beams.vectors, np.array(depth), dtype, key=None),
                Memory(read.blocks, jnp.broadcast_to(read.is_read[:, None], (n_users, n_beams, read.is_read.shape[1]))),
                mask=own_prefix,
                angles=self._angles(places, n_levels),
                caches=beams.caches,
                place=beams.place,
            )
            # In full precision, as scores of items are: else a TPU multiplies in bfloat16 and a GPU in TF32.
            scores = _scores(decoder["codes"][depth], states, precision=jax.lax.Precision.HIGHEST)
            return scores, _Beams(beams.vectors, own_prefix, caches, beams.place + n_beams)

        def advance(depth: int, beams: _Beams, parents: Array, codes: Array) -> _Beams:
            own_prefix = jnp.take_along_axis(beams.own_prefix, parents[..., None], axis=1)
            return beams._replace(vectors=decoder["codes"][depth][codes], own_prefix=own_prefix)

        return beam_search(tree, valid, start, n_users=n_users, width=width, score=score, advance=advance)

    def _embedded(
        self, decoder: Params, vectors: Array, levels: np.ndarray, dtype: Any, *, key: Array | None
    ) -> Float[Array, "rows n_tokens d_model"]:
        """What the decoder's first block reads: the vectors scaled as items' are, with those of learned positions."""
        x = vectors * math.sqrt(self.config.d_model)
        if self.config.positions == "learned":
            x = x + decoder["level_table"][levels]
        x = x.astype(dtype).reshape(len(x), -1, self.config.d_model)
        return dropout(x, rate=self.config.dropout, key=key)

    def _keys_and_values(
        self, decoder: Params, states: States, positions: Int[Array, "rows n_positions"]
    ) -> list[KeysAndValues]:
        n_levels = len(decoder["codes"])
        return keys_and_values(
            self.config, decoder, states, angles=self._angles(_places(positions, n_levels), n_levels)
        )

    def _angles(self, places: Int[Array, "rows n_tokens"], n_levels: int) -> Rotation | None:
        return rotary_angles(self.config, places, max_length=n_levels * (self.max_length + 1))


class _Beams(NamedTuple):
    """What a beam search keeps."""

    vectors: Float[Array, "users beams d_model"]
    """Of each beam's newest token."""
    own_prefix: Bool[Array, "users beams room"]
    """Which tokens of the caches each beam has written."""
    caches: list[KeysAndValues]
    place: int
    """Where the next tokens go."""


def _places(positions: Int[Array, "rows n"], n_levels: int) -> Int[Array, "rows n_tokens"]:
    """Those of the tokens of the items at these positions."""
    return (n_levels * positions[:, :, None] + jnp.arange(n_levels)).reshape(len(positions), -1)


def _scores(
    table: Float[Array, "n_codes d_model"], states: Float[Array, "rows n d_model"], *, precision: Any
) -> Float[Array, "rows n n_codes"]:
    options = {"precision": precision, "preferred_element_type": jnp.float32}
    flat = jnp.matmul(states.reshape(-1, states.shape[-1]), table.astype(states.dtype).T, **options)
    return flat.reshape(*states.shape[:-1], -1)
