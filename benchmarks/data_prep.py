"""Times the preparation of drawn events, from a Parquet file to a store with a temporal split, and its peak memory.

    python benchmarks/data_prep.py --events 1e6 --json data_prep.json
    python benchmarks/data_prep.py --events 1e7 --memory-limit 2GB --json data_prep.json

Users' and items' activity is drawn from long-tailed distributions, times from 90 days, and one event in fifty is
there twice. Drawing and preparing each run in a process of their own, so that the peak is the preparation's alone
(with its interpreter and libraries; not the pages of files that the system keeps in memory). CPU time, start and
imports with it, is what to compare between runs of a machine that does other things too.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import OmitArgPrefixes

from seqrec.data.engines import EngineName, move
from seqrec.data.files import Limits
from seqrec.data.preparation import StepCount, StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.splits import SplitConfig


def all_kinds_of_steps() -> StepsConfig:
    """A cleaning as for real logs: each kind of step, but the collapse of repeats, which a temporal log keeps."""
    return StepsConfig(
        duplicate_gap_seconds=10.0,
        max_events_per_day=1000,
        min_column="rating",
        min_value=1.0,
        min_user_events=5,
        min_item_events=5,
        session_gap_seconds=1800.0,
        item_order="count",
    )


@dataclass(frozen=True)
class Config:
    """Times the preparation of drawn events."""

    events: float = 1e6
    """Events to draw."""
    engine: EngineName = "duckdb"
    """What runs the steps."""
    json: Path | None = None
    """File for the figures."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    steps: OmitArgPrefixes[StepsConfig] = field(default_factory=all_kinds_of_steps)

    def __post_init__(self):
        if not 1000 <= self.events <= 1e9:
            raise ValueError(f"events={self.events:g} is outside 1e3 to 1e9; try events=1e6")


def draw(n_events: int, path: Path) -> None:
    """Writes drawn events as Parquet."""
    random = np.random.default_rng(0)
    n_users, n_items = max(20, n_events // 50), max(20, n_events // 100)
    users = (n_users * random.random(n_events) ** 2).astype(np.int64)
    # Popularity falls about as a power of the rank, the most popular items get percents of all events.
    items = np.minimum((n_items ** random.random(n_events)).astype(np.int64), n_items - 1)
    times = 1_700_000_000_000 + random.integers(90 * 24 * 3600 * 1000, size=n_events)
    ratings = random.integers(11, size=n_events) / 2
    twice = random.integers(n_events, size=n_events // 50)
    kept = np.concatenate([np.arange(n_events - len(twice)), twice])
    columns = {"user_id": users, "item_id": items, "timestamp": times, "rating": ratings}
    pq.write_table(pa.table({name: values[kept] for name, values in columns.items()}), path)


def measure(config: Config, path: Path, directory: Path, found: Any) -> None:
    """Prepares the events of `path` and sends the figures of this process."""
    started = time.perf_counter()
    ends: list[tuple[StepCount, float]] = []
    source = read_source("events", path, time_unit="ms", extra=("rating",), limits=config.limits)
    with move(source, config.engine, directory=config.limits.spill_directory) as source:
        prepared = prepare_store(
            source,
            directory,
            config.steps,
            SplitConfig(split="temporal"),
            report=lambda count: ends.append((count, time.perf_counter())),
        )
    stopped = time.perf_counter()
    seconds = np.diff([started, *(end for _, end in ends), stopped])
    names = [*(count.step for count, _ in ends), "sort, split and write"]
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found.put(
        {
            "engine": config.engine,
            "n_found": ends[0][0].n_events,
            "n_events": prepared.store.n_events,
            "n_users": prepared.store.n_users,
            "n_items": prepared.store.n_items,
            "content_hash": prepared.store.content_hash,
            "memory_limit": config.limits.memory_limit,
            "seconds": stopped - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "seconds_per_step": dict(zip(names, seconds.tolist(), strict=True)),
            "peak_bytes": usage.ru_maxrss * unit,
        }
    )


def _in_a_process(function: Any, *arguments: Any) -> None:
    # Spawned, because a forked process inherits the peak of its parent.
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main(config: Config) -> dict[str, Any]:
    """Prints the figures and returns them."""
    from seqrec import runs

    with tempfile.TemporaryDirectory(prefix="seqrec-bench-", dir=config.limits.spill_directory) as folder:
        path = Path(folder) / "events.parquet"
        _in_a_process(draw, int(config.events), path)
        found = multiprocessing.get_context("spawn").SimpleQueue()
        _in_a_process(measure, config, path, Path(folder) / "store", found)
        result = found.get()
    for name, seconds in result["seconds_per_step"].items():
        print(f"{name:<24}{seconds:8.2f} s")
    print(
        f"{'all':<24}{result['seconds']:8.2f} s   CPU {result['cpu_seconds']:.2f} s   "
        f"peak {result['peak_bytes'] / 2**20:,.0f} MiB"
    )
    print(
        f"{result['n_found']:,} events -> {result['n_events']:,} "
        f"of {result['n_users']:,} users and {result['n_items']:,} items"
    )
    if config.json:
        runs.write_json(config.json, result)
    return result


if __name__ == "__main__":
    from seqrec import runtime

    runtime.run_script(main, Config)
