"""What a run's files gain reaches a tracker once, in order, and a tracker that fails stops nothing."""

import json
import logging

import pytest

from seqrec import runtime
from seqrec.runs import append_json_line, keep_json_lines
from seqrec.tracking.exporter import SENT, BundleToSend, following, send_run
from seqrec.types import InputError
from tracking.recording_tracker import LINES, RecordingTracker, a_run


def test_a_finished_run_is_sent_under_the_names_of_its_files(tmp_path):
    tracker = RecordingTracker()
    assert send_run(a_run(tmp_path / "run"), "mlflow", open=tracker.open) == tracker.view
    assert tracker.settings["config.training.optimizer.learning_rate"] == "0.002"
    assert tracker.settings["command"] == "python experiments/sasrec.py --d-model 8"
    assert tracker.settings["protocol.ties"] == "mean"
    valid = {"valid.ndcg@10": 0.25, "valid.intervals.ndcg@10.low": 0.2, "valid.intervals.ndcg@10.high": 0.3}
    assert tracker.metrics == [
        (2, {"epoch": 0.5, "loss": 3.0}),
        (4, {"epoch": 1.0, "loss": 2.0}),
        (4, {"epoch": 1, **valid}),
        (6, {"epoch": 1.5, "loss": 1.0}),
        (
            6,
            {
                "test.ndcg@10": 0.5,
                "test.intervals.ndcg@10.low": 0.4,
                "test.intervals.ndcg@10.high": 0.6,
                "test.n_users": 7,
            },
        ),
    ]
    assert tracker.statuses == ["finished"]


def test_pictures_pages_and_records_are_sent_and_ranks_which_name_users_are_not(tmp_path):
    tracker = RecordingTracker()
    send_run(a_run(tmp_path / "run"), "wandb", open=tracker.open)
    assert tracker.files == ["config.json", "learning_curve.png", "metrics.json", "metrics.jsonl", "page.html"]


def test_a_run_that_is_sent_again_is_the_same_tracked_run_without_a_line_twice(tmp_path):
    run, tracker = a_run(tmp_path / "run", is_finished=False), RecordingTracker()
    send_run(run, "mlflow", open=tracker.open)
    append_json_line(run / "metrics.jsonl", {"step": 8, "loss": 0.5})
    send_run(run, "mlflow", open=tracker.open)
    assert tracker.losses == [(2, 3.0), (4, 2.0), (6, 1.0), (8, 0.5)]
    assert tracker.opened_as == [None, "run-1"]
    assert tracker.statuses == ["interrupted", "interrupted"]


def test_each_tracker_has_a_record_of_its_own(tmp_path):
    run = a_run(tmp_path / "run")
    for name in ("mlflow", "wandb"):
        tracker = RecordingTracker()
        send_run(run, name, open=tracker.open)
        assert tracker.opened_as == [None]
    assert json.loads((run / SENT).read_text()).keys() == {"mlflow", "wandb"}


def test_a_bundle_goes_with_its_run(tmp_path):
    tracker = RecordingTracker()
    bundle = BundleToSend(tmp_path, "sasrec-demo", "abc")
    send_run(a_run(tmp_path / "run"), "mlflow", bundle=bundle, open=tracker.open)
    assert tracker.bundles == [(tmp_path, "sasrec-demo", "abc")]


def trained(run, tracker, lines, *, from_step=0, roll_back=()):
    """A training that writes lines, and after them others from the step before a spike on."""
    with following(run, ["mlflow"], open=tracker.open) as follower:
        for start, part in ((from_step, lines), *roll_back):
            keep_json_lines(run / "metrics.jsonl", up_to_step=start)
            follower.rewind()
            for line in part:
                append_json_line(run / "metrics.jsonl", line)
                follower.record(line)


def test_a_training_is_followed_to_its_figures(tmp_path):
    run, tracker = a_run(tmp_path / "run", lines=()), RecordingTracker()
    trained(run, tracker, LINES)
    assert tracker.losses == [(2, 3.0), (4, 2.0), (6, 1.0)]
    assert tracker.metrics[-1][1]["test.ndcg@10"] == 0.5
    assert tracker.statuses == ["finished"]


def test_a_resumed_training_goes_on_without_sending_again_what_it_repeats(tmp_path):
    """Killed at step 6 with a checkpoint of step 4, it writes the line of step 6 a second time."""
    run, tracker = a_run(tmp_path / "run", lines=()), RecordingTracker()

    def until_killed():
        yield from LINES
        raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        trained(run, tracker, until_killed())
    trained(run, tracker, [LINES[-1], {"step": 8, "loss": 0.5}], from_step=4)
    assert tracker.losses == [(2, 3.0), (4, 2.0), (6, 1.0), (8, 0.5)]
    assert tracker.opened_as == [None, "run-1"]
    assert tracker.statuses == ["failed", "finished"]


def test_lines_after_a_roll_back_are_sent_though_their_steps_come_again(tmp_path):
    run, tracker = a_run(tmp_path / "run", lines=()), RecordingTracker()
    trained(run, tracker, LINES, roll_back=[(4, [{"step": 6, "loss": 1.5}])])
    assert tracker.losses == [(2, 3.0), (4, 2.0), (6, 1.0), (6, 1.5)]


def test_a_training_that_is_tracked_only_when_resumed_sends_its_earlier_lines_too(tmp_path):
    run, tracker = a_run(tmp_path / "run"), RecordingTracker()
    trained(run, tracker, [{"step": 8, "loss": 0.5}], from_step=6)
    assert tracker.losses == [(2, 3.0), (4, 2.0), (6, 1.0), (8, 0.5)]


def test_a_tracker_that_fails_costs_a_training_one_line_of_warning(tmp_path, caplog):
    run, tracker = a_run(tmp_path / "run", lines=()), RecordingTracker(fails_at=2)
    with caplog.at_level(logging.WARNING, logger="seqrec"):
        trained(run, tracker, LINES)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "mlflow failed (ConnectionError: no route to the server); training is not affected" in warning
    assert f"experiments/track.py {run} --to mlflow" in warning
    assert "\n" not in warning
    # What had arrived is not sent again later.
    later_tracker = RecordingTracker()
    send_run(run, "mlflow", open=later_tracker.open)
    assert later_tracker.losses == [(4, 2.0), (6, 1.0)]


def test_a_tracker_that_hangs_does_not_keep_a_training_from_its_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("seqrec.tracking.exporter.PATIENCE_SECONDS", 0.05)
    run, tracker = a_run(tmp_path / "run", lines=()), RecordingTracker()
    answered = runtime.threading.Event()
    tracker.log_settings = lambda settings: answered.wait(30)
    trained(run, tracker, LINES)
    assert "mlflow did not take everything within 0.05 seconds" in caplog.text
    answered.set()


def test_an_interrupted_training_is_marked_so(tmp_path):
    tracker = RecordingTracker()
    run = a_run(tmp_path / "run", is_finished=False)
    with pytest.raises(runtime.Interrupted), following(run, ["mlflow"], open=tracker.open):
        raise runtime.Interrupted("stopped at step 3", 2)
    assert tracker.statuses == ["interrupted"]


def test_a_run_that_a_tracker_refuses_is_one_line(tmp_path):
    tracker = RecordingTracker(fails_at=1)
    with pytest.raises(InputError, match="mend that and send the run again, or delete") as message:
        send_run(a_run(tmp_path / "run"), "mlflow", open=tracker.open)
    assert str(message.value).startswith("mlflow failed (ConnectionError: no route to the server); ")
    assert "\n" not in str(message.value)
