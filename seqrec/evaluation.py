"""From parameters and queries to one rank a user; every figure downstream is computed from these ranks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec.data.batches import Queries
from seqrec.params import Params
from seqrec.retrieval import rank_targets
from seqrec.sharding import split_rows
from seqrec.types import Encoder, QueryBatch


class RankTable(NamedTuple):
    """One row a query, in the queries' order."""

    user: Int[np.ndarray, " queries"]
    """Row of the user in the store."""
    target: Int[np.ndarray, " queries"]
    """Held-out item id."""
    rank: Float[np.ndarray, " queries"]
    """1-based rank of the target among the candidates; a tie costs half."""
    n_candidates: Int[np.ndarray, " queries"]
    history_length: Int[np.ndarray, " queries"]
    """Events before the target."""


EvalStep = Callable[[Params, QueryBatch], tuple[Array, Array]]


def make_eval_step(encoder: Encoder) -> EvalStep:
    """A jitted `step(params, query_batch) -> (ranks, n_candidates)`, one entry a query."""

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        states = encoder.encode(params, queries.batch)
        hidden = states.reshape(-1, states.shape[-1])[queries.last]
        return rank_targets(hidden, params["item_table"], queries.targets, queries.excluded, n_items=encoder.n_items)

    return step


def evaluate(eval_step: EvalStep, params: Params, queries: Queries) -> RankTable:
    """The rank of each query's held-out item."""
    ranks = np.zeros(len(queries.users))
    n_candidates = np.zeros(len(queries.users), np.int64)
    pending = [(batch.query, eval_step(params, split_rows(batch))) for batch in queries.batches()]
    for query, outputs in pending:
        asked = query >= 0
        for table, values in zip((ranks, n_candidates), outputs, strict=True):
            table[query[asked]] = np.asarray(values)[asked]
    return RankTable(
        user=queries.users,
        target=queries.targets,
        rank=ranks,
        n_candidates=n_candidates,
        history_length=queries.history_lengths,
    )
