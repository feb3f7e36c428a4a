"""Recommends items that nobody has used in training: generative models beside an id model with item features.

    python benchmarks/cold_items.py --json cold-items.json

Simulated listeners play tracks whose vectors tell artist and genre. A share of the tracks is cold: all their plays are
removed, but for one a listener, behind the training period, which is the target. Codes are made of the vectors by
residual k-means. Then the same with vectors that are shuffled between tracks, of which nothing can be learnt.
docs/semantic_ids.md explains the figures.
"""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.baselines.popularity import training_counts
from seqrec.config import check_above, check_at_least, check_fields, check_share, to_json
from seqrec.data.batches import make_queries, training_batches
from seqrec.data.feature_values import Feature
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore, sequence_store
from seqrec.data.synthetic.catalogue import catalogue
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.simulation import simulate_events
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import evaluate
from seqrec.files import write_json
from seqrec.generative import DepthDecoderConfig, with_semantic_ids
from seqrec.heads.softmax import softmax_model
from seqrec.items import ItemConfig, with_items
from seqrec.model import Model, composed_params
from seqrec.semantic_ids.making import CodesConfig, make_codes
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

K = 50


CODES = CodesConfig(n_levels=2, n_codes=64, equal_codes="none")
"""How codes are made of the vectors; no flags, since those of its methods are called like flags of training."""


@dataclass(frozen=True)
class Config:
    """Trains generative models and an id model without some of the tracks, and looks for these in their rankings."""

    cold_share: float = 0.1
    """Share of the tracks that no training history holds."""
    training_share: float = 0.7
    """Share of the simulated days whose plays are trained on; a target is a listener's first cold play after them."""
    noise: float = 0.3
    """Standard deviation of what a track's vector has of its own, where artists and genres have 1."""
    vector_width: int = 16
    """Numbers of a track's vector."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of world, vectors, codes and training; one after another."""
    max_length: int = 50
    """Latest plays that a model reads."""
    batch_size: int = 64
    """Histories of a batch."""
    n_epochs: int = 10
    """Epochs of training."""
    id_dropout: float = 0.3
    """Share of tracks whose id vector is dropped in each step of the id model with features."""
    label_smoothing: float = 0.1
    """That of the generative models."""
    dense_weight: float = 1.0
    """Weight of the item vectors beside the codes, in the model of both."""
    json: Path | None = None
    """JSON file to write the figures to."""
    world: ListeningConfig = field(
        default_factory=lambda: ListeningConfig(
            n_users=1200,
            n_items=2000,
            n_artists=200,
            sessions_per_user=6.0,
            repeat_share=0.0,
            artist_share=0.5,
            genre_share=0.2,
        )
    )
    model: OmitArgPrefixes[TransformerConfig] = field(default_factory=lambda: TransformerConfig(d_model=32, n_blocks=1))
    optimizer: OmitArgPrefixes[OptimizerConfig] = field(default_factory=lambda: OptimizerConfig(learning_rate=5e-3))

    def __post_init__(self):
        check_fields(self)
        check_share(self, "cold_share", "training_share", zero=False, one=False)
        check_above(self, 0, "noise", "dense_weight")
        check_at_least(self, 1, "vector_width", "max_length", "batch_size", "n_epochs")


class Trial(NamedTuple):
    """The data of a seed."""

    store: SequenceStore
    """Plays of tracks that are not cold and, last, a listener's target."""
    split: Split
    """Its test targets are cold."""
    is_cold: np.ndarray
    """Of each track, by id - 1."""
    vectors: Float[np.ndarray, "n_items width"]


def make_trial(config: Config, seed: int) -> Trial:
    """The plays of a world without its cold tracks, and the tracks' vectors."""
    world = dataclasses.replace(config.world, seed=seed)
    random = np.random.default_rng(seed)
    tracks, plays = catalogue(world), simulate_events(world)
    is_cold = np.zeros(world.n_items, bool)
    is_cold[random.permutation(world.n_items)[: round(config.cold_share * world.n_items)]] = True
    genre, artist, track_vectors = (
        random.normal(size=(n, config.vector_width)) for n in (world.n_genres, world.n_artists, world.n_items)
    )
    vectors = genre[tracks.genre - 1] + artist[tracks.artist - 1] + config.noise * track_vectors
    first, last = plays["timestamp_us"].min(), plays["timestamp_us"].max()
    train_end = first + config.training_share * (last - first)
    items, lengths, train_stop, targets = [], [], [], []
    start = 0
    for user in range(1, world.n_users + 1):
        rows = slice(*np.searchsorted(plays["user_id"], [user, user + 1]))
        item, is_train = plays["item_id"][rows], plays["timestamp_us"][rows] < train_end
        cold = np.flatnonzero(is_cold[item - 1] & ~is_train)
        end = cold[0] if len(cold) else np.count_nonzero(is_train)
        history = item[:end][~is_cold[item[:end] - 1]]
        n_train = np.count_nonzero(is_train[:end] & ~is_cold[item[:end] - 1])
        has_target = len(cold) > 0 and len(history) > 0
        items.append(np.append(history, item[end]) if has_target else history)
        targets.append(start + len(history) if has_target else -1)
        train_stop.append(start + n_train)
        lengths.append(len(items[-1]))
        start += lengths[-1]
    store = sequence_store(
        np.concatenate(items).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        item_keys=np.arange(1, world.n_items + 1),
        user_keys=np.arange(1, world.n_users + 1),
        columns={"timestamp_us": np.arange(start, dtype=np.int64)},
    )
    none = np.full(world.n_users, -1)
    split = Split(np.array(train_stop), none, np.array(targets), "", "first cold play after the training period")
    return Trial(store, split, is_cold, vectors.astype(np.float32))


def make_models(config: Config, trial: Trial, vectors: np.ndarray, seed: int) -> dict[str, Model]:
    """The models that these vectors are given to."""
    n_items = trial.store.n_items
    plain = softmax_model(transformer(config.model, n_items=n_items, max_length=config.max_length))
    counts = training_counts(trial.store, trial.split)
    known = np.arange(n_items + 1) > 0
    values = np.pad((vectors - vectors.mean(0)) / vectors.std(), ((1, 0), (0, 0))).astype(np.float32)
    features = [Feature("vector", values, known)]
    items = ItemConfig(item_features=("vector",), id_dropout=config.id_dropout)
    with_ids = with_items(plain, items, features, counts=counts)
    ids = make_codes(vectors, dataclasses.replace(CODES, seed=seed), counts=counts).ids
    kinds: dict[str, Any] = {"dropout": config.model.dropout, "label_smoothing": config.label_smoothing}
    both = DepthDecoderConfig(dense_weight=config.dense_weight)
    return {
        "ids and features": with_ids,
        "codes": with_semantic_ids(plain, ids, item_vectors=False, **kinds),
        "codes beside ids and features": with_semantic_ids(with_ids, ids, both, **kinds),
    }


def recalls(config: Config, trial: Trial, model: Model, seed: int) -> dict[str, float]:
    """Recall@K of cold targets after training, among all tracks and among the cold ones."""
    store, split = trial.store, trial.split
    sizes = {"max_length": config.max_length, "batch_size": config.batch_size}
    batches = training_batches(store, split, seed=seed, **sizes)
    n_steps = config.n_epochs * batches.steps_per_epoch
    optimizer = make_optimizer(config.optimizer, model.specs, n_steps=n_steps)
    step = make_train_step(model, optimizer, seed=seed, average_decay=config.optimizer.average_decay)
    state = init_state(model, optimizer, seed=seed)
    for number in range(n_steps):
        state, _ = step(state, batches.batch(number))
    params = composed_params(model, state.averaged)
    queries = make_queries(store, split.test, mask_seen=False, **sizes)
    cold = np.flatnonzero(trial.is_cold).astype(np.int32)[None] + 1

    def rank(allow: Any) -> Any:
        @jax.jit
        def step(params: Any, query_batch: Any) -> Any:
            return model.head.rank(
                params, model.queries(params, query_batch.batch, query_batch.last), query_batch.targets, allow=allow
            )

        return evaluate(step, params, queries).rank

    return {name: float(np.mean(rank(allow) <= K)) for name, allow in {"all": None, "cold": cold}.items()}


def chances(trial: Trial) -> dict[str, float]:
    """Recall@K of a ranking that is drawn."""
    return {"all": min(1.0, K / trial.store.n_items), "cold": min(1.0, K / np.count_nonzero(trial.is_cold))}


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each model and returns all figures."""
    runtime.start(MeshConfig())
    started, figures = time.process_time(), {}
    for seed in config.seeds:
        trial = make_trial(config, seed)
        shuffled = trial.vectors[np.random.default_rng(seed).permutation(len(trial.vectors))]
        figures.setdefault("chance", []).append(chances(trial))
        for kind, vectors in {"informative": trial.vectors, "shuffled": shuffled}.items():
            for name, model in make_models(config, trial, vectors, seed).items():
                figures.setdefault(f"{name}, {kind}", []).append(recalls(config, trial, model, seed))
                print(f"seed {seed}  {name}, {kind}: {figures[f'{name}, {kind}'][-1]}", flush=True)
        n_targets = int(np.count_nonzero(trial.split.test >= 0))
        figures.setdefault("targets", []).append(n_targets)
    targets = figures.pop("targets")
    means = {
        name: {of: float(np.mean([each[of] for each in rows])) for of in rows[0]} for name, rows in figures.items()
    }
    for name, mean in means.items():
        times = mean["all"] / means["chance"]["all"]
        print(f"{name:38} recall@{K} {mean['all']:.4f} ({times:.1f} x chance)   among cold tracks {mean['cold']:.4f}")
    result = {"k": K, "means": means, "seeds": figures, "n_targets": targets, "config": to_json(config)}
    result |= {"cpu_seconds": time.process_time() - started, "versions": runtime.versions()}
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
