"""The server under load on this machine: the highest rate that it holds, and reloads and restarts meanwhile.

python benchmarks/serving.py load --json load.json
python benchmarks/serving.py load --seconds 10 --trial-seconds 3          # only to see that it works
"""

import asyncio
import concurrent.futures
import contextlib
import json as json_text
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from open_loop import Outcome, post, run_load

from seqrec import load_bundle, runtime
from seqrec.bundle.files import TOP_K, Vocabulary
from seqrec.bundle.writing import Description, write_bundle
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.types import InputError

SCRIPT = Path(__file__).parents[1] / "experiments" / "serve.py"
N_CONTENTS = 2_000
"""Different requests; a request is one of them."""
P99_SECONDS = 0.05
BATCHES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Config:
    """Finds the highest rate at which the server answers 99% of requests within 50 ms, then reloads it under load."""

    n_items: int = 100_000
    """Number of items in the catalogue."""
    d_model: int = 64
    """Width of the model."""
    n_blocks: int = 2
    """Number of Transformer blocks."""
    history_length: int = 50
    """Items of a history."""
    k: int = 20
    """Items of a list."""
    seconds: float = 300.0
    """Duration of the run at the highest rate."""
    trial_seconds: float = 20.0
    """Duration of each run that looks for the highest rate."""
    swap_seconds: float = 120.0
    """Duration of the run with reloads and restarts; 0 leaves it out."""
    n_reloads: int = 5
    """Number of bundles that are put in place under load."""
    n_restarts: int = 3
    """Number of times that the server is ended and started under load."""
    rate: float | None = None
    """Requests a second of the long run; by default the highest is looked for."""
    n_connections: int = 128
    """Number of connections."""
    flags: tuple[str, ...] = ()
    """Further flags of the server."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        for name in ("n_items", "d_model", "n_blocks", "history_length", "k", "n_connections"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is below 1; try {name}=50")


def write_random_bundle(directory: Path, config: Config, *, seed: int) -> None:
    """A bundle of a model that nothing has trained."""
    model = softmax_model(
        transformer(
            TransformerConfig(d_model=config.d_model, n_blocks=config.n_blocks),
            n_items=config.n_items,
            max_length=config.history_length,
        )
    )
    # Larger than at the start, so that no two items all but tie.
    params = jax.tree.map(lambda leaf: 5 * leaf, init_params(model.specs, jax.random.key(seed)))
    keys = np.array([f"item-{number}" for number in range(1, config.n_items + 1)], object)
    vocabulary = Vocabulary(keys, np.ones(config.n_items, np.int64))
    write_bundle(
        directory,
        model,
        params,
        vocabulary,
        Description("sasrec", {}, lambda facts: "A random model.\n"),
        mask_seen=True,
    )


def random_histories(config: Config) -> list[list[str]]:
    """The histories that are asked about."""
    ids = np.random.default_rng(0).integers(1, config.n_items + 1, (N_CONTENTS, config.history_length))
    return [[f"item-{each}" for each in row] for row in ids.tolist()]


def function_rates(directory: Path, config: Config, seconds: float) -> dict[str, float]:
    """Histories a second of the compiled function alone, by size of batch and number of calls at the same time."""
    bundle = load_bundle(directory)
    program, rng, rates = bundle.programs[TOP_K], np.random.default_rng(0), {}
    for size in BATCHES:
        items = rng.integers(1, config.n_items + 1, (size, config.history_length)).astype(np.int32)
        histories = {"items": items, "lengths": np.full(size, config.history_length, np.int32)}
        given = histories, np.zeros((size, 1), np.int32), items, np.zeros(config.k, np.int8)

        def call(given=given) -> None:
            for each in program(bundle.params, *given):
                np.asarray(each)

        call()
        for n_callers in (1, 2):
            counts, until = [0] * n_callers, time.perf_counter() + seconds

            def repeat(place: int, call=call, counts=counts, until=until) -> None:
                while time.perf_counter() < until:
                    call()
                    counts[place] += 1

            started = time.perf_counter()
            threads = [threading.Thread(target=repeat, args=(place,)) for place in range(n_callers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates[f"{size} x {n_callers}"] = size * sum(counts) / (time.perf_counter() - started)
    return rates


class Server:
    """The server as a process of its own."""

    def __init__(self, bundle: Path, flags: tuple[str, ...], directory: Path, port: int = 0):
        self.log = directory / f"serve-{time.time_ns()}.log"
        command = [sys.executable, str(SCRIPT), str(bundle), "--port", str(port), *flags]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled")}
        environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(SCRIPT.parents[1])}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def port(self) -> int | None:
        """The port, once the server listens; None before."""
        if self.process.poll() is not None:
            raise InputError(f"the server ended: {self.log.read_text()}")
        match = re.search(r"listening +http://\S+:(\d+)", self.log.read_text())
        return None if match is None else int(match[1])

    def wait(self, seconds: float = 300.0) -> int:
        """The port, as soon as the server listens."""
        until = time.time() + seconds
        while (port := self.port()) is None:
            if time.time() > until:
                raise InputError(f"the server does not listen after {seconds:g} seconds: {self.log.read_text()}")
            time.sleep(0.1)
        return port

    def cpu_seconds(self) -> float:
        """CPU time so far, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def end(self) -> int:
        """Ends the process as orchestrators do, and returns its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def server(bundle: Path, config: Config, directory: Path) -> Iterator[Server]:
    """A server that listens, and ends with the block."""
    started = Server(bundle, config.flags, directory)
    try:
        started.wait()
        yield started
    finally:
        if started.process.poll() is None:
            started.end()


def figures(outcome: Outcome, rate: float) -> dict[str, Any]:
    """Latencies in milliseconds, and counts."""
    latencies = 1e3 * np.array(outcome.seconds or [np.inf])
    return {
        "rate": rate,
        **{f"p{share}_ms": float(np.percentile(latencies, share)) for share in (50, 90, 99)},
        "max_ms": float(latencies.max()),
        "n_answers": len(outcome.seconds),
        "n_failed": outcome.n_failed,
        "n_lost": outcome.n_lost,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "n_refused": outcome.n_refused,
    }


def trial(running: Server, contents: list[bytes], config: Config, rate: float, seconds: float) -> dict[str, Any]:
    """Figures of a run, with the CPU time that a request costs on both sides, and the server's memory meanwhile."""
    memory: list[float] = []

    async def watch() -> None:
        until = time.time() + seconds
        while time.time() < until:
            memory.append(running.megabytes())
            await asyncio.sleep(min(1.0, seconds / 10))

    cpu, own_cpu = running.cpu_seconds(), time.process_time()
    outcome = run_load(
        running.wait(), contents, rate=rate, seconds=seconds, n_connections=config.n_connections, beside=watch
    )
    n_requests = max(1, int(rate * seconds))
    result = {
        **figures(outcome, rate),
        "server_cpu_ms": 1e3 * (running.cpu_seconds() - cpu) / n_requests,
        "load_cpu_ms": 1e3 * (time.process_time() - own_cpu) / n_requests,
        "megabytes": {"first": memory[0], "highest": max(memory), "last": memory[-1]},
    }
    print(
        "{rate:8,.0f}/s  p50 {p50_ms:7.1f} ms  p99 {p99_ms:7.1f} ms  failed {n_failed}  CPU {server_cpu_ms:.2f} + "
        "{load_cpu_ms:.2f} ms a request".format(**result),
        flush=True,
    )
    return result


def holds(result: dict[str, Any]) -> bool:
    """Whether every request was answered, and 99% of them in time."""
    return result["n_failed"] == result["n_refused"] == 0 and result["p99_ms"] <= 1e3 * P99_SECONDS


def highest_rate(running: Server, contents: list[bytes], config: Config, most: float) -> float:
    """The highest rate that the server holds, to a fiftieth of `most`, by bisection."""
    low, high = 0.0, most
    while high - low > most / 50:
        rate = (low + high) / 2
        if holds(trial(running, contents, config, rate, config.trial_seconds)):
            low = rate
        else:
            high = rate
            time.sleep(1)  # what was late is answered by then
    return low


def measure_load(bundle: Path, config: Config, directory: Path) -> dict[str, Any]:
    """The first bar: the rate that is held against that of the compiled function alone."""
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawned) as pool:
        alone = pool.submit(function_rates, bundle, config, config.trial_seconds / 4).result()
    for name, rate in alone.items():
        print(f"compiled function, histories x callers: {name:8} {rate:8,.0f}/s", flush=True)
    best = max(alone.values())
    contents = [
        post("/recommend", json_text.dumps({"histories": [history], "k": config.k}).encode())
        for history in random_histories(config)
    ]
    with server(bundle, config, directory) as running:
        trial(running, contents, config, best / 10, min(5.0, config.trial_seconds))  # connections, caches, turbo
        rate = config.rate or highest_rate(running, contents, config, best)
        long = trial(running, contents, config, rate, config.seconds)
        while config.rate is None and not holds(long) and rate > best / 50:
            rate *= 0.95
            long = trial(running, contents, config, rate, config.seconds)
        fifth = trial(running, contents, config, rate / 5, config.trial_seconds)
        status = running.end()
    return {
        "function_per_second": alone,
        "held_per_second": rate,
        "held_against_function": rate / best,
        "long": long,
        "at_a_fifth": fifth,
        "exit_status": status,
    }


def measure_swaps(bundles: list[Path], config: Config, directory: Path, rate: float) -> dict[str, Any]:
    """The second bar: bundles put in place and restarts under load; each answer is compared with its bundle's own."""
    histories = random_histories(config)[:200]
    contents = [
        post("/recommend", json_text.dumps({"histories": [history], "k": config.k}).encode()) for history in histories
    ]
    current = directory / "current"
    current.symlink_to(bundles[0])
    running = [Server(current, config.flags, directory)]
    port = running[0].wait()
    statuses: list[int] = []
    events = ["reload", "restart"] * min(config.n_reloads, config.n_restarts)
    events += ["reload"] * (config.n_reloads - config.n_restarts) + ["restart"] * (config.n_restarts - config.n_reloads)

    async def swap() -> None:
        n_reloads = 0
        for event in events:
            await asyncio.sleep(config.swap_seconds / (len(events) + 1))
            if event == "restart":
                running[-1].process.send_signal(signal.SIGTERM)
                statuses.append(await asyncio.to_thread(running[-1].process.wait, 60))
                running.append(Server(current, config.flags, directory, port))
                await asyncio.to_thread(running[-1].wait)
                continue
            n_reloads += 1
            link = directory / "next"
            link.symlink_to(bundles[n_reloads % len(bundles)])
            link.replace(current)
            if n_reloads % 2:
                running[-1].process.send_signal(signal.SIGHUP)
            else:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/reload", method="POST")
                with await asyncio.to_thread(urllib.request.urlopen, request) as answer:
                    answer.read()

    outcome = run_load(
        port,
        contents,
        rate=rate,
        seconds=config.swap_seconds,
        n_connections=config.n_connections,
        keep=True,
        beside=swap,
    )
    statuses.append(running[-1].end())
    result = {**figures(outcome, rate), "exit_statuses": statuses, **compare(outcome, histories, bundles, config)}
    for name in ("n_answers", "n_failed", "n_lost", "statuses", "n_refused", "n_wrong", "answers_of", "exit_statuses"):
        print(f"{name:16}{result[name]}")
    return result


def compare(
    outcome: Outcome, histories: list[list[str]], directories: list[Path], config: Config
) -> dict[str, int | dict[str, int]]:
    """How many answers are not those of the bundle that they name."""
    bundles = {bundle.facts.content_hash: bundle for bundle in map(load_bundle, directories)}
    alone = {name: bundle.recommend(histories, config.k) for name, bundle in bundles.items()}
    n_wrong, answers_of = 0, dict.fromkeys(bundles, 0)
    for number, body in outcome.bodies:
        answer = json_text.loads(body)
        own = alone.get(answer.get("bundle"))
        if own is None:
            n_wrong += 1
            continue
        answers_of[answer["bundle"]] += 1
        same = answer["items"][0] == own.items[number] and np.allclose(
            answer["scores"][0], own.scores[number], rtol=1e-5, atol=1e-5
        )
        n_wrong += not same
    return {"n_wrong": n_wrong, "answers_of": answers_of}


def measure(config: Config) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as kept:
        directory = Path(kept)
        bundles = [directory / "bundle-0", directory / "bundle-1"]
        for seed, bundle in enumerate(bundles):
            write_random_bundle(bundle, config, seed=seed)
        load = measure_load(bundles[0], config, directory)
        swaps = None
        if config.swap_seconds:
            swaps = measure_swaps(bundles, config, directory, load["held_per_second"] / 2)
    return {"load": load, "swaps": swaps, "versions": runtime.versions()}


def main(config: Config) -> dict[str, Any]:
    """Prints and writes the figures."""
    result = measure(config)
    load = result["load"]
    print(
        "held {held_per_second:,.0f}/s, {held_against_function:.2f} of the compiled function alone; median at a fifth "
        "{median:.1f} ms".format(**load, median=load["at_a_fifth"]["p50_ms"])
    )
    if config.json is not None:
        write_json(config.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Config)
