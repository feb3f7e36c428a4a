"""Recommends items that nobody has used in training: generative models beside an id model with item features.

    python benchmarks/cold_items.py --json cold-items.json

Simulated listeners play tracks whose vectors tell artist and genre. A share of the tracks is cold: all their plays are
removed, but for one a listener, behind the training period, which is the target. Codes are made of the vectors by
residual k-means. Then the same with vectors that are shuffled between tracks, of which nothing can be learnt.

    python benchmarks/cold_items.py --data-path Beauty.txt.gz --n-codes 256 --n-levels 3 --json cold-beauty.json

does so with the rarest items of a file, and vectors made of their attributes.
docs/semantic_ids.md explains the figures.
"""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tyro.conf import OmitArgPrefixes

from seqrec import runtime
from seqrec.baselines.popularity import training_counts
from seqrec.config import check_above, check_at_least, check_fields, check_share, to_json
from seqrec.data.batches import make_queries, training_batches
from seqrec.data.events import sequences
from seqrec.data.feature_values import Feature
from seqrec.data.sources import read_source
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
from seqrec.semantic_ids.vectors import VectorConfig, feature_vectors, joined
from seqrec.sharding import MeshConfig
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

K = 50


@dataclass(frozen=True)
class Config:
    """Trains generative models and an id model without some of the tracks, and looks for these in their rankings."""

    data_path: Path | None = None
    """File of S3-Rec's form with attributes of the items beside it, whose rarest items are cold and whose vectors are
    made of attributes; by default tracks are simulated."""
    cold_share: float = 0.1
    """Share of the items that no training history holds."""
    training_share: float = 0.7
    """Share of the simulated days whose plays are trained on; a target is a listener's first cold play after them."""
    noise: float = 0.3
    """Standard deviation of what a track's vector has of its own, where artists and genres have 1."""
    vector_width: int = 16
    """Numbers of a track's vector."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of world, vectors, codes and training; one after another."""
    n_codes: int = 64
    """Codes of each level that residual k-means makes of the vectors."""
    n_levels: int = 2
    """Levels of codes."""
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


class CutHistory(NamedTuple):
    """What a user has of items that are not cold, and the cold item that follows it, if one does."""

    items: Int[np.ndarray, " n_events"]
    n_training: int
    target: int | None


def make_trial(config: Config, seed: int) -> Trial:
    """The events of a world, or of the file, without its cold items; and the items' vectors."""
    return simulated_trial(config, seed) if config.data_path is None else trial_of_file(config, config.data_path, seed)


def simulated_trial(config: Config, seed: int) -> Trial:
    """Cold are tracks that are drawn; a target is a listener's first play of one after the training period."""
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
    users = []
    for user in range(1, world.n_users + 1):
        rows = slice(*np.searchsorted(plays["user_id"], [user, user + 1]))
        items, is_training = plays["item_id"][rows], plays["timestamp_us"][rows] < train_end
        cold = np.flatnonzero(is_cold[items - 1] & ~is_training)
        end = cold[0] if len(cold) else np.count_nonzero(is_training)
        is_kept = ~is_cold[items[:end] - 1]
        target = items[end] if len(cold) else None
        users.append(CutHistory(items[:end][is_kept], np.count_nonzero(is_training[:end] & is_kept), target))
    return Trial(*without_cold(users, world.n_items), is_cold, vectors.astype(np.float32))


def trial_of_file(config: Config, path: Path, seed: int) -> Trial:
    """Cold are the rarest items, of equally rare ones some that are drawn; a target is a user's last event of one."""
    store = sequences(read_source("s3rec", path))
    counts, random = np.bincount(store.items, minlength=store.n_items + 1)[1:], np.random.default_rng(seed)
    is_cold = np.zeros(store.n_items, bool)
    is_cold[np.lexsort((random.random(store.n_items), counts))[: round(config.cold_share * store.n_items)]] = True
    users = []
    for start, end in itertools.pairwise(store.offsets):
        items = store.items[start:end]
        cold = np.flatnonzero(is_cold[items - 1])
        history = items[: cold[-1]] if len(cold) else items
        history = history[~is_cold[history - 1]]
        users.append(CutHistory(history, len(history), items[cold[-1]] if len(cold) else None))
    is_known = np.append(False, ~is_cold)
    vectors = joined(feature_vectors(VectorConfig(item_features=("attributes",)), store, is_known))
    return Trial(*without_cold(users, store.n_items), is_cold, vectors)


def without_cold(users: Sequence[CutHistory], n_items: int) -> tuple[SequenceStore, Split]:
    """The store of these histories, and its split, whose test targets follow those that hold an event."""
    has_target = np.array([user.target is not None and len(user.items) > 0 for user in users])
    items = [
        np.append(user.items, user.target) if has else user.items for user, has in zip(users, has_target, strict=True)
    ]
    offsets = np.cumsum([0, *map(len, items)])
    store = sequence_store(
        np.concatenate(items).astype(np.int32),
        offsets,
        item_keys=np.arange(1, n_items + 1),
        user_keys=np.arange(1, len(users) + 1),
        columns={"timestamp_us": np.arange(offsets[-1], dtype=np.int64)},
    )
    train_stop = offsets[:-1] + [user.n_training for user in users]
    none, targets = np.full(len(users), -1), np.where(has_target, offsets[1:] - 1, -1)
    return store, Split(train_stop, none, targets, "", "a cold item after the history")


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
    codes = CodesConfig(n_levels=config.n_levels, n_codes=config.n_codes, equal_codes="none", seed=seed)
    ids = make_codes(vectors, codes, counts=counts).ids
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
