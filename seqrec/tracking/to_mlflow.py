"""A run in MLflow: in a local SQLite file beside the run, unless MLFLOW_TRACKING_URI names another place."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqrec.files import make_directory
from seqrec.runtime import wall_seconds
from seqrec.tracking.tracker import Status, run_name, store_directory

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
EXPERIMENT = "seqrec"
_STATUS: dict[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_PARAMS_PER_CALL, _METRICS_PER_CALL, _LONGEST_PARAM = 100, 1000, 6000


def open_tracker(run: Path, identity: str | None) -> "MlflowRun":
    """The MLflow run of this id, or a new one in the experiment that MLFLOW_EXPERIMENT_NAME names."""
    # MLflow tells its makers of its use unless this says otherwise, and reads it when it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    address, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if address is None:
        directory = make_directory(store_directory(run))
        address, artifacts = f"sqlite:///{directory / DATABASE}", (directory / ARTIFACTS).as_uri()
    for library in ("mlflow", "alembic"):  # which log each table of a new database
        logging.getLogger(library).setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=address, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI", address))
    if identity is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name, artifacts) if known is None else known.experiment_id
        identity = client.create_run(experiment, run_name=run_name(run)).info.run_id
    else:
        client.update_run(identity, status="RUNNING")
    return MlflowRun(client, identity, view=f"mlflow ui --backend-store-uri {address}")


class MlflowRun:
    """Talks to MLflow by the run's id, and changes none of MLflow's global state."""

    def __init__(self, client: Any, identity: str, *, view: str):
        self._client, self.identity, self.view = client, identity, view

    def log_settings(self, settings: Mapping[str, str]) -> None:
        """Adds parameters; MLflow never changes one, so what a resumed run changed becomes a tag of the same name."""
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(self.identity).data.params
        values = {mlflow_name(name): value[:_LONGEST_PARAM] for name, value in settings.items()}
        new = [Param(name, value) for name, value in values.items() if name not in known]
        changed = [RunTag(name, value) for name, value in values.items() if known.get(name, value) != value]
        for start in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(self.identity, params=new[start : start + _PARAMS_PER_CALL])
        if changed:
            self._client.log_batch(self.identity, tags=changed)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Adds a point to each curve."""
        from mlflow.entities import Metric

        now = int(1000 * wall_seconds())
        points = [Metric(mlflow_name(name), value, now, step) for name, value in metrics.items()]
        for start in range(0, len(points), _METRICS_PER_CALL):
            self._client.log_batch(self.identity, metrics=points[start : start + _METRICS_PER_CALL])

    def log_file(self, file: Path) -> None:
        """Adds an artifact of the run."""
        self._client.log_artifact(self.identity, str(file))

    def log_bundle(self, bundle: Path, *, name: str, content_hash: str) -> None:
        """Adds the bundle to the run's artifacts, and to the model registry unless this content is there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        if any(version.tags.get("content_hash") == content_hash for version in versions):
            return
        folder = f"bundle-{content_hash[:12]}"
        self._client.log_artifacts(self.identity, str(bundle), folder)
        source = f"{self._client.get_run(self.identity).info.artifact_uri}/{folder}"
        # Not by log_model, which stores a Python object with pickle: a bundle is plain files.
        self._client.create_model_version(name, source, self.identity, tags={"content_hash": content_hash})

    def close(self, status: Status) -> None:
        """Says that the run has ended."""
        self._client.set_terminated(self.identity, _STATUS[status])


def mlflow_name(name: str) -> str:
    """The name with `_at_` for @, which MLflow does not take.

    >>> mlflow_name("test.intervals.ndcg@10.low")
    'test.intervals.ndcg_at_10.low'
    """
    return name.replace("@", "_at_")
