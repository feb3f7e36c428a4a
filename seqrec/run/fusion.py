"""Item-to-item tables of a run, fitted after its training and kept in its directory, and their weights."""

import functools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqrec import phases, runtime
from seqrec.baselines.neighbour_tables import NeighbourTableName, fit_neighbour_table
from seqrec.data.batches import Queries, make_queries
from seqrec.data.paths import as_input_error
from seqrec.data.user_samples import sampled_users
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.files import JsonObject, read_object, replacing, write_json
from seqrec.fusion import fit_weights
from seqrec.model import Model
from seqrec.neighbours import (
    TABLES,
    NeighbourTable,
    check_head,
    neighbour_table,
    table_params,
    with_neighbours,
    without_neighbours,
)
from seqrec.params import Params, leaves_by_name
from seqrec.report import figures
from seqrec.report.baseline_comparison import compare_with_baselines
from seqrec.run.data import Task
from seqrec.runtime import log
from seqrec.sharding import constrain_params
from seqrec.types import InputError

FUSION, ARRAYS = "fusion.json", "fusion.npz"
"""Files of a run with tables: their weights with how these were fitted, and the tables' arrays."""
MOST_USERS, LEAST_USERS = 3000, 500
"""Validation users that weights are fitted on: fewer the larger the catalogue, of whose items all are scored."""
MOST_SCORES = 1 << 28
"""Queries times items up to which there are more users than the least, and more queries than one for each of these."""


class ModelWithTables(NamedTuple):
    """A trained model with the item-to-item tables that its run adds to it."""

    model: Model
    params: Params
    """Composed ones."""
    record: JsonObject
    """What `FUSION` holds; empty where there are no tables."""


def check_takes_tables(model: Model, task: Task, names: Sequence[NeighbourTableName]) -> None:
    """Refuses, before training, tables that the model cannot take.

    Raises:
      InputError: see `with_neighbours`; or the model is to generate continuations.
    """
    if not names:
        return
    check_head(model)
    if task.n_generated is not None:
        raise InputError("--fuse generates no continuations; use --window-target last, or leave it out")


def fit_tables(
    run: Path,
    task: Task,
    model: Model,
    params: Params,
    names: Sequence[NeighbourTableName],
    *,
    widths: Sequence[int] | None = None,
) -> ModelWithTables:
    """The trained model with tables of these names in its head; the run keeps them.

    Tables are fitted on the training part alone, and their weights on some validation queries, the same in every run.
    A table that the data are too large for is left out, and the log says why. `params` are composed ones. `widths` are
    those of the models of an ensemble, whose weights are fitted too; these stand in the record alone.
    """
    if not names and widths is None:
        return ModelWithTables(model, params, {})
    tables: dict[str, NeighbourTable] = {}
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(names):
        with phases.progress(f"fitting the table {name}"):
            try:
                ids, weights, recency = fit_neighbour_table(name, task.store, task.split)
            except InputError as error:
                left_out[name] = str(error)
                log.warning("left out    %s", error)
                continue
            tables[name] = neighbour_table(ids, weights, recency=recency, n_items=task.n_items)
        runtime.check_interrupt()
    if not tables and widths is None:
        record: JsonObject = {"tables": {}, "shapes": {}, "left_out": left_out}
        if runtime.is_first():
            write_json(run / FUSION, record)
        return ModelWithTables(model, params, record)
    queries = weight_queries(task)
    extended = with_neighbours(model, tables) if tables else model
    with phases.progress("reading the queries that weights are fitted on", len(queries.users), unit="queries") as phase:
        fitted = fit_weights(extended, params | placed(tables, extended), queries, widths=widths, report=phase)
    # Ranks do not change when all weights are divided by that of the model, whose scores then stay as they are.
    model_weight = fitted.models[0] if widths is None else 1.0
    tables = {
        name: table._replace(weight=np.float32(fitted.tables[name] / model_weight)) for name, table in tables.items()
    }
    record = {**fitted._asdict(), "models": list(fitted.models), "shapes": table_shapes(tables), "left_out": left_out}
    weights_text = ", ".join(f"{name} {weight:.2f}" for name, weight in fitted.tables.items())
    models_text = ", ".join(f"{weight:.2f}" for weight in fitted.models)
    log.info("fused       scores by %s", ", ".join(filter(None, (models_text, weights_text))))
    if runtime.is_first():
        with replacing(run / ARRAYS) as partial, partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **leaves_by_name(table_params(tables)[TABLES]))
        write_json(run / FUSION, record)
    return ModelWithTables(extended, params | placed(tables, extended), record)


def open_with_tables(run: Path, model: Model, params: Params, names: Sequence[NeighbourTableName]) -> ModelWithTables:
    """A run's model with those of the tables `names` that the run keeps; as it is where that is none.

    Raises:
      InputError: the tables or their record are missing or damaged, or of another catalogue.
    """
    if not names:
        return ModelWithTables(model, params, {})
    record = read_object(run / FUSION, shapes=dict, tables=dict)
    if not record["tables"]:
        return ModelWithTables(model, params, record)
    kinds = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)
    with as_input_error(f"{run / ARRAYS} holds no tables of the run ({{error}}); restore it, or train again", *kinds):
        with np.load(run / ARRAYS, allow_pickle=False) as saved:
            arrays = dict(saved)
        parts = NeighbourTable._fields
        tables = {name: NeighbourTable(*(arrays[f"{name}.{part}"] for part in parts)) for name in record["tables"]}
        extended = with_shapes(model, record)
        expected = {name: spec.shape for name, spec in leaves_by_name(extended.specs.get(TABLES, {})).items()}
        if any(each.shape != expected[name] for name, each in arrays.items()):
            raise ValueError("they are not of the shapes that its record has")
    return ModelWithTables(extended, params | placed(tables, extended), record)


def with_shapes(model: Model, record: JsonObject) -> Model:
    """The model with tables of a record's shapes, for a catalogue of its own size; as it is where there are none."""
    tables = {
        name: neighbour_table(
            np.zeros((1, shape["n_neighbours"]), np.int32),
            np.zeros((1, shape["n_neighbours"])),
            recency=np.zeros(shape["n_latest"]),
            n_items=model.n_items,
        )
        for name, shape in record.get("shapes", {}).items()
    }
    return with_neighbours(model, tables) if tables else model


def table_shapes(tables: dict[str, NeighbourTable]) -> JsonObject:
    """The sizes of each table, apart from that of the catalogue."""
    return {
        name: {"n_neighbours": table.ids.shape[1], "n_latest": len(table.recency)} for name, table in tables.items()
    }


def placed(tables: Mapping[str, NeighbourTable], extended: Model) -> Params:
    """The parameters of tables on the devices, laid out as the model's specs say."""
    if not tables:
        return {}
    specs = {TABLES: extended.specs[TABLES]}
    placed: Params = jax.jit(functools.partial(constrain_params, specs=specs))(table_params(tables))
    return placed


def weight_queries(task: Task) -> Queries:
    """The validation queries that weights are fitted on: of the users whose keys have the smallest hashes.

    Where these have too many, every second of them, or third, and so on.
    """
    valid = task.valid
    most = max(LEAST_USERS, MOST_SCORES // task.n_items)
    users = sampled_users(task.store, valid.users, n=min(MOST_USERS, most))
    positions = valid.target_positions[np.isin(valid.users, users)]
    return make_queries(
        task.store,
        positions[:: max(1, -(-len(positions) // most))],
        max_length=task.max_length,
        batch_size=2 * task.config.batch_size,
        mask_seen=task.mask_seen,
        share=valid.share,
        fields=valid.fields,
    )


def figures_without_tables(task: Task, model: Model, params: Params, ranks: Any) -> JsonObject:
    """Test figures of the model without its tables, and how far the tables raise it; nothing where it has none.

    `ranks` is the `evaluation.RankTable` of the model with them.
    """
    base = without_neighbours(model)
    if base is None:
        return {}
    with phases.progress("testing without tables", len(task.test.users), unit="queries") as phase:
        base_ranks = evaluate(make_eval_step(base), params, task.test, report=phase)
    compared = compare_with_baselines(ranks.rank, {"unfused": base_ranks.rank}, users=ranks.user)
    return {
        "unfused": {
            "test": figures.figures(base_ranks.rank, users=base_ranks.user),
            **compared["baselines"]["unfused"],
        }
    }
