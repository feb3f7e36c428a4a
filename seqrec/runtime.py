"""Devices, processes, signals, logging and the only clock: what surrounds the pure parts of a run."""

import contextlib
import importlib.metadata
import io
import itertools
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import tyro

from seqrec.sharding import MeshConfig, make_mesh
from seqrec.types import InputError

log = logging.getLogger("seqrec")

Config = TypeVar("Config")


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop by a signal, Ctrl-C or SIGTERM; the message says what was saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


def start(mesh: MeshConfig) -> None:
    """Joins the other processes where there are any, and spreads arrays over the devices where there are several."""
    # By force, because a library that is imported earlier may have given the root logger a handler of its own.
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    # orbax logs every save, and warns of options that it was given, through absl.
    for name, level in (("absl", logging.ERROR), ("jax", logging.WARNING), ("matplotlib", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        jax.distributed.initialize()
    laid_out = make_mesh(mesh)
    if jax.device_count() > 1:
        jax.set_mesh(laid_out)
    log.info("device      %s", device_name())


def device_name() -> str:
    """Such as `1 x cpu (cpu)` or `8 x tpu (TPU v5 lite)`."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.platform} ({device.device_kind})"


def versions() -> dict[str, str]:
    """What a result depends on besides its config: interpreter, libraries and device."""
    packages = ("seqrec", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "device": device_name(),
    }


def seconds() -> float:
    """A clock that only runs forward, for differences."""
    return time.perf_counter()


def cpu_seconds() -> float:
    """Time that this process has spent computing, in all its threads, for differences."""
    return time.process_time()


def new_run_directory(name: str) -> Path:
    """A path under `runs/` that says what ran and when."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextlib.contextmanager
def on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM call `handler`."""
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


def interrupt(signal_number: int) -> NoReturn:
    """Stops work where it stands."""
    raise Interrupted("interrupted; what was saved before is intact", signal_number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise `Interrupted`, wherever they come."""
    received = []

    def request(signal_number, frame):
        received.append(signal_number)
        interrupt(signal_number)

    with on_signals(request):
        try:
            yield
        except Exception:
            # DuckDB ends a query that is interrupted with an error of its own.
            if received:
                interrupt(received[0])
            raise


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int | None]]:
    """Inside, Ctrl-C and SIGTERM only set what the yielded function returns; a second Ctrl-C interrupts at once."""
    requested = None

    def request(signal_number, frame):
        nonlocal requested
        if requested and signal_number == signal.SIGINT:
            interrupt(signal_number)
        requested = signal_number

    with on_signals(request):
        yield lambda: requested


def parse(config_type: type[Config], arguments: Sequence[str]) -> Config:
    """The config that the arguments describe; `--help` prints to standard output and exits.

    Raises:
      InputError: an unknown flag (with the nearest known one), or a value that its field refuses.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, args=arguments, prog=sys.argv[0])
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_one_line(complaint.getvalue())) from None


def _one_line(box: str) -> str:
    """tyro's boxed complaint without its frame and footer."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    body = itertools.takewhile(lambda line: "For full helptext" not in line, lines)
    text = " ".join(line for line in body if line.strip("─"))
    return text.replace(" Perhaps you meant:", "; perhaps you meant").replace(" Argument helptext:", ";")


def run_script(main: Callable[[Config], Any], config_type: type[Config]) -> NoReturn:
    """Parses the command line and runs `main`; what a user can mend ends in one line and exit status 2."""
    try:
        with interruptible():
            main(parse(config_type, sys.argv[1:]))
    except InputError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f"\n{stop}", file=sys.stderr)
        sys.exit(128 + stop.signal_number)
    sys.exit(0)
