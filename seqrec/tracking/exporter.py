"""Sends a run's files to trackers: a finished run at once, and one that trains line by line, in the background."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqrec import runs, runtime
from seqrec.data.paths import first_line
from seqrec.files import JsonObject, read_json_lines, read_object, write_json
from seqrec.tracking.run_files import files_to_show, numbers_of, settings_of, texts_of
from seqrec.tracking.tracker import Status, Tracker, TrackerName, open_tracker
from seqrec.types import InputError

SENT = "tracking.json"
"""File of a run that says, by tracker, the tracked run's identity and how many lines of metrics.jsonl it has."""
METRICS = "metrics.jsonl"
PATIENCE_SECONDS = 60.0
"""How long the end of a training waits for trackers that are still sending."""

_NOTING = threading.Lock()
"""Held while a file that all trackers of a run share is changed."""

Open = Callable[[TrackerName, Path, str | None], Tracker]


class Exporter:
    """Sends the files of a run to one tracker. What is sent is noted in the run, so that nothing is sent twice."""

    def __init__(self, run: Path, name: TrackerName, *, open: Open = open_tracker):
        self._run, self._name = run, name
        known = _sent(run).get(name, {})
        self.n_lines = int(known.get("n_lines", 0))
        self._tracker = open(name, run, known.get("identity"))
        self.note()
        self._tracker.log_settings(settings_of(runs.started_with(run)))

    @property
    def view(self) -> str:
        """The command that shows the tracked run."""
        return self._tracker.view

    def send_line(self, number: int, line: JsonObject) -> None:
        """Sends a line of metrics.jsonl, the first of which has number 1; one that was sent before is passed over."""
        if number <= self.n_lines:
            return
        step, numbers = line["step"], numbers_of(line)
        self._tracker.log_metrics({name: value for name, value in numbers.items() if name != "step"}, step=step)
        self.n_lines = number

    def send_results(self) -> None:
        """Sends the final figures with their intervals, what they mean, pictures and pages."""
        if (self._run / "metrics.json").is_file():
            results = read_object(self._run / "metrics.json")
            self._tracker.log_settings(texts_of(results))
            last = max((line["step"] for line in _lines(self._run)), default=0)
            self._tracker.log_metrics(numbers_of(results), step=last)
        for file in files_to_show(self._run):
            self._tracker.log_file(file)

    def send_bundle(self, bundle: Path, *, name: str, content_hash: str) -> None:
        """Sends the run's bundle as a version of a model."""
        self._tracker.log_bundle(bundle, name=name, content_hash=content_hash)

    def note(self) -> None:
        """Writes down what was sent."""
        entry = {"identity": self._tracker.identity, "n_lines": self.n_lines}
        with _NOTING:
            write_json(self._run / SENT, {**_sent(self._run), self._name: entry})

    def close(self, status: Status) -> None:
        """Says how the run ended."""
        self.note()
        self._tracker.close(status)


def _sent(run: Path) -> JsonObject:
    return read_object(run / SENT) if (run / SENT).is_file() else {}


def _lines(run: Path) -> list[JsonObject]:
    return read_json_lines(run / METRICS) if (run / METRICS).is_file() else []


class BundleToSend(NamedTuple):
    """A bundle in a local directory."""

    directory: Path
    name: str
    """Of the model that it is a version of."""
    content_hash: str


def send_run(run: Path, name: TrackerName, *, bundle: BundleToSend | None = None, open: Open = open_tracker) -> str:
    """Sends a finished run, or what was not sent of it yet; returns the command that shows it in the tracker.

    Raises:
      InputError: the run cannot be read, or the tracker fails; what it says is in the message.
    """
    runs.started_with(run)
    try:
        exporter = Exporter(run, name, open=open)
        for number, line in enumerate(_lines(run), start=1):
            exporter.send_line(number, line)
        exporter.send_results()
        if bundle is not None:
            exporter.send_bundle(bundle.directory, name=bundle.name, content_hash=bundle.content_hash)
        exporter.close("finished" if (run / "metrics.json").is_file() else "interrupted")
    except InputError:
        raise
    except Exception as error:  # whatever a tracker's library raises
        raise InputError(
            f"{name} failed ({type(error).__name__}: {first_line(error)}); mend that and send the run again, or delete "
            f"{run / SENT} to send it as a new one"
        ) from error
    return exporter.view


class Follower:
    """Sends what a training writes to trackers, each in a thread, so that a slow or failing one never holds it up."""

    def __init__(self, run: Path, names: Sequence[TrackerName], *, open: Open = open_tracker):
        self._run, self._n_lines = run, 0
        self._threads = [_Sending(run, name, open) for name in names]

    def rewind(self) -> None:
        """Notes that metrics.jsonl was cut, or that training begins: its lines are sent unless they were before."""
        if not self._threads:
            return
        lines = _lines(self._run)
        if self._n_lines:  # a roll-back: the lines that follow are others than those of the same numbers before
            self._tell(lambda exporter: _forget_after(exporter, len(lines)))
        else:
            for number, line in enumerate(lines, start=1):
                self._send(number, line)
        self._n_lines = len(lines)

    def record(self, line: JsonObject) -> None:
        """Sends a line that metrics.jsonl got."""
        self._n_lines += 1
        self._send(self._n_lines, line)

    def close(self, status: Status) -> None:
        """Sends the results if the run has finished, and waits for the trackers, but not for ever."""
        if status == "finished":
            self._tell(Exporter.send_results)
        self._tell(lambda exporter: exporter.close(status))
        self._tell(None)
        end = runtime.seconds() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - runtime.seconds()))
            if thread.is_alive():
                thread.warn(f"{thread.name} did not take everything within {PATIENCE_SECONDS:g} seconds")

    def _send(self, number: int, line: JsonObject) -> None:
        self._tell(lambda exporter: exporter.send_line(number, line))

    def _tell(self, action: Callable[[Exporter], Any] | None) -> None:
        for thread in self._threads:
            thread.actions.put(action)


def _forget_after(exporter: Exporter, n_lines: int) -> None:
    exporter.n_lines = min(exporter.n_lines, n_lines)


class _Sending(threading.Thread):
    """Carries out what it is told, in order, until None or the first error, of which it warns."""

    def __init__(self, run: Path, name: TrackerName, open: Open):
        super().__init__(name=name, daemon=True)
        self._run, self._tracker_name, self._open = run, name, open
        self.actions: queue.SimpleQueue[Callable[[Exporter], Any] | None] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        try:
            exporter = Exporter(self._run, self._tracker_name, open=self._open)
            runtime.log.info("tracking    %s", exporter.view)
            while (action := self.actions.get()) is not None:
                action(exporter)
                # At once, so that a killed training has sent at most one line that it will send again.
                exporter.note()
        except Exception as error:  # whatever a tracker's library raises: the training goes on
            self.warn(f"{self.name} failed ({type(error).__name__}: {first_line(error)})")

    def warn(self, what: str) -> None:
        """One line, and how to send the rest."""
        runtime.log.warning(
            "tracking    %s; training is not affected. Send the run later: python experiments/track.py %s --to %s",
            what,
            self._run,
            self.name,
        )


@contextlib.contextmanager
def following(run: Path, names: Sequence[TrackerName], *, open: Open = open_tracker) -> Iterator[Follower]:
    """Inside, a training tells the follower of its lines; at the end the trackers learn how it ended."""
    follower = Follower(run, names if runtime.is_first() else (), open=open)
    status: Status = "failed"
    try:
        yield follower
        status = "finished"
    except runtime.Interrupted:
        status = "interrupted"
        raise
    finally:
        follower.close(status)
