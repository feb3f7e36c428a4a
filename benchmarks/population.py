"""Times populations of one compiled step against as many runs one after another.

    python benchmarks/population.py --json population.json
    python benchmarks/population.py --data-path ml-1m.txt.gz --json population-ml-1m.json

A population's step trains all its members on one batch, side by side or in turn; beside it stand as many steps of a
single run, whose numbers are written into its program. Rounds of the three alternate: read the ratios, which say what a
population saves.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import train_step
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json, with_traced
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.losses.config import LossConfig, make_loss
from seqrec.population import make_population_step, members
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

TOGETHER = ("side_by_side", "in_turn")
WAYS = ("alone", *TOGETHER)


@dataclass(frozen=True)
class Config:
    """Times populations, models that one compiled step trains together, against single runs."""

    data_path: Path | None = None
    """File with one line `user item` per event; by default histories are drawn at random."""
    batch_size: int = 32
    """Average number of histories in a batch of --data-path; otherwise number of packed rows in a batch."""
    max_length: int = 100
    """Length of a packed row."""
    n_items: int = 3416
    """Number of items in the catalogue, if histories are drawn at random."""
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of models in a population."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=TransformerConfig)

    def __post_init__(self):
        if self.n_rounds < 1 or min(self.sizes, default=0) < 1:
            raise ValueError(f"n_rounds={self.n_rounds} and sizes={self.sizes} must be 1 or more; try sizes=(1, 8)")


@dataclass(frozen=True)
class Parts:
    """What the members of a population differ in."""

    model: TransformerConfig
    loss: LossConfig = field(default_factory=lambda: LossConfig(label_smoothing=0.1))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


def spread(n_members: int) -> dict[str, jax.Array]:
    """Numbers for each member."""
    return {
        "model.dropout": jnp.linspace(0.1, 0.5, n_members),
        "loss.temperature": jnp.linspace(0.5, 2.0, n_members),
        "loss.label_smoothing": jnp.linspace(0.01, 0.2, n_members),
        "optimizer.learning_rate": jnp.geomspace(3e-4, 1e-2, n_members),
        "optimizer.weight_decay": jnp.geomspace(1e-3, 0.5, n_members),
    }


def main(config: Config) -> dict[str, Any]:
    """Prints the times and returns them."""
    runtime.start(MeshConfig())
    drawn = train_step.Config(batch_size=config.batch_size, max_length=config.max_length, n_items=config.n_items)
    batches = train_step.file_rows(drawn, config.data_path) if config.data_path else train_step.full_rows(drawn)
    n_items, counts = batches.store.n_items, np.ones(batches.store.n_items + 1, np.int64)

    def step_of(parts: Parts):
        encoder = transformer(parts.model, n_items=n_items, max_length=config.max_length)
        model = softmax_model(encoder, make_loss(parts.loss, counts=counts))
        optimizer = make_optimizer(parts.optimizer, model.specs, n_steps=10_000)
        step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
        return step, lambda: init_state(model, optimizer, seed=0)

    parts = Parts(config.model)
    single_step, first = step_of(parts)
    single = first()

    def traced_step(scalars):
        return step_of(with_traced(parts, scalars))[0]

    steps = {way: make_population_step(traced_step, side_by_side=way == "side_by_side") for way in TOGETHER}
    populations = {
        (way, size): members(first(), spread(size), n_members=size) for way in TOGETHER for size in config.sizes
    }
    seconds: dict[int, dict[str, list[float]]] = {size: {way: [] for way in WAYS} for size in config.sizes}

    def one_by_one(size: int, batch: Any) -> Any:
        nonlocal single
        for _ in range(size):
            single, _ = single_step(single, batch)
        return single

    def together(way: str, size: int, batch: Any) -> Any:
        populations[way, size], _ = steps[way](populations[way, size], batch)
        return populations[way, size]

    for number in range(config.n_rounds + 1):
        for size, rounds in seconds.items():
            for way in WAYS:
                batch, started = batches.batch(number), runtime.seconds()
                jax.block_until_ready(one_by_one(size, batch) if way == "alone" else together(way, size, batch))
                if number:  # the first round compiles
                    rounds[way].append(runtime.seconds() - started)
    result: dict[str, Any] = {
        "sizes": {
            str(size): {
                **{f"{way}_ms": 1e3 * float(np.median(rounds[way])) for way in WAYS},
                "times_as_fast": {way: float(np.median(np.divide(rounds["alone"], rounds[way]))) for way in TOGETHER},
            }
            for size, rounds in seconds.items()
        },
        "n_rounds": config.n_rounds,
        "rows_per_step": batches.n_rows,
        "max_length": config.max_length,
        "n_items": n_items,
        "model": to_json(config.model),
        "versions": runtime.versions(),
    }
    print("members   runs one after another   side by side   times as fast   in turn   times as fast")
    for size, figures in result["sizes"].items():
        cells = (f"{figures[f'{way}_ms']:9,.1f} ms   {figures['times_as_fast'][way]:13.2f}" for way in TOGETHER)
        print(f"{size:>7}   {figures['alone_ms']:19,.1f} ms   {'   '.join(cells)}")
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
