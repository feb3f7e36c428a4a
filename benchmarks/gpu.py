"""Times what a GPU is for, beside the forms that others use, in one file: under six minutes on one card.

    pip install -e ".[test,cuda12]" torch    # torch is left out where it is missing
    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    python benchmarks/gpu.py --toy --json gpu.json    # tiny sizes, on a CPU too: shows that every part runs

Each part is written when it ends. What fails leaves its error in place of its figures, and what would begin after
--seconds is left out. Programs that are compared run in turn, in rounds: read the ratios, which hold between cards.
"""

import functools
import math
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gpu_torch
import jax
import jax.numpy as jnp
import numpy as np
import population
import train_step
from loss_memory import naive_loss

from seqrec import runtime
from seqrec.attention import causal_mask, mix_values
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.files import write_json
from seqrec.heads.softmax import softmax_model
from seqrec.layers import item_table_rows
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.losses.softmax import softmax_loss
from seqrec.negatives import uniform
from seqrec.retrieval import rank_targets, top_k_items
from seqrec.sharding import MeshConfig, split_rows
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step

ROOT = Path(__file__).parents[1]
Program = Callable[[], Any]


@dataclass(frozen=True)
class Config:
    """Times steps, attention, losses, ranks and populations on one GPU, and runs tests there."""

    parts: tuple[str, ...] = ("attention", "losses", "ranks", "steps", "populations", "tests")
    """Parts to run, in this order."""
    toy: bool = False
    """Run tiny sizes, to show that the script runs; the figures say nothing."""
    seconds: float = 230.0
    """No further part, and no further size of one, begins after this many seconds."""
    n_rounds: int = 5
    """Number of timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        if unknown := set(self.parts) - PARTS.keys():
            raise ValueError(f"parts={min(unknown)} is not one of {', '.join(PARTS)}; choose among these")
        if self.n_rounds < 1:
            raise ValueError(f"n_rounds={self.n_rounds} is below 1; try n_rounds=5")


def error_of(error: BaseException) -> dict[str, str]:
    """What stands in place of figures: the first line, since a compiler's messages are long."""
    return {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"}


def times(programs: dict[str, Callable[[], Program]], *, n_rounds: int) -> dict[str, Any]:
    """Median milliseconds of each program, or its error; all take turns. Each is made and run once before.

    What a program returns has been waited for.
    """
    ready: dict[str, Program] = {}
    figures: dict[str, Any] = {}
    for name, make in programs.items():
        try:
            program = make()
            program()
            ready[name] = program
        except Exception as error:
            figures[name] = error_of(error)
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(n_rounds):
        for name, program in ready.items():
            started = runtime.seconds()
            program()
            seconds[name].append(runtime.seconds() - started)
    return figures | {name: 1e3 * float(np.median(each)) for name, each in seconds.items()}


def jitted(function: Callable[..., Any], *given: Any) -> Callable[[], Program]:
    """Makes a program of a function of arrays."""

    def make() -> Program:
        compiled = jax.jit(function).lower(*given).compile()
        return lambda: jax.block_until_ready(compiled(*given))

    return make


def both_ways(function: Callable[..., Any], *given: Any) -> Callable[[], Program]:
    """As `jitted`, with the gradients by all that is given of the sum of what comes out."""
    return jitted(
        jax.grad(lambda *given: jnp.sum(function(*given).astype(jnp.float32)), tuple(range(len(given)))), *given
    )


def normal(*shape: int, dtype: Any = jnp.float32, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def attention(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Attention within the segments of packed rows, forward and backward: that of the layers, and jax's own."""
    sizes = [(2, 16, 2, 8)] if config.toy else [(128, 200, 4, 32), (128, 200, 4, 64), (25, 1024, 4, 64)]
    for rows, length, n_heads, d_head in sizes:
        # Segments of a quarter of a row, in the mean.
        starts = np.random.default_rng(0).random((rows, length)) < 4 / length
        segment_ids = jnp.asarray(1 + np.cumsum(starts, axis=1), jnp.int32)
        q, k, v = (normal(rows, n_heads, length, d_head, dtype=jnp.bfloat16, seed=seed) for seed in range(3))
        by_length = [each.swapaxes(1, 2) for each in (q, k, v)]

        def of_layers(q, k, v, segment_ids=segment_ids):
            return mix_values(q, k, v, mask=causal_mask(segment_ids), dropout_rate=0.0, key=None)

        def of_jax(q, k, v, implementation, segment_ids=segment_ids):
            mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
            return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation=implementation)

        programs = {"layers": both_ways(of_layers, q, k, v)}
        for implementation in ("xla", "cudnn"):
            programs[implementation] = both_ways(functools.partial(of_jax, implementation=implementation), *by_length)
        programs["torch"] = gpu_torch.attention(*by_length, segment_ids)
        figures = times(programs, n_rounds=config.n_rounds)
        figures["flop"] = 3 * 2 * 2 * rows * n_heads * length**2 * d_head
        yield f"{rows} x {length}, {n_heads} heads of {d_head}", figures


def losses(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Softmax over all items and over sampled ones, forward and backward, in the blocked and in the naive form."""
    n_positions, d_model = (64, 8) if config.toy else (4096, 128)
    for n_items in (500,) if config.toy else (100_000, 1_000_000):
        n_negatives = min(256, n_items)
        hidden = normal(1, n_positions, d_model, dtype=jnp.bfloat16)
        table = 0.1 * normal(item_table_rows(n_items), d_model, seed=1)
        targets = jax.random.randint(jax.random.key(2), (1, n_positions), 1, n_items + 1)
        sampled = sampled_loss(sampled_softmax, functools.partial(_draw, n_negatives=n_negatives, n_items=n_items))

        def full(hidden, table, targets=targets, n_items=n_items, loss=softmax_loss):
            return loss(hidden, table, targets, n_items=n_items)[0]

        def naive(hidden, table, full=full):
            return full(hidden.astype(jnp.float32), table, loss=naive_loss)

        def of_samples(hidden, table, targets=targets, n_items=n_items, sampled=sampled):
            return sampled(hidden, table, targets, n_items=n_items, key=jax.random.key(0))[0]

        programs = {
            "full": both_ways(full, hidden, table),
            "full, naive": both_ways(naive, hidden, table),
            "sampled": both_ways(of_samples, hidden, table),
        }
        torch_programs = gpu_torch.losses(hidden, table, targets, n_items=n_items, n_negatives=n_negatives)
        figures = times(programs | torch_programs, n_rounds=config.n_rounds)
        figures["flop"] = 3 * 2 * n_positions * n_items * d_model
        yield f"{n_positions} positions x {n_items:,} items, width {d_model}", figures


def _draw(key: jax.Array, targets: jax.Array, *, n_negatives: int, n_items: int) -> Any:
    del targets
    return uniform(key, n_negatives=n_negatives, n_items=n_items)


def ranks(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ranks and best items from vectors, with seen items excluded, beside torch's products and top-k."""
    n_users, n_items, d_model, k = (16, 500, 8, 5) if config.toy else (4096, 1_000_000, 64, 100)
    users, table = normal(n_users, d_model), normal(item_table_rows(n_items), d_model, seed=1)
    targets = jax.random.randint(jax.random.key(2), (n_users,), 1, n_items + 1)
    seen = jax.random.randint(jax.random.key(3), (n_users, 100), 1, n_items + 1)

    def rank(users, table, targets, seen):
        return rank_targets(users, table, targets, n_items=n_items, exclude=seen)

    def top(users, table, seen):
        return top_k_items(users, table, k=k, n_items=n_items, exclude=seen)

    programs = {"ranks": jitted(rank, users, table, targets, seen), "top-k": jitted(top, users, table, seen)}
    programs["torch top-k"] = gpu_torch.top_k(users, table, seen, n_items=n_items, k=k)
    figures = times(programs, n_rounds=config.n_rounds) | {"flop": 2 * n_users * n_items * d_model}
    yield f"{n_users} users x {n_items:,} items, width {d_model}, {k} best", figures


def steps(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """A training step in bfloat16 against the time of its matrix products at the rate of one large product."""
    sizes = [(16, 16)] if config.toy else [(64, 200), (256, 200), (256, 1024), (128, 200), (128, 512)]
    side, n_items = (128, 50) if config.toy else (8192, 20_000)
    square = normal(side, side, dtype=jnp.bfloat16)
    peak = times({"peak": jitted(jnp.matmul, square, square)}, n_rounds=config.n_rounds)["peak"]
    for d_model, length in sizes:
        n_rows = 2 if config.toy else 128 * 200 // length
        drawn = train_step.Config(batch_size=n_rows, max_length=length, n_items=n_items)
        architecture = TransformerConfig(d_model=d_model, compute_dtype="bfloat16")
        model = softmax_model(transformer(architecture, n_items=n_items, max_length=length))
        optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10_000)
        step = make_train_step(model, optimizer, seed=0, average_decay=0.99)
        batch = split_rows(train_step.full_rows(drawn).batch(0))
        held = [init_state(model, optimizer, seed=0)]

        def run(step=step, held=held, batch=batch):
            held[0], _ = jax.block_until_ready(step(held[0], batch))

        shapes = train_step.product_shapes(architecture, n_rows=n_rows, length=length, n_items=n_items)
        flop = sum(train_step.step_flops(architecture, shapes).values())
        figures = times({"step": lambda run=run: run}, n_rounds=3 * config.n_rounds)
        floor = flop * peak / (2 * side**3)
        if isinstance(figures["step"], float):
            figures["times_floor"] = figures["step"] / floor
        yield f"width {d_model}, {n_rows} x {length}", figures | {"floor": floor, "peak": peak, "flop": flop}


def populations(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Models trained side by side and in turn by one program, against as many alone."""
    sizes = population.Config(sizes=(1, 4, 8), n_rounds=config.n_rounds)
    if config.toy:
        tiny = TransformerConfig(d_model=8, n_blocks=1)
        sizes = population.Config(batch_size=2, max_length=8, n_items=30, sizes=(2,), n_rounds=1, model=tiny)
    for n_members in sizes.sizes:
        yield f"{n_members} models", population.main(replace(sizes, sizes=(n_members,)))["sizes"][str(n_members)]


def tests(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tests that compare with slow twins to float32's precision, with products taken at the highest."""
    files = ["tests/test_layers.py", "tests/test_retrieval.py", "tests/losses", "tests/encoders", "tests/heads"]
    with TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", f"--junitxml={report}"]
        command += ["--collect-only", files[0]] if config.toy else files
        about = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        ended = subprocess.run(command, cwd=ROOT, env=about, capture_output=True, text=True, timeout=110)
        if config.toy:
            yield "collected", {"status": ended.returncode}
            return
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    failed = {f"{case.get('classname')}.{case.get('name')}": each for case in cases for each in case.iter("failure")}
    yield (
        " ".join(files),
        {
            "status": ended.returncode,
            "n_tests": len(cases),
            "failed": {name: (each.get("message") or "")[:500] for name, each in failed.items()},
        },
    )


PARTS: dict[str, Callable[[Config], Iterator[tuple[str, dict[str, Any]]]]] = {
    "steps": steps,
    "attention": attention,
    "losses": losses,
    "ranks": ranks,
    "populations": populations,
    "tests": tests,
}


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each figure and returns all."""
    # Or torch and the tests would find three quarters of the card's memory taken.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    runtime.start(MeshConfig())
    started = runtime.seconds()
    result: dict[str, Any] = {"unit": "ms", "toy": config.toy, "n_rounds": config.n_rounds}
    result["versions"] = {**runtime.versions(), "torch": gpu_torch.version()}
    for part in config.parts:
        figures = result[part] = {}
        try:
            sizes = PARTS[part](config)
            while runtime.seconds() - started < config.seconds and (measured := next(sizes, None)) is not None:
                figures[measured[0]] = measured[1]
                print(f"{part:12} {measured[0]}: {described(measured[1])}", flush=True)
                jax.clear_caches()
        except Exception as error:
            figures["error"] = error_of(error)["error"]
            print(f"{part:12} {figures['error']}", flush=True)
        if runtime.seconds() - started >= config.seconds:
            figures["left_out"] = f"what would have begun after {config.seconds:.0f} s"
        result["seconds"] = runtime.seconds() - started
        if config.json:
            write_json(config.json, result)
    return result


def described(figures: dict[str, Any]) -> str:
    """The figures in one line."""
    return ", ".join(
        f"{name} {value:,.3g}" if isinstance(value, float) and math.isfinite(value) else f"{name} {value}"
        for name, value in figures.items()
        if name != "flop"
    )


if __name__ == "__main__":
    runtime.run_script(main, Config)
