"""A run in TensorBoard: event files in the run's directory, written without torch and TensorFlow."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from seqrec.files import make_directory
from seqrec.report.comparison_text import markdown_table
from seqrec.runtime import wall_seconds
from seqrec.tracking.tracker import Status

DIRECTORY = "tensorboard"
"""Of the run's directory; `tensorboard --logdir runs` finds it in every run."""


def open_tracker(run: Path, identity: str | None) -> "TensorBoardRun":
    """The event files of a run; those that are there are gone on with."""
    return TensorBoardRun(run)


class TensorBoardRun:
    """Appends to a new event file beside earlier ones, which TensorBoard reads as one."""

    identity = DIRECTORY

    def __init__(self, run: Path):
        # The writer's own names tell files apart by the second alone.
        prefix = make_directory(run / DIRECTORY) / f"{len(list((run / DIRECTORY).iterdir())):04d}-{os.getpid()}"
        self._writer, self._step = EventsWriter(str(prefix)), 0
        self.view = f"tensorboard --logdir {run}"

    def log_settings(self, settings: Mapping[str, str]) -> None:
        """Adds a table for each part, such as config and versions."""
        for part in sorted({name.partition(".")[0] for name in settings}):
            of_part = {name: value for name, value in settings.items() if name.partition(".")[0] == part}
            rows = [(name, value.replace("|", "&#124;")) for name, value in of_part.items()]
            self._write(summary.text(part, "\n".join(markdown_table(("", ""), rows))))
        self._writer.flush()

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Adds a point to each curve; after a roll-back later points are hidden."""
        if step < self._step:
            self._add(step=step, session_log=SessionLog(status=SessionLog.START))
        self._step = step
        self._write(Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]))
        self._writer.flush()

    def log_file(self, file: Path) -> None:
        """Adds a PNG; other files are none that TensorBoard shows."""
        if file.suffix == ".png":
            content = file.read_bytes()
            width, height = struct.unpack(">II", content[16:24])
            image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=content)
            self._write(Summary(value=[Summary.Value(tag=file.stem, image=image)]))
            self._writer.flush()

    def log_bundle(self, bundle: Path, *, name: str, content_hash: str) -> None:
        """Adds the model card and where the bundle lies; TensorBoard keeps no models."""
        card = (bundle / "README.md").read_text(encoding="utf-8")
        self._write(summary.text("bundle", f"{bundle.absolute()} (sha256 {content_hash})\n\n{card}"))
        self._writer.flush()

    def close(self, status: Status) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, content: Summary) -> None:
        self._add(step=self._step, summary=content)

    def _add(self, **fields: object) -> None:
        self._writer.write_event(Event(wall_time=wall_seconds(), **fields))
