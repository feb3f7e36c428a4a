"""Kills a training run at random moments, goes on each time, and compares what it ends with to an undisturbed run.

python benchmarks/soak.py --json soak.json          # 20 kills of a small run of the demo; some ten minutes
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqrec import runtime
from seqrec.files import write_json
from seqrec.sharding import MeshConfig
from seqrec.types import InputError

SCRIPT = Path(__file__).parents[1] / "experiments" / "sasrec.py"


@dataclass(frozen=True)
class Config:
    """Kills a training run at random moments, resumes it, and compares its results with those of an undisturbed run."""

    n_kills: int = 20
    """Number of times to kill the run (SIGKILL) before it may finish."""
    seed: int = 0
    """Seed of the moments at which the run is killed."""
    flags: tuple[str, ...] = ("--d-model", "16", "--n-blocks", "1", "--max-epochs", "3", "--save-every-steps", "1")
    """Flags of the training script."""
    json: Path | None = None
    """JSON file to write the figures to."""

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


def killed_at_random(
    process: subprocess.Popen, run: Path, random: np.random.Generator, *, n_saves: int, to_save: float, a_save: float
) -> bool:
    """Kills a run within a save's time after `n_saves` saves, or on the way to the first; False if it ended before.

    `to_save` and `a_save` are the seconds that the first save and each other one took in the undisturbed run.
    """
    wanted = latest_checkpoint(run) + n_saves
    while latest_checkpoint(run) < wanted and process.poll() is None:
        time.sleep(0.002)
    try:
        process.wait(random.uniform(0, a_save if n_saves else to_save))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


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
        process = start(whole, config, compiled)
        while latest_checkpoint(whole) == 0 and process.poll() is None:
            time.sleep(0.002)
        to_save = runtime.seconds() - began
        finish(process)
        n_steps = latest_checkpoint(whole)
        a_save = (runtime.seconds() - began - to_save) / n_steps
        kills, ends = [], []
        while len(kills) < config.n_kills:
            process = start(killed, config, compiled)
            # At most so many that a run lives through several kills.
            n_saves = int(random.integers(max(2, n_steps // 8)))
            if not killed_at_random(process, killed, random, n_saves=n_saves, to_save=to_save, a_save=a_save):
                finish(process)
                ends.append(final_hash(killed))
                killed = Path(directory) / f"begun after kill {len(kills)}"
                continue
            kills.append({"latest_checkpoint": latest_checkpoint(killed), "within_a_save": within_a_save(killed)})
            print(
                f"kill {len(kills):3}", *(f"{name} {value}" for name, value in kills[-1].items()), sep="   ", flush=True
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
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
