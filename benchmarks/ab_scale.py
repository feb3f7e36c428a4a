"""Times an A/B analysis from files to verdict, by number of users, under a memory limit.

    python benchmarks/ab_scale.py --n-users 10000 100000 --json benchmarks/results/ab-scale.json
    taskset -c 0,1 python benchmarks/ab_scale.py --n-users 5000000 --logs scale-logs  # 100 million events

Logs are simulated once a size, block by block, and are no part of the time; with --logs they are kept there and used
again. Prints users, events, seconds to check the logs, to aggregate them and to draw the conclusion from the sums, the
processors' seconds, and the largest memory of the analysis, which runs in a process of its own.
"""

import json
import multiprocessing
import resource
import tempfile
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.abtest.aggregates import aggregate
from seqrec.abtest.analysis import conclude
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.plan import ExperimentPlan, Metric, metric_of
from seqrec.abtest.simulate import Simulation, log_blocks, write_logs
from seqrec.data.tables.rows import Limits

NAMES = ("assignments", "events", "exposures")


@dataclass(frozen=True)
class Config:
    """Times the analysis of simulated logs of an A/B test."""

    n_users: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of users to time, over all arms together."""
    n_days: int = 14
    """Days of the experiment, and days of history before it."""
    sessions_per_day: float = 0.0714
    """Mean number of sessions per user and day; the default gives 20 events per user in 28 days of 10 tracks per
    session."""
    logs: Path | None = None
    """Directory to keep the logs in and to reuse them from, about 25 bytes per event; by default a temporary directory
    for each size."""
    json: Path | None = None
    """JSON file to write the figures to."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=lambda: Limits(memory_limit="4GB", n_threads=2))


def main(config: Config) -> list[dict[str, Any]]:
    """Prints a line a size and returns them."""
    plan = ExperimentPlan(
        name="scale",
        start=date(2026, 3, 2),
        n_days=config.n_days,
        days_before=config.n_days,
        primary=Metric("plays"),
        guardrails=(metric_of("-skips/plays:0.02"), metric_of("likes/plays:0.05")),
        segments=("country", "platform"),
    )
    rows = []
    print(f"{'users':>11} {'events':>14} {'check s':>7} {'sums s':>7} {'conclude s':>10} {'cpu s':>7} {'peak MB':>8}")
    for n_users in config.n_users:
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory) if config.logs is None else config.logs / str(n_users)
            if not (folder / "events.parquet").is_file():
                simulation = Simulation(
                    n_users=n_users, sessions_per_day=config.sessions_per_day, tracks_per_session=10.0
                )
                write_logs(log_blocks(plan, simulation), folder)
            # A new process, so that the simulation's memory does not count.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = {"n_users": n_users, **pool.apply(timed, (folder, plan, config.limits))}
        rows.append(row)
        print(
            f"{n_users:11,} {row['n_events']:14,} {row['check_seconds']:7.2f} {row['aggregate_seconds']:7.2f} "
            f"{row['conclude_seconds']:10.3f} {row['cpu_seconds']:7.1f} {row['peak_megabytes']:8,.0f}"
        )
    if config.json:
        versions = {"duckdb": duckdb.__version__}
        limits = {"memory_limit": config.limits.memory_limit, "n_threads": config.limits.n_threads}
        config.json.write_text(json.dumps({"limits": limits, "versions": versions, "sizes": rows}, indent=2) + "\n")
    return rows


def timed(folder: Path, plan: ExperimentPlan, limits: Limits) -> dict[str, Any]:
    """Events, seconds of each part and the peak memory of this process."""
    files = {name: folder / f"{name}.parquet" for name in NAMES}
    start = runtime.seconds()
    connection = load_logs(Logs(**files), plan, limits=limits)
    checked = runtime.seconds()
    sums = aggregate(connection, plan)
    aggregated = runtime.seconds()
    result = conclude(sums, plan)
    done = runtime.seconds()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "n_events": pq.read_metadata(files["events"]).num_rows,
        "check_seconds": checked - start,
        "aggregate_seconds": aggregated - checked,
        "conclude_seconds": done - aggregated,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_megabytes": used.ru_maxrss / 1024,
        "decision": result["verdicts"]["treatment"]["decision"],
    }


if __name__ == "__main__":
    runtime.run_script(main, Config)
