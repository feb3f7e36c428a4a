"""A model's functions for serving, exported for any number of histories on CPUs, NVIDIA GPUs and TPUs alike."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.bundle import files
from seqrec.bundle.histories import Histories
from seqrec.bundle.weights import CONSTANTS, ITEM_TABLE, tree_from_names
from seqrec.model import Model
from seqrec.params import Params, leaves_by_name
from seqrec.types import Batch, InputError, NextItemHead

PLATFORMS = ("cpu", "cuda", "tpu")


def check_servable(model: Model) -> None:
    """Refuses a model that cannot answer from item ids, and their times, alone.

    Raises:
      InputError: the model continues histories, or reads more of an event than a request holds.
    """
    if model.encoder.decoder is not None:
        raise InputError(
            "an encoder-decoder generates continuations, and a bundle ranks the next item alone; export another model"
        )
    if model.reads.event_features:
        raise InputError(
            f"the model reads {model.reads.event_features[0]!r} of events, which a bundle is not told; train one "
            "without --event-features and --user-features"
        )


def composed(model: Model, params: Params) -> Params:
    """What encoder and head read of a bundle's parameters, which hold the model's constants, if it has some."""
    if model.constants is None:
        return params
    others = {name: leaf for name, leaf in params.items() if name != CONSTANTS}
    arrays = leaves_by_name(params[CONSTANTS])
    leaves = [arrays[name] for name in leaves_by_name(model.constants)]
    return model.compose(others, jax.tree.unflatten(jax.tree.structure(model.constants), leaves))


def batch_of(histories: Histories) -> tuple[Batch, Int[Array, " users"]]:
    """The batch that a model reads, a history a row, and the place of each newest item in the flattened rows."""
    items = histories.items
    places = jnp.arange(items.shape[1])[None]
    is_item = places < histories.lengths[:, None]
    # The item after the newest one is what is asked for, so it is hidden.
    following = jnp.concatenate([items[:, 1:], jnp.zeros_like(items[:, :1])], axis=1)
    batch = Batch(
        items=items,
        next_items=jnp.where(places < histories.lengths[:, None] - 1, following, 0),
        segment_ids=is_item.astype(jnp.int32),
        positions=jnp.where(is_item, places, 0).astype(jnp.int32),
        times=histories.times,
        next_times=histories.next_times,
    )
    return batch, jnp.arange(items.shape[0]) * items.shape[1] + histories.lengths - 1


def top_k(
    model: Model,
    params: Params,
    histories: Histories,
    allow: Int[Array, "users n_allowed"],
    exclude: Int[Array, "users n_excluded"],
    *,
    k: int,
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """Ids of the best items after each history, best first, and their scores; id 0 where candidates run out.

    `allow` lists the only candidates; where it is 0 throughout, for all users, every item is one. 0 fills both lists.
    """

    def queries_of(history: Histories) -> Any:
        batch, last = batch_of(jax.tree.map(lambda leaf: leaf[None], history))
        return model.queries(params, batch, last)

    # For one user, and mapped: so the number of users may stay open, which nothing that counts rows in Python can.
    return _best(model, params, jax.vmap(queries_of)(histories), allow, exclude, k=k)


def _best(
    model: Model, params: Params, queries: Any, allow: Array, exclude: Array, *, k: int
) -> tuple[Int[Array, "users k"], Float[Array, "users k"]]:
    """`top_k` of the queries of each user, which have an axis of one query behind that of users."""

    def best(queries: Any, exclude: Array, allow: Array | None = None) -> tuple[Array, Array]:
        allow = None if allow is None else allow[None]
        ids, scores = model.head.top_k(params, queries, k=k, exclude=exclude[None], allow=allow)
        return ids[0], scores[0]

    return jax.lax.cond(
        jnp.any(allow > 0),
        lambda: jax.vmap(best)(queries, exclude, allow),
        lambda: jax.vmap(best)(queries, exclude),
    )


def states(model: Model, params: Params, histories: Histories) -> Float[Array, "users d_model"]:
    """The state after each history: its product with an item's vector is the softmax's score of the item."""

    def state(history: Histories) -> Array:
        batch, last = batch_of(jax.tree.map(lambda leaf: leaf[None], history))
        encoded = model.encoder.encode(params, batch)
        return encoded.reshape(-1, encoded.shape[-1])[last[0]].astype(jnp.float32)

    return jax.vmap(state)(histories)


def has_sessions(model: Model) -> bool:
    """Whether the model reads one more event without the whole history, and chooses by the state after it alone."""
    return model.encoder.incremental is not None and isinstance(model.head, NextItemHead)


def export_programs(model: Model) -> dict[str, bytes]:
    """The functions for all `PLATFORMS`, by the names of their files; docs/bundle.md has their arguments.

    Sizes that stay open: the number of users, that of sessions, the lengths of both lists, and k, which is that of
    `places`, an array whose values do not count. `states` also takes a table of the histories' items alone, by whose
    rows these are then called: a search that keeps the table on disk reads no other rows. Of a model with constants
    all take these beside the parameters, and compose.

    Raises:
      InputError: see `check_servable`.
    """
    check_servable(model)
    params = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype), model.specs)
    table_of: Params = {}
    states_users, n_rows = jax.export.symbolic_shape("b, r")
    if model.constants is None:
        table_of = {ITEM_TABLE: jax.ShapeDtypeStruct((n_rows, *params[ITEM_TABLE].shape[1:]), jnp.float32)}
    else:
        # Plain dicts and lists: what calls a program need not know the model's own types.
        arrays = leaves_by_name(model.constants)
        params[CONSTANTS] = tree_from_names({n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in arrays.items()})
    reads_times = model.reads.times != "none"
    listed, *widths, k = jax.export.symbolic_shape("b, a, e, k", constraints=[f"k <= {model.n_items}"])
    users, sessions = jax.export.symbolic_shape("b, s")
    integers = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
    lists = [*(integers((listed, width)) for width in widths), jax.ShapeDtypeStruct((k,), jnp.int8)]

    def histories(users: Any) -> dict[str, Any]:
        rows = integers((users, model.reads.max_length))
        next_times = rows if model.reads.times == "query" else None
        return Histories(rows, integers((users,)), rows if reads_times else None, next_times).as_dict()

    def top_k_program(params: Params, histories: Any, allow: Any, exclude: Any, places: Any) -> tuple[Array, Array]:
        return top_k(model, composed(model, params), Histories(**histories), allow, exclude, k=places.shape[0])

    def states_program(params: Params, histories: Any) -> Array:
        return states(model, composed(model, params), Histories(**histories))

    def export(program: Any, *given: Any) -> jax.export.Exported:
        return jax.export.export(jax.jit(program), platforms=PLATFORMS)(*given)

    # Without the mesh and the paths of the machine that exports: a bundle answers on any, and tells of none.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())), _without_source_lines():
        exported = {
            files.TOP_K: export(top_k_program, params, histories(listed), *lists),
            files.STATES: export(states_program, {**params, **table_of}, histories(states_users)),
        }
        if has_sessions(model):
            start, append, best = _session_programs(model)
            exported[files.START] = export(start, params, histories(users))
            _, cache = jax.tree.unflatten(exported[files.START].out_tree, exported[files.START].out_avals)
            cache = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((sessions, *leaf.shape[1:]), leaf.dtype), cache)
            each = integers((users,))
            exported[files.APPEND] = export(
                append, params, cache, each, {"items": each, "times": each} if reads_times else {"items": each}
            )
            vectors = jax.ShapeDtypeStruct((listed, model.d_model), jnp.float32)
            exported[files.STATE_TOP_K] = export(best, params, vectors, *lists)
    return {name: bytes(program.serialize()) for name, program in exported.items()}


def _session_programs(model: Model) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """`start`, `append` and `top_k_of_states` of a model that has them."""
    incremental = model.encoder.incremental
    assert incremental is not None

    def start(params: Params, histories: Any) -> tuple[Array, Any]:
        params = composed(model, params)

        def start_one(history: Histories) -> tuple[Array, Any]:
            batch, _ = batch_of(jax.tree.map(lambda leaf: leaf[None], history))
            states, cache = incremental.start(params, batch)
            return jax.tree.map(lambda leaf: leaf[0], (states.astype(jnp.float32), cache))

        return jax.vmap(start_one)(Histories(**histories))

    def append(params: Params, cache: Any, rows: Array, events: Any) -> tuple[Array, Any]:
        states, cache = incremental.append(
            composed(model, params), cache, events["items"], rows=rows, times=events.get("times")
        )
        return states.astype(jnp.float32), cache

    def best(params: Params, states: Array, allow: Array, exclude: Array, places: Array) -> tuple[Array, Array]:
        return _best(model, composed(model, params), states[:, None], allow, exclude, k=places.shape[0])

    return start, append, best


@contextmanager
def _without_source_lines() -> Iterator[None]:
    """Inside, what is exported does not say which lines of which files made it."""
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)
