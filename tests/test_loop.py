"""The training loop, over a model small enough to follow by hand."""

import signal

import jax
import numpy as np
import pytest
from small_runs import BATCHES, PER_EPOCH, Run, signal_at, step_of

from seqrec import runtime
from seqrec.loop import FitConfig
from seqrec.types import InputError


def test_an_epoch_has_enough_steps_to_stop_inside_it():
    assert PER_EPOCH >= 4


def test_each_epoch_is_validated_and_the_best_and_the_last_state_are_kept(tmp_path):
    run = Run(tmp_path / "c", [0.1, 0.3, 0.2])
    state, progress, reason = run.fit()
    assert int(state.step) == progress.step == 3 * PER_EPOCH
    assert progress.validations == tuple((n * PER_EPOCH, value) for n, value in ((1, 0.1), (2, 0.3), (3, 0.2)))
    assert progress.best == (2 * PER_EPOCH, 0.3)
    assert run.saved == [2 * PER_EPOCH, 3 * PER_EPOCH]
    assert reason == "reached max_epochs=3"


def test_raw_weights_are_validated_beside_the_averaged_ones_if_asked(tmp_path):
    seen = []

    def validate(params):
        seen.append(float(params["w"][0]))
        return {"ndcg@10": len(seen) / 10}

    run = Run(tmp_path / "c")
    state, progress, _ = run.fit(validate=validate, max_epochs=1, validate_raw=True)
    assert seen == [float(state.averaged["w"][0]), float(state.params["w"][0])]
    (line,) = run.validations
    assert (line["valid"], line["valid_raw"]) == ({"ndcg@10": 0.1}, {"ndcg@10": 0.2})
    assert progress.validations == ((PER_EPOCH, 0.1),)  # the averaged weights choose the epoch


def test_a_line_is_the_mean_loss_of_its_interval_weighted_by_targets(tmp_path):
    run = Run(tmp_path / "c")
    run.fit(max_epochs=1)
    first = next(line for line in run.lines if "loss" in line)
    counts = [int(np.sum(BATCHES.batch(step).next_items > 0)) for step in range(2)]
    assert first["step"] == 2
    assert first["loss"] == pytest.approx((counts[0] / 1 + counts[1] / 2) / sum(counts))


def test_patience_counts_validations_since_the_best(tmp_path):
    run = Run(tmp_path / "c", [0.1, 0.3, 0.3, 0.2, 0.9])
    _, progress, reason = run.fit(max_epochs=10, patience=2)
    assert len(progress.validations) == 4
    assert progress.best == (2 * PER_EPOCH, 0.3)
    assert reason == "2 validations without a better NDCG@10 than 0.3000 of epoch 2"


def test_a_time_budget_ends_after_a_step_with_a_validated_state_and_can_be_raised(tmp_path):
    run = Run(tmp_path / "c")
    _, progress, reason = run.fit(max_minutes=1e-9)
    assert progress.validations == ((1, 0.5),)
    assert run.saved == [progress.step] == [1]
    assert reason.startswith("trained for")
    assert run.fit(max_minutes=1e-9)[1] == progress
    state, progress, _ = run.fit()
    assert [step for step, _ in progress.validations] == [1, PER_EPOCH, 2 * PER_EPOCH, 3 * PER_EPOCH]
    whole, *_ = Run(tmp_path / "whole").fit()
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize(
    ("limits", "validated", "reason"),
    [
        ({"max_steps": 3}, [3], "reached max_steps=3"),
        ({"max_steps": 3, "validate_every_steps": 2}, [2, 3], "reached max_steps=3"),
        ({"max_steps": PER_EPOCH + 1}, [PER_EPOCH, PER_EPOCH + 1], f"reached max_steps={PER_EPOCH + 1}"),
        ({"max_steps": 100, "max_epochs": 1, "validate_every_steps": 3}, None, "reached max_epochs=1"),
    ],
)
def test_training_ends_with_the_smaller_limit_and_its_last_step_is_validated_and_saved(
    tmp_path, limits, validated, reason
):
    if validated is None:
        validated = [*range(3, PER_EPOCH, 3), PER_EPOCH]
    run = Run(tmp_path / "c", [0.1 * n for n in range(1, 9)])
    state, progress, why = run.fit(**limits)
    assert why == reason
    assert int(state.step) == progress.step == FitConfig(**{"max_epochs": 3, **limits}).n_steps(PER_EPOCH)
    assert [step for step, _ in progress.validations] == [line["step"] for line in run.validations] == validated
    assert run.saved == validated[-1:]  # the latest, which is the best
    assert [line["epoch"] for line in run.validations] == pytest.approx([step / PER_EPOCH for step in validated])
    assert run.fit(**limits)[1:] == (progress, why)  # a finished run stays finished


def test_a_stop_between_validations_inside_an_epoch_changes_nothing(tmp_path):
    limits = {"max_steps": 2 * PER_EPOCH + 1, "validate_every_steps": 3, "log_every_steps": 1}
    values = [0.1, 0.3, 0.2, 0.4, 0.1, 0.2, 0.3]
    run, whole = Run(tmp_path / "c", values), Run(tmp_path / "whole", values)
    with pytest.raises(runtime.Interrupted, match="stopped at step 4"):
        run.fit(at_line=signal_at(4), **limits)
    state, progress, reason = run.fit(**limits)
    whole_state, whole_progress, whole_reason = whole.fit(**limits)
    jax.tree.map(np.testing.assert_array_equal, state, whole_state)
    assert (progress.validations, reason, run.saved) == (whole_progress.validations, whole_reason, whole.saved)
    assert [line["step"] for line in run.lines] == [line["step"] for line in whole.lines]


def test_patience_inside_an_epoch_names_the_step(tmp_path):
    _, progress, reason = Run(tmp_path, [0.1, 0.3, 0.2]).fit(validate_every_steps=1, patience=1)
    assert progress.step == 3
    assert reason == "1 validations without a better NDCG@10 than 0.3000 of step 2"


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_patience_and_the_best_epoch_survive_a_stop_at_any_epochs_end(tmp_path, stop_after):
    values = [0.1, 0.3, 0.3, 0.2, 0.9]
    run = Run(tmp_path / "c", values)
    with pytest.raises(runtime.Interrupted):
        run.fit(max_epochs=10, patience=2, at_line=signal_at(stop_after * PER_EPOCH))
    _, progress, reason = run.fit(max_epochs=10, patience=2)
    whole = Run(tmp_path / "whole", values)
    _, whole_progress, whole_reason = whole.fit(max_epochs=10, patience=2)
    assert (progress.step, progress.validations, reason) == (
        whole_progress.step,
        whole_progress.validations,
        whole_reason,
    )
    assert run.saved == whole.saved


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("save_every_steps", [1, 2000])
def test_a_stop_inside_an_epoch_saves_and_the_rest_equals_an_uninterrupted_run(tmp_path, number, save_every_steps):
    run = Run(tmp_path / "c")
    with pytest.raises(runtime.Interrupted, match=f"stopped at step {PER_EPOCH + 2}; the state is saved") as stop:
        run.fit(at_line=signal_at(PER_EPOCH + 2, number), save_every_steps=save_every_steps)
    assert stop.value.signal_number == number
    assert run.saved == [PER_EPOCH, PER_EPOCH + 2]
    state, *_ = run.fit()
    whole, *_ = Run(tmp_path / "whole").fit()
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_validation_is_on_record_before_its_checkpoint_can_be(tmp_path):
    run = Run(tmp_path / "c")

    def nothing_saved_yet(line):
        if "valid" in line:
            assert line["step"] not in run.saved

    run.fit(at_line=nothing_saved_yet)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ({"bad_loss_at": PER_EPOCH + 3}, f"the loss is nan at step {PER_EPOCH + 3}"),
        ({"bad_norm_at": PER_EPOCH + 2}, f"the gradient's norm is inf at step {PER_EPOCH + 2}"),
        # Finite losses do not vouch for the last update.
        ({"bad_weights_at": 2 * PER_EPOCH}, f"the weights after step {2 * PER_EPOCH} are not all finite"),
    ],
)
def test_what_is_not_finite_stops_training_and_the_last_good_checkpoint_stays(tmp_path, trouble, message):
    run = Run(tmp_path / "c")
    with pytest.raises(InputError, match=rf"{message} \(.*\); the checkpoint of step {PER_EPOCH} is kept; try a lower"):
        run.fit(step=step_of(**trouble))
    assert run.saved == [PER_EPOCH]


def test_trouble_before_the_first_checkpoint_says_so(tmp_path):
    with pytest.raises(InputError, match="no checkpoint was saved before it"):
        Run(tmp_path / "c").fit(step=step_of(bad_loss_at=1))


def test_without_a_terminal_each_epoch_is_one_plain_line(tmp_path, capsys):
    Run(tmp_path / "c").fit()
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    epochs = [line.split()[:2] for line in lines if not line.startswith("training:")]  # where the machine is slow
    assert epochs == [["epoch", "1"], ["epoch", "2"], ["epoch", "3"]]
    assert "\r" not in printed.err


@pytest.mark.parametrize("field", ["max_epochs", "patience", "log_every_steps", "save_every_steps", "max_roll_backs"])
def test_a_config_refuses_counts_below_one(field):
    with pytest.raises(ValueError, match=f"{field}=0 is below 1"):
        FitConfig(**{field: 0})
