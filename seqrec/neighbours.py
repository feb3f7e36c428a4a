"""Item-to-item tables in the head: items that follow, or are similar to, those of the history gain in score."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec.heads.softmax import SoftmaxHead
from seqrec.layers import item_table_rows
from seqrec.model import Model
from seqrec.params import Params, ParamSpec
from seqrec.repeats import RepeatHead
from seqrec.retrieval import OffsetVectors, plain_vectors, rank_targets, top_k_items
from seqrec.types import Allow, Batch, BestItems, Exclude, InputError, LossSum, Question, States, TargetRanks, Targets

TABLES = "neighbours"
"""The parameters of the tables, by the name of each."""
SMALLEST_SHARE = 1e-3
"""A share of a table's scores below this adds little: scores gain log(1 + share / SMALLEST_SHARE)."""


class NeighbourTable(NamedTuple):
    """What each item of a history gives to some other items, as sparse rows; NumPy's arrays, or jax's as parameters."""

    ids: Int[Any, "n_rows n_neighbours"]
    """The items that item i gives to, in row i; 0 fills the row."""
    weights: Float[Any, "n_rows n_neighbours"]
    """How much it gives to each; may be negative. Only their ratios count."""
    recency: Float[Any, " n_latest"]
    """Factor of each of the latest items of a history, the newest first; older items give nothing."""
    weight: Float[Any, ""]
    """Factor of what the table adds to a score."""


@dataclass(frozen=True, eq=False)
class NeighbourHead:
    """A `types.Head`: another head, whose scores tables raise. The loss is the other head's, which knows no table."""

    base: SoftmaxHead | RepeatHead
    n_items: int
    tables: tuple[str, ...]

    def loss(self, params: Params, states: States, question: Question, *, key: Array) -> LossSum:
        """That of the head without the tables."""
        return self.base.loss(params, states, question, key=key)

    def queries(self, params: Params, states: States, batch: Batch, last: Int[Array, " queries"]) -> OffsetVectors:
        """What the other head scores, and what each table adds."""
        hidden: Any = self.base.queries(params, states, batch, last)
        for name in self.tables:
            table = NeighbourTable(**params[TABLES][name])
            items, shares = neighbour_shares(table, batch, last)
            hidden = OffsetVectors(hidden, items, table.weight * jnp.log1p(shares / SMALLEST_SHARE))
        return hidden

    def rank(
        self, params: Params, queries: OffsetVectors, targets: Targets, *, exclude: Exclude = None, allow: Allow = None
    ) -> TargetRanks:
        """As `retrieval.rank_targets`."""
        return rank_targets(queries, params["item_table"], targets, n_items=self.n_items, exclude=exclude, allow=allow)

    def top_k(
        self, params: Params, queries: OffsetVectors, *, k: int, exclude: Exclude = None, allow: Allow = None
    ) -> BestItems:
        """As `retrieval.top_k_items`."""
        return top_k_items(queries, params["item_table"], k=k, n_items=self.n_items, exclude=exclude, allow=allow)


def with_neighbours(model: Model, tables: Mapping[str, NeighbourTable]) -> Model:
    """The model with a head that adds to an item's score, for each table, weight * log(1 + p / .001).

    p is the item's share of the table's scores: the sum over the latest items of the history of what they give to the
    item, by `recency`, negative sums taken as 0, divided by the sum over all items. Tables are parameters that no
    training changes (`table_params`), beside those of the trained model. Of their arrays only the shapes are read here.

    >>> import seqrec
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=8), n_items=5, max_length=4))
    >>> table = neighbour_table(np.zeros((6, 2), np.int32), np.zeros((6, 2)), recency=[1.0], n_items=5)
    >>> sorted(with_neighbours(model, {"markov": table}).specs["neighbours"]["markov"])
    ['ids', 'recency', 'weight', 'weights']

    Raises:
      InputError: the model's scores are no softmax's over its item table, nor those of its mixture with repeats.
    """
    check_head(model)
    zeros = jax.nn.initializers.zeros

    def spec(name: str, array: Any) -> ParamSpec:
        axes = ("items", None) if len(array.shape) == 2 else (None,) * len(array.shape)
        dtype = jnp.int32 if name == "ids" else jnp.float32
        return ParamSpec(tuple(array.shape), axes, zeros, decay=False, dtype=dtype)

    specs = {name: {part: spec(part, each) for part, each in t._asdict().items()} for name, t in tables.items()}
    head = NeighbourHead(model.head, model.n_items, tuple(tables))  # type: ignore[arg-type]
    return dataclasses.replace(model, specs={**model.specs, TABLES: specs}, head=head)


def check_head(model: Model) -> None:
    """Refuses what `with_neighbours` refuses."""
    if not isinstance(model.head, SoftmaxHead | RepeatHead):
        raise InputError(
            f"tables raise the scores of a softmax over items, and a {type(model.head).__name__} has none; leave "
            "--fuse out"
        )


def without_neighbours(model: Model) -> Model | None:
    """The model that `with_neighbours` was given, which reads the same parameters; None if it was given none."""
    if not isinstance(model.head, NeighbourHead):
        return None
    specs = {name: each for name, each in model.specs.items() if name != TABLES}
    return dataclasses.replace(model, specs=specs, head=model.head.base)


def neighbour_table(
    ids: Int[np.ndarray, "n_items_plus_1 n_neighbours"],
    weights: Float[np.ndarray, "n_items_plus_1 n_neighbours"],
    *,
    recency: Any,
    weight: float = 1.0,
    n_items: int,
) -> NeighbourTable:
    """A table with as many rows as a model's item table has."""
    padding = ((0, item_table_rows(n_items) - len(ids)), (0, 0))
    return NeighbourTable(
        np.pad(ids.astype(np.int32), padding),
        np.pad(weights.astype(np.float32), padding),
        np.asarray(recency, np.float32),
        np.asarray(weight, np.float32),
    )


def table_params(tables: Mapping[str, NeighbourTable]) -> Params:
    """The tables as parameters of `with_neighbours`, on the host."""
    return {TABLES: {name: table._asdict() for name, table in tables.items()}}


def neighbour_shares(
    table: NeighbourTable, batch: Batch, last: Int[Array, " queries"]
) -> tuple[Int[Array, "queries n"], Float[Array, "queries n"]]:
    """The items that the history up to each position `last` gives to, each once, and their shares; 0 is none."""
    n_latest, n_rows = len(table.recency), len(table.ids)
    ages = jnp.arange(n_latest)
    is_own = ages <= batch.positions.reshape(-1)[last][:, None]
    history = jnp.where(is_own, batch.items.reshape(-1)[jnp.maximum(last[:, None] - ages, 0)], 0)
    given = table.weights[history] * table.recency[:, None]
    ids = jnp.where(history[:, :, None] > 0, table.ids[history], 0)
    n_entries = n_latest * table.ids.shape[1]
    items, sums = summed_by_id(ids.reshape(-1, n_entries), given.reshape(-1, n_entries), n_ids=n_rows)
    sums = jnp.where(items > 0, jnp.maximum(sums, 0.0), 0.0)
    total = jnp.sum(sums, axis=1, keepdims=True)
    return items, sums / jnp.where(total > 0, total, 1.0)


def summed_by_id(
    ids: Int[Array, "queries n"], values: Float[Array, "queries n"], *, n_ids: int
) -> tuple[Int[Array, "queries n"], Float[Array, "queries n"]]:
    """Each id of a row once, at the last of its places in rising order, with the sum of its values; others are 0.

    >>> ids, values = summed_by_id(jnp.array([[7, 3, 7]]), jnp.array([[1.0, 2.0, 4.0]]), n_ids=8)
    >>> ids.tolist(), values.tolist()
    ([[3, 0, 7]], [[2.0, 0.0, 5.0]])
    """
    n = ids.shape[1]
    if n_ids * n < 2**32:
        # One number that holds the id and the place is sorted five times faster on a CPU than a pair of arrays.
        mixed = jnp.sort(ids.astype(jnp.uint32) * n + jnp.arange(n, dtype=jnp.uint32), axis=1)
        values = jnp.take_along_axis(values, (mixed % n).astype(jnp.int32), axis=1)
        ids = (mixed // n).astype(jnp.int32)
    else:
        ids, values = jax.lax.sort((ids, values), num_keys=1)

    def add(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
        return after[0], jnp.where(before[0] == after[0], before[1], 0.0) + after[1]

    _, sums = jax.lax.associative_scan(add, (ids, values), axis=1)
    is_last = jnp.concatenate([ids[:, 1:] != ids[:, :-1], jnp.ones_like(ids[:, :1], bool)], axis=1)
    return jnp.where(is_last, ids, 0), jnp.where(is_last, sums, 0.0)


def parts_of(hidden: Any) -> tuple[Any, list[OffsetVectors]]:
    """What a query's scores start from, and what each table adds to them, in the order of the tables."""
    if not isinstance(hidden, OffsetVectors):
        return hidden, []
    base, added = parts_of(hidden.vectors)
    return base, [*added, hidden._replace(vectors=plain_vectors(hidden)[:, :0])]
