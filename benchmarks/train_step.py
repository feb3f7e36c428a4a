"""Times the SASRec training step and its parts against their matrix products, measured in the same run.

    python benchmarks/train_step.py --json train_step.json
    python benchmarks/train_step.py --data-path ml-1m.txt.gz --json train_step.json    # also seconds an epoch

The first line draws histories that fill every row, so that all positions are real; the second takes the batches
of a `user item` file, as the published sizes cut it. Rounds of step, parts and products alternate: read the ratios,
which hold between machines, before the milliseconds, which do not.

A floor is the time that products would take at the rate of one large square product, the machine's peak; scores of the
future, which causal attention leaves out in part, count in it. Each part is a program of its own, forward and backward;
what the whole step takes beyond them is the rest: norms at the end, random keys, and what the compiler can or cannot
share.

On Linux XLA takes the memory of a step's intermediate arrays from malloc, and gives it back, at every step; the kernel
hands it out in pages of 4 KB and clears each. Under `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` they have 2 MB. The
figures note what was set.
"""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.attention import attention
from seqrec.config import to_json
from seqrec.data.batches import TrainingBatches, training_batches
from seqrec.data.events import sequences
from seqrec.data.packing import pack_training
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.layers import dropout, feed_forward, item_table_rows, norm, rotation
from seqrec.losses.softmax import softmax_loss, tile_sizes
from seqrec.sharding import MeshConfig, look_up, split_rows
from seqrec.training import OptimizerConfig, TrainState, init_state, make_optimizer, make_train_step
from seqrec.types import Batch


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
    """File with one line `user item` per event; by default histories are drawn at random."""
    batch_size: int = 128
    """Average number of histories in a batch of --data-path; otherwise number of packed rows in a batch."""
    max_length: int = 200
    """Length of a packed row."""
    n_items: int = 3416
    """Number of items in the catalogue, if histories are drawn at random."""
    n_rounds: int = 15
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    profile: Path | None = None
    """Directory for a profiler trace of three more steps, which XProf and Perfetto open."""
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


Shape = tuple[int, int, int, int]
"""Of b products [m, k] x [k, n]: b, m, k and n."""

PEAK = (1, 2048, 2048, 2048)
"""The product whose rate is taken for the machine's peak."""


def product_shapes(model: TransformerConfig, *, n_rows: int, length: int, n_items: int) -> dict[str, dict[str, Shape]]:
    """The products of each part of a step, forward; those of a block stand for one of the blocks."""
    d, n_positions, heads = model.d_model, n_rows * length, n_rows * model.n_heads
    d_ff = model.d_ff or (2 * d if model.feed_forward == "swiglu" else d)
    ups = ("up", "gate") if model.feed_forward == "swiglu" else ("up",)
    return {
        "embedding": {},
        "attention": {
            "qkv": (1, n_positions, d, 3 * d),
            "out": (1, n_positions, d, d),
            "scores": (heads, length, d // model.n_heads, length),
            "mix": (heads, length, length, d // model.n_heads),
        },
        "feed_forward": dict.fromkeys(ups, (1, n_positions, d, d_ff)) | {"down": (1, n_positions, d_ff, d)},
        "loss": {"scores": (1, n_positions, d, item_table_rows(n_items))},
        "optimizer": {},
    }


def step_flops(model: TransformerConfig, shapes: dict[str, dict[str, Shape]]) -> dict[str, int]:
    """Operations of each part's products in a step: each is taken forward and twice backward."""
    times = {"attention": model.n_blocks, "feed_forward": model.n_blocks}
    return {name: 3 * 2 * times.get(name, 1) * sum(map(math.prod, part.values())) for name, part in shapes.items()}


def draw(*shape: int):
    """An array of normal numbers."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def make_products(model: TransformerConfig, shapes: dict[str, dict[str, Shape]]):
    """A jitted function that runs the step's matrix products alone, forward and backward."""
    layer = [*shapes["attention"].values(), *shapes["feed_forward"].values()]
    _, n_positions, d, rows = shapes["loss"]["scores"]
    block, _ = tile_sizes(n_positions, rows)
    n_blocks = -(-n_positions // block)
    # One block's operands each, and no more: the products of all blocks read and write the same shapes.
    operands = [(draw(b, m, k), draw(b, k, n), draw(b, m, n)) for b, m, k, n in layer]
    hidden, table = draw(n_blocks, block, d), draw(rows, d)

    def loss_block(d_table, hidden):
        scores = hidden @ table.T
        return d_table + hidden.T @ scores, scores @ table

    @jax.jit
    def products(operands, hidden, table):
        outputs = []
        for index in range(model.n_blocks):
            for x, w, g in operands:
                # Scaled by the block's number, or the compiler would find the blocks equal and compute one.
                x = x * (1.0 + index)
                outputs += [x @ w, g @ w.swapaxes(1, 2), x.swapaxes(1, 2) @ g]
        return outputs, jax.lax.scan(loss_block, jnp.zeros_like(table.T), hidden)

    return lambda: products(operands, hidden, table)


def make_parts(
    model: TransformerConfig, state: TrainState, batch: Batch, optimizer: Any, *, n_items: int, max_length: int
) -> dict[str, Callable[[], Any]]:
    """Each part of a step as a jitted function: forward, and backward to its parameters and inputs."""
    params, x = state.params, draw(*batch.items.shape, model.d_model).astype(model.compute_dtype)

    def embed(batch, key, tables):
        x = look_up(tables["item_table"], batch.items) * math.sqrt(model.d_model)
        if "position_table" in tables:
            x = x + tables["position_table"][batch.positions]
        return dropout(x.astype(model.compute_dtype), rate=model.dropout, key=key)

    def add(part, key, blocks, x):
        for index, block in enumerate(jax.tree.map(lambda leaf: leaf.astype(model.compute_dtype), blocks)):
            part_key, residual_key = jax.random.split(jax.random.fold_in(key, index))
            added = part(block["weights"], norm(block["norm"], x, kind=model.norm), key=part_key)
            x = x + dropout(added, rate=model.dropout, key=residual_key)
        return x

    def attend(batch, key, blocks, x):
        angles = None
        if model.positions == "rotary":
            angles = rotation(batch.positions, n_pairs=model.d_model // model.n_heads // 2, max_length=max_length)
        kept = {"segment_ids": batch.segment_ids, "causal": model.causal, "angles": angles}
        kept |= {"n_heads": model.n_heads, "dropout_rate": model.attention_dropout}
        kept |= {"implementation": model.attention}
        return add(functools.partial(attention, **kept), key, blocks, x)

    def feed(batch, key, blocks, x):
        kept = {"kind": model.feed_forward, "dropout_rate": model.dropout}
        return add(functools.partial(feed_forward, **kept), key, blocks, x)

    def lose(batch, key, table, hidden):
        return softmax_loss(hidden, table, batch.next_items, n_items=n_items)[0]

    def optimize(state, gradients):
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return params, opt_state, optax.incremental_update(params, state.averaged, 0.01), optax.tree.norm(gradients)

    # Given, not closed over: the compiler would compute masks and random numbers once for all.
    given = (jax.tree.map(jnp.asarray, batch), jax.random.key(0))

    def both_ways(part, *arguments):
        def run(given, cotangent, arguments):
            return jax.vjp(functools.partial(part, *given), *arguments)[1](cotangent)

        out = jax.eval_shape(part, *given, *arguments)
        return jax.jit(run), given, jnp.ones(out.shape, out.dtype), arguments

    def blocks_of(part):
        return [{"norm": block[f"{part}_norm"], "weights": block[part]} for block in params["blocks"]]

    programs = {
        "embedding": both_ways(embed, {name: params[name] for name in params if name.endswith("_table")}),
        "attention": both_ways(attend, blocks_of("attention"), x),
        "feed_forward": both_ways(feed, blocks_of("feed_forward"), x),
        "loss": both_ways(lose, params["item_table"], x),
        "optimizer": (jax.jit(optimize), state, params),
    }
    return {name: functools.partial(*program) for name, program in programs.items()}


def main(config: Config) -> dict[str, Any]:
    """Prints the times, of the step and of its parts, and returns them."""
    runtime.start(MeshConfig())
    batches = full_rows(config) if config.data_path is None else file_rows(config, config.data_path)
    n_items = batches.store.n_items
    model = softmax_model(transformer(config.model, n_items=n_items, max_length=config.max_length))
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10_000)
    train_step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
    state = init_state(model, optimizer, seed=0)
    shapes = product_shapes(config.model, n_rows=batches.n_rows, length=config.max_length, n_items=n_items)
    flops = step_flops(config.model, shapes)
    first, sizes = split_rows(batches.batch(0)), {"n_items": n_items, "max_length": config.max_length}
    state_copy = jax.tree.map(jnp.copy, state)  # a step takes the memory of the state that it is given
    parts = make_parts(config.model, state_copy, first, optimizer, **sizes)
    squares = (draw(*shape).astype(config.model.compute_dtype) for shape in (PEAK[1:3], PEAK[2:]))
    peak = functools.partial(jax.jit(jnp.matmul), *squares)
    others = {"products": make_products(config.model, shapes), "peak": peak, **parts}
    seconds: dict[str, list[float]] = {name: [] for name in ("step", *others)}
    n_targets = []
    for step in range(config.n_rounds + 1):
        started = runtime.seconds()
        state, metrics = train_step(state, split_rows(batches.batch(step)))
        jax.block_until_ready(state)
        took = {"step": runtime.seconds() - started}
        for name, program in others.items():
            started = runtime.seconds()
            jax.block_until_ready(program())
            took[name] = runtime.seconds() - started
        if step:  # the first round compiles
            for name, each in took.items():
                seconds[name].append(each)
            n_targets.append(int(metrics.n_targets))
    if config.profile:
        with jax.profiler.trace(str(config.profile), create_perfetto_trace=True):
            for step in range(3):
                state, _ = train_step(state, split_rows(batches.batch(step)))
            jax.block_until_ready(state)
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    step_seconds, product_seconds = medians["step"], medians["products"]
    peak_rate = 2 * math.prod(PEAK) / medians["peak"]
    floor_seconds = sum(flops.values()) / peak_rate
    table = {name: {"ms": 1e3 * medians[name], "floor_ms": 1e3 * flops[name] / peak_rate} for name in parts}
    table["rest"] = {"ms": 1e3 * (step_seconds - sum(medians[name] for name in parts)), "floor_ms": 0.0}
    result = {
        "step_ms": 1e3 * step_seconds,
        "products_ms": 1e3 * product_seconds,
        "floor_ms": 1e3 * floor_seconds,
        "ratio_to_products": float(np.median(np.divide(seconds["step"], seconds["products"]))),
        "ratio_to_floor": step_seconds / floor_seconds,
        "positions_per_step": float(np.mean(n_targets)),
        "positions_per_second": float(np.mean(n_targets)) / step_seconds,
        "filled": float(np.mean(n_targets)) / (batches.n_rows * config.max_length),
        "product_gflop_per_second": sum(flops.values()) / product_seconds / 1e9,
        "peak_gflop_per_second": peak_rate / 1e9,
        "epoch_seconds": step_seconds * int(batches.packed.lengths.sum()) / float(np.mean(n_targets)),
        "parts": table,
        "n_rounds": config.n_rounds,
        "rows_per_step": batches.n_rows,
        "n_items": n_items,
        "model": to_json(config.model),
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "versions": runtime.versions(),
    }
    if config.data_path is None:
        del result["epoch_seconds"]
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name:26} {value:12,.2f}")
    print(f"\n{'part':26} {'ms':>12} {'floor ms':>12} {'times floor':>12} {'of the step':>12}")
    for name, part in table.items():
        ratio = f"{part['ms'] / part['floor_ms']:.2f}" if part["floor_ms"] else ""
        share = f"{part['ms'] / result['step_ms']:.1%}"
        print(f"{name:26} {part['ms']:12,.2f} {part['floor_ms']:12,.2f} {ratio:>12} {share:>12}")
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
