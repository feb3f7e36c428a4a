"""A tracker is refused before a training, or is sent a finished run: read in TensorBoard's files."""

import shutil

import pytest
import track
from conftest import train
from tracking.event_files import scalars_of

from seqrec.tracking import tracker
from seqrec.types import InputError


def test_a_tracker_that_is_not_installed_is_refused_before_there_is_a_run(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'wandb needs the package wandb; run pip install "seqrec\[wandb\]"'):
        train(*toy, "--output", tmp_path / "run", "--track", "wandb")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_sent_and_how_to_look_at_it_is_printed(finished, tmp_path, capsys):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    track.main(track.Arguments(run, "tensorboard"))
    assert f"tensorboard --logdir {run}" in capsys.readouterr().out
    assert scalars_of(run)["test.ndcg@10"][0][1] == pytest.approx(finished.results["test"]["ndcg@10"])


def test_the_bundle_of_another_run_is_refused(finished, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"config": {}}')
    monkeypatch.setattr(track, "open_directory", lambda path: (path, None))
    with pytest.raises(InputError, match="is the bundle of another run; export this one, or name that run"):
        track.bundle_of(finished.directory, tmp_path)
