"""A run says what it is doing at least every few seconds, and nothing of what is quick."""

import signal
import sys
from types import SimpleNamespace

import pytest

from seqrec import phases, runtime


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(runtime, "seconds", lambda: now.seconds)
    monkeypatch.setattr(phases, "_TICK_SECONDS", 60.0)  # the test looks at the clock itself
    monkeypatch.setattr(phases.Phase, "spoke_at", 0.0)
    return now


def test_without_a_terminal_a_phase_says_at_most_every_ten_seconds_how_far_it_is(clock, capsys):
    with phases.progress("validating", 100, unit="queries") as phase:
        for n_seconds in range(1, 30):
            clock.seconds += 1
            if n_seconds % 3 == 0:
                phase(3)
            phase.tick(is_terminal=False)
    assert capsys.readouterr().err.splitlines() == [
        "validating: 3 of 100 queries, 3 s so far, about 97 s left",
        "validating: 12 of 100 queries, 13 s so far, about 95 s left",
        "validating: 21 of 100 queries, 23 s so far, about 87 s left",
    ]


def test_the_innermost_phase_speaks_and_short_ones_one_after_another_are_not_silent_together(clock, capsys):
    with phases.progress("training", 10, unit="steps", done=4) as outer:
        outer.note = "loss 2.0"
        for _ in range(5):
            with phases.progress("compiling") as inner:
                for _ in range(4):
                    clock.seconds += 1
                    inner.tick(is_terminal=False)
                    outer.tick(is_terminal=False)
        clock.seconds += 5
        outer(2)
        outer.tick(is_terminal=False)
    assert capsys.readouterr().err.splitlines() == [
        "compiling: 3 s so far",
        "compiling: 3 s so far",
        "training: 6 of 10 steps, 25 s so far, about 50 s left   loss 2.0",
    ]


def test_on_a_terminal_a_phase_is_a_bar_that_goes_away(clock, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with phases.progress("testing", 8, unit="queries") as phase:
        clock.seconds += 1
        phase.tick(is_terminal=True)
        assert capsys.readouterr().err == ""
        clock.seconds += 4
        phase(2)
        phase.tick(is_terminal=True)
        assert "2/8" in capsys.readouterr().err
    assert capsys.readouterr().err.endswith("\r")


def test_a_phase_that_is_not_told_how_much_there_is_to_do_tells_the_time(clock):
    with phases.progress("opening the data") as phase:
        clock.seconds += 150
        assert phase.text() == "opening the data: 2 min so far"


def test_an_estimate_may_leave_out_what_happens_once(clock):
    with phases.progress("training", 5, unit="steps") as phase:
        clock.seconds += 60
        phase()
        phase.measure_from_here()
        clock.seconds += 2
        phase()
        assert phase.text() == "training: 2 of 5 steps, 62 s so far, about 6 s left"


def test_after_ctrl_c_a_phase_ends_at_its_next_step_unless_one_around_it_saves_first(monkeypatch):
    monkeypatch.setattr(runtime._Signals, "requested", signal.SIGINT)
    with pytest.raises(runtime.Interrupted), phases.progress("testing", 100, unit="queries") as phase:
        phase(10)
    with (
        phases.progress("training", 10, unit="steps", heeds_stop=False) as training,
        phases.progress("validating", 100, unit="queries") as validating,
    ):
        training()
        validating(10)
    assert (training.done, validating.done) == (1, 10)
