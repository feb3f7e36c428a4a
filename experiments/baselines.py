r"""Tests the baselines that a model has to beat, on one file of events: from popularity to EASE.

    python experiments/baselines.py                                 # the MovieLens demo, half a minute
    python experiments/baselines.py --dataset ml-1m --data-path ml-1m.txt.gz --only item-kNN STAN SLIM

They see what a model sees, and the same queries. Keep a run by experiments/results.py, and its rows stand in every
table of that data. Each baseline's ranks are kept too: compare.py MODEL BASELINES tests a model against all of them,
and compare.py MODEL BASELINES/item-knn against one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.baselines.fitted import BaselineName, BaselinesConfig
from seqrec.data.store import SequenceStore, open_store
from seqrec.files import JsonObject, write_json
from seqrec.report import figures
from seqrec.run.baselines import baseline_ranks
from seqrec.run.config import RunConfig
from seqrec.run.data import NO_ENGAGEMENT, DataConfig, Task, open_task, prepare_store
from seqrec.run.experiment import open_run
from seqrec.run.results import protocol, write_ranks
from seqrec.runtime import log
from seqrec.types import InputError


@dataclass(frozen=True)
class Config:
    """Tests the baselines that a model has to beat on each user's held-out items."""

    baselines: OmitArgPrefixes[BaselinesConfig] = field(default_factory=BaselinesConfig)
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)


def with_times(config: Config, task: Task, run: Path, events: Any) -> SequenceStore:
    """The task's store; if that lacks times and the data file has them, another store with times."""
    if "timestamp_us" in task.store.columns or config.data.dataset == "store":
        return task.store
    prepare_store(run / "store-with-times", (config.data, NO_ENGAGEMENT), keep_times=True, events=events)
    return open_store(run / "store-with-times")


def main(config: Config, *, events: Any = None) -> JsonObject:
    """Tests each baseline, writes the figures to the run's directory, and returns what `metrics.json` holds.

    `events` is a frame in place of the data path.
    """
    with open_run(config, config.run, experiment="baselines", dataset=config.data.dataset) as run:
        task = open_task(run, config.data, seed=config.run.seed, events=events)
        results: JsonObject = {"baselines": {}, "protocol": protocol(task)}
        store_with_times = with_times(config, task, run, events)
        for name in config.baselines.only or get_args(BaselineName):
            try:
                table = baseline_ranks(task, name, config=config.baselines, store_with_times=store_with_times)
            except InputError as error:  # too many items, or no times
                log.warning("left out    %s", error)
                continue
            baseline_results = {"test": figures.figures(table.rank, users=table.user), "protocol": results["protocol"]}
            results["baselines"][name] = baseline_results["test"]
            write_ranks(run / name.lower().replace(" ", "-"), task, table, baseline_results)
        write_json(run / "metrics.json", results)
    print(f"\n{figures.format_table(results['baselines'])}\nrun directory  {run}")
    return results


if __name__ == "__main__":
    runtime.run_script(main, Config)
