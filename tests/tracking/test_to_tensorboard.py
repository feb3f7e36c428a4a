"""What TensorBoard reads of a run, by the format of its files alone."""

import pytest

from seqrec.tracking.exporter import send_run
from seqrec.tracking.tracker import Tracker
from tracking.event_files import events_of, scalars_of, values_of
from tracking.recording_tracker import PNG, a_run

pytest.importorskip("tensorboardX", reason='needs pip install "seqrec[tensorboard]"')

from tensorboardX.proto.event_pb2 import SessionLog

from seqrec.tracking.to_tensorboard import TensorBoardRun


def test_a_run_has_its_curves_under_the_names_of_its_files_and_its_picture(tmp_path):
    run = a_run(tmp_path / "run")
    assert send_run(run, "tensorboard") == f"tensorboard --logdir {run}"
    scalars = scalars_of(run)
    assert scalars["loss"] == [(2, 3.0), (4, 2.0), (6, 1.0)]
    assert scalars["valid.ndcg@10"] == [(4, 0.25)]
    assert scalars["test.ndcg@10"] == [(6, 0.5)]
    ((_, name, image),) = values_of(run, "image")
    assert (name, image.width, image.height, image.encoded_image_string) == ("learning_curve", 1, 1, PNG)


def test_settings_are_tables(tmp_path):
    run = a_run(tmp_path / "run")
    send_run(run, "tensorboard")
    texts = {tag.split("/")[0]: tensor.string_val[0].decode() for _, tag, tensor in values_of(run, "tensor")}
    assert "| config.training.optimizer.learning_rate | 0.002 |" in texts["config"]
    assert "| versions.jax | 0.10.2 |" in texts["versions"]


def test_a_resumed_run_and_one_that_rolled_back_hide_what_came_after(tmp_path):
    """TensorBoard drops the points from the step of a session's start on."""
    tracked = TensorBoardRun(tmp_path)
    assert isinstance(tracked, Tracker)
    for step in (2, 4, 6, 4):
        tracked.log_metrics({"loss": 1.0}, step=step)
    tracked.close("failed")
    TensorBoardRun(tmp_path).close("finished")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    starts = [event.step for event in events_of(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts == [4]


def test_a_bundle_is_its_card_and_its_place(tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "README.md").write_text("# the card")
    tracked = TensorBoardRun(tmp_path)
    tracked.log_bundle(bundle, name="sasrec-demo", content_hash="abc")
    tracked.close("finished")
    ((_, _, tensor),) = values_of(tmp_path, "tensor")
    assert tensor.string_val[0].decode() == f"{bundle} (sha256 abc)\n\n# the card"
