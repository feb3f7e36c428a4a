"""Figures of generated continuations, beside what a next-item model and popularity list for the same histories."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from seqrec.data.batches import Queries
from seqrec.evaluation import generate_lists, list_ranks, make_generate_step, make_top_step, top_items
from seqrec.generation import GREEDY, DecodingConfig, recomputed
from seqrec.params import Params
from seqrec.report.figures import figures
from seqrec.retrieval import top_k_items
from seqrec.types import Encoder, QueryBatch


def continuation_figures(
    encoder: Encoder,
    params: Params,
    queries: Queries,
    *,
    n: int,
    counts: Int[np.ndarray, " n_items_plus_1"],
    config: DecodingConfig = GREEDY,
) -> dict[str, dict[str, Any]]:
    """`figures` at `n` of each way to list `n` items for each query, against the items that came.

    An encoder-decoder's way is its decoding by `config`; any model's are "iterated", its next item that joins the
    history before it is asked again, chosen by `config` too, and "top n at once", its `n` best next items; and
    "popularity" lists the items of highest `counts`. All leave the same items out, those of the history or none, and
    none lists an item twice if `config` does not. A true item that the history has is missed by all, if they leave it
    out. A tie goes to the lower id.
    """
    lists = {}
    ways = {} if encoder.decoder is None else {config.method: encoder.decoder}
    for name, decoder in (ways | {"iterated": recomputed(encoder)}).items():
        step = make_generate_step(decoder, n=n, config=config)
        lists[name] = generate_lists(step, params, queries, n=n, max_length=encoder.max_length)
    lists[f"top {n} at once"] = top_items(make_top_step(encoder, k=n), params, queries).items

    @jax.jit
    def popular(params: Params, queries: QueryBatch) -> tuple[Array, Array]:
        ones = jnp.ones((len(queries.last), 1))
        return top_k_items(ones, params["counts"], k=n, n_items=encoder.n_items, exclude=queries.excluded)

    by_count = {"counts": jnp.asarray(counts, jnp.float32)[:, None]}
    lists["popularity"] = top_items(popular, by_count, queries).items
    truth = queries.continuations(n)
    ranks = {name: list_ranks(items, truth) for name, items in lists.items()}
    return {name: figures(found.rank, users=queries.users, ks=(n,), where=found.where) for name, found in ranks.items()}
