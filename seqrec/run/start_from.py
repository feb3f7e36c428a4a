"""Training that starts from a trained run or a bundle: weights by the items' own keys, on data that may have grown."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from scipy import sparse

from seqrec import runs, runtime
from seqrec.config import check_fields, leaves, to_json, tunable_fields
from seqrec.data.buckets import original
from seqrec.data.feature_values import features_at
from seqrec.data.ragged import blocks, ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore, read_preparation
from seqrec.files import JsonObject
from seqrec.items import ItemConfig
from seqrec.model import Model
from seqrec.params import Params, hash_of, leaves_by_name
from seqrec.run.data import Task
from seqrec.run.trained import Arrays, Trained, read_trained, store_of
from seqrec.sharding import from_first, on_host
from seqrec.training import TrainState
from seqrec.types import InputError

RARE_SHARE = 0.1
"""Share of the kept items, those with the fewest training events, whose mean row stands in for neighbours."""
_MOST_EVENTS = 100_000
"""Events of which feature codes are compared."""


@dataclass(frozen=True)
class StartConfig:
    """Which trained run or bundle a new run starts from."""

    start_from: Path | None = None
    """Trained run, or bundle, whose weights training starts from, instead of random ones; of a run those of its best
    epoch. May be s3:// or gs://. The data may have grown or been prepared again: items keep their weights by their
    keys. The model must be the same. The optimizer starts afresh."""

    def __post_init__(self) -> None:
        check_fields(self)


class TaskAndModel(NamedTuple):
    """A trained run as its script opens it again."""

    task: Task
    model: Model


def start_from(
    source: Path,
    run: Path,
    config: Any,
    task: Task,
    model: Model,
    state: TrainState,
    *,
    reopen: Callable[[], TaskAndModel],
) -> TrainState:
    """`state` with the weights of the run or bundle `source`; says and notes in `run` where they come from.

    Items that both have keep their rows. Rows of a new item start as `mean_rows` says; where they are only a part of
    its vector, as beside features, they start as in any training. Optimizer moments are those of `state`. `reopen`
    opens the source, which is needed where the model reads features: their codes must mean the same.

    Raises:
      InputError: the source cannot be read, its model is another, or it has none of the items.
    """
    runtime.log.info("start-from  reading %s", original(source))
    trained = read_trained(source)
    name, saved = trained.name, trained.weights
    if trained.is_bundle:
        check_item_vectors(model, trained)
    check_architecture(model.specs, saved, run=name)
    _check_flags(config, trained)
    rows = rows_by_key(task.store.item_keys, trained.item_keys)
    n_kept = int(np.sum(rows[1:] >= 0))
    if n_kept == 0:
        ours, theirs = task.store.item_keys.tolist()[0], trained.item_keys.tolist()[0]
        raise InputError(f"{name} has items such as {theirs!r}, and none of this data's, such as {ours!r}; start anew")
    new_rows = None
    if model.constants is None:
        rare = rows[rare_items(task.counts, rows)]
        new_rows = functools.partial(mean_rows, neighbours=neighbour_counts(task.store, task.split, rows), rare=rare)
    if model.constants is not None or model.reads.event_features:
        try:
            opened = reopen()
        except InputError as error:
            raise InputError(f"{name}: what its codes of features mean cannot be told ({error})") from error
        _check_codes(TaskAndModel(task, model), opened, rows, run=name)
        runtime.on_first(functools.partial(_check_texts, task, run, source))
    params = start_params(model.specs, jax.tree.map(on_host, state.params), saved, rows, new_rows=new_rows)
    record = {
        **trained.record,
        "weights_hash": hash_of(saved),
        "n_items_kept": n_kept,
        "n_items_new": task.n_items - n_kept,
        "n_items_dropped": len(trained.item_keys) - n_kept,
        "optimizer": "fresh",
    }
    runtime.on_first(functools.partial(runs.note_data, run, start_from=record))
    counts = "items: {n_items_kept:,} kept, {n_items_new:,} new, {n_items_dropped:,} dropped".format(**record)
    of = "a bundle" if trained.is_bundle else f"step {trained.record['step']}"
    runtime.log.info("start-from  %s, %s; %s; optimizer moments are fresh", name, of, counts)
    started = jax.tree.map(from_first, params, state.params)
    # Copied, since a step takes over the memory of both.
    return dataclasses.replace(state, params=started, averaged=jax.tree.map(jnp.copy, started))


def check_architecture(specs: Params, saved: Arrays, *, run: str) -> None:
    """Refuses saved parameters that are not those of the specs, but for the number of items."""
    own_specs = leaves_by_name(specs)
    for name in sorted(own_specs.keys() | saved.keys()):
        axes = own_specs[name].axes if name in own_specs else ()
        here = _form(own_specs[name].shape, axes) if name in own_specs else "missing"
        there = _form(saved[name].shape, axes) if name in saved else "missing"
        if here != there:
            raise InputError(
                f"{run} has another architecture: parameter {name} is {there} there and {here} here; repeat its flags, "
                "or train from random weights"
            )


def _form(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> str:
    named = len(shape) == len(axes)
    sizes = ["items" if named and axes[i] == "items" else str(size) for i, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]"


def rows_by_key(keys: np.ndarray, earlier: np.ndarray) -> Int[np.ndarray, " n_items_plus_1"]:
    """The id that each item, by its id, has in an earlier catalogue, or -1; padding stays 0.

    Keys are compared as integers if both catalogues have integers, else as text.

    >>> rows_by_key(np.array([7, 5, 9]), np.array([5, 6, 7])).tolist()
    [0, 3, 1, -1]
    """
    both_integers = keys.dtype.kind in "iu" and earlier.dtype.kind in "iu"
    kind = pa.int64() if both_integers else pa.large_string()
    places = pc.index_in(pa.array(keys).cast(kind), value_set=pa.array(earlier).cast(kind))
    return np.append(0, 1 + pc.fill_null(places, -2).to_numpy(zero_copy_only=False).astype(np.int64))


def rare_items(
    counts: Int[np.ndarray, " n_items_plus_1"], rows: Int[np.ndarray, " n_items_plus_1"]
) -> Int[np.ndarray, " n_rare"]:
    """The `RARE_SHARE` of the kept items with training events that have the fewest, at least one; of equals the first.

    >>> rare_items(np.array([0, 9, 2, 0, 1]), rows=np.array([0, 1, 2, 3, -1])).tolist()
    [2]
    """
    kept = 1 + np.flatnonzero(rows[1:] >= 0)
    trained = kept[counts[kept] > 0] if np.any(counts[kept]) else kept
    order = np.argsort(counts[trained], kind="stable")
    return trained[order[: max(1, round(RARE_SHARE * len(trained)))]]


def neighbour_counts(store: SequenceStore, split: Split, rows: Int[np.ndarray, " n_items_plus_1"]) -> sparse.csr_matrix:
    """How often each new item's id stands directly before or after a kept item's earlier id in the training events.

    >>> from seqrec.data.splits import leave_last_out
    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2, 3, 1, 1], [2, 3, 3, 2, 1]])
    >>> neighbour_counts(store, leave_last_out(store), np.array([0, 1, 2, -1])).toarray().tolist()  # 1 2 3, 2 3 3
    [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 2]]
    """
    starts, lengths = np.asarray(store.offsets[:-1]), np.asarray(split.train_stop) - np.asarray(store.offsets[:-1])
    counts = sparse.csr_matrix((len(rows), int(rows.max()) + 1), dtype=np.int64)
    for block in blocks(lengths):
        items = store.items[ranges(starts[block], lengths[block])]
        user = np.repeat(np.arange(len(lengths[block])), lengths[block])
        one, other = items[:-1][user[:-1] == user[1:]], items[1:][user[:-1] == user[1:]]
        one, other = np.concatenate([one, other]), np.concatenate([other, one])
        pairs = (rows[one] < 0) & (rows[other] > 0)
        places = one[pairs], rows[other[pairs]]
        counts += sparse.csr_matrix((np.ones(len(places[0]), np.int64), places), shape=counts.shape)
    return counts


def mean_rows(
    values: Float[np.ndarray, "n_rows ..."], *, neighbours: sparse.csr_matrix, rare: Int[np.ndarray, " n_rare"]
) -> Float[np.ndarray, "n_items_plus_1 ..."]:
    """For each id the mean of its neighbours' rows, as often as each is one; without any, that of the rare items' rows.

    >>> neighbours = sparse.csr_matrix([[0, 0, 0], [0, 3, 1]])
    >>> mean_rows(np.array([[0.0], [1.0], [2.0]]), neighbours=neighbours, rare=np.array([2])).tolist()
    [[2.0], [1.25]]
    """
    flat = values.reshape(len(values), -1)
    n_neighbours = np.asarray(neighbours.sum(axis=1))
    means = neighbours @ flat[: neighbours.shape[1]] / np.maximum(n_neighbours, 1)
    return (
        np.where(n_neighbours > 0, means, flat[rare].mean(axis=0)).reshape(-1, *values.shape[1:]).astype(values.dtype)
    )


def start_params(
    specs: Params,
    fresh: Params,
    saved: Arrays,
    rows: Int[np.ndarray, " n_items_plus_1"],
    *,
    new_rows: Callable[[np.ndarray], np.ndarray] | None,
) -> Params:
    """Saved parameters in the form of the specs: along an axis of items, id i has the saved row `rows[i]`.

    Where that is -1 it has row i of `new_rows(saved rows)`, or without that function its own of `fresh`, as rows beyond
    the catalogue have.
    """
    own_specs = leaves_by_name(specs)

    def carry(path: Any, start: np.ndarray) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if "items" not in own_specs[name].axes:
            return saved[name]
        axis = own_specs[name].axes.index("items")
        values, table = np.moveaxis(saved[name], axis, 0), np.moveaxis(start, axis, 0).copy()
        is_new = np.flatnonzero(rows < 0)
        known = np.flatnonzero(rows >= 0)
        table[known] = values[rows[known]]
        if new_rows is not None:
            table[is_new] = new_rows(values)[is_new]
        return np.moveaxis(table, 0, axis)

    return jax.tree_util.tree_map_with_path(carry, fresh)


def changed_code(then: Int[np.ndarray, "n ..."], now: Int[np.ndarray, "n ..."]) -> int | None:
    """The lowest code above 0 that most of those that had it have no longer in its place; None where all stay.

    >>> changed_code(np.array([1, 1, 2, 2]), np.array([1, 1, 2, 1])), changed_code(np.array([1, 2]), np.array([2, 1]))
    (None, 1)
    """
    codes = [each.reshape(len(each), -1) for each in (then, now)]
    width = min(each.shape[1] for each in codes)
    one, other = (each[:, :width].ravel() for each in codes)
    n_each = np.bincount(one[one > 0])
    n_same = np.bincount(one[(one > 0) & (one == other)], minlength=len(n_each))
    moved = np.flatnonzero(2 * n_same < n_each)
    return int(moved[0]) if len(moved) else None


def _check_codes(now: TaskAndModel, then: TaskAndModel, rows: Int[np.ndarray, " n_items_plus_1"], *, run: str) -> None:
    """Refuses where codes of items' or events' features have changed: a code is a row of a table of parameters."""
    kept = np.flatnonzero(rows > 0)
    earlier = leaves_by_name(then.model.constants)
    pairs = {
        f"items' {name}": (earlier[name][rows[kept]], values[kept])
        for name, values in leaves_by_name(now.model.constants).items()
        if values.dtype.kind in "iu"
    }
    store = now.task.store
    n_events = min(store.n_events, then.task.store.n_events)
    places = np.unique(np.linspace(0, n_events - 1, min(n_events, _MOST_EVENTS), dtype=np.int64))
    read = [features_at(each.task.train.fields.features, store, places) for each in (then, now)]
    pairs |= {name: (read[0][name], values) for name, values in read[1].items() if values.dtype.kind in "iu"}
    for name, (before, after) in pairs.items():
        if (code := changed_code(before, after)) is not None:
            raise InputError(
                f"{run}: {name} has given code {code} another meaning since, so the rows of its table would be mixed "
                "up; train from random weights"
            )


def _check_texts(task: Task, run: Path, source: Path) -> None:
    """Refuses where a column of text that the model reads is numbered in another way."""
    places = map(store_of, (run, source))
    now, then = (read_preparation(place, as_of=known_as).get("categories", {}) for place, known_as in places)
    for column in task.config.features.columns:
        if now.get(column, [])[: len(then.get(column, []))] != then.get(column, []):
            raise InputError(
                f"{original(source)}: texts of the event column {column!r} have other codes in this data; append to "
                "the store that it was trained on, or train from random weights"
            )


def check_item_vectors(model: Model, trained: Trained) -> None:
    """Refuses a bundle where item vectors are made of anything but a table: it has only what they came to."""
    items = trained.config.get("training", {}).get("items", {})
    there = [*items.get("item_features", ())]
    if (ids := items.get("ids", ItemConfig.ids)) != ItemConfig.ids:
        there.append(f"--ids {ids}")
    if there or model.constants is not None:
        made_of = f"made of {', '.join(there)}" if there else "and no parameters that --item-features or --ids adds"
        raise InputError(
            f"{trained.name} is a bundle, which has a table of item vectors {made_of}; start from the run that it was "
            "exported from"
        )


def _check_flags(config: Any, trained: Trained) -> None:
    """Refuses where flags differ that change what a model computes, though perhaps not its parameters' shapes."""
    here, there = (dict(leaves(each)) for each in (to_json(config), trained.config))
    # Numbers such as rates of dropout may differ.
    architecture = [name for name, field in tunable_fields(config).items() if field.kind is not float]
    for name in [*(name for name in architecture if not name.startswith("training.")), "training.data.times"]:
        if name in there and there[name] != here[name]:
            raise InputError(
                f"{trained.name} has another architecture: {name} is {there[name]} there and {here[name]} here; "
                "repeat its flags, or train from random weights"
            )


def start_record(run: Path) -> JsonObject:
    """`start_from` as `metrics.json` has it, of a run that was started from another; else nothing."""
    record = runs.started_with(run).get("data", {}).get("start_from")
    return {} if record is None else {"start_from": record}
