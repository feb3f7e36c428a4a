r"""Prepares a store of sequences from a file of events, and says what each step leaves of it.

    python experiments/prepare_data.py --dataset movielens --data-path ml-latest-small --extra rating \
        --min-column rating --min-value 3 --min-user-events 5 --min-item-events 5 --split temporal --output movielens
    python experiments/sasrec.py --dataset store --data-path movielens --split temporal

With --append the events extend the store in --output: ids that it has keep their meaning. Events that cannot be used
are in the store's rejected.parquet, each with its reason; counts, split and config are in its manifest.json.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.data.append import append_events
from seqrec.data.engines import EngineName, move
from seqrec.data.files import BadRows, Limits
from seqrec.data.preparation import StepCount, StepsConfig, format_counts, prepare_store
from seqrec.data.sources import Columns, Dataset, TimeUnit, read_source
from seqrec.data.splits import SplitConfig
from seqrec.data.store import read_preparation


@dataclass(frozen=True)
class Config:
    """Prepares a store of sequences from a file of events."""

    output: Path
    """Directory of the store."""
    dataset: Dataset = "events"
    """Form of the data; movielens-demo needs no file."""
    data_path: Path | None = None
    """File, directory or quoted pattern of CSV, TSV, JSON lines (gzip'd, zstd'd or not) or Parquet; a DuckDB file."""
    table: str | None = None
    """Table of events in a DuckDB file."""
    query: str | None = None
    """SQL for events from a DuckDB file, which it may only read."""
    columns: tuple[str, str, str] = Columns()
    """Names of the user, item and time columns of an events file; time none keeps the file's order."""
    time_unit: TimeUnit = "auto"
    """Unit of a time column of numbers; auto takes the one that gives plausible years."""
    extra: tuple[str, ...] = ()
    """Further columns of numbers to keep beside the items, such as rating."""
    categories: tuple[str, ...] = ()
    """Further columns of text to keep as codes, such as a device; the manifest says what each code stands for."""
    bad_rows: BadRows = "refuse"
    """What to do about a row or value that cannot be read: stop, or drop and count it as not valid."""
    append: bool = False
    """Extend the store in --output, with the steps that it was prepared with, instead of making one."""
    engine: EngineName = "duckdb"
    """What runs the steps; polars keeps all in memory, pyspark takes the running session or a local one."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    steps: OmitArgPrefixes[StepsConfig] = field(default_factory=StepsConfig)
    split: OmitArgPrefixes[SplitConfig] = field(default_factory=SplitConfig)


def report(count: StepCount) -> None:
    print(format_counts([count]), flush=True)


def main(config: Config) -> dict[str, Any]:
    """Writes the store, prints what each step left, and returns the sizes and the hash."""
    known = read_preparation(config.output).get("categories", {}) if config.append else {}
    source = read_source(
        config.dataset,
        config.data_path,
        columns=Columns(*config.columns),
        time_unit=config.time_unit,
        extra=config.extra,
        categories={name: known.get(name, ()) for name in config.categories},
        bad_rows=config.bad_rows,
        table=config.table,
        query=config.query,
        limits=config.limits,
    )
    with move(source, config.engine, directory=config.limits.spill_directory) as source:
        if config.append:
            appended = append_events(source, config.output, report=report)
            store = appended.store
            print(
                f"appended    {appended.n_new_events:,} events; {appended.n_new_users:,} users and "
                f"{appended.n_new_items:,} items are new; {appended.n_duplicates:,} events were there already"
            )
        else:
            prepared = prepare_store(source, config.output, config.steps, config.split, report=report)
            store = prepared.store
            print(f"split       {prepared.split_description}")
    sizes = {"n_events": store.n_events, "n_users": store.n_users, "n_items": store.n_items}
    print("store       {}: {n_events:,} events, {n_users:,} users, {n_items:,} items".format(config.output, **sizes))
    return {**sizes, "content_hash": store.content_hash}


if __name__ == "__main__":
    runtime.run_script(main, Config)
