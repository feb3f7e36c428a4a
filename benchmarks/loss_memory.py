"""Times the full-catalogue loss, forward and backward, against the naive form, and compares their memory.

    python benchmarks/loss_memory.py --json loss-memory.json

The naive form holds every score at once. Rounds of the two alternate: read the ratio, which holds between machines,
before the milliseconds. Memory is what the compiled programs reserve beside their arguments and results. CPU seconds
are given too, which other work on the machine moves less.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqrec import runtime
from seqrec.files import write_json
from seqrec.layers import item_table_rows
from seqrec.losses.softmax import softmax_loss
from seqrec.sharding import MeshConfig


@dataclass(frozen=True)
class Config:
    """Times the blocked full-catalogue loss against the naive one, and compares their memory."""

    n_items: int = 100_000
    """Number of items in the catalogue."""
    n_tokens: int = 2048
    """Number of positions with a target."""
    d_model: int = 64
    """Width of item vectors and hidden states."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        for name in ("n_items", "n_tokens", "d_model", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=8")


def naive_loss(hidden, item_table, targets, *, n_items):
    """The definition: all scores at once."""
    scores = hidden[0] @ item_table[1 : n_items + 1].T
    return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(scores, targets[0] - 1)), targets.size


def main(config: Config) -> dict[str, Any]:
    """Prints times and memory and returns them."""
    runtime.start(MeshConfig())
    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (1, config.n_tokens, config.d_model))
    item_table = 0.1 * jax.random.normal(keys[1], (item_table_rows(config.n_items), config.d_model))
    targets = jax.random.randint(keys[2], (1, config.n_tokens), 1, config.n_items + 1)

    def gradients(loss):
        def mean(hidden, item_table):
            total, count = loss(hidden, item_table, targets, n_items=config.n_items)
            return total / count

        return jax.jit(jax.value_and_grad(mean, (0, 1))).lower(hidden, item_table).compile()

    programs = {"blocked": gradients(softmax_loss), "naive": gradients(naive_loss)}
    gradients_by_program = {name: program(hidden, item_table) for name, program in programs.items()}
    differences = jax.tree.map(lambda one, other: float(jnp.max(jnp.abs(one - other))), *gradients_by_program.values())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(config.n_rounds):
        for name, program in programs.items():
            started, cpu_started = runtime.seconds(), time.process_time()
            jax.block_until_ready(program(hidden, item_table))
            seconds[name].append(runtime.seconds() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    memory = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    result = {
        "milliseconds": {name: 1e3 * float(np.median(each)) for name, each in seconds.items()},
        "cpu_milliseconds": {name: 1e3 * float(np.median(each)) for name, each in cpu_seconds.items()},
        "temporary_megabytes": {name: each / 1e6 for name, each in memory.items()},
        "time_ratio": float(np.median(np.divide(seconds["blocked"], seconds["naive"]))),
        "cpu_time_ratio": float(np.median(np.divide(cpu_seconds["blocked"], cpu_seconds["naive"]))),
        "memory_ratio": memory["blocked"] / memory["naive"],
        "largest_difference": max(jax.tree.leaves(differences)),
        **{name: getattr(config, name) for name in ("n_items", "n_tokens", "d_model", "n_rounds")},
        "versions": runtime.versions(),
    }
    for name in ("milliseconds", "cpu_milliseconds", "temporary_megabytes"):
        print(f"{name:22}" + "".join(f"{key:>10} {value:10,.1f}" for key, value in result[name].items()))
    for name in ("time_ratio", "cpu_time_ratio", "memory_ratio"):
        print(f"{name:22}{result[name]:21.3f}")
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
