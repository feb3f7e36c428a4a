r"""Tests the baselines that a model has to beat, on one file of events: from popularity to EASE.

    python experiments/baselines.py                                 # the MovieLens demo, half a minute
    python experiments/baselines.py --dataset ml-1m --data-path ml-1m.txt.gz

They see what a model sees, and the same queries. Keep a run by experiments/results.py, and its rows stand in every
table of that data. Each baseline's ranks are kept too: compare.py MODEL BASELINES tests a model against all of them,
and compare.py MODEL BASELINES/item-knn against one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.baselines import popularity
from seqrec.baselines.scored import ease, first_order_markov, item_knn, score_ranks
from seqrec.data.store import SequenceStore, open_store
from seqrec.evaluation import rank_table
from seqrec.files import JsonObject, make_directory, write_json
from seqrec.report import figures
from seqrec.run.config import RunConfig
from seqrec.run.data import NO_ENGAGEMENT, DataConfig, Task, open_task, prepare_store
from seqrec.run.experiment import open_run
from seqrec.run.results import protocol
from seqrec.types import InputError

Rank = Callable[[np.ndarray, bool], tuple[np.ndarray, np.ndarray]]
"""`rank(target_positions, mask_seen)` -> ranks, and numbers of candidates."""


@dataclass(frozen=True)
class Config:
    """Tests the baselines on each user's last item."""

    recent_days: float = 30.0
    """Recent popularity counts events of this many days before the newest training event; needs times."""
    n_neighbours: int = 100
    """Item-kNN: number of most similar items that each item contributes to."""
    ease_l2: float = 500.0
    """EASE: strength of the L2 regularisation."""
    data: OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    run: OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)


def with_times(config: Config, task: Task, run: Path) -> SequenceStore:
    """The task's store; if that lacks times and the data file has them, another store with times."""
    if "timestamp_us" in task.store.columns or config.data.dataset == "store":
        return task.store
    prepare_store(run / "store-with-times", (config.data, NO_ENGAGEMENT), keep_times=True)
    return open_store(run / "store-with-times")


def baselines(config: Config, task: Task, timed: SequenceStore) -> Iterator[tuple[str, Rank]]:
    """Each baseline with its name; it is fitted when the iterator reaches it."""
    store, split = task.store, task.split
    counts = popularity.training_counts(store, split)

    def by_counts(counts, *, personal=False) -> Rank:
        return lambda targets, mask_seen: popularity.popularity_ranks(
            store, targets, counts, mask_seen=mask_seen, personal=personal
        )

    def by_scores(scorer) -> Rank:
        return lambda targets, mask_seen: score_ranks(store, targets, scorer, mask_seen=mask_seen)

    yield "popularity", by_counts(counts)
    yield "personal popularity", by_counts(counts, personal=True)
    if "timestamp_us" in timed.columns:
        yield "recent popularity", by_counts(popularity.recent_counts(timed, split, days=config.recent_days))
    yield "first-order Markov", by_scores(first_order_markov(store, split))
    yield "item-kNN", by_scores(item_knn(store, split, n_neighbours=config.n_neighbours))
    try:
        yield "EASE", by_scores(ease(store, split, l2=config.ease_l2))
    except InputError as error:  # too many items
        runtime.log.warning("left out    %s", error)


def main(config: Config) -> JsonObject:
    """Tests each baseline, writes the figures to the run's directory, and returns what `metrics.json` holds."""
    with open_run(config, config.run, experiment="baselines", dataset=config.data.dataset) as run:
        task = open_task(run, config.data, seed=config.run.seed)
        results: JsonObject = {"baselines": {}, "protocol": protocol(task)}
        for name, rank in baselines(config, task, with_times(config, task, run)):
            ranks, n_candidates = rank(task.test.target_positions, task.mask_seen)
            table = rank_table(task.test, ranks, n_candidates)
            results["baselines"][name] = figures.figures(table.rank, users=table.user)
            own = make_directory(run / name.lower().replace(" ", "-"))
            figures.write_ranks(own / "ranks.parquet", table, task.store, task.split)
            write_json(own / "metrics.json", {"test": results["baselines"][name], "protocol": results["protocol"]})
        write_json(run / "metrics.json", results)
    print(f"\n{figures.format_table(results['baselines'])}\nrun directory  {run}")
    return results


if __name__ == "__main__":
    runtime.run_script(main, Config)
