r"""Times the export of all test users' lists, and its memory, by this checkout and by an earlier one.

    git worktree add ../before 8e1b8a6
    python benchmarks/list_export.py ../before --json list-export.json

The earlier checkout trains a small model of 40,000 users first, for one pass, which the later one reads too.
Times and memory are those from the opened run on: seconds by the clock, which hold on a machine that does nothing else,
and CPU seconds, of `experiments/export_lists.py` as a whole, and of its two parts, what the model computes and all
else. Takes three minutes on 2 cores.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import Positional

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, to_json
from seqrec.files import write_json

HERE = Path(__file__).parents[1]
SMALL = "--d-model 16 --max-length 12 --batch-size 512 --max-epochs 1 --mask-seen yes"

MEASURE = """
import json, resource, sys, time
from pathlib import Path
checkout, run, k = sys.argv[1:]
sys.path[:0] = [checkout, checkout + "/experiments"]
from seqrec import evaluation

def make_once(model, *, k, make=evaluation.make_top_step, made={}, **options):
    made.setdefault(k, make(model, k=k, **options))
    return made[k]

evaluation.make_top_step = make_once  # what is measured is compiled before
import export_lists

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def highest():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

def opened(*arguments, open_trained=export_lists.open_trained):
    task, model, params = open_trained(*arguments)
    # What the model alone computes: all batches, whose results are dropped; the second time it is compiled.
    step, seconds = make_once(model, k=int(k)), []
    for _ in range(2):
        started = time.process_time()
        for batch in task.test.batches():
            [each.block_until_ready() for each in step(params, batch)]
        seconds.append(time.process_time() - started)
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory counts from here on
    at_start.update(model_cpu_seconds=seconds[-1], resident=resident())
    at_start.update(seconds=time.perf_counter(), cpu_seconds=time.process_time())
    return task, model, params

at_start = {}
export_lists.open_trained = opened
export_lists.main(export_lists.Arguments(Path(run), k=int(k)))
print(json.dumps({
    "seconds": time.perf_counter() - at_start["seconds"],
    "cpu_seconds": time.process_time() - at_start["cpu_seconds"],
    "model_cpu_seconds": at_start["model_cpu_seconds"],
    "growth_mb": (highest() - at_start["resident"]) / 1e6,
}))
"""


@dataclass(frozen=True)
class Config:
    """Times the export of lists."""

    before: Positional[Path]
    """Directory of the earlier checkout."""
    n_users: int = 40_000
    """Number of users."""
    n_items: int = 5_000
    """Size of the catalogue."""
    k: int = 100
    """Length of a list."""
    n_rounds: int = 1
    """Number of times that both export; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_users", "n_items", "k", "n_rounds")


def write_events(file: Path, config: Config) -> None:
    """Walks of twelve events along a circle of items, with keys of text."""
    random, length = np.random.default_rng(0), 12
    steps = random.choice([1, 1, 2, 3], (config.n_users, length))
    items = (random.integers(config.n_items, size=(config.n_users, 1)) + np.cumsum(steps, axis=1)) % config.n_items
    columns = {
        "user": [f"user-{user:07}" for user in np.repeat(np.arange(config.n_users), length).tolist()],
        "item": [f"item-{item:07}" for item in items.reshape(-1).tolist()],
        "time": np.tile(1_000_000_000 + 1000 * np.arange(length), config.n_users),
    }
    pq.write_table(pa.table(columns), file)


def start(checkout: Path, *command: str | Path) -> str:
    """Runs Python with the checkout's package, and returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.absolute()), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main(config: Config) -> dict[str, Any]:
    """Prints times and memory of both, and how many times as fast the later one is."""
    checkouts = {"before": config.before.absolute(), "now": HERE}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as scratch:
        events, run = Path(scratch) / "events.parquet", Path(scratch) / "run"
        write_events(events, config)
        script = checkouts["before"] / "experiments" / "gru4rec.py"
        columns = "--columns user item time"
        flags = f"--dataset events --data-path {events} {columns} {SMALL} --output {run}".split()
        start(checkouts["before"], script, *flags)
        for _ in range(config.n_rounds):
            for name, checkout in checkouts.items():
                printed = start(checkout, "-c", MEASURE, checkout, run, str(config.k))
                measured[name].append(json.loads(printed.splitlines()[-1]))
    result: dict[str, Any] = {
        name: {each: float(np.median([one[each] for one in rounds])) for each in rounds[0]}
        for name, rounds in measured.items()
    }
    for figures in (result["before"], result["now"]):
        figures["writing_cpu_seconds"] = figures["cpu_seconds"] - figures["model_cpu_seconds"]
    for part in ("seconds", "cpu_seconds", "writing_cpu_seconds"):
        result[f"before_over_now_{part}"] = result["before"][part] / result["now"][part]
    for name, value in result.items():
        print(f"{name:40}", value)
    # Where the checkout lay says nothing; what it holds does.
    commit = subprocess.run(["git", "-C", config.before, "rev-parse", "HEAD"], capture_output=True, text=True)
    settings = {**to_json(config), "before": commit.stdout.strip() or config.before.name}
    result |= {"config": settings, "device": runtime.device_name(), "versions": runtime.versions()}
    if config.json is not None:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
