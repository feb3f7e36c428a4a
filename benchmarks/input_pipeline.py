"""Times the making of training batches beside grain's per-item pipelines, and beside the training step that uses them.

    pip install -e ".[run,grain]"
    python benchmarks/input_pipeline.py --json input_pipeline.json
    python benchmarks/input_pipeline.py --data-path ml-1m.txt.gz --json input_pipeline.json

The first line simulates listeners, the second takes the histories of a `user item` file. Each pipeline reads the same
memory-mapped store and gives batches of as many histories on average: each user's latest items and the item after
each, shuffled. grain pads them to rows of one history, or packs them by its own first fit into as many rows as ours;
each in the caller's thread and in threads of its own. Rounds of all pipelines and of the step alternate: read the
ratios of medians, which hold between machines, before the milliseconds, which do not.
"""

import importlib.metadata
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from train_step import published
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json
from seqrec.data.batches import TrainingBatches, training_batches
from seqrec.data.events import sequences
from seqrec.data.prefetch import prefetched
from seqrec.data.sources import read_source
from seqrec.data.splits import Split, leave_last_out
from seqrec.data.store import SequenceStore, sequence_store, write_store
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.simulation import simulate_events
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.sharding import MeshConfig, split_rows
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Batch


@dataclass(frozen=True)
class Config:
    """Times the making of training batches, and the training step that uses them."""

    data_path: Path | None = None
    """File with one line `user item` per event; by default listening histories are simulated."""
    n_users: int = 2000
    """Number of users to simulate."""
    batch_size: int = 128
    """Average number of histories in a batch."""
    max_length: int = 200
    """Length of a packed row."""
    n_batches: int = 100
    """Number of batches that each pipeline makes in a round."""
    n_steps: int = 4
    """Number of training steps in a round."""
    n_rounds: int = 7
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=published)

    def __post_init__(self):
        for name in ("n_users", "batch_size", "max_length", "n_batches", "n_steps", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=10")


def simulated_store(n_users: int) -> SequenceStore:
    """The plays of simulated listeners."""
    world = ListeningConfig(n_users=n_users)
    plays = simulate_events(world)
    n_plays = np.bincount(plays["user_id"], minlength=n_users + 1)
    item_keys = np.arange(1, world.n_items + 1)
    return sequence_store(plays["item_id"], np.cumsum(n_plays), item_keys, user_keys=np.arange(1, n_users + 1))


class LatestPairs:
    """Each user's latest pairs of an item and the next as one record: what grain's pipelines start from."""

    def __init__(self, store: SequenceStore, split: Split, max_length: int):
        self.items = np.asarray(store.items)  # not as a memmap, of which slices are dearer
        self.stops = split.train_stop
        self.starts = np.maximum(store.offsets[:-1], self.stops - 1 - max_length)
        self.users = np.flatnonzero(self.stops - self.starts > 1)

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        user = self.users[index]
        start, stop = self.starts[user], self.stops[user]
        return {"items": self.items[start : stop - 1], "next_items": self.items[start + 1 : stop]}


def padded(record: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    """The fields of a row that holds one history."""
    n = len(record["items"])
    fields = np.zeros((4, length), np.int32)
    fields[:, :n] = record["items"], record["next_items"], np.ones(n, np.int32), np.arange(n)
    return dict(zip(("items", "next_items", "segment_ids", "positions"), fields, strict=True))


def grain_pipelines(
    records: LatestPairs, *, batch_size: int, n_rows: int, length: int
) -> dict[str, Callable[[], Iterator[Any]]]:
    """What starts each of grain's pipelines, endless; none where grain is missing."""
    try:
        import grain
        from grain.experimental import FirstFitPackIterDataset
    except ImportError as error:
        print(f"grain is skipped ({error}); install it by pip install -e '.[grain]'")
        return {}
    shuffled = grain.MapDataset.source(records).seed(0).shuffle().repeat()
    pipelines: dict[str, Callable[[], Iterator[Any]]] = {}
    for n_threads in (0, os.cpu_count() or 1):
        where = f"{n_threads} threads" if n_threads else "caller's thread"
        # A buffer of two a thread: no more is made than is taken.
        options = grain.ReadOptions(num_threads=n_threads, prefetch_buffer_size=2 * n_threads)
        rows = shuffled.map(lambda record: padded(record, length)).batch(batch_size).to_iter_dataset(options)
        packed = FirstFitPackIterDataset(
            shuffled.to_iter_dataset(options),
            length_struct={"items": length, "next_items": length},
            num_packing_bins=n_rows,
        ).batch(n_rows)
        pipelines |= {
            f"grain, padded, {where}": lambda rows=rows: iter(rows),
            f"grain, packed, {where}": lambda packed=packed: iter(packed),
        }
    return pipelines


def make_training(config: Config, batches: TrainingBatches) -> dict[str, Callable[[range], None]]:
    """What runs the training steps of a range: over batches made in turn, and over batches made ahead."""
    model = softmax_model(transformer(config.model, n_items=batches.store.n_items, max_length=config.max_length))
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10_000)
    train_step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
    state = init_state(model, optimizer, seed=0)

    def train(make: Callable[[int], Batch], steps: range) -> None:
        nonlocal state
        for step in steps:
            state, _ = train_step(state, split_rows(make(step)))
        jax.block_until_ready(state)

    def train_prefetched(steps: range) -> None:
        with prefetched(batches.batch) as batch:
            train(batch, steps)

    return {"step": lambda steps: train(batches.batch, steps), "step, prefetched": train_prefetched}


def main(config: Config) -> dict[str, Any]:
    """Prints the times and returns them."""
    runtime.start(MeshConfig())
    drawn = (
        simulated_store(config.n_users)
        if config.data_path is None
        else sequences(read_source("ml-1m", config.data_path))
    )
    with tempfile.TemporaryDirectory(prefix="seqrec-bench-") as folder:
        result = measure(config, write_store(Path(folder) / "store", drawn))
    for name, each in result["pipelines"].items():
        line = f"{name:32} {each['ms']:10.3f} ms   CPU {each['cpu_ms']:10.3f} ms   {1e3 / each['ms']:10,.1f} /s"
        print(line + (f"   filled {each['filled']:.4f}" if "filled" in each else ""))
    for name in ("ratio_to_grain", "cpu_ratio_to_grain", "share_of_step", "prefetched_to_step"):
        if name in result:
            print(f"{name:32} {result[name]:10.4f}")
    if config.json:
        write_json(config.json, result)
    return result


def _items(batch: Any) -> np.ndarray:
    return batch.items if isinstance(batch, Batch) else batch["items"]


def measure(config: Config, store: SequenceStore) -> dict[str, Any]:
    """Medians over rounds in which every pipeline and the step have their turn."""
    split = leave_last_out(store)
    batches = training_batches(store, split, max_length=config.max_length, batch_size=config.batch_size, seed=0)
    peers = grain_pipelines(
        LatestPairs(store, split, config.max_length),
        batch_size=config.batch_size,
        n_rows=batches.n_rows,
        length=config.max_length,
    )

    def our_turn(steps: range) -> list[Batch]:
        return [batches.batch(step) for step in steps]

    turns: dict[str, tuple[int, Callable[[range], Any]]] = {"seqrec, packed": (config.n_batches, our_turn)}
    for name, start in peers.items():
        turns[name] = (config.n_batches, lambda steps, start=start: list(itertools.islice(start(), len(steps))))
    for name, train in make_training(config, batches).items():
        turns[name] = (config.n_steps, train)
    filled: dict[str, float] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for round_index in range(config.n_rounds + 1):
        for name, (n, take_turn) in turns.items():
            started, cpu_started = runtime.seconds(), time.process_time()
            made = take_turn(range(round_index * n, (round_index + 1) * n))
            ended, cpu_ended = runtime.seconds(), time.process_time()
            if round_index:
                times[name].append(((ended - started) / n, (cpu_ended - cpu_started) / n))
            elif made:  # the first round, which compiles, is not timed
                filled[name] = float(np.mean([_items(batch) > 0 for batch in made]))
    pipelines: dict[str, dict[str, float]] = {}
    for name, rounds in times.items():
        ms, cpu_ms = (1e3 * np.median(rounds, axis=0)).tolist()
        pipelines[name] = {"ms": ms, "cpu_ms": cpu_ms} | ({"filled": filled[name]} if name in filled else {})
    ours, step = pipelines["seqrec, packed"], pipelines["step"]
    result = {
        "pipelines": pipelines,
        "share_of_step": ours["ms"] / step["ms"],
        "prefetched_to_step": pipelines["step, prefetched"]["ms"] / step["ms"],
        "batch_size": config.batch_size,
        "max_length": config.max_length,
        "rows_per_step": batches.n_rows,
        "n_users": store.n_users,
        "n_items": store.n_items,
        "n_events": store.n_events,
        "data": "simulated" if config.data_path is None else config.data_path.name,
        "n_rounds": config.n_rounds,
        "n_batches": config.n_batches,
        "n_cpus": os.cpu_count(),
        "model": to_json(config.model),
        "versions": runtime.versions(),
    }
    if peers:
        # Against grain at its quickest.
        result["ratio_to_grain"] = min(pipelines[name]["ms"] for name in peers) / ours["ms"]
        result["cpu_ratio_to_grain"] = min(pipelines[name]["cpu_ms"] for name in peers) / ours["cpu_ms"]
        result["versions"]["grain"] = importlib.metadata.version("grain")
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
