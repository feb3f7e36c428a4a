"""Figures of generated continuations, and of lists by a next-item model and by popularity for the same histories."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from seqrec.data.batches import Queries
from seqrec.evaluation import generate_lists, make_generate_step, make_top_step, top_items
from seqrec.files import JsonObject
from seqrec.generation import GREEDY, DecodingConfig, with_uncached_decoder
from seqrec.metrics import list_ranks
from seqrec.model import Model
from seqrec.params import Params
from seqrec.report.figures import figures
from seqrec.retrieval import top_k_items
from seqrec.types import QueryBatch


def continuation_figures(
    model: Model,
    params: Params,
    queries: Queries,
    *,
    n: int,
    counts: Int[np.ndarray, " n_items_plus_1"],
    config: DecodingConfig = GREEDY,
) -> dict[str, JsonObject]:
    """`figures` at `n` of each way to list `n` items for each query, against the items that followed.

    A model with a decoder generates by `config`. Any model has "iterated", whose next item, chosen by `config` too,
    joins the history before it predicts again, and "top n at once", its `n` best next items; "popularity" lists the
    items of highest `counts`. All exclude the same items, those of the history or none, and none lists an item twice
    if `config` does not. A true item that is excluded does not count, or where repeated targets are misses, all miss
    it. Ties go to the lower id.
    """
    lists = {}
    ways = {} if model.decoder is None else {config.method: model}
    for name, way in (ways | {"iterated": with_uncached_decoder(model)}).items():
        step = make_generate_step(way, n=n, config=config)
        lists[name] = generate_lists(step, params, queries, n=n, max_length=model.reads.max_length)
    lists[f"top {n} at once"] = top_items(make_top_step(model, k=n), params, queries).items

    @jax.jit
    def popular(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        ones = jnp.ones((len(queries.last), 1))
        return top_k_items(ones, params["counts"], k=n, n_items=model.n_items, exclude=queries.excluded)

    by_count = {"counts": jnp.asarray(counts, jnp.float32)[:, None]}
    lists["popularity"] = top_items(popular, by_count, queries).items
    truth = queries.continuations(n)
    ranks = {name: list_ranks(items, truth) for name, items in lists.items()}
    return {name: figures(each.rank, users=queries.users, ks=(n,), where=each.where) for name, each in ranks.items()}
