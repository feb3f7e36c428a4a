"""Several processes train one model, and say so when they cannot."""

import functools
import json
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import prepare_data
import pyarrow.parquet as pq
import pytest
from conftest import TOY_MODEL, train

from seqrec import runtime
from seqrec.data.batches import Share, TrainingBatches, training_batches
from seqrec.data.packing import pack_training
from seqrec.data.split_config import SplitConfig, choose_split, split_store, stored_split
from seqrec.data.store import open_store, read_preparation
from seqrec.files import read_json
from seqrec.run import data as run_data
from seqrec.types import InputError, Part


def coordinator(n_processes):
    """What the environment says of the first of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(n_processes)}


def start_processes(start_script, n_processes, *flags, **environment):
    """Starts the training script in processes that know of each other."""
    about = coordinator(n_processes) | environment
    return [start_script("sasrec.py", *flags, **about, JAX_PROCESS_ID=str(number)) for number in range(n_processes)]


def outcomes(processes):
    """(exit status, standard output, errors) of each, once all have ended."""
    try:
        message = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, message, strict=True)]


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
    results = outcomes(processes)
    assert [status for status, *_ in results] == [128 + signal.SIGTERM] * 2, results
    steps = {re.search(r"stopped at step (\d+)", errors)[1] for *_, errors in results}
    assert len(steps) == 1
    assert "4 x cpu" in results[0][2]
    assert "4 x cpu" not in results[1][2]
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
    metrics = read_json(run / "metrics.json")
    for part in ("test", "valid"):
        expected = dict(finished.results[part])
        for name, interval in expected.pop("intervals").items():
            assert metrics[part]["intervals"][name] == pytest.approx(interval, abs=1e-5)
        for name, value in expected.items():
            assert metrics[part][name] == pytest.approx(value, abs=1e-5)
    losses = [losses_of(each) for each in (run, finished.directory)]
    # Each line is the mean of an interval; the last of each epoch's three is compared with the epoch's own mean.
    assert set(losses[1]) <= set(losses[0])
    epochs = [np.mean([loss for step, loss in losses[0].items() if step // 6.01 == epoch]) for epoch in range(4)]
    np.testing.assert_allclose(epochs, list(losses[1].values()), atol=0.02)


def test_a_process_that_expected_others_stops(toy, tmp_path):
    with pytest.raises(InputError, match="1 processes take part, not n_processes=2"):
        train(*toy, "--n-processes", "2", "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # tests/data/test_own_shards.py compares the batches and the ranks of two processes in seconds
def test_two_processes_that_read_their_own_shards_train_as_one_that_has_their_batches(
    ratings, tmp_path, start_script, monkeypatch
):
    store = ("--dataset", "movielens", "--data-path", str(ratings), "--output", str(tmp_path / "store"))
    prepare_data.main(runtime.parse(prepare_data.Config, [*store, "--events-per-shard", "60", "--no-profile"]))
    flags = ("--dataset", "store", *TOY_MODEL, "--max-epochs", "2", "--log-every-steps", "1")
    n_shards = len(list((tmp_path / "store/shards").iterdir()))
    assert n_shards >= 4
    about = coordinator(2)
    processes = []
    for number in range(2):
        directory = shutil.copytree(tmp_path / "store", tmp_path / f"part-{number}")
        for other in range(1 - number, n_shards, 2):
            shutil.rmtree(directory / f"shards/{other:06d}")
        own = ("--shards", "own", "--data-path", directory, "--output", tmp_path / "run")
        processes.append(start_script("sasrec.py", *flags, *own, **about, JAX_PROCESS_ID=str(number)))
    results = outcomes(processes)
    assert [status for status, *_ in results] == [0, 0], results

    monkeypatch.setattr(run_data, "training_batches", functools.partial(together, tmp_path / "store"))
    train(*flags, "--data-path", tmp_path / "store", "--output", tmp_path / "twin")
    assert_same_losses(tmp_path / "run", losses_of(tmp_path / "twin"))
    metrics, twin = (read_json(tmp_path / name / "metrics.json") for name in ("run", "twin"))
    for part in ("test", "valid"):
        for name, value in twin[part].items():
            if name != "intervals":
                assert metrics[part][name] == pytest.approx(value, abs=1e-5)
    for name in ("popularity", "personal popularity"):
        assert metrics["baselines"][name] == twin["baselines"][name]
    assert "STAN" in metrics["baselines_left_out"]
    columns = [pq.read_table(tmp_path / name / "ranks.parquet").drop("rank") for name in ("run", "twin")]
    assert columns[0].equals(columns[1])
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"started with --shards own on 2 processes, .* are 1, .*resume it with 2"):
        train(*flags, "--shards", "own", "--data-path", tmp_path / "part-0", "--output", tmp_path / "run", "--resume")


class Together(TrainingBatches):
    """The batches of two processes, made in one: the parts of all, one after another."""

    def batch(self, step):
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.batch(step) for part in self.parts))


def together(directory, store, split, *, share, **options):
    """As `training_batches`, of the batches that two processes make which read their own shards."""
    split_config = choose_split(SplitConfig(), stored_split(read_preparation(directory))).config
    stores = [open_store(directory, part=Part(number, 2)) for number in range(2)]
    splits = [split_store(each, split_config) for each in stores]
    packed = [pack_training(*each, max_length=options["max_length"]) for each in zip(stores, splits, strict=True)]
    sizes = [np.array([each.n_rows, len(each.lengths)]) for each in packed]
    parts = [
        training_batches(*each, share=Share(2, number, 2, lambda array: sizes), **options)
        for number, each in enumerate(zip(stores, splits, strict=True))
    ]
    batches = Together(*parts[0])
    batches.parts = parts
    return batches
