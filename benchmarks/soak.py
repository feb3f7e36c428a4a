"""Kills a training run at random moments, goes on each time, and compares what it ends with to an undisturbed run.

python benchmarks/soak.py --json soak.json          # 20 kills of a small run of the demo; some ten minutes
"""

import hashlib
import subprocess
import sys
import tempfile
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
    latest = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    restored = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(latest) / "state").absolute())
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def start(run: Path, config: Config, *, timeout_seconds: float | None = None) -> bool:
    """Starts or goes on with a run; True if it came to its end, False if it was killed before."""
    command = [sys.executable, str(SCRIPT), *config.flags, "--output", str(run), "--resume"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except subprocess.TimeoutExpired:  # subprocess has killed it
        return False
    if done.returncode:
        raise InputError(f"the run stopped with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    return True


def main(config: Config) -> dict[str, Any]:
    """Prints whether anything was lost and returns the findings."""
    runtime.start(MeshConfig())
    random = np.random.default_rng(config.seed)
    with tempfile.TemporaryDirectory() as directory:
        whole, killed = Path(directory) / "whole", Path(directory) / "killed"
        started = runtime.seconds()
        start(whole, config)
        seconds = runtime.seconds() - started
        n_kills, steps, ends = 0, [], []
        while n_kills < config.n_kills:
            # From the first import to beyond the middle; a run that ends in spite of it begins anew.
            if start(killed, config, timeout_seconds=seconds * random.uniform(0.2, 0.7)):
                ends.append(final_hash(killed))
                killed = Path(directory) / f"begun after kill {n_kills}"
                continue
            n_kills += 1
            saved = [int(path.name) for path in (killed / "checkpoints").glob("*") if path.name.isdigit()]
            steps.append(max(saved, default=0))
            print(f"kill {n_kills:3}   latest checkpoint {steps[-1]}", flush=True)
        start(killed, config)
        hashes = {"undisturbed": final_hash(whole), "killed": [*ends, final_hash(killed)]}
    equal = set(hashes["killed"]) == {hashes["undisturbed"]}
    print("equal to the bit" if equal else "NOT equal")
    result = {"n_kills": n_kills, "steps": steps, "equal": equal, "hashes": hashes, "versions": runtime.versions()}
    if config.json:
        runs.write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
