"""Weights of what a model's scores are sums of: those under which held-out items are most likely."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqrec import phases
from seqrec.data.batches import Queries
from seqrec.evaluation import Report, no_report, run_queries
from seqrec.metrics.ranks import take
from seqrec.model import Model
from seqrec.neighbours import TABLES, NeighbourHead, parts_of
from seqrec.params import Params
from seqrec.retrieval import OffsetVectors, catalogue_scores, over_user_blocks, places_of, valid_candidates
from seqrec.sharding import CatalogueShard, split_rows
from seqrec.types import InputError, QueryBatch

SMALLEST = 0.05
"""Of the weight of a single model, by which those of its tables are divided."""
START = 0.3
"""Weight of each table before the search, and of each model but one."""


class FusionWeights(NamedTuple):
    """The weights that were found, and what they are worth on the queries that they were fitted on."""

    models: tuple[float, ...]
    """Factors of the models' scores."""
    tables: dict[str, float]
    """Factors of what each table adds."""
    log_likelihood: float
    """Mean over the queries of the log-probability of the held-out item, in nats, with these weights."""
    log_likelihood_before: float
    """The same of the first model alone, as it is."""
    n_queries: int


def fit_weights(
    model: Model, params: Params, queries: Queries, *, widths: Sequence[int] | None = None, report: Report = no_report
) -> FusionWeights:
    """The weights of scores w . s + sum_t v_t . log(1 + p_t / .001) under whose softmax held-out items are most likely.

    s are the scores of the model without its tables, p_t the shares of its tables (see `with_neighbours`), of which the
    weights in `params` are replaced by 1. `widths` are those of models whose states and item vectors stand side by side
    in this one's; each gets a weight of its own. The softmax is over each query's candidates. The sum of logarithms is
    concave in the weights, none of which may be below 0, so that there is one maximum (a log-linear model; Klakow 1998
    for language models; a product of experts, Hinton 2002), which L-BFGS-B finds. Items are scored again at each of its
    steps, a block of queries at a time.

    Raises:
      InputError: there is no query to fit on.
    """
    import scipy.optimize  # takes some time, which each script would spend as it starts

    names = model.head.tables if isinstance(model.head, NeighbourHead) else ()
    if len(queries.users) == 0:
        raise InputError("there is no validation query to fit weights on; leave --fuse out")
    tables = {name: {**params[TABLES][name], "weight": jnp.float32(1.0)} for name in names}
    unweighted = {**params, TABLES: tables} if names else params

    def read(params: Params, batch: QueryBatch) -> Any:
        return model.queries(params, batch.batch, batch.last), batch.targets, batch.excluded

    @jax.jit
    def step(params: Params, batch: QueryBatch) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(read(params, batch)))

    structure = jax.tree.structure(jax.eval_shape(read, unweighted, split_rows(next(queries.batches()))))
    arrays = run_queries(step, unweighted, queries, report=report)
    hidden, targets, excluded = jax.tree.unflatten(structure, map(jnp.asarray, arrays))
    base, added = parts_of(hidden)
    parts = [*_models(base, widths), *added]
    n_models = len(parts) - len(added)
    table = params["item_table"]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        each, slopes = log_probabilities(
            jnp.asarray(weights, jnp.float32), parts, targets, excluded, table, n_items=model.n_items
        )
        each, slopes = (np.asarray(values, np.float64) for values in (each, slopes))
        return -float(each.mean()), -slopes.mean(axis=0)

    one = np.zeros(len(parts))
    one[0] = 1.0
    start = np.full(len(parts), START)
    start[:n_models] = 1.0 / n_models
    bounds = [(SMALLEST if n_models == 1 else 0.0, None)] * n_models + [(0.0, None)] * len(added)
    options = {"maxiter": 50, "ftol": 1e-7, "gtol": 1e-5}
    with phases.progress("fitting the weights of tables") as phase:

        def note(intermediate_result: Any) -> None:
            phase.note = f"log-probability {-intermediate_result.fun:.4f}"

        best = scipy.optimize.minimize(
            loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=note
        )
    weights = best.x.tolist()
    return FusionWeights(
        tuple(weights[:n_models]),
        dict(zip(names, weights[n_models:], strict=True)),
        -float(best.fun),
        -loss(one)[0],
        len(queries.users),
    )


def _models(base: Any, widths: Sequence[int] | None) -> list[Any]:
    """The states of each of several models, with 0 in the place of the others'."""
    if widths is None:
        return [base]
    owner = np.repeat(np.arange(len(widths)), widths)
    return [jnp.where(owner == place, base, 0.0) for place in range(len(widths))]


@functools.partial(jax.jit, static_argnames="n_items")
def log_probabilities(
    weights: Float[Array, " n_parts"],
    parts: Sequence[Any],
    targets: Int[Array, " queries"],
    exclude: Int[Array, "queries n_excluded"],
    item_table: Float[Array, "n_rows d_model"],
    *,
    n_items: int,
) -> tuple[Float[Array, " queries"], Float[Array, "queries n_parts"]]:
    """Log-probability of each target under the softmax of its candidates' scores, and its slope in each weight.

    Scores are sums of the parts' by their weights. A part is `retrieval.Vectors`; of `OffsetVectors` with vectors of no
    width only what they add counts.
    """

    def each(exclude: Array, targets: Array, weights: Array, parts: list[Any], shard: CatalogueShard) -> Any:
        rows = jnp.arange(len(targets))[:, None]
        valid = valid_candidates(shard, n_items, exclude, None, targets[:, None])
        dense = [None if isinstance(part, OffsetVectors) else catalogue_scores(part, shard, n_items) for part in parts]
        scores: Any = jnp.zeros((len(targets), shard.table.shape[0]))
        for place, (part, part_scores) in enumerate(zip(parts, dense, strict=True)):
            weight = weights[:, place, None]
            if part_scores is None:
                scores = scores.at[rows, places_of(part.items, shard)].add(weight * part.offsets, mode="drop")
            else:
                scores += weight * part_scores
        scores = jnp.where(valid, scores, -jnp.inf)
        highest = shard.highest(jnp.max(scores, axis=1))[:, None]
        unscaled = jnp.exp(scores - highest)
        total = shard.total(jnp.sum(unscaled, axis=1))
        at_target = targets[:, None] - shard.first

        def of_target(values: Array) -> Array:
            return shard.total(take(values, at_target, fill=0.0)[:, 0])

        def slope(part: Any, part_scores: Array | None) -> Array:
            if part_scores is None:
                shares = take(unscaled, places_of(part.items, shard), fill=0.0)
                own_target = jnp.sum(jnp.where(part.items == targets[:, None], part.offsets, 0.0), axis=1)
                return own_target - shard.total(jnp.sum(shares * part.offsets, axis=1)) / total
            return of_target(part_scores) - shard.total(jnp.sum(unscaled * part_scores, axis=1)) / total

        slopes = jnp.stack([slope(part, part_scores) for part, part_scores in zip(parts, dense, strict=True)], axis=1)
        return of_target(scores) - highest[:, 0] - jnp.log(total), slopes

    weights = jnp.broadcast_to(weights, (len(targets), len(weights)))
    rows = (exclude, targets, weights, list(parts))
    result: Any = over_user_blocks(each, rows, item_table, n_items=n_items)
    return result
