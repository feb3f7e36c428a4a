"""Stores and runs on S3: a run that lost its machine goes on from the bucket alone, and ends as one undisturbed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import prepare_data
import pytest
from conftest import Finished, train
from test_evaluate_checkpoint import evaluate
from test_processes import assert_figures_of_one, outcomes, start_processes
from test_refusals import refusal

from seqrec import runtime
from seqrec.averaged import read_best
from seqrec.data.buckets import working_copy
from seqrec.data.store import open_store, write_store
from seqrec.files import read_json

N_STEPS = 24


@pytest.fixture(scope="module")
def server():
    """A local S3 that ends with the tests."""
    pytest.importorskip("s3fs", reason='needs an S3 client; pip install -e ".[buckets]"')
    moto = pytest.importorskip("moto.server", reason='needs a local S3; pip install -e ".[buckets]"')
    moto_server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto_server.start()
    yield "http://{}:{}".format(*moto_server.get_host_and_port())
    moto_server.stop()


@pytest.fixture
def files(server, monkeypatch, tmp_path):
    """The files of a fresh bucket named toys, for this process and those that it starts."""
    import s3fs

    about = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": server, "SEQREC_CACHE": str(tmp_path / "cache"), **about}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    if files.exists("toys"):
        files.rm("toys", recursive=True)
    files.mkdir("toys")
    return files


@pytest.fixture
def stored(finished, toy, files) -> tuple[str, ...]:
    """Flags of the toy run, on a store in the bucket that holds the data of `finished`."""
    with working_copy(Path("s3://toys/store")) as copy:
        write_store(copy, open_store(finished.directory / "store"))
    return ("--dataset", "store", "--data-path", "s3://toys/store", *toy[4:])


def final_weights(run: Path) -> list[np.ndarray]:
    """All arrays of a run's last checkpoint."""
    tree = ocp.PyTreeCheckpointer().restore((run / "checkpoints" / str(N_STEPS) / "state").absolute())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def wait_for(files, name: str) -> None:
    deadline = time.monotonic() + 300
    while not files.glob(name) and time.monotonic() < deadline:
        files.invalidate_cache()
        time.sleep(0.05)
    assert files.glob(name)


SLOW_STEPS = """
import time
from seqrec import loop
as_fast_as_it_can = loop.split_rows
def slowly(batch):
    time.sleep(0.4)
    return as_fast_as_it_can(batch)
loop.split_rows = slowly
"""
"""Gives the copy time to be brought back before the run ends."""


def test_a_run_whose_machine_is_gone_goes_on_from_the_bucket_and_ends_as_one_undisturbed(
    stored, files, finished: Finished, start_script, tmp_path, monkeypatch, capsys
):
    flags = (*stored, "--output", "s3://toys/runs/one")
    run = start_script("sasrec.py", *flags, code=SLOW_STEPS)
    wait_for(files, "toys/runs/one/checkpoints/*/_CHECKPOINT_METADATA")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    files.invalidate_cache()
    assert not files.exists("toys/runs/one/metrics.json")

    # Nothing of what the first left on its machine is seen by the second.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("SEQREC_CACHE", str(elsewhere / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    train(*flags, "--resume")
    printed, errors = capsys.readouterr()
    assert "resumed     from the checkpoint of step" in errors
    assert "run directory  s3://toys/runs/one" in printed
    assert [file.name for file in elsewhere.iterdir()] == ["cache"]

    with working_copy(Path("s3://toys/runs/one"), read_only=True) as copy:
        assert copy.name == "one"
        for ours, theirs in zip(final_weights(copy), final_weights(finished.directory), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert read_json(copy / "metrics.json")["test"] == finished.results["test"]
        assert (copy / "ranks.parquet").read_bytes() == (finished.directory / "ranks.parquet").read_bytes()
        assert read_json(copy / "config.json")["config"]["training"]["run"]["output"] == "s3://toys/runs/one"

    assert evaluate(monkeypatch, "s3://toys/runs/one") == 0
    printed, _ = capsys.readouterr()
    assert "equal to s3://toys/runs/one/metrics.json, to the last digit" in printed


@pytest.mark.slow
def test_each_of_two_processes_sends_its_own_part_of_a_checkpoint_and_fetches_it_again(files):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*free.getsockname())
    script = [sys.executable, str(Path(__file__).with_name("split_checkpoint.py")), "s3://toys/runs/split"]
    about = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    results = outcomes(
        [
            subprocess.Popen([*script, str(number), address], env=about, text=True, stdout=-1, stderr=-1)
            for number in range(2)
        ]
    )
    assert [status for status, *_ in results] == [0, 0], results
    for number, (_, printed, _) in enumerate(results):
        saved, latest = json.loads(printed.splitlines()[-1])
        rows = np.arange(6) + 6 * number  # of the table's twelve
        for keys, step in ((saved, 2), (latest, 3)):
            assert keys == {
                "step": step,
                "seconds": step,  # the first process's
                "first_column": (4.0 * step * rows).tolist(),
                "bias": [10.0 * step] * 3,
                "parts_here": [f"{number}.0"],
            }
    files.invalidate_cache()
    # The best and the latest are kept, as a process by itself would have saved them.
    assert {name.rpartition("/")[2] for name in files.ls("toys/runs/split/checkpoints")} == {"2", "3"}
    with working_copy(Path("s3://toys/runs/split"), read_only=True) as copy:
        best, progress = read_best(copy / "checkpoints")
        assert progress.step == 2
        np.testing.assert_array_equal(best["item_table"], 20.0 * np.arange(48).reshape(12, 4))
        # What one process lost is noticed by all.
        (copy / "checkpoints/2/state/params.item_table/1.0").unlink()
        assert read_best(copy / "checkpoints")[1].step == 3


@pytest.mark.slow
def test_two_processes_keep_one_run_in_a_bucket_and_go_on_where_they_stopped(toy, finished, files, start_script):
    split = ("--mesh.model", "2")  # each process has half of the item table
    flags = (*toy, *split, "--log-every-steps", "2", "--n-processes", "2", "--output", "s3://toys/runs/two")
    processes = start_processes(start_script, 2, *flags, code=SLOW_STEPS)
    wait_for(files, "toys/runs/two/checkpoints/*/_CHECKPOINT_METADATA")
    processes[1].terminate()
    stopped = outcomes(processes)
    assert [status for status, *_ in stopped] == [128 + signal.SIGTERM] * 2, stopped
    tables = "toys/runs/two/checkpoints/*/state/params.item_table/"
    files.invalidate_cache()
    assert {name.rpartition("/")[2] for name in files.glob(f"{tables}*")} >= {"0.0", "1.0"}
    results = outcomes(start_processes(start_script, 2, *flags, "--resume"))
    assert [status for status, *_ in results] == [0, 0], results
    assert "resumed     from the checkpoint of step" in results[0][2]
    with working_copy(Path("s3://toys/runs/two"), read_only=True) as copy:
        assert_figures_of_one(copy, finished)
    # What two processes left, one process reads.
    ((status, printed, errors),) = outcomes([start_script("evaluate_checkpoint.py", "s3://toys/runs/two")])
    assert "s3://toys/runs/two" in printed, errors
    assert status in (0, 1)


def test_a_store_is_prepared_into_a_bucket_and_extended_there(ratings, files, capsys):
    flags = ("--dataset", "movielens", "--data-path", str(ratings), "--output", "s3://toys/prepared")
    prepare_data.main(runtime.parse(prepare_data.Config, flags))
    assert "profile     s3://toys/prepared/profile.html" in capsys.readouterr().out
    before = open_store("s3://toys/prepared")
    prepare_data.main(runtime.parse(prepare_data.Config, [*flags, "--append"]))
    assert "appended    0 events" in capsys.readouterr().out
    assert open_store("s3://toys/prepared").content_hash == before.content_hash


@pytest.mark.parametrize(
    ("output", "environment", "message"),
    [
        ("s3://nowhere/run", {}, "s3://nowhere/run cannot be found .*make the bucket first"),
        (
            "s3://toys/run",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "s3://toys/run: no credentials that serve",
        ),
        (
            "s3://toys/run",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"},
            "s3://toys/run cannot be reached .*check the network and AWS_ENDPOINT_URL=http://127.0.0.1:1",
        ),
    ],
    ids=["no bucket", "no credentials", "refused"],
)
def test_a_bucket_that_cannot_be_used_is_named_in_one_line(
    toy, files, monkeypatch, tmp_path, capsys, output, environment, message
):
    quiet = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    for name, value in {**quiet, **environment}.items():
        monkeypatch.setenv(name, value)
    type(files).clear_instance_cache()
    assert re.search(message, refusal(monkeypatch, capsys, *toy, "--output", output))
