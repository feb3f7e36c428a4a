"""From parameters and queries to one rank a user, from which every figure downstream is computed, or to lists."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec.data.batches import Queries
from seqrec.generation import GREEDY, Continuations, DecodingConfig, generate
from seqrec.metrics import list_ranks, means, metric_sums, metric_values
from seqrec.model import Model, composed_params
from seqrec.params import Params
from seqrec.retrieval import plain_vectors
from seqrec.sharding import on_host, split_rows
from seqrec.types import HistoryBatch, InputError, QueryBatch


class RankTable(NamedTuple):
    """One row a query, in the queries' order."""

    user: Int[np.ndarray, " queries"]
    """Row of the user in the store, the whole of it."""
    target: Int[np.ndarray, " queries"]
    """Held-out item id."""
    rank: Float[np.ndarray, " queries"]
    """1-based rank of the target among the candidates; a tie costs half."""
    n_candidates: Int[np.ndarray, " queries"]
    history_length: Int[np.ndarray, " queries"]
    """Events before the target."""


class TopItems(NamedTuple):
    """The best candidates of some queries."""

    query: Int[np.ndarray, " queries"]
    """Places of the queries among all of them."""
    user: Int[np.ndarray, " queries"]
    """Row of the user in the store."""
    items: Int[np.ndarray, "queries k"]
    """Item ids, best first; 0 where candidates run out."""
    scores: Float[np.ndarray, "queries k"]
    vectors: Float[np.ndarray, "queries d_model"] | None = None
    """The users' vectors, if the step returns them."""


T = TypeVar("T")

N_IN_FLIGHT = 8
"""Batches that are begun before the result of the first is waited for: devices need not wait for the host, and memory
does not grow with the number of batches."""

ROWS_PER_PART = 1 << 16
"""Places of lists in one part of `top_items_in_parts`, about: a row group of the files that they are written to."""

QueryStep = Callable[[Params, QueryBatch], tuple[Array, ...]]
"""`step(params, queries)` -> arrays with one entry, or row, a query; `params` are composed ones."""

Report = Callable[[int], None]
"""`report(n_queries)` is told of each part of the queries when its results are there."""

GenerateStep = Callable[[Params, HistoryBatch], Continuations]
"""`step(params, histories)` -> the continuations of a batch of histories; `params` are composed ones."""


@runtime_checkable
class Validate(Protocol):
    """How well trained parameters answer the validation queries."""

    def __call__(self, params: Params, *, report: Report = ...) -> dict[str, float]:
        """Means over the queries, by the metric's name."""


@functools.lru_cache(maxsize=1)
def make_eval_step(model: Model) -> QueryStep:
    """A jitted step from (params, queries) to (ranks, n_candidates).

    That of the latest model is kept: validation and test of a run share one program.

    >>> import seqrec
    >>> from seqrec.params import init_params
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> store = seqrec.store_from_sequences([[1, 2, 3, 4], [3, 4, 5]])
    >>> test = seqrec.leave_last_out(store).test
    >>> queries = seqrec.make_queries(store, test, max_length=4, batch_size=2, mask_seen=True)
    >>> params = init_params(model.specs, jax.random.key(0))
    >>> ranks, n_candidates = make_eval_step(model)(params, next(queries.batches()))
    >>> sorted(n_candidates[:2].tolist())  # the catalogue of 5 less what each user has seen
    [2, 3]
    """

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        vectors = model.queries(params, queries.batch, queries.last)
        return model.head.rank(params, vectors, queries.targets, exclude=queries.excluded)

    return step


def no_report(n_queries: int) -> None:
    """The `Report` that says nothing."""
    del n_queries


def evaluate(eval_step: QueryStep, params: Params, queries: Queries, *, report: Report = no_report) -> RankTable:
    """The rank of each query's held-out item.

    >>> import seqrec
    >>> from seqrec.params import init_params
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> store = seqrec.store_from_sequences([[1, 2, 3, 4], [3, 4, 5]])
    >>> test = seqrec.leave_last_out(store).test
    >>> queries = seqrec.make_queries(store, test, max_length=4, batch_size=2, mask_seen=True)
    >>> params = init_params(model.specs, jax.random.key(0))
    >>> table = evaluate(make_eval_step(model), params, queries)
    >>> table.target.tolist(), table.n_candidates.tolist(), table.history_length.tolist()
    ([4, 5], [2, 3], [3, 2])
    """
    return rank_table(queries, *run_queries(eval_step, params, queries, report=report))


def rank_table(
    queries: Queries, ranks: Float[np.ndarray, " queries"], n_candidates: Int[np.ndarray, " queries"]
) -> RankTable:
    """The queries with the ranks of their held-out items; queries that count as misses rank behind all candidates."""
    n_candidates, asked = n_candidates.astype(np.int64), queries.of_all
    return RankTable(
        user=asked.users,
        target=asked.targets,
        rank=queries.judge(ranks.astype(np.float64), n_candidates),
        n_candidates=n_candidates,
        history_length=asked.history_lengths,
    )


def make_top_step(model: Model, *, k: int, with_vectors: bool = False) -> QueryStep:
    """A jitted step from (params, queries) to (item ids, scores) of the `k` best candidates.

    With vectors it also returns the state of each query, [queries, d_model], whose product with an item's vector is the
    item's score, but for items that a mixture with the history raises.
    """

    @jax.jit
    def step(params: Params, queries: QueryBatch) -> tuple[Array, ...]:
        vectors = model.queries(params, queries.batch, queries.last)
        best = model.head.top_k(params, vectors, k=k, exclude=queries.excluded)
        if not with_vectors:
            return best
        return *best, plain_vectors(vectors).astype(jnp.float32)

    return step


def top_items(top_step: QueryStep, params: Params, queries: Queries) -> TopItems:
    """The best candidates of each query, in the queries' order.

    Unlike a rank's candidates they leave out a target that the user has taken before, if seen items are excluded.
    """
    lists = run_queries(top_step, params, queries)
    return TopItems(np.arange(len(queries.users)), queries.users, *lists)


def top_items_in_parts(
    top_step: QueryStep, params: Params, queries: Queries, *, report: Report = no_report
) -> Iterator[TopItems]:
    """As `top_items`, in parts of a few thousand queries in the order of batches: memory does not grow with queries."""
    parts: list[tuple[np.ndarray, ...]] = []

    def joined() -> TopItems:
        query, *lists = (np.concatenate(each) for each in zip(*parts, strict=True))
        parts.clear()
        return TopItems(query, queries.users[query], *lists)

    n_rows = 0
    for query, outputs in query_parts(top_step, params, queries, report=report):
        parts.append((query, *outputs))
        n_rows += outputs[0].size
        if n_rows >= ROWS_PER_PART:
            n_rows = 0
            yield joined()
    if parts:
        yield joined()


def make_generate_step(model: Model, *, n: int, config: DecodingConfig = GREEDY, seed: int = 0) -> GenerateStep:
    """A jitted step that continues each history by `n` items; what it draws depends on seed and histories alone."""

    @jax.jit
    def step(params: Params, histories: HistoryBatch) -> Continuations:
        key = None
        if config.method == "sample":
            key = jax.random.fold_in(jax.random.key(seed), jnp.sum(histories.items))
        return generate(model, params, histories, n=n, config=config, key=key)

    return step


def generate_lists(
    step: GenerateStep, params: Params, queries: Queries, *, n: int, max_length: int
) -> Int[np.ndarray, "queries n"]:
    """The continuation that a step for `n` items generates of each query's history, in the queries' order."""
    if not 1 <= n <= max_length:
        raise InputError(
            f"n={n} is not in 1..max_length={max_length}; generate fewer items, or let the model read more"
        )
    batches = map(split_rows, queries.histories(max_length + 1 - n))
    lists = _begun_ahead(step(params, histories).items for histories in batches)
    return np.concatenate([on_host(items)[: queries.n_queries] for items in lists])[: len(queries.users)]


def make_validate(
    model: Model,
    queries: Queries,
    *,
    n_generated: int | None = None,
    keep: Callable[[Float[np.ndarray, " queries"]], None] | None = None,
    keep_ndcg: Callable[[Float[np.ndarray, " queries"]], None] | None = None,
) -> Validate:
    """How well trained parameters answer the validation queries: what epochs and trials are chosen by.

    A model with a decoder is judged by the `n_generated` items that it generates, any other by the target's rank; then
    `keep` is given the ranks of each validation, and `validate` takes a `report`. `keep_ndcg` is given the NDCG@10 of
    each query with a target.
    """

    def figures(ranks: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
        if keep_ndcg is not None:
            values = metric_values(ranks, ks=(10,), at_k=("ndcg",), without_k=(), where=where)["ndcg@10"]
            is_query = True if where is None else np.asarray(where).reshape(len(values), -1).any(axis=1)
            keep_ndcg(np.asarray(values)[np.broadcast_to(is_query, len(values))])
        return means(metric_sums(ranks, where=where))

    if model.decoder is None or n_generated is None:
        eval_step = make_eval_step(model)

        def validate_by_ranks(params: Params, *, report: Report = no_report) -> dict[str, float]:
            ranks = evaluate(eval_step, composed_params(model, params), queries, report=report).rank
            if keep is not None:
                keep(ranks)
            return figures(ranks)

        return validate_by_ranks
    n, truth = n_generated, queries.continuations(n_generated)
    step = make_generate_step(model, n=n)

    def validate(params: Params, *, report: Report = no_report) -> dict[str, float]:
        del report
        lists = generate_lists(step, composed_params(model, params), queries, n=n, max_length=model.reads.max_length)
        ranks = list_ranks(lists, truth)
        return figures(ranks.rank, ranks.where)

    return validate


def run_queries(step: QueryStep, params: Params, queries: Queries, *, report: Report = no_report) -> list[np.ndarray]:
    """What the step returns for all queries, those of other processes too, in their order."""
    arrays: list[np.ndarray] = []
    for query, outputs in query_parts(step, params, queries, report=report):
        arrays = arrays or [np.empty((len(queries.of_all.users), *each.shape[1:]), each.dtype) for each in outputs]
        for array, output in zip(arrays, outputs, strict=True):
            array[query] = output
    return arrays


def query_parts(
    step: QueryStep, params: Params, queries: Queries, *, report: Report = no_report
) -> Iterator[tuple[Int[np.ndarray, " part"], list[np.ndarray]]]:
    """What the step returns, batch by batch: the places of a batch's queries among all, and its arrays on the host."""
    begun = ((batch.query, step(params, batch)) for batch in map(split_rows, queries.batches()))
    for query, outputs in _begun_ahead(begun):
        query = on_host(query)
        is_query = query >= 0  # -1 marks what only fills a batch
        yield query[is_query], [on_host(each)[is_query] for each in outputs]
        report(int(np.count_nonzero(is_query)))


def _begun_ahead(begun: Iterable[T]) -> Iterator[T]:
    """The same, each handed out when `N_IN_FLIGHT` more have been begun, where so many are left."""
    waiting: deque[T] = deque()
    for each in begun:
        waiting.append(each)
        if len(waiting) > N_IN_FLIGHT:
            yield waiting.popleft()
    yield from waiting
