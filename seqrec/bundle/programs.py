"""A model's functions for serving, exported for any number of histories on CPUs, NVIDIA GPUs and TPUs alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqrec.bundle.histories import Histories
from seqrec.model import Model
from seqrec.params import Params
from seqrec.types import Batch, InputError

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

    def best(queries: Any, exclude: Array, allow: Array | None = None) -> tuple[Array, Array]:
        allow = None if allow is None else allow[None]
        ids, scores = model.head.top_k(params, queries, k=k, exclude=exclude[None], allow=allow)
        return ids[0], scores[0]

    # For one user, and mapped: so the number of users may stay open, which nothing that counts rows in Python can.
    queries = jax.vmap(queries_of)(histories)
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


def export_programs(model: Model) -> tuple[bytes, bytes]:
    """`top_k(params, histories, allow, exclude, places)` and `states(params, histories)` for all `PLATFORMS`.

    Sizes that stay open: the number of users, the lengths of both lists, and k, which is that of `places`, an array
    whose values do not count. `states` also takes a table of the histories' items alone, by whose rows these are then
    called: a search that keeps the table on disk reads no other rows.

    Raises:
      InputError: see `check_servable`.
    """
    check_servable(model)
    params = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), model.specs)

    def histories(users: Any) -> dict[str, Any]:
        rows = jax.ShapeDtypeStruct((users, model.reads.max_length), jnp.int32)
        times = rows if model.reads.times != "none" else None
        next_times = rows if model.reads.times == "query" else None
        return Histories(rows, jax.ShapeDtypeStruct((users,), jnp.int32), times, next_times).as_dict()

    def top_k_program(params: Params, histories: Any, allow: Any, exclude: Any, places: Any) -> tuple[Array, Array]:
        return top_k(model, params, Histories(**histories), allow, exclude, k=places.shape[0])

    def states_program(params: Params, histories: Any) -> Array:
        return states(model, params, Histories(**histories))

    def export(program: Any, *given: Any) -> bytes:
        return bytes(jax.export.export(jax.jit(program), platforms=PLATFORMS)(*given).serialize())

    users, *widths, k = jax.export.symbolic_shape("b, a, e, k", constraints=[f"k <= {model.n_items}"])
    lists = [jax.ShapeDtypeStruct((users, width), jnp.int32) for width in widths]
    # Without the mesh and the paths of the machine that exports: a bundle answers on any, and tells of none.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())), _without_source_lines():
        best = export(top_k_program, params, histories(users), *lists, jax.ShapeDtypeStruct((k,), jnp.int8))
        users, n_rows = jax.export.symbolic_shape("b, r")
        table = jax.ShapeDtypeStruct((n_rows, *params["item_table"].shape[1:]), jnp.float32)
        return best, export(states_program, {**params, "item_table": table}, histories(users))


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
