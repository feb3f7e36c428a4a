"""What a tracker is, and how one is opened. No tracker's package is imported before one is asked for."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from seqrec.data.buckets import is_copy, original
from seqrec.types import InputError

TrackerName = Literal["mlflow", "tensorboard", "wandb"]
Status = Literal["finished", "interrupted", "failed"]

_PACKAGES: dict[TrackerName, str] = {"mlflow": "mlflow", "tensorboard": "tensorboardX", "wandb": "wandb"}


@runtime_checkable
class Tracker(Protocol):
    """One run in a tracker. Names are those of the run's files, such as `valid.ndcg@10`."""

    @property
    def identity(self) -> str:
        """By which the tracker finds this run again."""

    @property
    def view(self) -> str:
        """The command that shows the run, or sends it on."""

    def log_settings(self, settings: Mapping[str, str]) -> None:
        """Adds what the run was told; what is there already stays as it is or is replaced."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Adds numbers of a step, durably; after a roll-back a step comes again, with other numbers."""

    def log_file(self, file: Path) -> None:
        """Adds or replaces a picture, a page or a record, if the tracker shows such a file."""

    def log_bundle(self, bundle: Path, *, name: str, content_hash: str) -> None:
        """Adds the directory of the run's bundle as a version of the model `name`, once for each content."""

    def close(self, status: Status) -> None:
        """Says how the run ended, once all is sent."""


OpenTracker = Callable[[Path, str | None], Tracker]
"""`open_tracker(run, identity)` -> the tracked run of this identity, or a new one where that is None."""


def check_installed(name: TrackerName) -> None:
    """Refuses a tracker whose package is missing, without importing it.

    Raises:
      InputError: the message says what to install.
    """
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        raise InputError(f'{name} needs the package {_PACKAGES[name]}; run pip install "seqrec[{name}]"')


def open_tracker(name: TrackerName, run: Path, identity: str | None) -> Tracker:
    """The run in the tracker: the one of this identity, or a new one where that is None.

    Raises:
      InputError: its package is missing.
    """
    check_installed(name)
    module = importlib.import_module(f"seqrec.tracking.to_{name}")
    opened: Tracker = module.open_tracker(run, identity)
    return opened


def run_name(run: Path) -> str:
    """The name of a run's directory, in a bucket too."""
    return Path(original(run.absolute())).name


def store_directory(run: Path) -> Path:
    """Where the local stores of trackers lie: beside the run's directory, or in runs/ if the run is in a bucket."""
    return (Path("runs") if is_copy(run) else run.parent).absolute()
