"""Kills a training run at random moments, goes on each time, and compares what it ends with to an undisturbed run.

python benchmarks/soak.py --json soak.json          # 20 kills of a small run of the demo; some ten minutes
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqrec import runs, runtime
from seqrec.sharding import MeshConfig
from seqrec.types import InputError

SCRIPT = Path(__file__).parents[1] / "experiments" / "sasrec.py"


@dataclass(frozen=True)
class Config:
    """Kills a run at random moments and goes on."""

    n_kills: int = 20
    """Times that the run is killed (SIGKILL) before it may end."""
    seed: int = 0
    """Seed of the moments."""
    flags: tuple[str, ...] = ("--d-model", "16", "--n-blocks", "1", "--max-epochs", "3", "--save-every-steps", "1")
    """Flags of the training script."""
    json: Path | None = None
    """File for the findings."""

    def __post_init__(self):
        if self.n_kills < 1:
            raise ValueError(f"n_kills={self.n_kills} is below 1; try n_kills=20")


def final_hash(run: Path) -> str:
    """SHA-256 of all arrays of the latest checkpoint: parameters, their average and the optimizer's state."""
    latest = run / "checkpoints" / str(latest_checkpoint(run))
    restored = ocp.StandardCheckpointer().restore((latest / "state").absolute())
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def start(run: Path, config: Config, compiled: Path) -> subprocess.Popen:
    """A process that begins the run or goes on with it; compiled programs are kept from one to the next."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *config.flags, "--output", str(run), "--resume"],
        env={
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Waits for a run's end."""
    _, errors = process.communicate()
    if process.returncode:
        raise InputError(f"the run stopped with status {process.returncode}: {errors.strip().splitlines()[-1]}")


def latest_checkpoint(run: Path) -> int:
    """Step of the latest whole checkpoint; 0 before the first."""
    return max((int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def ended_before(process: subprocess.Popen, moment: Callable[[], bool]) -> bool:
    """Waits for the moment or the process' end; True if its end came first."""
    while process.poll() is None:
        if moment():
            return False
        time.sleep(0.002)
    return True


def within_a_save(run: Path) -> bool:
    """Whether a checkpoint is there in part."""
    return any((run / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def main(config: Config) -> dict[str, Any]:
    """Prints whether anything was lost and returns the findings."""
    runtime.start(MeshConfig())
    random = np.random.default_rng(config.seed)
    began = runtime.seconds()
    with tempfile.TemporaryDirectory() as directory:
        compiled, whole, killed = (Path(directory) / name for name in ("compiled", "whole", "killed"))
        finish(start(whole, config, compiled))
        n_steps = latest_checkpoint(whole)
        kills, ends = [], []
        seconds_to_save, seconds_per_save = 10.0, 0.1  # until they are seen
        while len(kills) < config.n_kills:
            first, started = latest_checkpoint(killed), runtime.seconds()
            process = start(killed, config, compiled)
            # Some are killed before they save, the others after as many saves as let a run live through several kills.
            n_saves = int(random.integers(0, max(2, n_steps // 8)))
            at = started + random.uniform(0, seconds_to_save)
            if n_saves:
                ended_before(process, lambda: latest_checkpoint(killed) > first)
                at, seconds_to_save = runtime.seconds(), runtime.seconds() - started
                ended_before(process, lambda: latest_checkpoint(killed) >= first + n_saves)
                seconds_per_save = (runtime.seconds() - at) / max(1, n_saves - 1) or seconds_per_save
                at = runtime.seconds() + random.uniform(0, seconds_per_save)
            if ended_before(process, lambda: runtime.seconds() >= at):
                finish(process)
                ends.append(final_hash(killed))
                killed = Path(directory) / f"begun after kill {len(kills)}"
                continue
            process.kill()
            process.communicate()
            kills.append({"latest_checkpoint": latest_checkpoint(killed), "within_a_save": within_a_save(killed)})
            print(
                f"kill {len(kills):3}   " + "   ".join(f"{name} {value}" for name, value in kills[-1].items()),
                flush=True,
            )
        finish(start(killed, config, compiled))
        hashes = {"undisturbed": final_hash(whole), "killed": [*ends, final_hash(killed)]}
    equal = set(hashes["killed"]) == {hashes["undisturbed"]}
    n_within = sum(kill["within_a_save"] for kill in kills)
    print(f"{len(kills)} kills, {n_within} of them within a save, of {len(hashes['killed'])} runs of {n_steps} steps")
    print("equal to the bit" if equal else "NOT equal")
    result = {
        "n_kills": len(kills),
        "n_within_a_save": n_within,
        "n_steps": n_steps,
        "kills": kills,
        "equal": equal,
        "hashes": hashes,
        "flags": list(config.flags),
        "seconds": runtime.seconds() - began,
        "versions": runtime.versions(),
    }
    if config.json:
        runs.write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
