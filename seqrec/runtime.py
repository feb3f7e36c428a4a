"""Devices, processes, signals, logging and clocks: what surrounds the pure parts of a run."""

import contextlib
import errno
import importlib.metadata
import io
import itertools
import logging
import os
import platform
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import jax

try:
    import tyro
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing; run pip install "seqrec[run]"') from error

from seqrec.config import check_at_least, check_fields
from seqrec.data.directories import exclusive
from seqrec.files import unwritable
from seqrec.sharding import MeshConfig, is_first, make_mesh, on_first
from seqrec.types import InputError, Part

log = logging.getLogger("seqrec")

Config = TypeVar("Config")


class Interrupted(KeyboardInterrupt):
    """Work stopped because of Ctrl-C or SIGTERM; the message says what was saved."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


@dataclass(frozen=True)
class DistributedConfig:
    """Which other processes take part in the run."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether to join the other processes of a run. auto: if the environment describes them, as by
    JAX_COORDINATOR_ADDRESS. on: always. off: never."""
    n_processes: int = 0
    """Expected number of processes; the run stops if there are more or fewer. 0 accepts any number."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 0, "n_processes")


def start(mesh: MeshConfig, processes: DistributedConfig | None = None) -> None:
    """Joins the other processes, if there are any, and sets the mesh if there are several devices.

    Only the first process logs; the others log warnings and errors.

    Raises:
      InputError: the processes cannot be joined, or are not as many as expected.
    """
    # With force, because a library that was imported earlier may have given the root logger a handler.
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    # orbax logs every save, and failed saves with tracebacks by absl and asyncio; it raises the error as well.
    for name, level in (
        ("absl", logging.CRITICAL),
        ("asyncio", logging.CRITICAL),
        ("jax", logging.WARNING),
        ("matplotlib", logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)
    _join(processes or DistributedConfig())
    if not is_first():
        log.setLevel(logging.WARNING)
    devices = make_mesh(mesh)
    if jax.device_count() > 1:
        jax.set_mesh(devices)
    log.info("device      %s", device_name())


def _join(config: DistributedConfig) -> None:
    named = "JAX_COORDINATOR_ADDRESS" in os.environ or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    if config.distributed == "on" or (config.distributed == "auto" and named):
        given: dict[str, Any] = {
            argument: int(os.environ[name])
            for argument, name in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID"))
            if name in os.environ
        }
        try:
            jax.distributed.initialize(**given)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the other processes cannot be joined ({str(error).splitlines()[0]}); set JAX_COORDINATOR_ADDRESS, "
                "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or use --distributed off"
            ) from error
    if config.n_processes not in (0, jax.process_count()):
        raise InputError(
            f"{jax.process_count()} processes take part, not n_processes={config.n_processes}: each would train a "
            "model of its own; start the others too, with JAX_COORDINATOR_ADDRESS naming the first"
        )


def part() -> Part:
    """Which of the processes that write a run together this one is."""
    return Part(jax.process_index(), jax.process_count())


def device_name() -> str:
    """Such as `1 x cpu (cpu)` or `8 x tpu (TPU v5 lite)`."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.platform} ({device.device_kind})"


def platform_name() -> str:
    """cpu, gpu or tpu."""
    return jax.default_backend()


def trains_side_by_side() -> bool:
    """Whether small models train faster side by side than one after another: one alone leaves a GPU or TPU idle.

    On 2 CPU cores eight models side by side take 1.5 times as long as one after another (benchmarks/population.py).
    """
    return jax.default_backend() != "cpu"


def versions() -> dict[str, str]:
    """Versions of what a result depends on besides its config: interpreter, libraries and device."""
    packages = ("seqrec", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    return {
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "device": device_name(),
    }


def seconds() -> float:
    """Seconds of a monotonic clock, for differences."""
    return time.perf_counter()


def wall_seconds() -> float:
    """Seconds since 1970, for records of when something happened."""
    return time.time()


def cpu_seconds() -> float:
    """Seconds that all cores together have spent on this process, for differences."""
    return time.process_time()


def new_run_directory(name: str) -> Path:
    """A path under `runs/` that says what ran and when."""
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Inside, no other start of this run goes on, on this machine.

    Raises:
      InputError: another one does.
    """
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(exclusive(run)))
        yield


class _Signals:
    """What Ctrl-C and SIGTERM have asked of this process since the outermost `interruptible` block began."""

    requested: int | None = None
    is_watched = False


def requested_stop() -> int | None:
    """The number of the signal that has asked this process to stop, inside `interruptible`."""
    return _Signals.requested


def check_interrupt() -> None:
    """Nothing, unless a signal has asked to stop; call it between steps and phases.

    Raises:
      Interrupted: Ctrl-C or SIGTERM came.
    """
    if _Signals.requested is not None:
        raise Interrupted("interrupted; what was saved before is intact", _Signals.requested)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM only asks to stop (see `check_interrupt`), and the second ends the process.

    Nothing is raised where a signal arrives: imports and callbacks of other libraries swallow exceptions, or crash.
    The outermost block checks when it ends, so a signal is never lost.
    """

    def note(signal_number, frame):
        _Signals.requested = signal_number

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if _Signals.is_watched:
            yield
            return
        with _watched_signals():
            try:
                yield
            except InputError:
                raise
            except Exception:
                # A library that handles the signal as well may fail because of it.
                check_interrupt()
                raise
            check_interrupt()
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def _watched_signals() -> Iterator[None]:
    """Inside, a thread learns of signals at once, also while the main thread is in a long call of a library."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    earlier = signal.set_wakeup_fd(write_end)

    def watch() -> None:
        n_signals = 0
        while byte := os.read(read_end, 1):
            number = byte[0]
            if number not in (signal.SIGINT, signal.SIGTERM):
                continue
            n_signals += 1
            if n_signals > 1:
                os.write(2, b"\nended at once; what was saved before is intact\n")
                os._exit(128 + number)
            _Signals.requested = number
            os.write(2, b"\nstopping after the current step or validation; a second signal ends the process at once\n")

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    _Signals.is_watched = True
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(write_end)
        thread.join()
        os.close(read_end)
        _Signals.requested, _Signals.is_watched = None, False


@contextlib.contextmanager
def run_logged_to(file: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Inside, `sys.argv` is `arguments`, and what is printed and logged goes to the end of `file`."""
    argv, handlers, level = sys.argv, list(logging.root.handlers), log.level
    with file.open("a") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        sys.argv = [*arguments]
        try:
            yield
        finally:
            sys.argv = argv
            # What the script logs to is the file, which closes.
            logging.root.handlers[:] = handlers
            log.setLevel(level)


def parse(config_type: type[Config], arguments: Sequence[str], *, default: Any = None) -> Config:
    """The config that the arguments make of `default`, or of that without arguments; `--help` prints and exits.

    Raises:
      InputError: an unknown flag (with the nearest known one), or a value that its field refuses.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config_type, args=_spelled_out(arguments), prog=sys.argv[0], default=default)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise InputError(_one_line(complaint.getvalue())) from None
    except ValueError as error:  # of a config without a prefix, which tyro does not catch
        raise InputError(str(error)) from None


def _spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--no-mask-seen`, and `--mask-seen` without a value, as the choice that they stand for."""
    words = []
    for word, following in zip(arguments, [*arguments, "--"][1:], strict=True):
        is_switch = word == "--mask-seen" and following.startswith("--")
        words += ["--mask-seen", "no"] if word == "--no-mask-seen" else [word, *(["yes"] if is_switch else [])]
    return words


def _one_line(box: str) -> str:
    """tyro's error message without its frame and footer."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    body = itertools.takewhile(lambda line: "For full helptext" not in line, lines)
    text = " ".join(line for line in body if line.strip("─"))
    return text.replace(" Perhaps you meant:", "; perhaps you meant").replace(" Argument helptext:", ";")


def _hide_closed_loops() -> None:
    """Hides one message: after a failed save, each array that was being written prints that its loop is closed."""
    report = sys.unraisablehook

    def report_others(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others


_OUTPUT = 1
"""Standard output, as the system knows it."""


def _is_left(output: int) -> bool:
    """Whether nobody reads the output any more, as `head` does not after its lines."""
    poll = select.poll()
    poll.register(output, 0)  # errors are told of without being asked for
    return bool(poll.poll(0))


def run_script(main: Callable[[Config], Any], config_type: type[Config], *, default: Any = None) -> NoReturn:
    """Parses the command line, runs `main` and exits; `default` is the config of a command line without flags.

    The status is 0; 2 with one line for errors that a user can correct; 130 after Ctrl-C and 143 after SIGTERM; 141
    without a word if whatever reads the output has left.
    """
    _hide_closed_loops()
    try:
        try:
            with interruptible():
                main(parse(config_type, sys.argv[1:], default=default))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_left(_OUTPUT):  # another pipe or connection
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), _OUTPUT)  # or the interpreter complains as it ends
        sys.exit(128 + signal.SIGPIPE)
    except InputError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        print(f"{sys.argv[0]}: {unwritable(error.filename or 'a file', error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:  # a library's own handler raises one without a number
        print(f"\n{stop or 'interrupted'}", file=sys.stderr)
        sys.exit(128 + getattr(stop, "signal_number", signal.SIGINT))
    sys.exit(0)
