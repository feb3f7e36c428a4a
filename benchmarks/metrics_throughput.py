"""Times the way from scores, or from user vectors, to recall, NDCG and MRR at 5, 10 and 20 for one target a user.

    python benchmarks/metrics_throughput.py --json throughput.json
    python benchmarks/metrics_throughput.py --peers rax torch.topk --sizes 4096x20000
    python benchmarks/metrics_throughput.py --data-path ml-1m.txt.gz        # also the evaluation of its users

Every size is drawn once and all are timed on it in turn, round after round; medians are reported, and beside each
its ratio to reading the scores once: the faster of jax's and NumPy's row sum. What takes long is timed on the
first users alone, and its time is scaled to all of them (`n_users_timed`). Peers come with `pip install
-e ".[bench]"`; those that are not installed are named and skipped. Runs unchanged on a CPU, a GPU or a TPU.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import metric_peers
import numpy as np
from matplotlib.figure import Figure

from seqrec import runtime
from seqrec.data.batches import make_queries
from seqrec.data.events import sequences
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.files import write_json
from seqrec.metrics import metric_sums
from seqrec.metrics.ranks import target_ranks
from seqrec.retrieval import rank_targets
from seqrec.sharding import MeshConfig
from seqrec.types import InputError

D_MODEL = 64
SLOW_SECONDS = 8.0
"""A peer that would take longer on all users is timed on as many as take about this long."""


@dataclass(frozen=True)
class Config:
    """Times recall, NDCG and MRR of held-out items, computed by this library and by others."""

    sizes: tuple[str, ...] = ("4096x20000", "1024x100000", "256x1000000")
    """Sizes to time, each as USERSxITEMS."""
    peers: tuple[str, ...] = tuple(metric_peers.PEERS)
    """Libraries to compare with; give the flag without a value to compare with none."""
    n_rounds: int = 9
    """Number of timed rounds; medians are reported."""
    data_path: Path | None = None
    """File with one line `user item` per event; the evaluation of all its users is timed too."""
    json: Path | None = None
    """JSON file to write the figures to."""
    chart: Path | None = None
    """PNG file for a chart of the first size."""
    memory_of: str = ""
    """Only print by how many MB ranking from vectors at this size (USERSxITEMS) raises the peak memory of the process.
    """

    def __post_init__(self):
        for size in (*self.sizes, *filter(None, [self.memory_of])):
            parse_size(size)
        if unknown := sorted(set(self.peers) - set(metric_peers.PEERS)):
            raise ValueError(f"peer {unknown[0]!r} is not one of {', '.join(metric_peers.PEERS)}; correct its name")
        if self.n_rounds < 1:
            raise ValueError(f"n_rounds={self.n_rounds} is below 1; try n_rounds=9")


def parse_size(size: str) -> tuple[int, int]:
    """Users and items of a size such as 4096x20000."""
    users, _, items = size.partition("x")
    if not (users.isdigit() and items.isdigit() and int(users) and int(items) > metric_peers.KS[-1]):
        raise ValueError(
            f"size {size!r} is not users x items with over {metric_peers.KS[-1]} items; try --sizes 4096x20000"
        )
    return int(users), int(items)


def draw(size: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User vectors, item vectors and targets; the scores are their product."""
    n_users, n_items = parse_size(size)
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, D_MODEL), np.float32) for n in (n_users, n_items))
    return users, items, rng.integers(0, n_items, n_users).astype(np.int32)


@jax.jit
def metrics_of_scores(scores, targets):
    """Sums of all metrics, from a matrix of scores."""
    return metric_sums(target_ranks(scores, targets), ks=metric_peers.KS, at_k=("recall", "ndcg", "mrr"))


@jax.jit
def metrics_of_vectors(users, table, targets):
    """Sums of all metrics, from vectors; row 0 of the table is padding."""
    ranks, _ = rank_targets(users, table, targets + 1, n_items=len(table) - 1)
    return metric_sums(ranks, ks=metric_peers.KS, at_k=("recall", "ndcg", "mrr"))


def medians(functions: dict[str, Callable[[], Any]], n_rounds: int) -> dict[str, float]:
    """Seconds that each function takes, in interleaved rounds after one that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(n_rounds + 1):
        for name, function in functions.items():
            started = runtime.seconds()
            jax.block_until_ready(function())
            if round_number:
                seconds[name].append(runtime.seconds() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def time_peers(names, scores: np.ndarray, targets: np.ndarray, expected: dict[str, float]) -> dict[str, Any]:
    """Per peer: seconds for all users, how many were timed, and the largest difference from the right values."""
    peers: dict[str, Any] = {}
    for name in names:
        try:
            peer = metric_peers.PEERS[name]()
        except ImportError as error:
            print(f"{name:24} skipped: {error}")
            peers[name] = {"skipped": str(error)}
            continue
        n_users = min(2, len(scores))
        while True:
            some = np.ascontiguousarray(scores[:n_users]), targets[:n_users]
            peer(*some)  # compiles
            started = runtime.seconds()
            values = peer(*some)
            seconds = runtime.seconds() - started
            next_users = min(len(scores), int(n_users * min(16.0, SLOW_SECONDS / max(seconds, 1e-9))))
            if next_users <= 1.5 * n_users:
                break
            n_users = next_users
        times = [seconds]
        if n_users == len(scores) and seconds < 2.0:
            times = [medians({name: lambda peer=peer, some=some: peer(*some)}, 5)[name]]
        reference = expected if n_users == len(scores) else metric_peers.from_ranks(exact_ranks(*some))
        peers[name] = {
            "seconds": times[0] * len(scores) / n_users,
            "n_users_timed": n_users,
            "largest_difference": max(abs(values[metric] - reference[metric]) for metric in reference),
        }
    return peers


def exact_ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Integer ranks by a plain NumPy comparison; drawn scores do not tie."""
    return 1 + np.sum(scores > scores[np.arange(len(targets)), targets][:, None], axis=1)


def time_size(size: str, config: Config) -> dict[str, Any]:
    """All figures of one size."""
    users, items, targets = draw(size)
    table = jnp.asarray(np.concatenate([np.zeros((1, D_MODEL), np.float32), items]))
    hidden, ids = jnp.asarray(users), jnp.asarray(targets)
    product = jax.jit(lambda hidden, table: hidden @ table.T)
    scores = jax.block_until_ready(product(hidden, table[1:]))
    on_host = np.asarray(scores)
    row_sum = jax.jit(lambda scores: jnp.sum(scores, axis=1))
    seconds = medians(
        {
            "row sum, jax": lambda: row_sum(scores),
            "row sum, NumPy": lambda: on_host.sum(axis=1),
            "seqrec, from scores": lambda: metrics_of_scores(scores, ids),
            "matrix product": lambda: product(hidden, table),
            "seqrec, from vectors": lambda: metrics_of_vectors(hidden, table, ids),
        },
        config.n_rounds,
    )
    expected = metric_peers.from_ranks(exact_ranks(on_host, targets))
    for sums in (metrics_of_scores(scores, ids), metrics_of_vectors(hidden, table, ids)):
        metrics = {name: float(total) / len(users) for name, total in sums.totals.items()}
        largest_difference = max(abs(metrics[name] - expected[name]) for name in expected)
        # Products of a block may round otherwise than those of the whole, and swap two neighbours.
        if largest_difference > 1e-4:
            raise InputError(f"{size}: seqrec's metrics are off by {largest_difference:.2g}; this is a bug")
    return {
        "seconds": seconds,
        "scores_to_row_sum": seconds["seqrec, from scores"] / min(seconds["row sum, jax"], seconds["row sum, NumPy"]),
        "vectors_to_product": seconds["seqrec, from vectors"] / seconds["matrix product"],
        "peers": time_peers(config.peers, on_host, targets, expected),
        "vectors_peak_mb": peak_mb(size),
    }


def peak_mb(size: str) -> float | None:
    """What ranking from vectors adds to the peak memory of a process of its own; None where Linux does not say."""
    if jax.default_backend() != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--memory-of", size]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak_mb(size: str) -> None:
    """In this process: inputs first, then the ranking, and the difference between its peak and what there was."""
    users, items, targets = draw(size)
    table, hidden, ids = jnp.asarray(np.concatenate([items[:1], items])), jnp.asarray(users), jnp.asarray(targets)
    compiled = metrics_of_vectors.lower(hidden, table, ids).compile()
    del users, items
    jax.block_until_ready((table, hidden, ids))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = memory_kb("VmRSS")
    jax.block_until_ready(compiled(hidden, table, ids))
    print((memory_kb("VmHWM") - before) / 1024)


def memory_kb(name: str) -> int:
    """A line of Linux's report on this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def time_evaluation(path: Path, n_rounds: int) -> dict[str, Any]:
    """Seconds from the vectors of all the file's users to their metrics, seen items excluded."""
    store = sequences(read_source("ml-1m", path))
    split = leave_last_out(store)
    queries = make_queries(store, split.test, max_length=200, batch_size=store.n_users, mask_seen=True)
    batch = next(queries.batches())
    targets, exclude = jnp.asarray(batch.targets), jnp.asarray(batch.excluded)
    rng = np.random.default_rng(0)
    hidden, table = (
        jnp.asarray(rng.standard_normal((n, D_MODEL), np.float32)) for n in (len(targets), store.n_items + 1)
    )

    @jax.jit
    def evaluate(hidden, table, targets, exclude):
        ranks, _ = rank_targets(hidden, table, targets, n_items=store.n_items, exclude=exclude)
        return metric_sums(ranks, ks=metric_peers.KS, where=targets > 0)

    seconds = medians({"evaluation": lambda: evaluate(hidden, table, targets, exclude)}, n_rounds)
    return {"n_users": int(np.sum(batch.targets > 0)), "n_items": store.n_items, "seconds": seconds["evaluation"]}


def print_size(size: str, figures: dict[str, Any]) -> None:
    """A table with one line a way; the ratio is to the faster row sum."""
    reading = min(seconds for name, seconds in figures["seconds"].items() if name.startswith("row sum"))
    print(f"\n{size:28} {'ms':>12} {'x row sum':>12}")
    for name, seconds in lines_of(figures).items():
        peer, note = figures["peers"].get(name), ""
        if peer is not None:
            if peer["n_users_timed"] < parse_size(size)[0]:
                note = f"  {peer['n_users_timed']:,} users timed,"
            note += f"  values differ by {peer['largest_difference']:.1e}"
        print(f"{name:28} {1e3 * seconds:12,.1f} {seconds / reading:12,.2f}{note}")
    print(f"from scores / row sum {figures['scores_to_row_sum']:.2f}", end="; ")
    print(f"from vectors / matrix product {figures['vectors_to_product']:.2f}", end="")
    print("" if figures["vectors_peak_mb"] is None else f"; peak memory +{figures['vectors_peak_mb']:.0f} MB")


def lines_of(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds by name, ours and the peers' that were timed."""
    return figures["seconds"] | {name: peer["seconds"] for name, peer in figures["peers"].items() if "seconds" in peer}


def plot(size: str, figures: dict[str, Any], device: str, chart: Path) -> None:
    """Milliseconds on a logarithmic axis, the fastest on top; ours in a colour of its own."""
    lines = sorted(lines_of(figures).items(), key=lambda line: -line[1])
    users, items = parse_size(size)
    reading = min(figures["seconds"]["row sum, jax"], figures["seconds"]["row sum, NumPy"])
    figure = Figure(figsize=(8, 0.36 * len(lines) + 1.5), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:blue" if name.startswith("seqrec") else "lightgray" for name, _ in lines]
    bars = axes.barh([name for name, _ in lines], [1e3 * seconds for _, seconds in lines], color=colors)
    scaled = {name for name, peer in figures["peers"].items() if peer.get("n_users_timed", users) < users}
    labels = [
        f"{1e3 * seconds:,.0f} ms, {seconds / reading:,.1f}x" + (" (from fewer users)" if name in scaled else "")
        for name, seconds in lines
    ]
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 40)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        f"milliseconds for {users:,} users x {items:,} items on {device};\n"
        "beside each bar its ratio to reading the scores once"
    )
    figure.savefig(chart, dpi=120)


def main(config: Config) -> dict[str, Any]:
    """Prints the tables and returns the figures."""
    runtime.start(MeshConfig())
    if config.memory_of:
        print_peak_mb(config.memory_of)
        return {}
    result: dict[str, Any] = {"device": runtime.device_name(), "versions": runtime.versions(), "sizes": {}}
    result["n_rounds"] = config.n_rounds
    for size in config.sizes:
        result["sizes"][size] = time_size(size, config)
        print_size(size, result["sizes"][size])
    if config.data_path is not None:
        result["evaluation"] = time_evaluation(config.data_path, config.n_rounds)
        print("\nevaluation of {n_users:,} users after encoding: {seconds:.3f} s".format(**result["evaluation"]))
    if config.chart:
        plot(config.sizes[0], result["sizes"][config.sizes[0]], result["device"], config.chart)
    if config.json:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
