"""What surrounds a run: logging, signals, the command line, exit statuses."""

import errno
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from seqrec import runtime
from seqrec.sharding import MeshConfig
from seqrec.types import InputError


@dataclass(frozen=True)
class Config:
    """Does something."""

    max_epochs: int = 3
    """Passes over the data."""
    loss: Literal["softmax", "sampled"] = "softmax"
    """What is minimised."""

    def __post_init__(self):
        if self.max_epochs < 1:
            raise ValueError(f"max_epochs={self.max_epochs} is below 1; try max_epochs=1")


@pytest.fixture
def logging_as_before():
    handlers, level = list(logging.root.handlers), runtime.log.level
    yield
    logging.root.handlers[:] = handlers
    runtime.log.setLevel(level)


def test_a_script_that_is_logged_to_a_file_has_its_own_command_line_and_output(tmp_path, capsys, logging_as_before):
    argv, handlers = list(sys.argv), list(logging.root.handlers)
    for attempt in ("first", "second"):
        with runtime.run_logged_to(tmp_path / "log.txt", ["other.py", "--flag"]):
            runtime.start(MeshConfig())
            print(attempt, *sys.argv)
    assert sys.argv == argv
    assert logging.root.handlers == handlers
    message = capsys.readouterr()
    assert message.out + message.err == ""
    kept = (tmp_path / "log.txt").read_text()
    assert kept.count("device  ") == 2
    assert "first other.py --flag" in kept
    assert "second other.py --flag" in kept


def exit_status(monkeypatch, main, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(main, Config)
    return stop.value.code


@pytest.mark.usefixtures("logging_as_before")
def test_a_start_is_logged_also_where_a_library_has_set_up_logging_before(capsys):
    logging.root.addHandler(logging.StreamHandler())
    runtime.start(MeshConfig())
    runtime.log.info("seen once")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split(maxsplit=1) == ["device", runtime.device_name()]
    assert lines.count("seen once") == 1


@pytest.mark.usefixtures("logging_as_before")
def test_a_mesh_that_the_devices_cannot_form_is_refused():
    with pytest.raises(InputError, match="choose sizes whose product divides"):
        runtime.start(MeshConfig(model=1000))


def test_arguments_make_a_config():
    assert runtime.parse(Config, ["--max-epochs", "5"]) == Config(max_epochs=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-epoch", "2"], "perhaps you meant --max-epochs INT"),
        (["--max-epochs", "two"], "'two'"),
        (["--loss", "hinge"], "'softmax', 'sampled'"),
        (["--max-epochs", "0"], "max_epochs=0 is below 1; try max_epochs=1"),
        (["stray"], "stray"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_status_2(monkeypatch, capsys, arguments, message):
    assert exit_status(monkeypatch, print, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("script.py: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_help_names_each_flag_and_ends_well(monkeypatch, capsys):
    assert exit_status(monkeypatch, print, "--help") == 0
    text = capsys.readouterr().out
    assert "--max-epochs INT" in text
    assert "Passes over the data." in text


def test_input_that_cannot_be_used_is_one_line_and_exit_status_2(monkeypatch, capsys):
    def main(config):
        raise InputError("x=3 is above 2; try x=1")

    assert exit_status(monkeypatch, main) == 2
    assert capsys.readouterr().err == "script.py: x=3 is above 2; try x=1\n"


def test_a_mistake_in_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(ZeroDivisionError):
        runtime.run_script(lambda config: 1 // 0, Config)


def test_a_full_disk_is_one_line_and_other_failures_of_files_keep_their_traceback(monkeypatch, capsys):
    def fail(number):
        raise OSError(number, os.strerror(number), "ranks.parquet")

    assert exit_status(monkeypatch, lambda config: fail(errno.ENOSPC)) == 2
    assert capsys.readouterr().err.startswith("script.py: ranks.parquet cannot be written (No space left on device); ")
    with pytest.raises(BrokenPipeError):  # of a connection
        runtime.run_script(lambda config: fail(errno.EPIPE), Config)
    with pytest.raises(IsADirectoryError):
        runtime.run_script(lambda config: fail(errno.EISDIR), Config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_script_where_it_checks_and_leaves_the_handlers_alone(monkeypatch, capsys, number):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    reached = []

    def main(config):
        runtime.check_interrupt()
        os.kill(os.getpid(), number)
        reached.append("after the signal")
        assert runtime.requested_stop() == number
        runtime.check_interrupt()
        reached.append("after the check")

    assert exit_status(monkeypatch, main) == 128 + number
    assert reached == ["after the signal"]
    assert "interrupted" in capsys.readouterr().err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert runtime.requested_stop() is None


def test_a_signal_that_nothing_checks_for_is_told_at_the_end(monkeypatch):
    assert exit_status(monkeypatch, lambda config: os.kill(os.getpid(), signal.SIGTERM)) == 128 + signal.SIGTERM


def test_a_failure_of_a_library_after_a_signal_is_an_interrupt_and_bad_input_is_not(monkeypatch, capsys):
    def fail(error):
        os.kill(os.getpid(), signal.SIGINT)
        raise error

    assert exit_status(monkeypatch, lambda config: fail(RuntimeError("query cancelled"))) == 128 + signal.SIGINT
    assert exit_status(monkeypatch, lambda config: fail(KeyboardInterrupt())) == 128 + signal.SIGINT
    assert "interrupted" in capsys.readouterr().err
    assert exit_status(monkeypatch, lambda config: fail(InputError("the disk is full"))) == 2


BUSY = """
import sys, time
from dataclasses import dataclass
from seqrec import runtime

@dataclass(frozen=True)
class Config:
    \"\"\"Waits.\"\"\"

class Callback:
    def __del__(self):  # what is raised here is swallowed
        print("in a callback", flush=True)
        time.sleep({seconds})

def main(config):
    Callback()
    runtime.check_interrupt()
    print("went on", flush=True)

runtime.run_script(main, Config)
"""


def signalled(seconds: float, *numbers: signal.Signals) -> tuple[int, str, str]:
    """Exit status and output of a script that is signalled inside a callback that takes this long."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY.format(seconds=seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in a callback\n"
        for number in numbers:
            process.send_signal(number)
            # The process says on one line each what it makes of a signal.
            assert process.stderr.readline() == "\n"
            message = process.stderr.readline()
        rest = process.communicate(timeout=60)
    return process.returncode, rest[0], message + rest[1]


# That both signals are handled alike is seen above, without a process.
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_inside_a_callback_is_not_lost(number):
    status, printed, message = signalled(1.0, number)
    assert (status, printed) == (128 + number, "")
    assert message.startswith("stopping after the current step")
    assert "interrupted; what was saved before is intact" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("second", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_second_signal_ends_the_process_at_once_whatever_it_is_doing(second):
    status, printed, message = signalled(600.0, signal.SIGINT, second)
    assert (status, printed) == (128 + second, "")
    assert message == "ended at once; what was saved before is intact\n"


SPEAKING = """
from dataclasses import dataclass
from seqrec import runtime

@dataclass(frozen=True)
class Config:
    pass

runtime.run_script(lambda config: print("a line" * {n_times}), Config)
"""


@pytest.mark.parametrize("arguments", [(), ("--help",)])
@pytest.mark.parametrize("n_times", [1, 100_000])  # what waits to be written until the end, and what does not
def test_a_reader_that_has_left_ends_a_script_without_a_word(n_times, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        command = [sys.executable, "-c", SPEAKING.format(n_times=n_times), *arguments]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
