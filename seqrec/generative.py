"""Models that write the next item's semantic id, and read items by the vectors of their codes: summed, or each."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from seqrec.config import changed_fields
from seqrec.encoders.transformer import TransformerConfig
from seqrec.heads.code_probabilities import depth_decoder_specs
from seqrec.heads.code_search import CODES, DENSE, PARAMS, TREE
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.heads.hybrid import HybridHead
from seqrec.heads.softmax import SoftmaxHead
from seqrec.heads.token_decoder import TokenDecoder, token_decoder_specs
from seqrec.layers import item_table_rows
from seqrec.losses.config import LossConfig
from seqrec.model import Model
from seqrec.params import Params
from seqrec.prefix_tree import SLACK, PrefixTree, prefix_tree, room
from seqrec.semantic_ids.codes import SemanticIds
from seqrec.sharding import look_up
from seqrec.types import Head, InputError, Scalar

BEAM, BEAM_ALONE = DepthDecoderConfig(), DepthDecoderConfig(ranks="beam")
CODE_LOSS_FIELDS = ("label_smoothing", "later_share", "n_later")
"""What a cross-entropy of codes takes of a `LossConfig`."""


@struct.dataclass
class CodeVectors:
    """Stands for an item table: the vector of an item is the sum of those of its codes, and of its own if it has one.

    It is looked up by ids, as a table is, and nothing as long as the catalogue is made of vectors.
    """

    tables: tuple[Any, ...]
    """Float[Array, "n_codes d_model"] of each level."""
    codes: Any
    """UInt[Array, "n_rows n_levels"] of each item id."""
    id_vectors: Any = None
    """Float[Array, "n_rows d_model"], or None."""
    n_own: int = struct.field(pytree_node=False, default=0)
    """Ids from here on, of later items, have no vector of their own: what rows there are is padding."""

    @property
    def shape(self) -> tuple[int, int]:
        """That of the table."""
        return self.codes.shape[0], self.tables[0].shape[1]

    @property
    def dtype(self) -> Any:
        """Of its vectors."""
        return self.tables[0].dtype

    def __getitem__(self, ids: Int[Array, "*shape"]) -> Float[Array, "*shape d_model"]:
        codes = self.codes[ids].astype(jnp.int32)
        vectors = [look_up(table, codes[..., level]) for level, table in enumerate(self.tables)]
        if self.id_vectors is not None and len(self.id_vectors) < len(self.codes):  # there may be later items
            vectors.append(jnp.where((ids < self.n_own)[..., None], look_up(self.id_vectors, ids), 0.0))
        elif self.id_vectors is not None:
            vectors.append(look_up(self.id_vectors, ids))
        return sum(vectors[1:], start=vectors[0])


@struct.dataclass
class TokenVectors:
    """Stands for an item table whose rows are the codes of items: row n_levels x item + level.

    It is looked up by rows of all of an item's tokens, one after another. An item's own vector, if it has one, is added
    to that of its last code.
    """

    tables: tuple[Any, ...]
    codes: Any
    id_vectors: Any = None

    @property
    def shape(self) -> tuple[int, int]:
        """That of the table."""
        return self.codes.size, self.tables[0].shape[1]

    @property
    def dtype(self) -> Any:
        """Of its vectors."""
        return self.tables[0].dtype

    def __getitem__(self, tokens: Int[Array, "rows n_tokens"]) -> Float[Array, "rows n_tokens d_model"]:
        n_levels = len(self.tables)
        items, levels = jnp.divmod(tokens, n_levels)
        firsts = np.cumsum([0, *(len(table) for table in self.tables[:-1])])
        places = jnp.asarray(firsts)[levels] + self.codes[items, levels].astype(jnp.int32)
        vectors = look_up(jnp.concatenate(self.tables), places)
        if self.id_vectors is not None:
            last = np.s_[..., n_levels - 1 :: n_levels]
            vectors = vectors.at[(*last, slice(None))].add(look_up(self.id_vectors, items[last]))
        return vectors


def with_semantic_ids(
    model: Model,
    ids: SemanticIds,
    config: DepthDecoderConfig = BEAM,
    *,
    item_vectors: bool = True,
    dropout: Scalar = 0.0,
    label_smoothing: Scalar = 0.0,
) -> Model:
    """The model that reads each item as the sum of the vectors of its codes, and writes the next item code by code.

    With `item_vectors` the vector that the model has for an item, of its id or its features, is added to what is read;
    without, the model is as large however many items there are. Codes' vectors are read and scored, as item vectors
    are. An item that training never saw is written like any other.

    >>> import seqrec
    >>> from seqrec.semantic_ids.codes import semantic_ids
    >>> ids = semantic_ids(np.array([[0, 0], [1, 0], [0, 2], [1, 2]]), (2, 3))
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=8), n_items=3, max_length=4))
    >>> sorted(with_semantic_ids(model, ids, item_vectors=False).specs)
    ['layers', 'out', 'semantic_ids']

    Raises:
      InputError: the model's head is no plain softmax, or there are not as many items with codes as the model has.
    """
    if config.dense_weight and not item_vectors:
        raise InputError(f"dense_weight={config.dense_weight:g} weighs item vectors, and there are none; leave one out")
    specs = depth_decoder_specs(ids.n_codes, model.d_model, d_ff=config.level_d_ff)
    decoder = DepthDecoder(model.n_items, config, dropout, label_smoothing)
    head = HybridHead(decoder) if config.dense_weight else decoder
    vectors = functools.partial(CodeVectors, n_own=1 + ids.n_items)
    return _with_codes(model, ids, vectors, specs, head, item_vectors=item_vectors)


def with_token_decoder(
    model: Model,
    ids: SemanticIds,
    sizes: TransformerConfig,
    config: DepthDecoderConfig = BEAM_ALONE,
    *,
    n_blocks: int = 2,
    item_vectors: bool = True,
    label_smoothing: Scalar = 0.0,
) -> Model:
    """The model of an encoder of `code_tokens`, which writes the next item's codes by a decoder of these sizes.

    With `item_vectors` each item's own vector is added to that of its last code where it is read.

    Raises:
      InputError: see `with_semantic_ids`; the model has side tasks; the config asks for what a beam cannot do.
    """
    if model.auxiliary_loss is not None:
        raise InputError("side tasks read one state an item, which flat tokens do not have; leave them out")
    if config.ranks == "exact" or config.lists == "exact" or config.level_d_ff or config.dense_weight:
        raise InputError(
            "flat tokens know a beam alone; use --ranks beam and --lists beam, without --level-d-ff and --dense-weight"
        )
    specs = token_decoder_specs(sizes, ids.n_codes, n_blocks=n_blocks)
    head = TokenDecoder(model.n_items, sizes, model.reads.max_length, config.beam_width, label_smoothing)
    return _with_codes(model, ids, TokenVectors, specs, head, item_vectors=item_vectors)


def _with_codes(
    model: Model,
    ids: SemanticIds,
    vectors: Callable[..., CodeVectors | TokenVectors],
    specs: Params,
    head: Head,
    *,
    item_vectors: bool,
) -> Model:
    """The model with a head of codes, these parameters of it, and what stands for an item table."""
    if not isinstance(model.head, SoftmaxHead):
        raise InputError(
            f"semantic ids need a softmax head to replace, not a {type(model.head).__name__}; leave it out"
        )
    if ids.n_items != model.n_items:
        raise InputError(
            f"{ids.n_items:,} items have codes, and the model has {model.n_items:,}; make the codes for its catalogue"
        )
    others = {name: spec for name, spec in model.specs.items() if item_vectors or name not in ("item_table", "items")}
    smallest = np.uint8 if max(ids.n_codes) <= 256 else np.int32
    codes = np.zeros((item_table_rows(ids.n_items), ids.n_levels), smallest)
    codes[: len(ids.codes)] = ids.codes

    def compose(params: Params, constants: Any, *, key: Array | None = None) -> Params:
        inner = {name: leaf for name, leaf in params.items() if name != PARAMS}
        if item_vectors:
            inner = model.compose(inner, constants["items"], key=key)
        table = vectors(tuple(params[PARAMS]["codes"]), constants["codes"], inner.get("item_table"))
        head_params = {PARAMS: params[PARAMS], CODES: constants["codes"], TREE: constants["tree"]}
        if isinstance(head, HybridHead):
            head_params[DENSE] = inner["item_table"]
        return {**inner, **head_params, "item_table": table}

    return dataclasses.replace(
        model,
        specs={**others, PARAMS: specs},
        head=head,
        compose=compose,
        loss_constants=None,
        constants={
            "items": model.constants if item_vectors else None,
            "codes": codes,
            "tree": prefix_tree(ids.codes, ids.n_codes),
        },
    )


def ids_of(model: Model) -> SemanticIds:
    """The codes of a model that `with_semantic_ids` made."""
    sizes = tuple(spec.shape[0] for spec in model.specs[PARAMS]["codes"])
    return SemanticIds(np.asarray(model.constants["codes"][: model.n_items + 1], np.int32), sizes)


def with_room(model: Model) -> Model:
    """The same with room for later items, an eighth more: a model for serving, whose catalogue changes from day to day.

    Later items have codes and no vectors of their own. The tree has room for as many anyhow. A model that scores by
    vectors, too, has no place for them, and stays as it is.
    """
    if isinstance(model.head, HybridHead):
        return model
    if not isinstance(model.head, DepthDecoder):
        raise InputError("a bundle holds no decoder of flat tokens; list items from the run, with export_lists.py")
    more = room(len(model.constants["codes"]), SLACK) - len(model.constants["codes"])
    codes, tree = np.pad(model.constants["codes"], ((0, more), (0, 0))), model.constants["tree"]
    leaves = np.pad(tree.leaves, (0, len(codes) - len(tree.leaves)), constant_values=-1)
    n_items = len(codes) - 1
    return dataclasses.replace(
        model,
        encoder=dataclasses.replace(model.encoder, n_items=n_items),
        head=dataclasses.replace(model.head, n_items=n_items),
        constants={**model.constants, "codes": codes, "tree": dataclasses.replace(tree, leaves=leaves)},
    )


def check_loss(loss: LossConfig) -> None:
    """Refuses what a model of semantic ids cannot honour: anything but smoothed labels, and shares of later items.

    Raises:
      InputError: the config asks for more.
    """
    for name, value in changed_fields(loss).items():
        if name not in CODE_LOSS_FIELDS:
            raise InputError(
                f"{name}={value} is about scores of items, and a model of semantic ids learns codes, by "
                "cross-entropy with --label-smoothing and --later-share; leave it out"
            )


def with_catalogue(params: Params, tree: PrefixTree) -> Params:
    """Composed parameters with another catalogue, such as the tracks of today; make its tree `like` theirs."""
    return {**params, TREE: tree}
