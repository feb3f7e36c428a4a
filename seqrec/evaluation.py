"""From parameters and queries to one rank a user, from which every figure downstream is computed, or to lists."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seqrec.data.batches import Queries
from seqrec.generation import GREEDY, DecodingConfig, Generated, generate
from seqrec.params import Params
from seqrec.retrieval import asked_states, rank_targets, top_k_items
from seqrec.sharding import on_host, split_items, split_rows
from seqrec.types import Decoder, Encoder, HistoryBatch, InputError, QueryBatch


def composed(encoder: Encoder, params: Params) -> Params:
    """What evaluation reads: `params` with the item table, made once where ids and features make it up."""
    if encoder.constants is None:
        return params
    return jax.jit(encoder.compose)(params, split_items(encoder.constants))


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


class TopItems(NamedTuple):
    """The best candidates of each query, in the queries' order."""

    user: Int[np.ndarray, " queries"]
    """Row of the user in the store."""
    items: Int[np.ndarray, "queries k"]
    """Item ids, best first; 0 where candidates run out."""
    scores: Float[np.ndarray, "queries k"]


class ListRanks(NamedTuple):
    """Where in each query's list its true items stand."""

    rank: Float[np.ndarray, "queries n"]
    """Places from 1 on; infinite where the list lacks the item."""
    where: Bool[np.ndarray, "queries n"]
    """Which there are: false where a query has fewer true items."""


GenerateStep = Callable[[Params, HistoryBatch], Generated]

QueryStep = Callable[[Params, QueryBatch], tuple[Array, ...]]
"""Arrays with one entry, or row, a query."""


def make_eval_step(encoder: Encoder) -> QueryStep:
    """A jitted `step(params, query_batch) -> (ranks, n_candidates)`."""

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        hidden, repeated = asked_states(encoder, params, queries.batch, queries.last)
        options: dict[str, Any] = {"n_items": encoder.n_items, "exclude": queries.excluded, "repeated": repeated}
        return rank_targets(hidden, params["item_table"], queries.targets, **options)

    return step


def evaluate(eval_step: QueryStep, params: Params, queries: Queries) -> RankTable:
    """The rank of each query's held-out item."""
    ranks, n_candidates = _ask(eval_step, params, queries)
    return RankTable(
        user=queries.users,
        target=queries.targets,
        rank=ranks.astype(np.float64),
        n_candidates=n_candidates.astype(np.int64),
        history_length=queries.history_lengths,
    )


def make_top_step(encoder: Encoder, *, k: int) -> QueryStep:
    """A jitted `step(params, query_batch) -> (item ids, scores)` of the `k` best candidates."""

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        hidden, repeated = asked_states(encoder, params, queries.batch, queries.last)
        options: dict[str, Any] = {"n_items": encoder.n_items, "exclude": queries.excluded, "repeated": repeated}
        return top_k_items(hidden, params["item_table"], k=k, **options)

    return step


def top_items(top_step: QueryStep, params: Params, queries: Queries) -> TopItems:
    """The best candidates of each query.

    Unlike a rank's candidates they leave out a target that the user has taken before, if seen items are excluded.
    """
    items, scores = _ask(top_step, params, queries)
    return TopItems(queries.users, items, scores)


def make_head_step(encoder: Encoder) -> QueryStep:
    """A jitted `step(params, query_batch)` -> the loss of each of the encoder's heads, in their order, in nats."""

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, ...]:
        hidden, _ = asked_states(encoder, params, queries.batch, queries.last)
        answers = {name: values.reshape(-1)[queries.last][:, None] for name, values in queries.batch.answers.items()}
        assert encoder.heads is not None
        losses = encoder.heads(params, hidden[:, None], queries.targets[:, None], answers)
        return tuple(each[:, 0] for each in losses.values())

    return step


def head_losses(head_step: QueryStep, params: Params, queries: Queries) -> dict[str, Float[np.ndarray, " queries"]]:
    """The loss of each head at each query's held-out event, in nats; the queries' batches must hold the answers."""
    assert queries.engagement is not None
    losses = _ask(head_step, params, queries)
    return {name: each.astype(np.float64) for name, each in zip(queries.engagement.head_sizes, losses, strict=True)}


def make_generate_step(decoder: Decoder, *, n: int, config: DecodingConfig = GREEDY, seed: int = 0) -> GenerateStep:
    """A jitted `step(params, histories)` that generates `n` items for each; draws are the seed's and the histories'."""

    @jax.jit
    def step(params: Params, histories: HistoryBatch) -> Generated:
        key = None
        if config.method == "sample":
            key = jax.random.fold_in(jax.random.key(seed), jnp.sum(histories.items))
        return generate(decoder, params, histories, n=n, config=config, key=key)

    return step


def generate_lists(
    step: GenerateStep, params: Params, queries: Queries, *, n: int, max_length: int
) -> Int[np.ndarray, "queries n"]:
    """The continuation that a step for `n` items generates of each query's history, in the queries' order."""
    if not 1 <= n <= max_length:
        raise InputError(
            f"n={n} is not in 1..max_length={max_length}; generate fewer items, or let the model read more"
        )
    batches = queries.histories(max_length + 1 - n)
    pending = [step(params, histories).items for histories in map(split_rows, batches)]
    return np.concatenate([on_host(items)[: queries.n_queries] for items in pending])[: len(queries.users)]


def list_ranks(lists: Int[np.ndarray, "queries n"], true_items: Int[np.ndarray, "queries n_true"]) -> ListRanks:
    """The ranks of the true items, of which 0 is none, in lists whose order is their only score.

    >>> list_ranks(np.array([[7, 2, 5]]), np.array([[5, 8, 0]]))
    ListRanks(rank=array([[ 3., inf, inf]]), where=array([[ True,  True, False]]))
    """
    found = (lists[:, None, :] == true_items[:, :, None]) & (true_items > 0)[:, :, None]
    rank = np.where(found.any(axis=2), 1.0 + found.argmax(axis=2), np.inf)
    return ListRanks(rank, true_items > 0)


def _ask(step: QueryStep, params: Params, queries: Queries) -> list[np.ndarray]:
    """What the step finds for all queries, in their order."""
    # All batches are begun before the first is waited for.
    pending = [(batch.query, step(params, batch)) for batch in map(split_rows, queries.batches())]
    query = np.concatenate([on_host(query) for query, _ in pending])
    found = [np.concatenate([on_host(outputs[i]) for _, outputs in pending]) for i in range(len(pending[0][1]))]
    places = np.argsort(query, kind="stable")[np.sum(query < 0) :]  # -1 marks what only fills a batch
    return [values[places] for values in found]
