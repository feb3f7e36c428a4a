"""Times exact search, int8 rows and an index on catalogues of several sizes, with their memory and recall.

    python benchmarks/serving_catalogues.py --json serving-catalogues.json

A query is a state and a history of items to leave out; its encoding is not timed. Vectors are clustered, so that recall
means something: a centre is drawn from a normal distribution for every few hundred items, each item is a centre with
normal noise, and each state likewise. Rounds of the searches alternate: read the ratios, which hold between machines,
before the milliseconds. CPU milliseconds are given too, which other work on the machine moves less.
"""

import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqrec import runtime
from seqrec.bundle.files import INDEX, WEIGHTS
from seqrec.bundle.histories import Ragged, consecutive_rows
from seqrec.bundle.search import int8_table, open_searcher, write_index
from seqrec.bundle.weights import map_item_table, write_weights
from seqrec.bundle.writing import recall_of
from seqrec.config import to_json
from seqrec.files import write_json
from seqrec.retrieval import top_k_items
from seqrec.sharding import MeshConfig

ITEMS_PER_CLUSTER, NOISE = 200, 0.6
SEARCHES = ("exact", "int8", "ann")


@dataclass(frozen=True)
class Config:
    """Times the searches of catalogues of several sizes, and measures their memory and recall."""

    n_items: tuple[int, ...] = (20_000, 100_000, 1_000_000)
    """Numbers of items of the catalogues."""
    d_model: int = 64
    """Length of the vectors."""
    k: int = 20
    """Length of a list."""
    history_length: int = 50
    """Number of items in each history, which are left out of its list."""
    batches: tuple[int, ...] = (1, 32)
    """Numbers of queries in a call."""
    n_queries: int = 256
    """Number of queries that recall is a mean over."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        for name in ("d_model", "k", "history_length", "n_queries", "n_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=8")
        if not self.n_items or min(self.n_items) < max(self.k, ITEMS_PER_CLUSTER) or not self.batches:
            raise ValueError(
                f"n_items={self.n_items}, batches={self.batches}: give sizes, of catalogues from "
                f"{max(self.k, ITEMS_PER_CLUSTER)} items on"
            )


class Queries(NamedTuple):
    """What is asked: states, and the histories whose items are left out, as sorted ids without repeats."""

    states: np.ndarray
    histories: Ragged

    def first(self, n: int) -> "Queries":
        """The first n of them."""
        return Queries(self.states[:n], self.histories.take(np.arange(n)))


def measure(n_items: int, config: Config) -> dict[str, Any]:
    """For each search its milliseconds a query, memory, seconds of building and recall, on one catalogue."""
    table, queries = draw(n_items, config)
    with tempfile.TemporaryDirectory(prefix="seqrec-catalogue-") as name:
        directory = Path(name)
        write_weights(directory / WEIGHTS, {"item_table": table}, item_table="float32")
        rows = map_item_table(directory / WEIGHTS)
        building = {
            "int8": functools.partial(int8_table, rows, n_items),
            "ann": functools.partial(write_index, directory / INDEX, rows, n_items),
        }
        seconds = {}
        for search, build in building.items():
            started = runtime.seconds()
            build()
            seconds[search] = runtime.seconds() - started
        best = {"exact": exact_search(table, n_items, config.k)}
        for search in ("int8", "ann"):
            searcher = open_searcher(directory, n_items, {}, search, path=name)
            assert searcher is not None
            best[search] = lambda queries, best=searcher.best: best(
                queries.states, config.k, allow=None, exclude=queries.histories
            )
        megabytes = {
            "exact": table.nbytes / 1e6,
            "int8": n_items * (config.d_model + 4) / 1e6,
            "ann": (directory / INDEX).stat().st_size / 1e6,
        }
        lists = {search: np.asarray(find(queries)[0]) for search, find in best.items()}
        timed = {batch: _milliseconds(best, queries.first(batch), config.n_rounds) for batch in config.batches}
        return {
            search: {
                **{f"ms_batch_{batch}": figures[search][0] for batch, figures in timed.items()},
                **{f"cpu_ms_batch_{batch}": figures[search][1] for batch, figures in timed.items()},
                "megabytes": megabytes[search],
                "build_seconds": seconds.get(search, 0.0),
                f"recall@{config.k}": float(recall_of(lists[search], lists["exact"]).mean()),
            }
            for search in SEARCHES
        }


def draw(n_items: int, config: Config) -> tuple[np.ndarray, Queries]:
    """An item table whose row 0 is padding, and queries; see the head of this file."""
    random = np.random.default_rng(0)
    n_clusters = n_items // ITEMS_PER_CLUSTER
    centres = random.standard_normal((n_clusters, config.d_model), np.float32)

    def around_centres(n: int) -> np.ndarray:
        noise = random.standard_normal((n, config.d_model), np.float32)
        return centres[random.integers(n_clusters, size=n)] + np.float32(NOISE) * noise

    table = around_centres(n_items + 1)
    table[0] = 0
    n_queries = max(config.n_queries, *config.batches)
    histories = [
        np.unique(random.integers(1, n_items + 1, config.history_length)).astype(np.int32) for _ in range(n_queries)
    ]
    lengths = np.array([len(each) for each in histories])
    return table, Queries(around_centres(n_queries), consecutive_rows(np.concatenate(histories), lengths))


def exact_search(table: np.ndarray, n_items: int, k: int) -> Callable[[Queries], Any]:
    """Scores all items, as a bundle's exported function does."""
    on_device = jax.device_put(table)
    top = jax.jit(functools.partial(top_k_items, k=k, n_items=n_items))

    def find(queries: Queries) -> Any:
        excluded = queries.histories.padded(int(queries.histories.lengths.max()))
        return jax.block_until_ready(top(queries.states, on_device, exclude=excluded))

    return find


def _milliseconds(
    best: dict[str, Callable[[Queries], Any]], queries: Queries, n_rounds: int
) -> dict[str, tuple[float, float]]:
    """Of each search the median milliseconds a query, and those of the CPU."""
    seconds: dict[str, list[tuple[float, float]]] = {search: [] for search in best}
    for search in best:
        best[search](queries)  # compiles
    for _ in range(n_rounds):
        for search, find in best.items():
            started, cpu_started = runtime.seconds(), time.process_time()
            find(queries)
            seconds[search].append((runtime.seconds() - started, time.process_time() - cpu_started))
    n = len(queries.states)
    return {
        search: (1e3 * float(wall) / n, 1e3 * float(cpu) / n)
        for search, (wall, cpu) in ((search, np.median(rounds, axis=0)) for search, rounds in seconds.items())
    }


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each catalogue and search, and returns the figures."""
    runtime.start(MeshConfig())
    result: dict[str, Any] = {"catalogues": {}}
    for n_items in config.n_items:
        figures = result["catalogues"][str(n_items)] = measure(n_items, config)
        for search, of_search in figures.items():
            shown = "  ".join(f"{name} {value:.4g}" for name, value in of_search.items())
            print(f"{n_items:>9,} items  {search:5}  {shown}")
    result |= {name: value for name, value in to_json(config).items() if name not in ("json", "n_items")}
    result["versions"] = runtime.versions()
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
