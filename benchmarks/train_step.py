"""Times the SASRec training step against its own matrix products, measured in the same run.

    python benchmarks/train_step.py --json train_step.json
    python benchmarks/train_step.py --data-path ml-1m.txt.gz --json train_step.json    # also seconds an epoch

The first line draws histories that fill every row, so that all positions are real; the second takes the batches
of a `user item` file, as the published sizes cut it. Rounds of step and products alternate: read the ratio, which
holds between machines, before the milliseconds, which do not.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runs, runtime
from seqrec.data.batches import TrainingBatches, training_batches
from seqrec.data.events import sequences
from seqrec.data.packing import pack_training
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.layers import item_table_rows
from seqrec.losses.softmax import softmax_loss, tile_sizes
from seqrec.objectives import next_item
from seqrec.sharding import MeshConfig, split_rows
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step


def published() -> TransformerConfig:
    """SASRec's published form."""
    return TransformerConfig(
        n_heads=1,
        norm="layer",
        positions="learned",
        feed_forward="relu",
        dropout=0.1,
        attention_dropout=0.1,
    )


@dataclass(frozen=True)
class Config:
    """Times a training step and its matrix products."""

    data_path: Path | None = None
    """File of `user item` lines; by default histories are drawn."""
    batch_size: int = 128
    """Histories a step, on average, of a file; packed rows a step where histories are drawn."""
    max_length: int = 200
    """Positions in a row."""
    n_items: int = 3416
    """Catalogue where histories are drawn."""
    n_rounds: int = 15
    """Timed rounds; medians are reported."""
    json: Path | None = None
    """File for the figures."""
    profile: Path | None = None
    """Directory for a trace of three steps more, which XProf and Perfetto open."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=published)


def full_rows(config: Config) -> TrainingBatches:
    """Batches of drawn histories, each of which fills a row."""
    rng = np.random.default_rng(0)
    n_users, n_events = 4 * config.batch_size, config.max_length + 3
    store = sequence_store(
        rng.integers(1, config.n_items + 1, n_users * n_events),
        np.arange(n_users + 1) * n_events,
        item_keys=np.arange(1, config.n_items + 1),
        user_keys=np.arange(n_users),
    )
    packed = pack_training(store, leave_last_out(store), max_length=config.max_length)
    return TrainingBatches(store, packed, config.batch_size, seed=0)


def file_rows(config: Config, path: Path) -> TrainingBatches:
    """The training batches of a file."""
    store = sequences(read_source("ml-1m", path))
    split = leave_last_out(store)
    return training_batches(store, split, max_length=config.max_length, batch_size=config.batch_size, seed=0)


def make_products(model: TransformerConfig, *, n_rows: int, length: int, n_items: int):
    """A jitted function that runs the step's matrix products alone, forward and backward, and their count of FLOPs."""
    d, n_heads, n_positions = model.d_model, model.n_heads, n_rows * length
    d_ff = model.d_ff or (2 * d if model.feed_forward == "swiglu" else d)
    heads = n_rows * n_heads
    layer = {"qkv": (1, n_positions, d, 3 * d), "out": (1, n_positions, d, d)}
    layer |= dict.fromkeys(("up", "gate") if model.feed_forward == "swiglu" else ("up",), (1, n_positions, d, d_ff))
    layer["down"] = (1, n_positions, d_ff, d)
    layer |= {"scores": (heads, length, d // n_heads, length), "mix": (heads, length, length, d // n_heads)}
    rows = item_table_rows(n_items)
    block, _ = tile_sizes(n_positions, rows)
    n_blocks = -(-n_positions // block)

    def draw(*shape):
        return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)

    # One block's operands each, and no more: the products of all blocks read and write the same shapes.
    operands = {name: (draw(b, m, k), draw(b, k, n), draw(b, m, n)) for name, (b, m, k, n) in layer.items()}
    hidden, table = draw(n_blocks, block, d), draw(rows, d)

    def loss_block(d_table, hidden):
        scores = hidden @ table.T
        return d_table + scores.T @ hidden, scores @ table

    @jax.jit
    def products(operands, hidden, table):
        outputs = []
        for index in range(model.n_blocks):
            for x, w, g in operands.values():
                # Scaled by the block's number, or the compiler would find the blocks equal and compute one.
                x = x * (1.0 + index)
                outputs += [x @ w, g @ w.swapaxes(1, 2), x.swapaxes(1, 2) @ g]
        return outputs, jax.lax.scan(loss_block, jnp.zeros_like(table), hidden)

    flops = 3 * 2 * (model.n_blocks * sum(b * m * k * n for b, m, k, n in layer.values()) + n_positions * rows * d)
    return lambda: products(operands, hidden, table), flops


def main(config: Config) -> dict[str, Any]:
    """Prints the times and returns them."""
    runtime.start(MeshConfig())
    batches = full_rows(config) if config.data_path is None else file_rows(config, config.data_path)
    n_items = batches.store.n_items
    encoder = transformer(config.model, n_items=n_items, max_length=config.max_length)
    optimizer = make_optimizer(OptimizerConfig(), encoder.specs, n_steps=10_000)
    train_step = make_train_step(encoder, next_item, softmax_loss, optimizer, seed=0, average_decay=0.99)
    products, flops = make_products(config.model, n_rows=batches.n_rows, length=config.max_length, n_items=n_items)
    state = init_state(encoder, optimizer, seed=0)
    seconds: dict[str, list[float]] = {"step": [], "products": []}
    n_targets = []
    for step in range(config.n_rounds + 1):
        started = runtime.seconds()
        state, metrics = train_step(state, split_rows(batches.batch(step)))
        jax.block_until_ready(state)
        between = runtime.seconds()
        jax.block_until_ready(products())
        if step:  # the first round compiles
            seconds["step"].append(between - started)
            seconds["products"].append(runtime.seconds() - between)
            n_targets.append(int(metrics.n_targets))
    if config.profile:
        with jax.profiler.trace(str(config.profile), create_perfetto_trace=True):
            for step in range(3):
                state, _ = train_step(state, split_rows(batches.batch(step)))
            jax.block_until_ready(state)
    step_seconds, product_seconds = (float(np.median(seconds[name])) for name in ("step", "products"))
    result = {
        "step_ms": 1e3 * step_seconds,
        "products_ms": 1e3 * product_seconds,
        "ratio_to_products": float(np.median(np.divide(seconds["step"], seconds["products"]))),
        "positions_per_step": float(np.mean(n_targets)),
        "positions_per_second": float(np.mean(n_targets)) / step_seconds,
        "filled": float(np.mean(n_targets)) / (batches.n_rows * config.max_length),
        "product_gflop_per_second": flops / product_seconds / 1e9,
        "epoch_seconds": step_seconds * batches.pairs_per_epoch / float(np.mean(n_targets)),
        "n_rounds": config.n_rounds,
        "rows_per_step": batches.n_rows,
        "n_items": n_items,
        "model": runs.to_json(config.model),
        "versions": runtime.versions(),
    }
    if config.data_path is None:
        del result["epoch_seconds"]
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name:26} {value:12,.2f}")
    if config.json:
        runs.write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
