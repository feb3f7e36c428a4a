"""Several processes train one model, and say so when they cannot."""

import json
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from conftest import train

from seqrec.files import read_json
from seqrec.types import InputError


def start_processes(start_script, n_processes, *flags, **environment):
    """Starts the training script in processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(n_processes), **environment}
    return [start_script("sasrec.py", *flags, **about, JAX_PROCESS_ID=str(number)) for number in range(n_processes)]


def outcomes(processes):
    """(exit status, standard output, errors) of each, once all have ended."""
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def flags(toy):
    return (*toy, "--log-every-steps", "2")


@pytest.fixture(scope="module")
def stopped(flags, tmp_path_factory, start_script):
    """The directory of a run that two processes with two devices each began, and stopped within an epoch."""
    run = tmp_path_factory.mktemp("processes") / "run"
    processes = start_processes(start_script, 2, *flags, "--n-processes", "2", "--output", run, JAX_NUM_CPU_DEVICES="2")
    lines = run / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (lines.exists() and lines.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].terminate()  # one of them is told to stop, and both do
    found = outcomes(processes)
    assert [status for status, *_ in found] == [128 + signal.SIGTERM] * 2, found
    steps = {re.search(r"stopped at step (\d+)", errors)[1] for *_, errors in found}
    assert len(steps) == 1
    assert "4 x cpu" in found[0][2]
    assert "4 x cpu" not in found[1][2]
    return run


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of that run, to go on with."""
    return shutil.copytree(stopped, tmp_path / "run")


def test_two_processes_end_with_the_figures_of_one_and_one_goes_on_where_two_stopped(
    flags, finished, on_one_device, copied, start_script
):
    results = outcomes(
        start_processes(
            start_script, 2, *flags, "--n-processes", "2", "--resume", "--output", copied, JAX_NUM_CPU_DEVICES="2"
        )
    )
    assert [status for status, *_ in results] == [0, 0], results
    assert "SASRec" in results[0][1]
    assert "SASRec" not in results[1][1]
    assert_figures_of_one(copied, finished)
    assert_same_losses(copied, on_one_device)


@pytest.fixture(scope="module")
def on_one_device(flags, stopped, tmp_path_factory):
    """The losses of the same run from its stop on, by step, in this process with its one device."""
    run = shutil.copytree(stopped, tmp_path_factory.mktemp("one") / "run")
    train(*flags, "--n-processes", "1", "--resume", "--output", run)
    return losses_of(run)


def losses_of(run):
    """Step -> loss of the interval that ended there."""
    return {line["step"]: line["loss"] for line in map(json.loads, (run / "metrics.jsonl").open()) if "loss" in line}


@pytest.mark.slow  # on one device, the losses and figures are compared above
@pytest.mark.parametrize("n_devices", [4, 8])
def test_what_two_processes_saved_goes_on_with_the_same_losses_and_figures_on_any_devices(
    flags, finished, on_one_device, copied, start_script, n_devices
):
    ((status, _, errors),) = outcomes(
        [start_script("sasrec.py", *flags, "--resume", "--output", copied, JAX_NUM_CPU_DEVICES=str(n_devices))]
    )
    assert status == 0, errors
    assert f"{n_devices} x cpu" in errors
    assert_same_losses(copied, on_one_device)
    assert_figures_of_one(copied, finished)


def assert_same_losses(run, expected):
    losses = losses_of(run)
    assert losses.keys() == expected.keys()
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=0, atol=1e-6)


def assert_figures_of_one(run, finished):
    found = read_json(run / "metrics.json")
    for part in ("test", "valid"):
        expected = dict(finished.results[part])
        for name, interval in expected.pop("intervals").items():
            assert found[part]["intervals"][name] == pytest.approx(interval, abs=1e-5)
        for name, value in expected.items():
            assert found[part][name] == pytest.approx(value, abs=1e-5)
    losses = [losses_of(each) for each in (run, finished.directory)]
    # Each line is the mean of an interval; the last of each epoch's three is compared with the epoch's own mean.
    assert set(losses[1]) <= set(losses[0])
    epochs = [np.mean([loss for step, loss in losses[0].items() if step // 6.01 == epoch]) for epoch in range(4)]
    np.testing.assert_allclose(epochs, list(losses[1].values()), atol=0.02)


def test_a_process_that_expected_others_stops(toy, tmp_path):
    with pytest.raises(InputError, match="1 processes take part, not n_processes=2"):
        train(*toy, "--n-processes", "2", "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()
