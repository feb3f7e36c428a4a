"""Vectors of items from their ids, their features or both: read by every encoder, and scored as the catalogue."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.config import check_at_least, check_fields, check_share
from seqrec.data.feature_values import Feature
from seqrec.layers import item_table_rows, item_table_spec, silu
from seqrec.model import Model, keep_params
from seqrec.params import Params, ParamSpec
from seqrec.types import InputError, ItemTable

_STD = 0.02
"""Standard deviation of initial vectors."""
_normal = jax.nn.initializers.normal(_STD)
_HASHES = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32)


@dataclass(frozen=True)
class ItemConfig:
    """How item vectors are computed, from ids and features."""

    item_features: tuple[str, ...] = ()
    """Item features to read: columns of the feature files, or attributes and year where the data set has them. Append
    :categories, :number, :buckets or :vector to choose the encoding."""
    shuffled_features: tuple[str, ...] = ()
    """Item features to shuffle between items, as a placebo: a gain that survives shuffling is not due to the feature.
    """
    feature_files: tuple[Path, ...] = ()
    """Files of item features: Parquet, CSV or JSON Lines with one row per item and a column item of their ids; or .npy
    with one vector per item."""
    ids: Literal["table", "quotient-remainder", "multi-hash", "frequent", "none"] = "table"
    """How an item's id becomes a vector. table: one vector per item. quotient-remainder: product of two shared vectors.
    multi-hash: weighted sum of shared vectors. frequent: one vector per frequent item, one for all others. none:
    features only."""
    id_rows: int = 0
    """Number of shared vectors for quotient-remainder, multi-hash and frequent; 0 means a tenth of the number of items.
    """
    combine: Literal["sum", "gate", "mlp"] = "sum"
    """How the vectors of id and features are combined: summed, weighted by a learned gate, or through a small network
    (mlp)."""
    id_dropout: float = 0.0
    """Share of items whose id vector is dropped in each training step, 0 to below 1, so that features learn to
    represent items without ids."""
    fine_tune_vectors: bool = False
    """Also train the vectors read from feature files; otherwise only their projection is trained."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_share(self, "id_dropout", one=False)
        check_at_least(self, 0, "id_rows")
        if self.combine == "gate" and self.ids == "none":
            raise ValueError("combine=gate weighs ids against features, and ids=none; use combine=sum or combine=mlp")
        if not self.item_features and (self.ids == "none" or self.id_dropout or self.feature_files):
            raise ValueError(
                f"ids={self.ids}, id_dropout={self.id_dropout:g} and {len(self.feature_files)} feature_files, but no "
                "item_features; name the features that items are made of"
            )
        names = [name.partition(":")[0] for name in self.item_features]
        if len(set(names)) < len(names):
            raise ValueError(f"item_features has a name twice: {' '.join(self.item_features)}; give each once")
        if unknown := sorted(set(self.shuffled_features) - set(names)):
            raise ValueError(
                f"shuffled_features names {unknown[0]}, which is not in item_features "
                f"({' '.join(names) or 'empty'}); add it there"
            )


Combine = Callable[[Any, dict[str, Array]], ItemTable]
"""One vector an item, of its parameters and the vectors of each part by name, of which `ids` may be one."""


class Part(NamedTuple):
    """One of the things that item vectors are made of."""

    specs: Params
    constants: Any
    """Arrays with a row for each row of the item table."""
    vectors: Callable[[Params, Any], ItemTable]
    """Vectors of all items, of its parameters and constants."""


def with_items(
    model: Model,
    config: ItemConfig,
    features: Sequence[Feature] = (),
    *,
    counts: Int[np.ndarray, " n_items_plus_1"],
) -> Model:
    """The model whose item table is made of what the config asks for instead of being a parameter.

    `counts` says how often each id occurs in training, as `training_counts` returns it. Where there are features, an
    item that never occurs has no id vector: it is read and scored by its features alone. With ids alone in a table
    of their own the model is returned as it is.

    Raises:
      InputError: the model composes its parameters already.
    """
    if config.ids == "table" and not features:
        return model
    if model.compose is not keep_params:
        raise InputError("the model composes its parameters already; make its item vectors once, and first")
    d_model, n_items = model.d_model, model.n_items
    n_rows = item_table_rows(n_items)
    parts = {f"feature {feature.name}": _feature_part(feature, config, n_rows, d_model) for feature in features}
    if config.ids != "none":
        parts["ids"] = _id_part(config, counts, n_items, d_model)
    specs = {name: part.specs for name, part in parts.items()}
    constants = {name: part.constants for name, part in parts.items()}
    if features and config.ids != "none":
        constants["trained"] = _rows(counts > 0, n_rows)
    combine_specs, combine = _combination(config, n_parts=len(parts), d_model=d_model)

    def compose(params: Params, constants: Any, *, key: Array | None = None) -> Params:
        feature_params = params["items"]
        vectors = {name: part.vectors(feature_params[name], constants[name]) for name, part in parts.items()}
        if "trained" in constants:
            shown = constants["trained"]
            if key is not None and config.id_dropout:
                shown &= ~jax.random.bernoulli(key, config.id_dropout, shown.shape)
            vectors["ids"] = jnp.where(shown[:, None], vectors["ids"], 0.0)
        others = {name: leaf for name, leaf in params.items() if name != "items"}
        return {**others, "item_table": combine(feature_params.get("combine"), vectors)}

    return dataclasses.replace(
        model,
        specs={
            **{name: spec for name, spec in model.specs.items() if name != "item_table"},
            "items": {**specs, **({"combine": combine_specs} if combine_specs else {})},
        },
        compose=compose,
        constants=constants,
    )


def _rows(values: np.ndarray, n_rows: int) -> np.ndarray:
    """A row for each row of the item table: those beyond the catalogue are empty."""
    return np.concatenate([values, np.zeros((n_rows - len(values), *values.shape[1:]), values.dtype)])


# Features


def _feature_part(feature: Feature, config: ItemConfig, n_rows: int, d_model: int) -> Part:
    if feature.categories:
        return _category_part(feature, n_rows, d_model)
    known = _rows(feature.known, n_rows)
    width = feature.values.shape[1]
    specs = number_specs(width, d_model)
    values = _rows(feature.values, n_rows)
    if not config.fine_tune_vectors or width == 1:

        def project(params: Params, constants: Any) -> Array:
            return number_vectors(params, constants["values"], constants["known"])

        return Part(specs, {"values": values, "known": known}, project)

    specs["vectors"] = ParamSpec((n_rows, width), ("items", None), jax.nn.initializers.constant(values))

    def fine_tune(params: Params, constants: Any) -> Array:
        return number_vectors(params, params["vectors"], constants["known"])

    return Part(specs, {"known": known}, fine_tune)


def _category_part(feature: Feature, n_rows: int, d_model: int) -> Part:
    codes = _rows(feature.values, n_rows)
    n_each = np.maximum(np.sum(codes > 0, axis=1), 1).astype(np.float32)

    def mean(params: Params, constants: Any) -> Array:
        return category_vectors(params, constants["codes"], constants["n_each"])

    return Part(category_specs(len(feature.categories), d_model), {"codes": codes, "n_each": n_each}, mean)


def number_specs(width: int, d_model: int) -> Params:
    """A projection of as many numbers, and a vector for where they are not known."""
    return {
        "unknown": ParamSpec((d_model,), ("embed",), _normal),
        # Numbers have a mean square of 1, so that their projection starts as long as an id's vector.
        "projection": ParamSpec((width, d_model), (None, "embed"), jax.nn.initializers.normal(_STD / math.sqrt(width))),
    }


def number_vectors(params: Params, values: Float[Any, "n width"], known: Bool[Any, " n"]) -> Float[Array, "n d_model"]:
    """The projection of each row of numbers, where they are known."""
    return jnp.where(known[:, None], values @ params["projection"], params["unknown"])


def category_specs(n_categories: int, d_model: int) -> Params:
    """A vector for each category, and one, the first, for what has none."""
    return {"table": ParamSpec((n_categories + 1, d_model), (None, "embed"), _normal)}


def category_vectors(params: Params, codes: Int[Any, "n width"], n_each: Float[Any, " n"]) -> Float[Array, "n d_model"]:
    """The mean of the vectors of each row's categories, `n_each` codes above 0 and zeros behind them."""
    table = params["table"]
    if codes.shape[1] == 1:
        return table[codes[:, 0]]

    def add(total: Array, column: Array) -> tuple[Array, None]:
        return total + jnp.where(column[:, None] > 0, table[column], 0.0), None

    # A column at a time: nothing of size rows x categories of one row x width exists.
    total, _ = jax.lax.scan(add, jnp.zeros((len(codes), table.shape[1]), table.dtype), codes.T)
    return jnp.where(codes[:, :1] > 0, total / n_each[:, None], table[0])


# Ids


def _id_part(config: ItemConfig, counts: np.ndarray, n_items: int, d_model: int) -> Part:
    if config.ids == "table":
        return Part({"table": item_table_spec(n_items, d_model)}, {}, lambda params, constants: params["table"])
    n_shared = config.id_rows or max(2, n_items // 10)
    makers = {"quotient-remainder": _quotient_remainder, "multi-hash": _multi_hash, "frequent": _frequent}
    return makers[config.ids](n_shared, counts, item_table_rows(n_items), d_model)


def _quotient_remainder(n_shared: int, counts: np.ndarray, n_rows: int, d_model: int) -> Part:
    """Products of one vector for the quotient and one for the remainder (Shi et al. 2020, section 3), no two alike."""
    del counts
    n_quotients = -(-n_rows // n_shared)
    specs = {
        "remainders": ParamSpec((n_shared, d_model), (None, "embed"), _normal),
        "quotients": ParamSpec((n_quotients, d_model), (None, "embed"), jax.nn.initializers.normal(1.0), decay=False),
    }

    def vectors(params: Params, constants: Any) -> Array:
        return params["remainders"][constants["remainder"]] * params["quotients"][constants["quotient"]]

    quotient, remainder = np.divmod(np.arange(n_rows, dtype=np.int32), np.int32(n_shared))
    return Part(specs, {"quotient": quotient, "remainder": remainder}, vectors)


def _multi_hash(n_shared: int, counts: np.ndarray, n_rows: int, d_model: int) -> Part:
    """Sums of two hashed vectors, each item with weights of its own (Svenstrup et al. 2017, eq. 1)."""
    del counts
    ids = np.arange(n_rows, dtype=np.uint32)
    hashed = [((ids * _HASHES[i]) ^ ((ids * _HASHES[i]) >> 15)) * _HASHES[i + 1] for i in range(2)]
    rows = np.stack([(each >> 8) % n_shared for each in hashed], axis=1).astype(np.int32)
    specs = {
        "table": ParamSpec((n_shared, d_model), (None, "embed"), _normal),
        "weights": ParamSpec((n_rows, 2), ("items", None), jax.nn.initializers.normal(1.0), decay=False),
    }

    def vectors(params: Params, constants: Any) -> Array:
        looked_up = [params["table"][constants["rows"][:, i]] for i in range(2)]
        return sum(params["weights"][:, i, None] * looked_up[i] for i in range(2)) * math.sqrt(0.5)

    return Part(specs, {"rows": rows}, vectors)


def _frequent(n_shared: int, counts: np.ndarray, n_rows: int, d_model: int) -> Part:
    """One vector for each of the most frequent items in training, and one for all others together."""
    n_own = min(n_shared - 1, len(counts) - 1)
    most = 1 + np.argsort(-counts[1:], kind="stable")[:n_own]
    row = np.zeros(n_rows, np.int32)
    row[most] = 1 + np.arange(n_own)
    specs = {"table": ParamSpec((n_own + 1, d_model), (None, "embed"), _normal)}
    return Part(specs, {"row": row}, lambda params, constants: params["table"][constants["row"]])


# Both


def _combination(config: ItemConfig, *, n_parts: int, d_model: int) -> tuple[Params, Combine]:
    """Specs and `combine(params, vectors)` of the parts, of which `ids` may be one."""

    def features_of(vectors: dict[str, Array]) -> Array:
        return sum((each for name, each in vectors.items() if name != "ids"), jnp.zeros(()))

    if n_parts == 1 or config.combine == "sum":
        return {}, lambda params, vectors: sum(vectors.values())
    width = n_parts * d_model
    dense = jax.nn.initializers.lecun_normal()
    if config.combine == "gate":
        specs = {"gate": ParamSpec((width, d_model), (None, "embed"), dense)}

        def gate(params: Params, vectors: dict[str, Array]) -> Array:
            # By the root of their mean square at the start, so that the gate begins open to what it reads.
            share = jax.nn.sigmoid(jnp.concatenate([*vectors.values()], axis=1) / _STD @ params["gate"])
            return share * vectors["ids"] + (1.0 - share) * features_of(vectors)

        return specs, gate
    specs = {
        "up": ParamSpec((width, 2 * d_model), (None, "ff"), dense),
        "down": ParamSpec((2 * d_model, d_model), ("ff", "embed"), dense),
    }

    def perceive(params: Params, vectors: dict[str, Array]) -> Array:
        read = jnp.concatenate([*vectors.values()], axis=1) / _STD
        return sum(vectors.values()) + _STD * (silu(read @ params["up"]) @ params["down"])

    return specs, perceive
