"""The schedule plateau in the training loop: when the learning rate falls, from which weights, and that it resumes."""

import jax
import numpy as np
import pytest
from small_runs import BATCHES, PER_EPOCH, Run, signal_at, start_state, step_of

from seqrec import runtime
from seqrec.checkpoint import Progress, open_checkpoints, restore
from seqrec.training import with_cooldown

# Validation is best after epoch 2, and the next 2 are no better than the first 2.
VALUES = [0.2, 0.3, 0.2, 0.25, 0.4, 0.35]
DECIDED, BEST = 4 * PER_EPOCH, 2 * PER_EPOCH
STOPS_EARLY = {"plateau": True, "max_epochs": 40, "patience": 2, "log_every_steps": 1}


def falling(n):
    """Hägele et al. 2024: 1 - sqrt of the share that has passed."""
    return [1 - np.sqrt(k / n) for k in range(n)]


def rates(run):
    return [line["gradient_norm"] for line in run.lines if "loss" in line]


@pytest.mark.parametrize(("decay_share", "n_falling"), [(0.2, PER_EPOCH), (0.8, round(1.6 * PER_EPOCH))])
def test_when_validation_stops_improving_the_rate_falls_to_0_from_the_best_weights(tmp_path, decay_share, n_falling):
    run = Run(tmp_path / "c", VALUES)
    state, progress, reason = run.fit(**STOPS_EARLY, decay_share=decay_share)
    assert rates(run) == pytest.approx([1.0] * DECIDED + falling(n_falling), abs=1e-6)
    assert progress.step == DECIDED + n_falling
    assert [step for step, _ in progress.validations] == [
        *range(PER_EPOCH, progress.step, PER_EPOCH),
        progress.step,
    ]
    assert reason == "the learning rate has fallen to 0, from after 2 validations without a gain beyond their noise"
    [cooldown] = [line for line in run.lines if "cooldown_from" in line]
    assert cooldown == {"step": DECIDED, "epoch": 4, "cooldown_from": 2}
    assert run.fit(**STOPS_EARLY, decay_share=decay_share)[1:] == (progress, reason)  # a finished run stays finished
    # The best weights, and from there the batches that would have come next.
    best = Run(tmp_path / "best", VALUES)
    best.fit(max_epochs=2)
    with open_checkpoints(best.directory) as checkpoints:
        expected, _ = restore(checkpoints, start_state(), BEST)
    expected, step = with_cooldown(expected, BEST, n_falling), step_of()
    for number in range(DECIDED + 1, DECIDED + n_falling + 1):
        expected, _ = step(expected, BATCHES.batch(Progress(seed=0).position(number)))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole") / "c", VALUES)
    return run, run.fit(**STOPS_EARLY)


@pytest.mark.parametrize("stop_at", [BEST + 1, DECIDED, DECIDED + 1, DECIDED + PER_EPOCH - 1])
def test_a_stop_before_at_or_after_the_decision_changes_nothing(tmp_path, whole, stop_at):
    run, (whole_run, (whole_state, whole_progress, whole_reason)) = Run(tmp_path / "c", VALUES), whole
    with pytest.raises(runtime.Interrupted, match=f"stopped at step {stop_at}"):
        run.fit(**STOPS_EARLY, at_line=signal_at(stop_at))
    state, progress, reason = run.fit(**STOPS_EARLY)
    jax.tree.map(np.testing.assert_array_equal, state, whole_state)
    assert (progress.validations, reason, run.saved) == (whole_progress.validations, whole_reason, whole_run.saved)
    assert rates(run) == rates(whole_run)


def test_a_run_that_improves_to_its_end_has_its_rate_at_0_there(tmp_path):
    run = Run(tmp_path / "c", [0.1, 0.2, 0.3])
    state, progress, reason = run.fit(plateau=True, log_every_steps=1, decay_share=0.5)
    n_falling = PER_EPOCH  # half of the two epochs before
    assert rates(run) == pytest.approx([1.0] * 2 * PER_EPOCH + falling(n_falling), abs=1e-6)
    assert int(state.step) == progress.step == 3 * PER_EPOCH
    assert reason == "reached max_epochs=3"
    assert [line["cooldown_from"] for line in run.lines if "cooldown_from" in line] == [2]


@pytest.mark.parametrize(
    ("values", "n_steps", "expected"),
    [
        (VALUES, DECIDED, "2 validations without a gain beyond their noise"),
        (np.arange(1, 41) / 100, 40 * PER_EPOCH, "reached max_epochs=40"),
    ],
    ids=["no gain", "gains"],
)
def test_without_a_decay_the_rate_stays_and_training_ends_where_it_would_have_fallen(
    tmp_path, values, n_steps, expected
):
    run = Run(tmp_path / "c", values)
    state, progress, reason = run.fit(**STOPS_EARLY, decay_share=0.0)
    assert rates(run) == [1.0] * n_steps
    assert (int(state.step), progress.step, reason) == (n_steps, n_steps, expected)
    assert not [line for line in run.lines if "cooldown_from" in line]
    assert run.fit(**STOPS_EARLY, decay_share=0.0)[1:] == (progress, reason)


def test_a_late_cooldown_still_ends_with_the_run(tmp_path):
    run = Run(tmp_path / "c", VALUES)
    n_steps = DECIDED + PER_EPOCH - 2
    _, progress, reason = run.fit(**STOPS_EARLY, max_steps=n_steps, decay_share=0.05)
    assert rates(run) == pytest.approx([1.0] * DECIDED + falling(PER_EPOCH - 2), abs=1e-6)
    assert progress.step == n_steps
    assert reason.startswith("the learning rate has fallen to 0")


def test_the_rate_falls_in_time_for_a_time_budget(tmp_path, monkeypatch):
    run, now, step = Run(tmp_path / "c", np.arange(1, 99) / 100), [0], step_of()
    monkeypatch.setattr(runtime, "seconds", lambda: now[0])

    def a_second_a_step(state, batch):
        now[0] += 1
        return step(state, batch)

    _, progress, reason = run.fit(**STOPS_EARLY, max_minutes=1.0, decay_share=0.2, step=a_second_a_step)
    # From 50 of 60 seconds on, since 1.2 x 50 = 60, over 95% of a fifth of the 50 steps.
    assert rates(run) == pytest.approx([1.0] * 50 + falling(9), abs=1e-6)
    assert (progress.step, progress.train_seconds) == (59, 59)
    assert reason == "the learning rate has fallen to 0, from after 0.8 of max_minutes=1"


@pytest.mark.parametrize(("gain_errors", "n_validations"), [(1.0, 5), (0.0, 7)])
def test_what_counts_as_better_is_judged_by_the_queries(tmp_path, gain_errors, n_validations):
    # After 2 epochs the mean rises by .005, since one query rises by .25 and one falls by .23: an error of about .1.
    after = np.array([0.75, 0.27, 0.5, 0.5])
    values = [np.full(4, 0.5), np.full(4, 0.5), *[after] * 9]
    run = Run(tmp_path / "c", [float(value.mean()) for value in values])
    settings = STOPS_EARLY | {"gain_errors": gain_errors}
    run.fit(**settings, ndcg_of_queries=lambda: values[len(run.validations)])
    assert (
        len(run.validations) == n_validations
    )  # up to two that are no better than the two before, and one in the cooldown


def test_a_roll_back_in_the_cooldown_returns_to_its_start(tmp_path):
    run = Run(tmp_path / "c", VALUES)
    step = step_of(bad_batches=(DECIDED + 2,))
    state, progress, reason = run.fit(**STOPS_EARLY, step=step, on_spike="roll-back")
    assert progress.skipped == ((DECIDED + 1, DECIDED + 2),)
    assert int(state.step) == BEST + PER_EPOCH
    assert rates(run) == pytest.approx([1.0] * DECIDED + falling(PER_EPOCH), abs=1e-6)
    assert reason.startswith("the learning rate has fallen to 0")
