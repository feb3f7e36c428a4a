"""What a run says of itself while it works: which phase it is in, how far, and about how long it will take."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
from tqdm import tqdm

from seqrec import runtime
from seqrec.sharding import is_first

SECONDS_BETWEEN_LINES = 10.0
"""At most this often a phase says without a terminal how far it is."""
QUIET_SECONDS = 3.0
"""A phase that ends sooner says nothing."""
_TICK_SECONDS = 0.5


class Phase:
    """A part of a run that says how far it is; call it with the number of things that are done since the last call."""

    open: ClassVar[list["Phase"]] = []
    """The phases under way, of which the innermost one speaks."""
    spoke_at: ClassVar[float] = 0.0
    """When any of them last said something."""

    def __init__(self, name: str, total: int | None, unit: str, done: int, heeds_stop: bool = False):
        self.name, self.total, self.unit, self.done, self.note = name, total, unit, done, ""
        self.heeds_stop = heeds_stop
        self._started = runtime.seconds()
        self._measured_from = self._started, done
        self._bar: Any = None

    def __call__(self, n: int = 1) -> None:
        self.done += n
        if self.heeds_stop and jax.process_count() == 1:  # several processes stop at the same place, between phases
            runtime.check_interrupt()

    def measure_from_here(self) -> None:
        """Estimates the time that is left by what follows alone, as after something that happens once."""
        self._measured_from = runtime.seconds(), self.done

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()
        Phase.spoke_at = runtime.seconds()

    def text(self) -> str:
        """How far the phase is, and about how long it will still take, in words."""
        passed = runtime.seconds() - self._started
        counted = "" if self.total is None else f"{self.done:,} of {self.total:,} {self.unit}, "
        text = f"{self.name}: {counted}{duration(passed)} so far"
        since, first = self._measured_from
        if self.total is not None and first < self.done < self.total:
            left = (runtime.seconds() - since) / (self.done - first) * (self.total - self.done)
            text += f", about {duration(left)} left"
        return text + (f"   {self.note}" if self.note else "")

    def tick(self, *, is_terminal: bool) -> None:
        """Says how far it is, if it is the innermost phase, has lasted a while and nothing was said lately."""
        is_due = runtime.seconds() - self._started >= QUIET_SECONDS and Phase.open[-1] is self
        if is_due and not is_terminal and runtime.seconds() - Phase.spoke_at >= SECONDS_BETWEEN_LINES:
            self.say(self.text())
        elif is_due and is_terminal:
            if self._bar is None:
                self._bar = tqdm(total=self.total, initial=self.done, unit=f" {self.unit}", leave=False)
            self._bar.n, self._bar.desc, self._bar.postfix = self.done, self.name + ": ", self.note
            self._bar.refresh()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress(
    name: str, total: int | None = None, *, unit: str = "", done: int = 0, heeds_stop: bool = True
) -> Iterator[Phase]:
    """Inside, a phase says how far it is: on a terminal with a bar, elsewhere with a line every 10 seconds.

    A phase that ends within seconds says nothing. What is yielded counts how much of the `total` is done; without a
    total only the time passed is said. Of several processes the first one speaks.

    After Ctrl-C a call of what is yielded raises, unless this phase, or one around it, saves its work first and so does
    not heed it.
    """
    heeds_stop = heeds_stop and all(phase.heeds_stop for phase in Phase.open)
    phase, ended = Phase(name, total, unit, done, heeds_stop), threading.Event()
    is_terminal = sys.stderr.isatty()

    def watch() -> None:
        while not ended.wait(_TICK_SECONDS):
            phase.tick(is_terminal=is_terminal)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    Phase.open.append(phase)
    if is_first():
        watcher.start()
    try:
        yield phase
    finally:
        ended.set()
        if is_first():
            watcher.join()
        phase.close()
        Phase.open.remove(phase)


def duration(seconds: float) -> str:
    """A time in words, to two digits or so.

    >>> duration(42.3), duration(600.0), duration(9000.0)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
