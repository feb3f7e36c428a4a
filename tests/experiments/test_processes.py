"""Several processes train one model, and say so when they cannot."""

import json
import re
import signal
import socket
import time

import numpy as np
import pytest

from seqrec import runs


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


def test_two_processes_end_with_the_figures_of_one_and_one_goes_on_where_two_stopped(
    toy, finished, tmp_path, start_script
):
    flags = (*toy, "--log-every-steps", "2", "--n-processes", "2", "--output", tmp_path / "run")
    processes = start_processes(start_script, 2, *flags, JAX_NUM_CPU_DEVICES="2")
    lines = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (lines.exists() and lines.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].terminate()  # one of them is told to stop, and both do
    stopped = outcomes(processes)
    assert [status for status, *_ in stopped] == [128 + signal.SIGTERM] * 2, stopped
    steps = {re.search(r"stopped at step (\d+)", errors)[1] for *_, errors in stopped}
    assert len(steps) == 1
    assert "4 x cpu" in stopped[0][2]
    assert "4 x cpu" not in stopped[1][2]

    results = outcomes(start_processes(start_script, 2, *flags, "--resume", JAX_NUM_CPU_DEVICES="2"))
    assert [status for status, *_ in results] == [0, 0], results
    assert "SASRec" in results[0][1]
    assert "SASRec" not in results[1][1]
    assert_figures_of_one(tmp_path / "run", finished)


def assert_figures_of_one(run, finished):
    found = runs.read_json(run / "metrics.json")
    for part in ("test", "valid"):
        for name, value in finished.results[part].items():
            if name != "intervals":
                assert found[part][name] == pytest.approx(value, abs=1e-5)
    losses = [
        {line["step"]: line["loss"] for line in map(json.loads, (each / "metrics.jsonl").open()) if "loss" in line}
        for each in (run, finished.directory)
    ]
    # Each line is the mean of an interval; the last of each epoch's three is compared with the epoch's own mean.
    assert set(losses[1]) <= set(losses[0])
    epochs = [np.mean([loss for step, loss in losses[0].items() if step // 6.01 == epoch]) for epoch in range(4)]
    np.testing.assert_allclose(epochs, list(losses[1].values()), atol=0.02)


def test_a_process_that_expected_others_stops(toy, tmp_path, start_script):
    ((status, _, errors),) = outcomes(
        [start_script("sasrec.py", *toy, "--n-processes", "2", "--output", tmp_path / "run")]
    )
    assert status == 2
    assert "1 processes take part, not n_processes=2" in errors
    assert not (tmp_path / "run").exists()
