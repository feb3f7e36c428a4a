r"""Prepares a store of sequences from a file of events, and says what each step leaves of it.

    python experiments/prepare_data.py --dataset movielens --data-path ml-latest-small --extra rating \
        --min-column rating --min-value 3 --min-user-events 5 --min-item-events 5 --split temporal --output movielens
    python experiments/sasrec.py --dataset store --data-path movielens

With --append the events extend the store in --output: ids keep their meaning. docs/data.md says what is in a store.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.data.append import append_events, continued
from seqrec.data.buckets import original, working_copy
from seqrec.data.engines import EngineName, move
from seqrec.data.preparation import EVENTS_PER_SHARD, StepCount, StepsConfig, prepare_store, stages
from seqrec.data.sources import SourceConfig, open_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import read_preparation
from seqrec.data.tables.rows import Limits
from seqrec.files import JsonObject
from seqrec.report.data_profile_page import write_profile


@dataclass(frozen=True)
class Config:
    """Prepares a store of sequences from a file of events."""

    output: Path
    """Directory of the store, which may be s3:// or gs://."""
    source: OmitArgPrefixes[SourceConfig] = field(default_factory=SourceConfig)
    append: bool = False
    """Extend the store in --output, with the steps that it was prepared with, instead of making one."""
    profile: bool = True
    """Write profile.html, which reads all events; without it an append is far quicker, and an earlier page stays."""
    engine: EngineName = "duckdb"
    """What runs the steps; polars keeps all in memory, pyspark takes the running session or a local one."""
    events_per_shard: int = EVENTS_PER_SHARD
    """Events in one directory of arrays; a store with more has several, each of a range of users."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    steps: OmitArgPrefixes[StepsConfig] = field(default_factory=StepsConfig)
    split: OmitArgPrefixes[SplitConfig] = field(default_factory=SplitConfig)


def main(config: Config) -> JsonObject:
    """Writes the store and its profile, prints what each step left, and returns the sizes and the hash."""
    names = [] if config.append else stages(config.steps)
    bar = tqdm(total=len(names) or None, desc="reading", unit="step", disable=None, leave=False)
    with working_copy(config.output) as directory, bar:

        def report(count: StepCount) -> None:
            runtime.check_interrupt()
            tqdm.write(str(count))
            bar.update()
            bar.set_description(names[bar.n] if bar.n < len(names) else "store")

        earlier = read_preparation(directory) if config.append else {}
        data = continued(config.source, config.output, earlier) if config.append else config.source
        source = open_source(data, known=earlier.get("categories", {}), limits=config.limits)
        with move(source, config.engine, directory=config.limits.spill_directory) as source:
            if config.append:
                store, *counts, _ = append_events(source, directory, report=report)
                line = "appended    {:,} events; {:,} users and {:,} items are new; {:,} events were there already"
            else:
                settings = (config.steps, config.split, config.events_per_shard)
                store, _, *counts = prepare_store(source, directory, *settings, report=report)
                line = "split       {}"
        output, pages = original(directory), [write_profile(directory).name] if config.profile else []
    sizes = f"{store.n_events:,} events, {store.n_users:,} users, {store.n_items:,} items"
    lines = [*([] if source.ties is None else [f"ties        {source.ties}"]), line.format(*counts)]
    print(*lines, f"store       {output}: {sizes}", *(f"profile     {output}/{page}" for page in pages), sep="\n")
    return {name: getattr(store, name) for name in ("n_events", "n_users", "n_items", "content_hash")}


if __name__ == "__main__":
    runtime.run_script(main, Config)
