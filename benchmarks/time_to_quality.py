r"""Times training until a validation NDCG@10 is reached: ours, and RecTools' SASRec, one after the other.

    python benchmarks/time_to_quality.py --data-path ml-1m.txt.gz --json time-to-quality-ml-1m.json \
        --rectools-python rectools-env/bin/python

How to make that environment stands in rectools_epoch.py. On 2 quiet cores ours takes minutes and RecTools' an hour or
two, at 100 to 110 s an epoch.

The clock of each starts when the file is first read, after imports, and stops at the end of the epoch that reached the
bar; compiling counts. Validation does not, on either side: the same evaluator ranks the whole catalogue less the user's
history by the products of each model's vectors, after every epoch. Ours validates averaged weights, as it always does.
"""

import functools
import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.config import to_json
from seqrec.data.batches import Queries, make_queries, training_batches
from seqrec.data.events import sequences
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.metrics import means, metric_sums
from seqrec.retrieval import rank_targets
from seqrec.sharding import MeshConfig, split_rows
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import InputError

PEER = Path(__file__).with_name("rectools_quality.py")


@dataclass(frozen=True)
class Config:
    """Times training until a validation NDCG@10 is reached, with this library and with RecTools if its interpreter is
    given."""

    data_path: Path
    """File with one line `user item` per event, in time order."""
    bar: float = 0.165
    """Validation NDCG@10 to reach."""
    rectools_python: Path | None = None
    """Python interpreter of an environment with RecTools; without it only this library is timed."""
    max_epochs: int = 12
    """Largest number of epochs with this library; its learning rate reaches 0 at the end of the last."""
    rectools_max_epochs: int = 150
    """Largest number of epochs with RecTools."""
    batch_size: int = 64
    """Average number of histories in a batch with this library; RecTools has the settings of rectools_epoch.py."""
    max_length: int = 200
    """Number of latest events of a history that both read."""
    seed: int = 0
    """Seed of both libraries."""
    json: Path | None = None
    """JSON file to write the figures to."""
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=lambda: TransformerConfig(dropout=0.2))
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        for name in ("max_epochs", "rectools_max_epochs", "batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=10")
        if not 0 < self.bar < 1:
            raise ValueError(f"bar={self.bar} is not in (0, 1); try bar=0.165")


class Course:
    """What one side reached after which time."""

    def __init__(self, name: str, bar: float) -> None:
        self.name, self.bar = name, bar
        self.epochs: list[dict[str, Any]] = []

    def note(self, seconds: float, ndcg: float) -> bool:
        """Prints and keeps an epoch; whether it reached the bar."""
        self.epochs.append({"seconds": seconds, "ndcg@10": ndcg})
        print(
            f"{self.name:10} epoch {len(self.epochs):3d} {seconds:9.1f} s   validation NDCG@10 {ndcg:.4f}", flush=True
        )
        return ndcg >= self.bar

    def result(self) -> dict[str, Any]:
        """The epochs, and the seconds until the bar, or None where it was not reached."""
        reached = [epoch["seconds"] for epoch in self.epochs if epoch["ndcg@10"] >= self.bar]
        return {"seconds": reached[0] if reached else None, "epochs": self.epochs}


def time_ours(config: Config) -> tuple[dict[str, Any], Queries]:
    """Our course, and the validation queries for the other's."""
    started, not_counted = runtime.seconds(), 0.0
    store = sequences(read_source("ml-1m", config.data_path))
    split = leave_last_out(store)
    sizes = {"max_length": config.max_length, "batch_size": config.batch_size}
    batches = training_batches(store, split, **sizes, seed=config.seed)
    model = softmax_model(transformer(config.model, n_items=store.n_items, max_length=config.max_length))
    n_steps = config.max_epochs * batches.steps_per_epoch
    optimizer = make_optimizer(config.optimizer, model.specs, n_steps=n_steps)
    average_decay = config.optimizer.average_decay
    step = make_train_step(model, optimizer, seed=config.seed, average_decay=average_decay)
    state = init_state(model, optimizer, seed=config.seed)
    queries, eval_step = make_queries(store, split.valid, **sizes, mask_seen=True), make_eval_step(model)
    course = Course("seqrec", config.bar)
    for epoch in range(config.max_epochs):
        for number in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            state, _ = step(state, split_rows(batches.batch(number)))
        jax.block_until_ready(state)
        stopped = runtime.seconds()
        ranks = evaluate(eval_step, state.averaged, queries).rank
        if course.note(stopped - started - not_counted, ndcg_at_10(ranks)):
            break
        not_counted += runtime.seconds() - stopped
    return course.result(), queries


def ndcg_at_10(ranks: np.ndarray) -> float:
    """Its mean over the users."""
    return means(metric_sums(ranks))["ndcg@10"]


def time_rectools(config: Config, python: Path, queries: Queries) -> dict[str, Any]:
    """RecTools' course; its process waits while we validate."""
    with tempfile.TemporaryDirectory() as directory:
        command = [str(python), str(PEER), "--data-path", str(config.data_path), "--directory", directory]
        command += ["--epochs", str(config.rectools_max_epochs), "--seed", str(config.seed)]
        try:
            peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise InputError(
                f"--rectools-python {python} cannot be run ({error.strerror}); name an interpreter"
            ) from None
        course, facts = Course("RecTools", config.bar), {}
        with peer:
            for line in filter(lambda line: line.startswith("{"), peer.stdout):
                figures = json.loads(line)
                if "file" not in figures:
                    facts = figures
                    continue
                with np.load(figures["file"]) as vectors:
                    reached = course.note(figures["seconds"], ndcg_at_10(ranks_by_vectors(queries, vectors)))
                Path(figures["file"]).unlink()
                peer.stdin.write("stop\n" if reached else "go\n")
                peer.stdin.flush()
        if peer.returncode or not course.epochs:
            raise InputError(f"RecTools ended with status {peer.returncode} after {len(course.epochs)} epochs")
    return {**facts, **course.result()}


def ranks_by_vectors(queries: Queries, vectors: Any) -> np.ndarray:
    """Ranks of the queries' targets by products of users' and items' vectors, which are told by the data's own keys.

    Items without a vector rank behind all that have one.
    """
    store = queries.store
    table = np.zeros((store.n_items + 1, vectors["item_vectors"].shape[1] + 1), np.float32)
    table[:, -1] = -1e30
    places = 1 + np.searchsorted(store.item_keys, vectors["items"])
    table[places] = np.pad(vectors["item_vectors"], ((0, 0), (0, 1)))
    of_users = np.zeros((store.n_users, table.shape[1]), np.float32)
    of_users[np.searchsorted(store.user_keys, vectors["users"]), :-1] = vectors["user_vectors"]
    of_users[:, -1] = 1.0
    rank = jax.jit(functools.partial(rank_targets, n_items=store.n_items))
    ranks = []
    for batch in queries.batches():
        query = batch.query[batch.query >= 0]
        batch_ranks, _ = rank(
            jnp.asarray(of_users[queries.users[np.maximum(batch.query, 0)]]),
            jnp.asarray(table),
            batch.targets,
            exclude=batch.excluded,
        )
        ranks.append(np.asarray(batch_ranks)[: len(query)])
    return np.concatenate(ranks)


def main(config: Config) -> dict[str, Any]:
    """Prints both courses and returns them."""
    runtime.start(MeshConfig())
    ours, queries = time_ours(config)
    result: dict[str, Any] = {"benchmark": "time_to_quality", "bar": config.bar, "seqrec": ours}
    if config.rectools_python is not None:
        result["rectools"] = time_rectools(config, config.rectools_python, queries)
    seconds = [result[side]["seconds"] for side in ("seqrec", "rectools") if side in result]
    if len(seconds) == 2 and None not in seconds:
        result["ratio"] = seconds[1] / seconds[0]
        print(f"RecTools took {result['ratio']:.1f} times as long")
    elif None in seconds:
        print(f"the bar of {config.bar} was not reached by both")
    shown = to_json(config)
    shown |= {"data_path": config.data_path.name, "rectools_python": None, "json": None}
    result |= {"config": shown, "versions": runtime.versions()}
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
