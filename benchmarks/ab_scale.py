"""Times an A/B analysis from files to verdict, by number of users.

    python benchmarks/ab_scale.py --n-users 10000 100000 --json ab_scale.json

Logs are simulated once a size and are not part of the time. Prints users, events, seconds to load and to analyse, and
the largest memory so far.
"""

import json
import resource
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from seqrec import runtime
from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.plan import Metric, Plan, metric_of
from seqrec.abtest.simulate import Simulation, simulate, write_logs


@dataclass(frozen=True)
class Config:
    """Times the analysis of simulated logs."""

    n_users: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Sizes, each in all arms."""
    n_days: int = 14
    """Days of the experiment, and before it."""
    json: Path | None = None
    """File for the figures."""


def main(config: Config) -> list[dict[str, Any]]:
    """Prints a line a size and returns them."""
    plan = Plan(
        name="scale",
        start=date(2026, 3, 2),
        n_days=config.n_days,
        days_before=config.n_days,
        primary=Metric("plays"),
        guardrails=(metric_of("-skips/plays:0.02"), metric_of("likes/plays:0.05")),
        segments=("country", "platform"),
    )
    found = []
    print(f"{'users':>12} {'events':>14} {'load s':>8} {'analyse s':>10} {'peak MB':>8}")
    for n_users in config.n_users:
        with tempfile.TemporaryDirectory() as directory:
            logs = simulate(plan, Simulation(n_users=n_users))
            n_events = len(logs.events)
            files = write_logs(logs, Path(directory))
            del logs
            start = runtime.seconds()
            connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
            loaded = runtime.seconds()
            analyze(connection, plan)
            done = runtime.seconds()
        row = {
            "n_users": n_users,
            "n_events": n_events,
            "load_seconds": loaded - start,
            "analyse_seconds": done - loaded,
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        found.append(row)
        print(
            f"{n_users:12,} {n_events:14,} {row['load_seconds']:8.2f} {row['analyse_seconds']:10.2f} "
            f"{row['peak_megabytes']:8,.0f}"
        )
    if config.json:
        config.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    runtime.run_script(main, Config)
