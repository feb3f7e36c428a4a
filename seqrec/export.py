"""From a run to its bundle: what of the run's config and store goes into it."""

import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from seqrec import runs, runtime
from seqrec.baselines.popularity import training_counts
from seqrec.bundle.card import model_card
from seqrec.bundle.catalogue import replace_catalogue
from seqrec.bundle.files import CODES, Facts, ItemTableType, Vocabulary
from seqrec.bundle.histories import Ragged, consecutive_rows
from seqrec.bundle.programs import check_servable
from seqrec.bundle.weights import ITEM_TABLE
from seqrec.bundle.writing import Description, HeldOut, refresh_bundle, write_bundle
from seqrec.config import from_json
from seqrec.data.engagement import EngagementConfig
from seqrec.data.event_features import EventFeatureConfig
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import SequenceStore, sequence_store
from seqrec.data.store_files import keys_of
from seqrec.ensemble import ensemble
from seqrec.files import JsonObject, read_object
from seqrec.generative import ids_of, with_room
from seqrec.heads.code_search import PARAMS
from seqrec.items import ItemConfig
from seqrec.losses.config import LossConfig
from seqrec.model import Model
from seqrec.report.kept_results import condense_config
from seqrec.run.data import Task, make_task
from seqrec.run.experiment import Script, open_trained
from seqrec.run.fusion import FUSION, with_shapes
from seqrec.run.members import member_directories
from seqrec.semantic_ids.files import write_codes
from seqrec.types import InputError

MAX_HELD_OUT = 2000
"""Test users on whom searches are compared, at most."""


def bundle_run(
    run: Path,
    scripts: Mapping[str, Script],
    output: Path,
    *,
    item_table: ItemTableType = "float32",
    index: bool = False,
    onnx: bool = False,
    beam_width: int | None = None,
) -> Facts:
    """Writes the bundle of a run's best checkpoint; `scripts` are the modules that train, by name.

    Item features do not travel: the item table that they compose is stored in their place. With `index` there is one
    for approximate search, and with `onnx` its functions are also in that form. A `beam_width` takes the place of the
    run's, of a model that writes codes.

    Raises:
      InputError: the run cannot be read, or its model cannot be served, or has no index.
    """
    task, model, params = open_trained(run, scripts)
    check_servable(model)
    codes = ids_of(model) if PARAMS in model.specs else None
    if codes is not None:
        params = {**params, ITEM_TABLE: params[ITEM_TABLE].id_vectors}
    name, store = runs.experiment_of(run), task.store
    with runs.reading_records(run):
        started = _started(run)
    counts = training_counts(store, task.split)[1:]
    record = {
        "experiment": name,
        "config": started["config"],
        "trained_with": started["versions"],
        "exported_with": runtime.versions(),
        "data": {
            **started.get("data", {}),
            "n_users": store.n_users,
            "n_items": store.n_items,
            "n_events": store.n_events,
            "split": task.split.description,
        },
    }
    if (run / FUSION).is_file():
        record["fusion"] = read_object(run / FUSION)
    if beam_width is not None:
        if codes is None:
            raise InputError(f"--beam-width={beam_width}: {name} scores all items, without a beam; leave it out")
        record["config"]["decoder"]["beam_width"] = beam_width
    with tempfile.TemporaryDirectory() as directory:
        codes_file = Path(directory) / CODES
        if codes is not None:
            write_codes(codes_file, codes, store.item_keys)
        return write_bundle(
            output,
            served_model(scripts, record, store.n_items, codes=codes_file),
            params,
            Vocabulary(store.item_keys, counts, store.titles, store.attributes),
            Description(
                name,
                record,
                functools.partial(model_card, run, record, onnx=onnx),
                files=tuple(each for each in (run / runs.LEARNING_CURVE, codes_file) if each.is_file()),
            ),
            mask_seen=task.mask_seen,
            item_table=item_table,
            index=index,
            held_out=held_out(task),
            onnx=onnx,
        )


def _started(run: Path) -> JsonObject:
    """What a run was started with; of an ensemble, with the configs of its members, and what these have in common."""
    members = [condense_config(member) for member in member_directories(run)]
    if not members:
        return condense_config(run)
    first = members[0]
    configs = {
        str(place): {name: each[name] for name in ("experiment", "config")} for place, each in enumerate(members)
    }
    common = {"data": first["config"]["training"]["data"]}
    return {
        "config": {"training": common, "members": configs},
        "versions": runs.started_with(run)["versions"],
        "data": first.get("data", {}),
    }


def held_out(task: Task) -> HeldOut:
    """The histories of some test users, up to their targets."""
    store, queries = task.store, task.test
    chosen = np.unique(np.linspace(0, len(queries.users) - 1, MAX_HELD_OUT).astype(int))
    starts = store.offsets[queries.users[chosen]]
    lengths = queries.target_positions[chosen] - starts
    if task.times == "none":
        return HeldOut(Ragged(store.items, starts, lengths))
    n_read = lengths + (task.times == "query")
    seconds = Ragged(store.columns["timestamp_us"], starts, n_read).flat() // 1_000_000
    return HeldOut(Ragged(store.items, starts, lengths), consecutive_rows(seconds, n_read))


def refresh(directory: Path, scripts: Mapping[str, Script], catalogue: Path | None = None) -> str:
    """Exports the programs of a bundle anew from its weights and config, and says what became of its answers.

    With a `catalogue`, a file of codes, the programs stay as they are, and its items are listed from now on.

    Raises:
      InputError: see `refresh_bundle` and `replace_catalogue`; or `scripts` have none by the name of the bundle's.
    """
    if catalogue is not None:
        return str(replace_catalogue(directory, catalogue))

    def build(record: JsonObject, facts: Facts) -> Model:
        return served_model(scripts, {**record, "experiment": facts.model}, facts.n_items, codes=directory / CODES)

    refresh_bundle(directory, build)
    return "its answers are as before"


def served_model(
    scripts: Mapping[str, Script], record: JsonObject, n_items: int, *, codes: Path | None = None
) -> Model:
    """What answers of the model that a bundle's config.json describes, for a catalogue of this size; no data is needed.

    Parts that only train, and the features that its item vectors were made of, are left out. If there is a file
    `codes`, its items are those that the model was trained for, and its catalogue has room for later ones.

    Raises:
      InputError: `scripts` have none by its name, or its config is of another version of seqrec.
    """
    if members := record["config"].get("members"):
        model = ensemble([served_model(scripts, each, n_items) for each in members.values()])
        return with_shapes(model, record.get("fusion", {}))
    name = record["experiment"]
    if name not in scripts:
        raise InputError(f"it holds a model {name}, which is none of {', '.join(scripts)}; use its own seqrec")
    script = scripts[name]
    config: Any = from_json(script.Config, record["config"])
    training, loss = config.training, config.training.loss
    data = dataclasses.replace(
        training.data,
        dataset="store",
        split=SplitConfig(),
        features=EventFeatureConfig(),
        mask_seen="no",
    )
    training = dataclasses.replace(
        training,
        data=data,
        items=ItemConfig(),
        engagement=EngagementConfig(),
        loss=LossConfig(repeat_mixture=loss.repeat_mixture),
    )
    config = dataclasses.replace(config, training=training)
    if codes is None or not codes.is_file():
        model = script.build(config, make_task(data, _smallest_store(np.arange(1, n_items + 1)), seed=0))
        return with_shapes(model, record.get("fusion", {}))
    keys = keys_of(pq.read_table(codes, columns=["item"])["item"])
    return with_room(
        script.build(dataclasses.replace(config, semantic_ids=codes), make_task(data, _smallest_store(keys), seed=0))
    )


def _smallest_store(item_keys: np.ndarray) -> SequenceStore:
    """A store of these items that can be split: a model is built from its sizes alone."""
    return sequence_store(
        np.ones(5, np.int32),
        np.array([0, 5]),
        item_keys=item_keys,
        user_keys=np.array([1]),
        columns={"timestamp_us": np.arange(5, dtype=np.int64)},
    )
