"""Times the preparation of drawn events, from a Parquet file to a store with a temporal split, and its peak memory.

    python benchmarks/data_prep.py --events 1e6 --json data_prep.json
    python benchmarks/data_prep.py --events 1e7 1e8 --memory-limit 4GB --spill-directory scratch --json data_prep.json
    python benchmarks/data_prep.py --events 1e7 --append 10000 --json data_append.json
    python benchmarks/data_prep.py --events 1e7 --rectools-python rectools-env/bin/python --json data_prep.json

With --append the events of one more day are appended to the store, in a process of its own, and the time and memory of
that are compared with those of preparing.

Users' and items' activity is drawn from long-tailed distributions, times from 90 days, and one event in fifty is
there twice. Drawing and preparing each run in a process of their own, so that the peak is the preparation's alone
(with its interpreter and libraries; not the pages of files that the system keeps in memory). CPU time, start and
imports with it, is what to compare between runs of a machine that does other things too. Of several numbers of events
the last line, and `ratios` of the JSON, say how many times the time of the first each takes.

Peers load the same events, from text, into their own data set, without the cleaning steps: RecTools into a `Dataset`,
RecBole into its `SequentialDataset`. Each lives in an environment of its own; one that is missing or fails is named.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from tyro.conf import OmitArgPrefixes

from seqrec.data.append import append_events
from seqrec.data.engines import EngineName, move
from seqrec.data.event_tables import ReadOptions
from seqrec.data.preparation import StepCount, StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.tables.rows import Limits
from seqrec.files import write_json

EVENTS_PER_BLOCK = 10_000_000


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
    """Times the preparation of randomly drawn events."""

    events: tuple[float, ...] = (1e6,)
    """Numbers of events to draw, one preparation each."""
    append: int = 0
    """Number of events of one more day to append to each store; 0 appends none."""
    engine: EngineName = "duckdb"
    """Engine that runs the preparation steps."""
    json: Path | None = None
    """JSON file to write the figures to."""
    rectools_python: str | None = None
    """Python interpreter of an environment with RecTools; it is then timed on loading the same events."""
    recbole_python: str | None = None
    """Python interpreter of an environment with RecBole; it is then timed on loading the same events."""
    peer_minutes: float = 30.0
    """Minutes after which RecTools or RecBole is stopped."""
    peer_gigabytes: float = 16.0
    """Limit on the address space of RecTools or RecBole, in GB."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    steps: OmitArgPrefixes[StepsConfig] = field(default_factory=all_kinds_of_steps)

    def __post_init__(self):
        for n_events in self.events:
            if not 1000 <= n_events <= 1e9:
                raise ValueError(f"events={n_events:g} is outside 1e3 to 1e9; try events=1e6")
        if not self.events:
            raise ValueError("events names no number of events; try events=1e6")
        if not 0 <= self.append <= min(self.events):
            raise ValueError(f"append={self.append} is outside 0 to events={min(self.events):g}; try append=10000")


DAYS, DAY_MS, FIRST_MS = 90, 24 * 3600 * 1000, 1_700_000_000_000


def draw(n_events: int, path: Path) -> None:
    """Writes drawn events as Parquet, a block at a time."""
    n_users, n_items = max(20, n_events // 50), max(20, n_events // 100)
    writer = None
    for block, start in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        random = np.random.default_rng(block)
        n_drawn = min(EVENTS_PER_BLOCK, n_events - start)
        users = (n_users * random.random(n_drawn) ** 2).astype(np.int64)
        # Popularity falls about as a power of the rank, the most popular items get percents of all events.
        items = np.minimum((n_items ** random.random(n_drawn)).astype(np.int64), n_items - 1)
        times = FIRST_MS + random.integers(DAYS * DAY_MS, size=n_drawn)
        ratings = random.integers(11, size=n_drawn) / 2
        twice = random.integers(n_drawn, size=n_drawn // 50)
        kept = np.concatenate([np.arange(n_drawn - len(twice)), twice])
        columns = {"user_id": users, "item_id": items, "timestamp": times, "rating": ratings}
        table = pa.table({name: values[kept] for name, values in columns.items()})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def draw_day(n_events: int, n_stored: int, path: Path) -> None:
    """Writes the events to append, of the day that follows: as a day has them, by the users and items that there are.

    One in a hundred is of a new user, one in a hundred of a new item.
    """
    n_users, n_items = (max(20, n_stored // share) for share in (50, 100))
    random = np.random.default_rng(1 << 32)
    users = (n_users * random.random(n_events) ** 2).astype(np.int64)
    items = np.minimum((n_items ** random.random(n_events)).astype(np.int64), n_items - 1)
    times = FIRST_MS + DAYS * DAY_MS + random.integers(DAY_MS, size=n_events)
    users[::100] += n_users
    items[50::100] += n_items
    ratings = random.integers(2, 11, size=n_events) / 2
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times, "rating": ratings}), path)


def measure_append(config: Config, path: Path, directory: Path, queue: Any) -> None:
    """Appends the events of `path` to the store and sends the figures of this process."""
    started = time.perf_counter()
    source = read_source("events", path, time_unit="ms", extra=("rating",), options=ReadOptions(limits=config.limits))
    appended = append_events(source, directory)
    seconds = time.perf_counter() - started
    facts = {"n_found": config.append, "n_new_events": appended.n_new_events, "n_new_users": appended.n_new_users}
    facts |= {"n_events": appended.store.n_events, "content_hash": appended.store.content_hash}
    queue.put(facts | {"seconds": seconds} | used())


def measure(config: Config, path: Path, directory: Path, queue: Any) -> None:
    """Prepares the events of `path` and sends the figures of this process."""
    started = time.perf_counter()
    ends: list[tuple[StepCount, float]] = []
    source = read_source("events", path, time_unit="ms", extra=("rating",), options=ReadOptions(limits=config.limits))
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
    queue.put(
        {
            "engine": config.engine,
            "n_found": ends[0][0].n_events,
            "n_events": prepared.store.n_events,
            "n_users": prepared.store.n_users,
            "n_items": prepared.store.n_items,
            "content_hash": prepared.store.content_hash,
            "memory_limit": config.limits.memory_limit,
            "seconds": stopped - started,
            "seconds_per_step": dict(zip(names, seconds.tolist(), strict=True)),
            **used(),
        }
    )


def used() -> dict[str, float]:
    """CPU seconds and peak memory of this process."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * unit}


def time_peer(name: str, python: str | None, path: Path, config: Config) -> dict[str, Any]:
    """What data_prep_peers.py found of the peer's loading of the text file `path`, or why it was not timed."""
    if python is None:
        return {"skipped": f"no --{name}-python was given"}
    script = Path(__file__).with_name("data_prep_peers.py")
    command = [python, script, name, path, "--gigabytes", str(config.peer_gigabytes)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 * config.peer_minutes)
    except subprocess.TimeoutExpired:
        return {"skipped": f"did not finish in {config.peer_minutes:g} minutes"}
    except OSError as error:
        return {"skipped": f"{python} cannot be run ({error.strerror})"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode} and said nothing"])[-1]
        return {"skipped": f"failed under {config.peer_gigabytes:g} GB: {last[:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def write_text(path: Path, text: Path) -> None:
    """The events of a Parquet file as RecBole's atomic file, which others read as tab-separated text."""
    types = {"user_id": "token", "item_id": "token", "timestamp": "float", "rating": "float"}
    with text.open("wb") as stream:
        stream.write(("\t".join(f"{name}:{kind}" for name, kind in types.items()) + "\n").encode())
        options = csv.WriteOptions(include_header=False, delimiter="\t")
        for batch in pq.ParquetFile(path).iter_batches():
            csv.write_csv(pa.Table.from_batches([batch]), stream, options)


def _in_a_process(function: Any, *arguments: Any) -> None:
    # Spawned, because a forked process inherits the peak of its parent.
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def prepare_drawn(config: Config, n_events: int, folder: Path) -> dict[str, Any]:
    """The figures of drawing and preparing so many events in an empty folder."""
    path = folder / "events.parquet"
    _in_a_process(draw, n_events, path)
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    _in_a_process(measure, config, path, folder / "store", queue)
    result = queue.get()
    if config.append:
        _in_a_process(draw_day, config.append, n_events, folder / "day.parquet")
        _in_a_process(measure_append, config, folder / "day.parquet", folder / "store", queue)
        result["append"] = queue.get()
    pythons = {"rectools": config.rectools_python, "recbole": config.recbole_python}
    text = folder / "events" / "events.inter"
    if any(pythons.values()):
        text.parent.mkdir()
        write_text(path, text)
    return result | {"peers": {name: time_peer(name, python, text, config) for name, python in pythons.items()}}


def print_figures(result: dict[str, Any]) -> None:
    """One line a step, then the sums."""
    for name, seconds in result["seconds_per_step"].items():
        print(f"{name:<24}{seconds:8.2f} s")
    limit = result["memory_limit"]
    print(
        f"{'all':<24}{result['seconds']:8.2f} s   CPU {result['cpu_seconds']:.2f} s   "
        f"peak {result['peak_bytes'] / 2**20:,.0f} MiB" + (f" under a limit of {limit}" if limit else "")
    )
    print(
        f"{result['n_found']:,} events -> {result['n_events']:,} "
        f"of {result['n_users']:,} users and {result['n_items']:,} items"
    )
    if append := result.get("append"):
        print(
            f"{'append':<24}{append['seconds']:8.2f} s   CPU {append['cpu_seconds']:.2f} s   "
            f"peak {append['peak_bytes'] / 2**20:,.0f} MiB\n"
            f"{append['n_new_events']:,} of {append['n_found']:,} events appended in "
            f"{append['seconds'] / result['seconds']:.3f} of the time of preparing all, "
            f"{append['cpu_seconds'] / result['cpu_seconds']:.3f} of its CPU time"
        )
    for name, peer in result["peers"].items():
        if "skipped" in peer:
            print(f"{name:<24}skipped: {peer['skipped']}")
        else:
            print(
                f"{name + ', loading':<24}{peer['seconds']:8.2f} s   CPU {peer['cpu_seconds']:.2f} s   "
                f"peak {peer['peak_bytes'] / 2**20:,.0f} MiB"
            )


def main(config: Config) -> dict[str, Any]:
    """Prints the figures and returns them."""
    if config.limits.spill_directory is not None:
        config.limits.spill_directory.mkdir(parents=True, exist_ok=True)
    runs = []
    for n_events in map(int, config.events):
        with tempfile.TemporaryDirectory(prefix="seqrec-bench-", dir=config.limits.spill_directory) as folder:
            runs.append(prepare_drawn(config, n_events, Path(folder)))
        print_figures(runs[-1])
    names = ("n_found", "seconds", "cpu_seconds", "peak_bytes")
    ratios = [{name: run[name] / runs[0][name] for name in names} for run in runs[1:]]
    for times in ratios:
        print(
            f"{times['n_found']:g} times the events: {times['seconds']:.1f} times the time, "
            f"{times['cpu_seconds']:.1f} times the CPU time, {times['peak_bytes']:.1f} times the memory"
        )
    result = {"runs": runs, "ratios": ratios}
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    from seqrec import runtime

    runtime.run_script(main, Config)
