"""Spikes of the loss: which losses are one, and what a run does after it."""

import math

import jax
import numpy as np
import pytest
from small_runs import BATCHES, PER_EPOCH, STORE, Run, signal_at, start_state, step_of

from seqrec import runtime
from seqrec.loss_spikes import N_LOSSES, RunningLoss, Spike, find_spike
from seqrec.types import InputError

LAST = 3 * PER_EPOCH
BAD = PER_EPOCH + 2
"""Place in the stream of a batch that no weights get along with; the step that meets it first is the next number."""


def running_over(losses) -> RunningLoss:
    running = RunningLoss()
    for loss in losses:
        running = running.add(float(loss))
    return running


@pytest.mark.parametrize("n", [1, 7, N_LOSSES, 3 * N_LOSSES])
def test_the_running_loss_is_a_weighted_mean_and_variance(n):
    losses = np.random.default_rng(0).normal(6, 0.3, n)
    weights = np.full(min(n, N_LOSSES), 1 / min(n, N_LOSSES))
    for _ in losses[N_LOSSES:]:
        weights = np.append(weights * (1 - 1 / N_LOSSES), 1 / N_LOSSES)
    running = running_over(losses)
    assert running.n == n
    assert running.mean == pytest.approx(np.average(losses, weights=weights))
    assert running.variance == pytest.approx(np.average((losses - running.mean) ** 2, weights=weights))


def test_a_spike_is_many_deviations_and_a_nat_above_the_mean_of_enough_losses():
    wide = running_over([5.0, 7.0] * (N_LOSSES // 2))  # mean 6, deviation 1
    assert wide.limit(deviations=10.0) == pytest.approx(6 + 10)
    assert running_over([0.001] * N_LOSSES).limit(deviations=10.0) == pytest.approx(0.001 + 1)
    assert wide.limit(deviations=0.0) == math.inf


def test_a_spike_among_the_first_losses_is_above_twice_their_mean():
    assert running_over([5.0, 7.0]).limit(deviations=10.0) == pytest.approx(2 * 6)
    assert running_over([0.5]).limit(deviations=10.0) == pytest.approx(0.5 + 1)
    assert running_over([]).limit(deviations=10.0) == math.inf


def test_a_loss_that_grows_by_half_each_step_is_a_spike_before_long():
    losses = np.append(np.full(N_LOSSES, 6.0), 6.0 * 1.5 ** np.arange(20))
    for begin in (0, N_LOSSES - 5):
        with pytest.raises(Spike) as error:
            find_spike(RunningLoss(), losses[begin:], np.ones(len(losses) - begin), first_step=1, deviations=10.0)
        assert N_LOSSES < begin + error.value.step <= N_LOSSES + 5


def over_batches(positions):
    """The state after one step over each of these batches, taken by hand."""
    step, state = step_of(), start_state()
    for position in positions:
        state, _ = step(state, BATCHES.batch(position))
    return state


def assert_equal_states(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("bad", "save_every_steps", "skipped"),
    [
        (BAD, 2000, (BAD - 1, BAD)),
        (0, 2000, (0,)),
        # The batch before it is in the checkpoint already.
        (BAD, 1, (BAD,)),
    ],
    ids=["inside an epoch", "in the first step", "right after a checkpoint"],
)
def test_a_roll_back_trains_as_if_the_batches_that_led_to_the_spike_were_not_there(
    tmp_path, caplog, bad, save_every_steps, skipped
):
    run, step = Run(tmp_path / "c"), step_of(bad_batches=(bad,))
    with caplog.at_level("WARNING", logger="seqrec"):
        state, progress, _ = run.fit(step=step, on_spike="roll-back", save_every_steps=save_every_steps)
    stream = [position for position in range(LAST + 2) if position not in skipped]
    assert_equal_states(state, over_batches(stream[:LAST]))
    assert progress.skipped == (skipped,)
    assert [progress.position(number) for number in range(1, LAST + 1)] == stream[:LAST]
    assert step._cache_size() == 1
    # What the steps before the spike had recorded is there once.
    steps = [line["step"] for line in run.lines if "loss" in line]
    assert steps == sorted(set(steps))
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "seqrec"]
    assert f"the loss is nan at step {bad + 1}" in warning
    assert ("and the one before it" in warning) == (len(skipped) > 1)


@pytest.mark.parametrize("stop_at", [PER_EPOCH, PER_EPOCH + 4, 2 * PER_EPOCH + 2])
def test_a_run_stopped_before_or_after_a_roll_back_repeats_the_uninterrupted_one(tmp_path, stop_at):
    settings = {"on_spike": "roll-back", "step": step_of(bad_batches=(BAD, BAD + 3))}
    whole, whole_progress, _ = Run(tmp_path / "whole").fit(**settings)
    assert len(whole_progress.skipped) == 2
    run = Run(tmp_path / "c")
    with pytest.raises(runtime.Interrupted):
        run.fit(**settings, at_line=signal_at(stop_at))
    state, progress, _ = run.fit(**settings)
    assert_equal_states(state, whole)
    assert (progress.skipped, progress.loss) == (whole_progress.skipped, whole_progress.loss)


def test_a_run_that_stopped_at_a_spike_can_be_told_to_roll_back(tmp_path):
    run = Run(tmp_path / "c")
    step = step_of(bad_batches=(BAD,))
    with pytest.raises(InputError, match="--resume --on-spike roll-back"):
        run.fit(step=step)
    state, *_ = run.fit(step=step, on_spike="roll-back")
    assert_equal_states(state, Run(tmp_path / "whole").fit(step=step, on_spike="roll-back")[0])


def test_after_so_many_roll_backs_the_next_spike_stops_the_run(tmp_path):
    run = Run(tmp_path / "c")
    # Rolling back does not help where each batch from here on is bad.
    step = step_of(bad_batches=tuple(range(BAD, LAST + 20)))
    with pytest.raises(InputError, match="after 2 roll-backs; the checkpoint of step 6 is kept; try a lower") as stop:
        run.fit(step=step, on_spike="roll-back", max_roll_backs=2)
    assert "--resume" not in str(stop.value)
    assert run.saved == [PER_EPOCH]


def test_a_finite_spike_names_step_users_and_gradient_norm(tmp_path):
    at = N_LOSSES + 5
    losses = [1 / number for number in range(1, at)]
    running = running_over(np.float32(losses))
    with pytest.raises(InputError) as stop:
        Run(tmp_path / "c").fit(step=step_of(bad_loss_at=at, bad_loss=30.0), max_epochs=20, patience=20)
    users = BATCHES.users(at - 1)
    message = (
        f"the loss is 30 at step {at}, above {running.limit(deviations=10.0):.4g}, the limit at a running mean of "
        f"{running.mean:.4g} (gradient norm 1; users " + ", ".join(str(STORE.user_keys[user]) for user in users[:5])
    )
    assert message in str(stop.value)
    # As high a loss as the first one is none, nor is any where none is looked for.
    for last, deviations in ((1.0, 10.0), (30.0, 0.0)):
        spike = find_spike(RunningLoss(), np.append(losses, last), np.ones(at), first_step=1, deviations=deviations)
        assert spike.n == at
