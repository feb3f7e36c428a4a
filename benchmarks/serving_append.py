"""Times one more event of a session against reading the whole history anew.

    python benchmarks/serving_append.py --json serving-append.json

For each model and number of users two things are timed. A whole request by raw item keys, which ends in the best k of
the catalogue: `Sessions.recommend` with one event a user, against `Bundle.recommend` with the whole history. And the
encoder's part alone: the compiled `append` on the store of sessions, against the compiled `states`. Rounds of all
alternate: read the ratios, which hold between machines, before the milliseconds. CPU time is given too, which other
work on the machine moves less.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqrec import runtime
from seqrec.bundle.files import STATES, Vocabulary
from seqrec.bundle.histories import make_histories, ragged
from seqrec.bundle.loading import load_bundle
from seqrec.bundle.sessions import Sessions
from seqrec.bundle.writing import Description, write_bundle
from seqrec.config import to_json
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.sharding import MeshConfig


@dataclass(frozen=True)
class Config:
    """Times one more event of a session against reading the whole history anew."""

    history_length: int = 200
    """Number of items that are read anew; the models read as many."""
    n_items: int = 20_000
    """Number of items in the catalogue."""
    d_model: int = 64
    """Width of item vectors and states."""
    n_blocks: int = 2
    """Number of blocks of each model."""
    k: int = 20
    """Number of items in each list."""
    users: tuple[int, ...] = (1, 64)
    """Numbers of users in a request."""
    n_sessions: int = 256
    """Number of sessions that are kept."""
    n_rounds: int = 30
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        for name in ("n_items", "d_model", "n_blocks", "k", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=8")
        if self.history_length < 2:
            raise ValueError(f"history_length={self.history_length} leaves nothing to append to; try history_length=8")
        if not self.users or not 1 <= min(self.users) <= max(self.users) <= self.n_sessions:
            raise ValueError(f"users={self.users} are not in 1..n_sessions={self.n_sessions}; try users=1")


def measure(config: Config) -> dict[str, Any]:
    """Milliseconds and ratios by model and number of users."""
    sizes = {"n_items": config.n_items, "max_length": config.history_length}
    encoders = {
        "transformer": transformer(TransformerConfig(d_model=config.d_model, n_blocks=config.n_blocks), **sizes),
        "hawk": hawk(HawkConfig(d_model=config.d_model, n_blocks=config.n_blocks), **sizes),
    }
    figures = {}
    for name, encoder in encoders.items():
        model = softmax_model(encoder)
        params = jax.tree.map(
            # Larger than at the start, so that no two items all but tie.
            lambda leaf: np.asarray(5 * leaf if leaf.ndim == 2 else leaf),
            init_params(model.specs, jax.random.key(0)),
        )
        vocabulary = Vocabulary(np.arange(1, config.n_items + 1), np.ones(config.n_items, np.int64))
        with tempfile.TemporaryDirectory() as directory:
            bundle_path = Path(directory) / "bundle"
            write_bundle(
                bundle_path,
                model,
                params,
                vocabulary,
                Description(name, {}, lambda _: "made of noise\n"),
                mask_seen=True,
            )
            bundle = load_bundle(bundle_path)
        sessions = Sessions(bundle, config.n_sessions)
        figures[name] = {"bytes_per_session": sessions.bytes_per_session} | {
            f"{n_users} users": _measured(config, sessions, n_users) for n_users in config.users
        }
    return figures


def _measured(config: Config, sessions: Sessions, n_users: int) -> dict[str, Any]:
    bundle = sessions.bundle
    random = np.random.default_rng(0)
    histories = random.integers(1, config.n_items + 1, (n_users, config.history_length)).astype(np.int32)
    names = [f"user {number}" for number in range(n_users)]
    earlier, newest = histories[:, :-1].tolist(), histories[:, -1:].tolist()
    whole = histories.tolist()
    arrays = make_histories(ragged(whole, np.int32), max_length=config.history_length, times="none").as_dict()
    # In a store of its own. How many items its rows hold makes no difference to a step's time.
    append, rows = sessions.compiled_append, np.arange(n_users, dtype=np.int32)
    given = {"items": histories[:, -1].copy()}
    store = sessions.empty_store()

    def append_states() -> Any:
        nonlocal store
        store = append(store, bundle.params, rows, given)
        return jax.block_until_ready(store)["states"]

    ways: dict[str, Callable[[], Any]] = {
        "request append": lambda: sessions.recommend(names, newest, config.k),
        "request anew": lambda: bundle.recommend(whole, config.k),
        "encoder append": append_states,
        "encoder anew": lambda: jax.block_until_ready(bundle.programs[STATES](bundle.params, arrays)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    difference = 0.0
    for number in range(1 + config.n_rounds):  # the first compiles
        # Untimed: histories that lack their newest item.
        sessions.recommend(names, [[]] * n_users, config.k, histories=earlier)
        answers = {}
        for name, way in ways.items():
            started, cpu_started = runtime.seconds(), time.process_time()
            answers[name] = way()
            if number:
                seconds[name].append(runtime.seconds() - started)
                cpu_seconds[name].append(time.process_time() - cpu_started)
        appended, anew = answers["request append"], answers["request anew"]
        difference = max(difference, float(np.abs(np.subtract(appended.scores, anew.scores)).max()))
    return {
        "equal_lists": float(np.mean(np.equal(appended.items, anew.items))),
        "largest_score_difference": difference,
        **{f"{name} ms": 1e3 * float(np.median(each)) for name, each in seconds.items()},
        **{f"{name} CPU ms": 1e3 * float(np.median(each)) for name, each in cpu_seconds.items()},
        **{
            f"{part} {kind}": float(np.median(np.divide(taken[f"{part} anew"], taken[f"{part} append"])))
            for part in ("request", "encoder")
            for kind, taken in (("ratio", seconds), ("CPU ratio", cpu_seconds))
        },
    }


def main(config: Config) -> dict[str, Any]:
    """Prints the figures and returns them."""
    runtime.start(MeshConfig())
    figures = measure(config)
    for name, by_users in figures.items():
        print(f"{name}: {by_users['bytes_per_session']:,} bytes a session")
        for n_users, each in by_users.items():
            if n_users == "bytes_per_session":
                continue
            print(f"  {n_users}, scores within {each['largest_score_difference']:.1e}")
            for part in ("request", "encoder"):
                ways = ", ".join(f"{way} {each[f'{part} {way} ms']:.3f} ms" for way in ("append", "anew"))
                print(
                    f"    {part}: {ways}, {each[f'{part} ratio']:.1f}x ({each[f'{part} CPU ratio']:.1f}x of CPU time)"
                )
    result = {
        "figures": figures,
        **{name: value for name, value in to_json(config).items() if name != "json"},
        "versions": runtime.versions(),
    }
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
