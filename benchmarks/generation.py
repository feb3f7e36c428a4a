"""Times generation with its cache against reading everything anew for each item.

    python benchmarks/generation.py --json generation.json

Both give the same items. Rounds of the two alternate: read the ratio, which holds between machines, before the items a
second. CPU seconds are given too, which other work on the machine moves less.
"""

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.files import write_json
from seqrec.generation import DecodingConfig, generate, with_uncached_decoder
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.questions import continuation
from seqrec.sharding import MeshConfig
from seqrec.types import HistoryBatch


@dataclass(frozen=True)
class Config:
    """Times the generation of continuations with and without a cache of keys and values."""

    n_histories: int = 64
    """Number of histories in a batch."""
    history_length: int = 50
    """Number of items in each history."""
    n_generated: int = 20
    """Number of items to generate for each history."""
    n_items: int = 10_000
    """Number of items in the catalogue."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[Seq2SeqConfig] = field(default_factory=Seq2SeqConfig)
    decoding: OmitArgPrefixes[DecodingConfig] = field(default_factory=DecodingConfig)

    def __post_init__(self):
        for name in ("n_histories", "history_length", "n_generated", "n_items", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=8")


def main(config: Config) -> dict[str, Any]:
    """Prints items a second and returns them."""
    runtime.start(MeshConfig())
    max_length = config.history_length + config.n_generated - 1
    model = softmax_model(seq2seq(config.model, n_items=config.n_items, max_length=max_length), ask=continuation)
    params = init_params(model.specs, jax.random.key(0))
    # Larger than at the start, so that no two items all but tie.
    params = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim == 2 else leaf, params)
    shape = (config.n_histories, config.history_length)
    items = jax.random.randint(jax.random.key(1), shape, 1, config.n_items + 1)
    rows = HistoryBatch(items, jnp.full(len(items), config.history_length), jnp.zeros((len(items), 0), jnp.int32))
    programs = {
        name: jax.jit(functools.partial(generate, each, n=config.n_generated, config=config.decoding))
        for name, each in (("cached", model), ("anew", with_uncached_decoder(model, as_history=False)))
    }
    key = jax.random.key(2)
    items = {name: np.asarray(program(params, rows, key=key).items) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(config.n_rounds):
        for name, program in programs.items():
            started, cpu_started = runtime.seconds(), time.process_time()
            jax.block_until_ready(program(params, rows, key=key))
            seconds[name].append(runtime.seconds() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    n_items = config.n_histories * config.n_generated
    result = {
        "items_per_second": {name: n_items / float(np.median(each)) for name, each in seconds.items()},
        "items_per_cpu_second": {name: n_items / float(np.median(each)) for name, each in cpu_seconds.items()},
        "time_ratio": float(np.median(np.divide(seconds["anew"], seconds["cached"]))),
        "cpu_time_ratio": float(np.median(np.divide(cpu_seconds["anew"], cpu_seconds["cached"]))),
        "equal_items": float(np.mean(items["cached"] == items["anew"])),
        **{name: value for name, value in to_json(config).items() if name != "json"},
        "versions": runtime.versions(),
    }
    for name in ("items_per_second", "items_per_cpu_second"):
        print(f"{name:22}" + "".join(f"{key:>10} {value:10,.0f}" for key, value in result[name].items()))
    for name in ("time_ratio", "cpu_time_ratio", "equal_items"):
        print(f"{name:22}{result[name]:21.3f}")
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
