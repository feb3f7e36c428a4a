"""Ctrl-C and SIGTERM to real processes at each kind of moment of a run: none is lost, and each ends it in one way."""

import re
import signal
import time

import pytest

SLOW_SAVE = """
import sys, time
from seqrec import checkpoint
save = checkpoint.save
def slow_save(*args):
    print("saving", file=sys.stderr, flush=True)
    time.sleep(1)
    save(*args)
checkpoint.save = slow_save
"""


def read_up_to(stream, beginning: str) -> list[str]:
    """The lines of a process up to the first that begins so."""
    lines = []
    for line in stream:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError("".join(lines))


slow = pytest.mark.slow
"""What takes a process of its own for a moment that others here, or a run in this process, meet as well."""


@pytest.mark.parametrize(
    ("line", "delay", "number", "code"),
    [
        # Libraries are imported and data are read: see also test_sigterm_ends_with_a_command_that_goes_on_when_pasted.
        pytest.param("device", 0.3, signal.SIGINT, None, id="reading", marks=slow),
        pytest.param("split", 0.4, signal.SIGTERM, None, id="building", marks=slow),  # arrays are made
        # Inside a library: see also test_a_signal_inside_a_callback_is_not_lost in test_runtime.py.
        pytest.param("model", 0.5, signal.SIGINT, None, id="compiling", marks=slow),
        # See also test_a_resumed_run_equals_one_that_was_not_interrupted.
        pytest.param("epoch   1", 0.0, signal.SIGTERM, None, id="training", marks=slow),
        pytest.param("saving", 0.0, signal.SIGINT, SLOW_SAVE, id="saving", marks=slow),
        pytest.param("stopped", 0.0, signal.SIGTERM, None, id="testing"),
    ],
)
def test_one_signal_ends_a_run_with_its_status_and_the_command_that_goes_on(
    toy, tmp_path, start_script, line, delay, number, code
):
    process = start_script("sasrec.py", *toy, "--output", tmp_path / "run", code=code)
    read_up_to(process.stderr, line)
    time.sleep(delay)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "recall@10" not in printed  # the test's table
    assert errors.strip().splitlines()[-1].endswith("--resume")
    # Of the epochs that were left at most the one under way is ended.
    assert len(re.findall(r"^epoch   [234]", errors, re.MULTILINE)) <= 1


@pytest.mark.parametrize(
    ("number", "delay"),
    [(signal.SIGINT, 0.3), pytest.param(signal.SIGINT, 0.7, marks=slow), pytest.param(signal.SIGTERM, 0.5, marks=slow)],
)
def test_a_signal_while_the_script_is_imported_ends_it_as_the_system_does(toy, tmp_path, start_script, number, delay):
    process = start_script("sasrec.py", *toy, "--output", tmp_path / "run", code="print('importing', flush=True)")
    read_up_to(process.stdout, "importing")
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    # A shell shows the first as the second.
    assert process.returncode in (-number, 128 + number)
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
