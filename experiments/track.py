"""Sends a run to MLflow, TensorBoard or Weights & Biases: settings, metrics, figures, pictures, and its bundle.

    python experiments/track.py runs/sasrec-movielens-demo-20260101-120000 --to mlflow
    python experiments/track.py runs/… --to mlflow --bundle bundle      # also a version in MLflow's model registry

Stays on this machine, unless the tracker's own variables say otherwise. `--track` on a training script does the same
while it trains. docs/tracking.md explains both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from seqrec import runtime
from seqrec.bundle.files import CONFIG, open_directory
from seqrec.data.buckets import working_copy
from seqrec.files import address_of, read_object
from seqrec.report.kept_results import condense_config
from seqrec.tracking.exporter import BundleToSend, send_run
from seqrec.tracking.tracker import TrackerName, check_installed
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Sends a run's files to a tracker; what was sent before is not sent again."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Directory of the run, as the training script printed it; it may be s3:// or gs://."""
    to: TrackerName
    """The tracker: mlflow, tensorboard or wandb."""
    bundle: Path | None = None
    """Bundle of the run, as experiments/export.py wrote it, to add as a version of a model."""


def bundle_of(run: Path, path: Path) -> BundleToSend:
    """The bundle, once it is one of this run.

    Raises:
      InputError: it is damaged, or of another run.
    """
    directory, facts = open_directory(path)
    record, started = read_object(directory / CONFIG), condense_config(run)
    if record.get("config") != started["config"]:
        raise InputError(f"{address_of(path)} is the bundle of another run; export this one, or name that run")
    dataset = started["config"]["training"]["data"]["dataset"]
    return BundleToSend(directory, f"{facts.model}-{dataset}", facts.content_hash)


def main(arguments: Arguments) -> None:
    """Sends what was not sent yet, and prints how to look at it."""
    check_installed(arguments.to)
    with working_copy(arguments.run) as run:
        bundle = None if arguments.bundle is None else bundle_of(run, arguments.bundle)
        view = send_run(run, arguments.to, bundle=bundle)
    print(f"sent to {arguments.to}\nlook at it    {view}")


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
