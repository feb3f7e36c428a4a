"""What TensorBoard reads of a run, by the format of its files alone."""

import struct

import pytest

from seqrec.tracking.exporter import send_run
from seqrec.tracking.tracker import Tracker
from tracking.recording_tracker import PNG, a_run

pytest.importorskip("tensorboardX", reason='needs pip install "seqrec[tensorboard]"')

from tensorboardX.proto.event_pb2 import Event, SessionLog

from seqrec.tracking.to_tensorboard import TensorBoardRun


def events_of(run):
    """The events of all files, in the order of their names: each is its length, 4 bytes, itself, and 4 bytes."""
    events = []
    for file in sorted((run / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            events.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return events


def values_of(run, kind):
    return [
        (event.step, value.tag, getattr(value, kind))
        for event in events_of(run)
        for value in event.summary.value
        if value.HasField(kind)
    ]


def test_a_run_has_its_curves_under_the_names_of_its_files_and_its_picture(tmp_path):
    run = a_run(tmp_path / "run")
    assert send_run(run, "tensorboard") == f"tensorboard --logdir {run}"
    scalars = values_of(run, "simple_value")
    assert [(step, value) for step, tag, value in scalars if tag == "loss"] == [(2, 3.0), (4, 2.0), (6, 1.0)]
    assert (4, "valid.ndcg@10", 0.25) in scalars
    assert (6, "test.ndcg@10", 0.5) in scalars
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
