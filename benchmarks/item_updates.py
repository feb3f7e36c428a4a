"""Times training steps that update the whole item table against steps that update the rows that they read.

    python benchmarks/item_updates.py --json item-updates.json

A Transformer with sampled softmax, on random histories, for catalogues of several sizes. Rounds of all steps alternate;
CPU seconds of the process are read, so that what else the machine does counts little.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, to_json
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.losses.config import LossConfig, make_loss
from seqrec.model import Model
from seqrec.row_updates import init_sparse_state, make_sparse_step
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Batch

N_STEPS = 10_000
STEPS_A_TURN = 4
OPTIMIZER = OptimizerConfig()


@dataclass(frozen=True)
class Config:
    """Times dense and sparse updates of the item table."""

    n_items: tuple[int, ...] = (20_000, 100_000, 1_000_000)
    """Sizes of the catalogue."""
    rows: int = 16
    """Histories in a batch."""
    max_length: int = 50
    """Items of each history."""
    n_negatives: int = 256
    """Negatives that a batch shares."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "rows", "max_length", "n_negatives", "n_rounds")


def random_batch(config: Config, n_items: int, number: int) -> Batch:
    """Whole rows of random items."""
    items = np.random.default_rng(number).integers(1, n_items + 1, (config.rows, config.max_length + 1), np.int32)
    places = np.broadcast_to(np.arange(config.max_length, dtype=np.int32), (config.rows, config.max_length))
    return Batch(items[:, :-1], items[:, 1:], np.ones_like(places), places)


def ways(model: Model) -> dict[str, Any]:
    """Step and first state, by the kind of updates."""
    optimizer = make_optimizer(OPTIMIZER, model.specs, n_steps=N_STEPS)
    sizes = {"n_steps": N_STEPS, "seed": 0}
    return {
        "dense": [
            make_train_step(model, optimizer, seed=0, average_decay=OPTIMIZER.average_decay),
            init_state(model, optimizer, seed=0),
        ],
        "sparse": [make_sparse_step(model, OPTIMIZER, **sizes), init_sparse_state(model, OPTIMIZER, **sizes)],
    }


def main(config: Config) -> dict[str, Any]:
    """Prints the CPU time of a step, and what the state takes, by size and kind."""
    runtime.start(MeshConfig())
    steps, seconds = {}, {}
    for n_items in config.n_items:
        encoder = transformer(config.model, n_items=n_items, max_length=config.max_length)
        loss = LossConfig("sampled-softmax", n_negatives=config.n_negatives)
        for kind, way in ways(softmax_model(encoder, make_loss(loss, counts=np.ones(n_items + 1, int)))).items():
            steps[n_items, kind], seconds[n_items, kind] = way, []
    for number in range(config.n_rounds + 1):
        for (n_items, kind), way in steps.items():
            spent = []
            for turn in range(STEPS_A_TURN):
                batch, started = random_batch(config, n_items, number * STEPS_A_TURN + turn), time.process_time()
                way[1], _ = way[0](way[1], batch)
                jax.block_until_ready(way[1])
                spent.append(time.process_time() - started)
            if number:  # the first round compiles; the first step of a turn finds another's data in the caches
                seconds[n_items, kind].append(float(np.median(spent[1:])))
    sizes = {}
    for n_items in config.n_items:
        rounds = {kind: seconds[n_items, kind] for kind in ("dense", "sparse")}
        sizes[str(n_items)] = {
            **{f"{kind}_cpu_ms": 1e3 * float(np.median(each)) for kind, each in rounds.items()},
            "dense_over_sparse": float(np.median(np.divide(rounds["dense"], rounds["sparse"]))),
            **{
                f"{kind}_state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(steps[n_items, kind][1]))
                for kind in rounds
            },
        }
        print(f"{n_items:>12,} items", {name: round(value, 2) for name, value in sizes[str(n_items)].items()})
    result = {
        "n_items": sizes,
        "config": to_json(config),
        "device": runtime.device_name(),
        "versions": runtime.versions(),
    }
    if config.json is not None:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
