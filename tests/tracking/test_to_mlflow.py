"""What MLflow shows of a run. Skipped without its package, which is large."""

import json

import pytest

from seqrec.tracking.exporter import SENT, BundleToSend, send_run
from tracking.recording_tracker import a_run

mlflow = pytest.importorskip("mlflow", reason='needs pip install "seqrec[mlflow]"')


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was sent twice, the second time with its bundle."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        runs = tmp_path_factory.mktemp("runs")
        run, bundle = a_run(runs / "a"), runs / "bundle"
        bundle.mkdir()
        (bundle / "README.md").write_text("# the card")
        send_run(run, "mlflow")
        record = json.loads((run / "config.json").read_text())
        record["config"]["training"]["optimizer"]["learning_rate"] = 0.001
        (run / "config.json").write_text(json.dumps(record))
        for _ in range(2):
            send_run(run, "mlflow", bundle=BundleToSend(bundle, "sasrec-demo", "abc"))
        return run


@pytest.fixture(scope="module")
def client(run):
    return mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")


def test_it_is_one_finished_run_beside_the_files(run, client):
    (mlflow_run,) = client.search_runs([client.get_experiment_by_name("seqrec").experiment_id])
    assert mlflow_run.info.run_id == json.loads((run / SENT).read_text())["mlflow"]["identity"]
    assert (mlflow_run.info.run_name, mlflow_run.info.status) == ("a", "FINISHED")
    assert mlflow_run.data.metrics["test.intervals.ndcg_at_10.low"] == 0.4
    assert mlflow_run.data.params["config.training.optimizer.learning_rate"] == "0.002"
    # MLflow changes no parameter, so what a later start changed is a tag.
    assert mlflow_run.data.tags["config.training.optimizer.learning_rate"] == "0.001"


def test_each_line_is_one_point(run, client):
    identity = json.loads((run / SENT).read_text())["mlflow"]["identity"]
    points = client.get_metric_history(identity, "loss")
    assert [(point.step, point.value) for point in points] == [(2, 3.0), (4, 2.0), (6, 1.0)]


def test_the_registry_has_one_version_of_one_content_made_of_plain_files(run, client):
    (version,) = client.search_model_versions("name = 'sasrec-demo'")
    assert version.tags["content_hash"] == "abc"
    stored = {path.name for path in (run.parent / "mlflow-artifacts").rglob("*") if path.is_file()}
    shown = {"config.json", "metrics.json", "metrics.jsonl", "learning_curve.png", "page.html"}
    assert stored == shown | {"README.md"}
