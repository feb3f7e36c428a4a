"""From a run to its bundle: what of the run's config and store goes into it."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqrec import runs, runtime
from seqrec.baselines.popularity import training_counts
from seqrec.bundle.card import model_card
from seqrec.bundle.files import Facts, ItemTableType, Vocabulary
from seqrec.bundle.histories import Ragged, consecutive_rows
from seqrec.bundle.programs import check_servable
from seqrec.bundle.writing import Description, HeldOut, refresh_bundle, write_bundle
from seqrec.config import from_json
from seqrec.data.engagement import EngagementConfig
from seqrec.data.event_features import EventFeatureConfig
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import SequenceStore, sequence_store
from seqrec.files import JsonObject
from seqrec.items import ItemConfig
from seqrec.losses.config import LossConfig
from seqrec.model import Model
from seqrec.report.kept_results import condense_config
from seqrec.run.data import Task, make_task
from seqrec.run.experiment import Script, open_trained
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
) -> Facts:
    """Writes the bundle of a run's best checkpoint; `scripts` are the modules that train, by name.

    Item features do not travel: the item table that they compose is stored in their place. With `index` there is one
    for approximate search, and with `onnx` its functions are also in that form.

    Raises:
      InputError: the run cannot be read, or its model cannot be served, or has no index.
    """
    task, model, params = open_trained(run, scripts)
    check_servable(model)
    name, store = runs.experiment_of(run), task.store
    with runs.reading_records(run):
        started = condense_config(run)
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
    served = served_model(scripts[name], record, store.n_items)
    return write_bundle(
        output,
        served,
        params,
        Vocabulary(store.item_keys, counts, store.titles, store.attributes),
        Description(
            name,
            record,
            functools.partial(model_card, run, record, onnx=onnx),
            pictures=tuple(each for each in (run / runs.LEARNING_CURVE,) if each.is_file()),
        ),
        mask_seen=task.mask_seen,
        item_table=item_table,
        index=index,
        held_out=held_out(task),
        onnx=onnx,
    )


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


def refresh(directory: Path, scripts: Mapping[str, Script]) -> None:
    """Exports the programs of a bundle anew from its weights and config.

    Raises:
      InputError: see `refresh_bundle`; or `scripts` have none by the name of the bundle's.
    """

    def build(record: JsonObject, facts: Facts) -> Model:
        if facts.model not in scripts:
            raise InputError(f"{directory} holds a model {facts.model}, which is none of {', '.join(scripts)}")
        return served_model(scripts[facts.model], record, facts.n_items)

    refresh_bundle(directory, build)


def served_model(script: Script, record: JsonObject, n_items: int) -> Model:
    """What answers of the model that a run's config describes, for a catalogue of this size; no data is needed.

    Parts that only train, and the features that its item vectors were made of, are left out.

    Raises:
      InputError: the config is of another version of seqrec.
    """
    config: Any = from_json(script.Config, record["config"])
    training, loss = config.training, config.training.loss
    data = dataclasses.replace(
        training.data,
        dataset="store",
        split=SplitConfig(),
        behaviour=EventFeatureConfig(),
        mask_seen="no",
    )
    training = dataclasses.replace(
        training,
        data=data,
        items=ItemConfig(),
        engagement=EngagementConfig(),
        loss=LossConfig(repeat_mixture=loss.repeat_mixture),
    )
    task = make_task(data, _smallest_store(n_items), seed=0)
    return script.build(dataclasses.replace(config, training=training), task)


def _smallest_store(n_items: int) -> SequenceStore:
    """A store of this many items that can be split: a model is built from its sizes alone."""
    return sequence_store(
        np.ones(5, np.int32),
        np.array([0, 5]),
        item_keys=np.arange(1, n_items + 1),
        user_keys=np.array([1]),
        columns={"timestamp_us": np.arange(5, dtype=np.int64)},
    )
