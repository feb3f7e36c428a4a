"""The best next items for one history, whoever's it is."""

import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from seqrec.data.history import History, history_batch
from seqrec.model import Model
from seqrec.params import Params
from seqrec.sharding import on_host
from seqrec.types import Batch, InputError

Ids = list[int] | Int[np.ndarray, " _"]


@runtime_checkable
class Recommend(Protocol):
    """The best next items for a history of item ids."""

    def __call__(
        self, params: Params, history: History | Ids, k: int, *, mask_seen: bool = True, allow: Ids | None = None
    ) -> list[int]:
        """Ids of the `k` best items, best first; fewer where fewer are left.

        The oldest item comes first. With `mask_seen` no item of the history is listed; with `allow` only these are.
        """


def make_recommend(model: Model) -> Recommend:
    """`recommend(params, history, k)` for any history: the user need not be one that the model was trained on.

    A model of item ids alone takes a list of ids; one that reads times or features of events takes a `History`.
    `params` are composed ones.

    >>> import seqrec
    >>> from seqrec.params import init_params
    >>> model = seqrec.softmax_model(seqrec.gru(seqrec.GRUConfig(d_model=4), n_items=5, max_length=4))
    >>> recommend, params = make_recommend(model), init_params(model.specs, jax.random.key(0))
    >>> sorted(recommend(params, [1, 2], 3)), recommend(params, [1, 2], 3, allow=[2, 4])
    ([3, 4, 5], [4])

    Raises:
      InputError: from `recommend`, a history or ids that the model cannot read.
    """

    @functools.partial(jax.jit, static_argnames="k")
    def top(params: Params, batch: Batch, last: Array, excluded: Array, allowed: Array | None, *, k: int) -> Array:
        queries = model.queries(params, batch, last[None])
        return model.head.top_k(params, queries, k=k, exclude=excluded, allow=allowed)[0]

    def recommend(
        params: Params, history: History | Ids, k: int, *, mask_seen: bool = True, allow: Ids | None = None
    ) -> list[int]:
        history = history if isinstance(history, History) else History(history)
        items = _checked_ids(history.items, model.n_items, name="history")
        batch = history_batch(history._replace(items=items), model.reads)
        last = jnp.int32(min(len(items), model.reads.max_length) - 1)
        excluded = _padded_row(np.unique(items) if mask_seen else items[:0])
        allowed = None if allow is None else _padded_row(_checked_ids(allow, model.n_items, name="allow"))
        best = top(params, batch, last, excluded, allowed, k=k)
        return [int(item) for item in on_host(best)[0] if item]

    return recommend


def _checked_ids(ids: object, n_items: int, *, name: str) -> Int[np.ndarray, " n"]:
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name}={ids!r} is not a list of item ids; give at least one integer")
    if array.min() < 1 or array.max() > n_items:
        bad = array[(array < 1) | (array > n_items)][0]
        raise InputError(
            f"{name} holds item {bad}, which is not in 1..{n_items}; use the ids of the store's vocabulary"
        )
    return array


def _padded_row(ids: Int[np.ndarray, " n"]) -> Int[Array, "1 width"]:
    """One row whose length is a power of two, filled with 0: so one compiled function serves many histories."""
    row = np.zeros((1, 1 << int(len(ids) - 1).bit_length() if len(ids) else 0), np.int32)
    row[0, : len(ids)] = ids
    return jnp.asarray(row)
