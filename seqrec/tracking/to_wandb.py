"""A run in Weights & Biases: offline, in wandb/ beside the run, unless WANDB_MODE says otherwise."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.files import make_directory
from seqrec.tracking.tracker import Status, run_name, store_directory

PROJECT = "seqrec"


def open_tracker(run: Path, identity: str | None) -> "WandbRun":
    """The run of this id, or a new one in the project that WANDB_PROJECT names.

    Offline each start leaves a directory of its own, with one id: `wandb sync --append` makes them one run.
    """
    # Read when wandb is imported: it would send its own errors to its makers.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run_name(run),
        id=identity,
        dir=make_directory(store_directory(run)),
        mode=mode,
        resume=None if mode == "offline" else "allow",
        reinit="create_new",
        # What the run's files do not hold is not sent: the machine, its code, and what is printed.
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_save_requirements=False,
            x_disable_stats=True,
            x_disable_machine_info=True,
        ),
    )
    sync = f"wandb sync --append {Path(tracked.dir).parent}"
    return WandbRun(tracked, view=sync if tracked.offline else str(tracked.url))


class WandbRun:
    """Logs with the files' own steps: wandb's count upwards only, and a roll-back goes back."""

    def __init__(self, tracked: Any, *, view: str):
        self._tracked, self.identity, self.view = tracked, tracked.id, view
        tracked.define_metric("*", step_metric="step")

    def log_settings(self, settings: Mapping[str, str]) -> None:
        """Adds them to the run's config."""
        self._tracked.config.update(dict(settings), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Adds a point to each curve; the last of each is in the run's summary."""
        self._tracked.log({"step": step, **metrics})

    def log_file(self, file: Path) -> None:
        """Adds a picture or a page to the media of the run, and other files to its files."""
        import wandb

        if file.suffix == ".png":
            self._tracked.log({file.stem: wandb.Image(str(file))})
        elif file.suffix == ".html":
            self._tracked.log({file.stem: wandb.Html(str(file))})
        else:
            shutil.copyfile(file, Path(self._tracked.dir) / file.name)

    def log_bundle(self, bundle: Path, *, name: str, content_hash: str) -> None:
        """Adds a version of a model artifact; wandb itself makes no second one of equal content."""
        import wandb

        artifact = wandb.Artifact(name, type="model", metadata={"content_hash": content_hash})
        artifact.add_dir(str(bundle))
        self._tracked.log_artifact(artifact)

    def close(self, status: Status) -> None:
        """Ends the run; one that did not finish is marked as failed."""
        self._tracked.finish(exit_code=0 if status == "finished" else 1)
