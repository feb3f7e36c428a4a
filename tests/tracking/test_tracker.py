"""A tracker is asked for by name, and needs its own package only then."""

import sys

import pytest

from seqrec.tracking.tracker import Tracker, open_tracker, run_name, store_directory
from seqrec.types import InputError
from tracking.recording_tracker import RecordingTracker


@pytest.mark.parametrize(
    ("name", "package"), [("mlflow", "mlflow"), ("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(InputError, match=rf'{name} needs the package {package}; run pip install "seqrec\[{name}\]"'):
        open_tracker(name, tmp_path, None)


def test_stores_lie_beside_the_run_and_a_run_in_a_bucket_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_directory(tmp_path / "runs" / "a") == tmp_path / "runs"
    copy = tmp_path / "scratch" / "copy"
    copy.mkdir(parents=True)
    (copy.parent / "copy-of").write_text("s3://bucket/runs/b")
    monkeypatch.setattr("seqrec.data.buckets.COPY_OF", "copy-of")
    assert run_name(copy) == "b"
    assert store_directory(copy) == tmp_path / "runs"


def test_the_tracker_of_the_tests_is_one():
    assert isinstance(RecordingTracker(), Tracker)
