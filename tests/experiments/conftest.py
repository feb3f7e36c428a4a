"""What tests of the scripts share: toy files, and ways to start a script."""

import contextlib
import io
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import sasrec  # noqa: E402 (the line above makes it findable)

from seqrec import runtime  # noqa: E402
from seqrec.model import Model  # noqa: E402
from seqrec.params import Params  # noqa: E402
from seqrec.run import Task, results  # noqa: E402

TOY_MODEL = (
    *("--d-model", "16", "--n-blocks", "1", "--max-length", "8", "--batch-size", "8", "--warmup-steps", "5"),
    *("--dropout", "0.2", "--no-whole-histories"),
)

CHAIN_FLAGS = (
    *("--d-model", "16", "--max-length", "16", "--batch-size", "32", "--warmup-steps", "5", "--no-mask-seen"),
    *("--learning-rate", "0.01"),
)


class Finished(NamedTuple):
    """A run that came to its end."""

    directory: Path
    results: dict[str, Any]
    printed: str
    flags: tuple[str, ...]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Takes back what `runtime.start` does to logging, whose stream a test captures."""
    handlers, level = list(logging.root.handlers), runtime.log.level
    yield
    logging.root.handlers[:] = handlers
    runtime.log.setLevel(level)


SHOWN: set[tuple] = set()
"""The kinds of models and catalogues of which this process has printed recommendations."""


@pytest.fixture(autouse=True, scope="session")
def pictures_and_examples_once(tmp_path_factory) -> Iterator[None]:
    """Draws the learning curve of a process's first run, and recommends for one run of a kind.

    Each takes a tenth of a toy run's time. The other runs have a copy of the picture; what is on it,
    tests/report/test_learning_curve.py tells.
    """
    draw, show, first = results.plot_learning_curve, results._examples, tmp_path_factory.mktemp("curve") / "first.png"

    def draw_once(metrics_file: Path, picture: Path, **options: Any) -> None:
        if not first.exists():
            draw(metrics_file, first, **options)
        shutil.copy(first, picture)

    def show_once(task: Task, model: Model, params: Params) -> list[str]:
        catalogue = task.store.titles is None, task.store.n_items < 10
        kind = repr(model.reads), model.encoder.causal, type(model.head), *catalogue
        if kind in SHOWN:
            return []
        SHOWN.add(kind)
        return show(task, model, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_learning_curve", draw_once)
        patch.setattr(results, "_examples", show_once)
        yield


def toy_histories(n_users: int = 40, n_items: int = 30) -> list[list[int]]:
    """Walks along a circle of items, mostly by one step and never around it; the first user has two events."""
    random = np.random.default_rng(0)
    lengths = np.append(2, random.integers(4, 14, n_users - 1))
    starts = random.integers(n_items, size=n_users)
    return [
        (1 + (start + np.cumsum(random.choice([1, 1, 1, 2, 2], length))) % n_items).tolist()
        for start, length in zip(starts, lengths, strict=True)
    ]


@pytest.fixture(scope="session")
def ratings(tmp_path_factory) -> Path:
    """A ratings.csv with a movies.csv beside it."""
    directory = tmp_path_factory.mktemp("ratings")
    lines = [
        f"{user},{item},4.0,{1_000_000_000 + 1000 * user + place}"
        for user, history in enumerate(toy_histories(), start=1)
        for place, item in enumerate(history)
    ]
    (directory / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    movies = [f'{item},"Film {item}, The ({1970 + item})",Drama' for item in range(1, 31)]
    (directory / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    return directory / "ratings.csv"


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Path:
    """Histories on a circle of items: the next one comes with chance 3/4, else the third one on."""
    random = np.random.default_rng(0)
    steps = np.where(random.random((300, 16)) < 0.75, 1, 3)
    items = 1 + (random.integers(30, size=(300, 1)) + np.cumsum(steps, axis=1)) % 30
    path = tmp_path_factory.mktemp("chain") / "chain.txt"
    path.write_text("".join(f"{user} {' '.join(map(str, row))}\n" for user, row in enumerate(items.tolist(), 1)))
    return path


@pytest.fixture(scope="session")
def toy(ratings) -> tuple[str, ...]:
    """Flags of a run of 4 epochs of 6 steps."""
    return ("--dataset", "movielens", "--data-path", str(ratings), *TOY_MODEL, "--max-epochs", "4")


def train(*flags: str | Path) -> dict[str, Any]:
    """Runs the training script in this process."""
    return sasrec.main(runtime.parse(sasrec.Config, [str(flag) for flag in flags]))


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory) -> Finished:
    """A run that nothing disturbed."""
    SHOWN.clear()
    flags = (*toy, "--output", str(tmp_path_factory.mktemp("runs") / "undisturbed"))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [str(EXPERIMENTS / "sasrec.py"), *flags])
        results = train(*flags)
    return Finished(Path(flags[-1]), results, printed.getvalue(), flags)


@pytest.fixture(scope="session")
def start_script() -> Callable[..., subprocess.Popen]:
    """Starts a script, or with `code` a piece of code before it, in a process of its own."""

    def start(script: str, *flags: str | Path, code: str | None = None, **environment: str) -> subprocess.Popen:
        path = EXPERIMENTS / script
        # A shell without job control lets what it starts with & ignore Ctrl-C; here it does what it does for a user.
        prelude = (
            "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"sys.argv = sys.argv[1:]; sys.path.insert(0, {str(EXPERIMENTS)!r})\n{code}\n"
        )
        if script == "sasrec.py":  # what is tested with a script is not what the recipe chooses
            flags = ("--recipe", "none", *flags)
        command = [str(path)] if code is None else ["-c", prelude + "runpy.run_path(sys.argv[0], run_name='__main__')"]
        command += [] if code is None else [str(path)]
        return subprocess.Popen(
            [sys.executable, *command, *map(str, flags)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
