"""Seconds that RecTools' SASRecModel needs for a training epoch, to compare with `train_step.py`.

RecTools and torch live in an environment of their own; this script imports nothing of seqrec:

    python -m venv rectools-env
    rectools-env/bin/pip install torch==2.13.0 "rectools[torch]==0.19.0"
    rectools-env/bin/python benchmarks/rectools_epoch.py --data-path ml-1m.txt.gz --json rectools.json

With the defaults it takes about eight minutes on 2 CPU cores (100 to 110 s an epoch).

What was set equal to the published settings of SASRec on ML-1M: d 64, 2 blocks, 1 head, dropout .1, learned
positions, histories of at most 200, 128 users a batch, softmax cross-entropy over the whole catalogue in
float32, Adam at 1e-3, and the same rows: every user's events but the last two. RecTools trains on the newest
201 of them, so that an epoch has at most 200 targets a user; `n_positions` in the output counts them as its
data loader sees them.

What is timed: from the start of an epoch's first batch to the end of its last optimizer step, batch collation
included. Reading the file, building RecTools' data set and making the model are not. The first epoch is a
warm-up and stays out of the median.

The file holds lines `user item`, each user's events in time order; file order stands in for time.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning
import rectools
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

MODEL_CONFIG = {
    "n_factors": 64,
    "n_blocks": 2,
    "n_heads": 1,
    "dropout_rate": 0.1,
    "session_max_len": 200,
    "batch_size": 128,
    "loss": "softmax",
    "lr": 1e-3,
}


class EpochTimer(pytorch_lightning.Callback):
    """Keeps the seconds that each training epoch took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer, module) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer, module) -> None:
        self.seconds.append(time.perf_counter() - self.started)
        loss = float(trainer.callback_metrics["train_loss"])
        print(f"epoch {len(self.seconds)}: {self.seconds[-1]:.1f} s, training loss {loss:.4f}", flush=True)


def read_training_part(path: Path, *, max_users: int | None) -> pd.DataFrame:
    """The file's events without each user's last two, in the columns that RecTools asks for."""
    events = pd.read_csv(path, sep=r"\s+", header=None, names=[Columns.User, Columns.Item], dtype=np.int64)
    events[Columns.Weight] = 1.0
    events[Columns.Datetime] = pd.to_datetime(np.arange(len(events)), unit="s")
    if max_users is not None:
        events = events[events[Columns.User].isin(events[Columns.User].unique()[:max_users])]
    n_later_events = events.groupby(Columns.User).cumcount(ascending=False)
    return events[n_later_events >= 2]


def count_positions(model: SASRecModel) -> dict[str, int]:
    """What one epoch holds, taken from the rows that the fitted model's data loader reads."""
    events_per_user = model.data_preparator.train_dataset.interactions.df.groupby(Columns.User).size()
    n_padded = len(events_per_user) * model.session_max_len
    return {
        "n_users": len(events_per_user),
        "n_items": len(model.data_preparator.get_known_item_ids()),
        "n_steps": -(-len(events_per_user) // model.batch_size),
        "n_positions": int((events_per_user - 1).sum()),
        "n_positions_with_padding": n_padded,
    }


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(path: Path, *, n_epochs: int, max_users: int | None, seed: int) -> dict:
    """Trains for `n_epochs` on the CPU and tells how long each took."""

    def make_trainer() -> pytorch_lightning.Trainer:
        return pytorch_lightning.Trainer(
            accelerator="cpu",
            devices=1,
            min_epochs=n_epochs,
            max_epochs=n_epochs,
            callbacks=[EpochTimer()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )

    pytorch_lightning.seed_everything(seed)
    events = read_training_part(path, max_users=max_users)
    model = SASRecModel(**MODEL_CONFIG, get_trainer_func=make_trainer)
    model.fit(Dataset.construct(events))
    # RecTools trains with a copy of the trainer, so the timer that ran is the copy's.
    timer = next(callback for callback in model.fit_trainer.callbacks if isinstance(callback, EpochTimer))
    after_warm_up = timer.seconds[1:]
    return {
        "benchmark": "rectools_epoch",
        "device": {"platform": "cpu", "name": cpu_name(), "n_cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            "rectools": rectools.__version__,
            "torch": torch.__version__,
            "pytorch_lightning": pytorch_lightning.__version__,
        },
        "n_threads": torch.get_num_threads(),
        "seed": seed,
        "data": path.name,
        "max_users": max_users,
        "model": MODEL_CONFIG,
        **count_positions(model),
        "seconds_per_epoch": timer.seconds,
        "median_seconds_per_epoch": statistics.median(after_warm_up) if after_warm_up else None,
    }


def parse_arguments() -> argparse.Namespace:
    """The command line; argparse, because this environment has no tyro."""
    parser = argparse.ArgumentParser(description="Seconds an epoch of RecTools' SASRecModel takes.")
    parser.add_argument(
        "--data-path", type=Path, required=True, help="file with one line 'user item' per event; may be .gz"
    )
    parser.add_argument("--json", type=Path, help="JSON file to write the figures to")
    parser.add_argument("--epochs", type=int, default=4, help="number of epochs, the first of which is a warm-up")
    parser.add_argument("--threads", type=int, help="number of torch's threads; by default torch chooses")
    parser.add_argument("--max-users", type=int, help="read only this many users of the file, to try the script")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and dropout")
    arguments = parser.parse_args()
    if not arguments.data_path.is_file():
        parser.error(f"--data-path {arguments.data_path} is not a file")
    for name in ("epochs", "threads", "max_users"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value} must be at least 1")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    result = measure(arguments.data_path, n_epochs=arguments.epochs, max_users=arguments.max_users, seed=arguments.seed)
    if result["median_seconds_per_epoch"] is None:
        print("one epoch is only a warm-up; ask for --epochs 2 or more to measure")
    else:
        seconds = result["median_seconds_per_epoch"]
        print(f"{seconds:.1f} s an epoch, {result['n_positions'] / seconds:,.0f} positions a second")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
