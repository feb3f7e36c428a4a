"""What happens to a run when its files, its data or its machine are not what they were."""

import shutil

import evaluate_checkpoint
import numpy as np
import prepare_data
import pytest
import sasrec
from conftest import TOY_MODEL, train

from seqrec import runtime
from seqrec.data.directories import exclusive
from seqrec.data.store import open_store
from seqrec.files import read_json
from seqrec.run.data import open_task
from seqrec.run.experiment import open_run
from seqrec.types import InputError


def test_a_run_that_goes_on_elsewhere_is_not_resumed_a_second_time(toy, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run)
    with exclusive(run), pytest.raises(InputError, match="run is in use by another process; start again when"):
        train(*toy, "--output", run, "--resume")
    assert (run / "metrics.json").read_bytes() == (finished.directory / "metrics.json").read_bytes()
    assert train(*toy, "--output", run, "--resume")["test"] == finished.results["test"]


def prepare(path, output, *flags):
    source = ("--dataset", "events", "--data-path", path, "--columns", "user", "item", "at")
    return prepare_data.main(runtime.parse(prepare_data.Config, [*map(str, (*source, "--output", output)), *flags]))


def events_file(path, days, *, n_users=30, n_items=20):
    random = np.random.default_rng(len(days))
    rows = [
        f"u{user},i{random.integers(n_items + day)},{1_600_000_000 + 86_400 * day + place}"
        for day in days
        for user in range(n_users)
        for place in range(4)
    ]
    path.write_text("\n".join(["user,item,at", *rows]) + "\n")
    return path


def test_a_run_is_evaluated_and_resumed_on_the_events_that_it_saw_after_more_are_appended(tmp_path):
    store = tmp_path / "store"
    prepare(events_file(tmp_path / "first.csv", [0, 1]), store)
    flags = ("--dataset", "store", "--data-path", store, *TOY_MODEL, "--max-epochs", "1", "--output", tmp_path / "run")
    results = train(*flags)
    before = open_store(store).n_items
    prepare(events_file(tmp_path / "next.csv", [5]), store, "--append")
    assert open_store(store).n_items > before
    arguments = evaluate_checkpoint.Arguments(tmp_path / "run")
    again = evaluate_checkpoint.main(arguments)
    assert again == {name: results[name] for name in again}
    assert train(*flags, "--resume")["test"] == results["test"]
    # A new run reads all that the store holds now.
    config = runtime.parse(sasrec.Config, [*map(str, flags[:-1]), str(tmp_path / "other")])
    with open_run(config, config.training.run, experiment="sasrec", dataset="store") as other:
        read = open_task(other, config.training.data, seed=0).store
    assert read.content_hash == open_store(store).content_hash != results["protocol"]["data_hash"]
    # Data that are prepared anew are other data.
    prepare(events_file(tmp_path / "anew.csv", [0, 1, 2]), store)
    with pytest.raises(InputError, match="never held the events with the content hash"):
        evaluate_checkpoint.main(arguments)


@pytest.mark.slow  # that of two processes with two devices each is, in test_processes.py
def test_a_run_on_several_devices_is_evaluated_on_one(toy, finished, tmp_path, start_script):
    process = start_script(
        "sasrec.py", *toy, "--mesh.model", "2", "--output", tmp_path / "run", JAX_NUM_CPU_DEVICES="2"
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    results = read_json(tmp_path / "run" / "metrics.json")
    again = evaluate_checkpoint.main(evaluate_checkpoint.Arguments(tmp_path / "run"))
    for name, value in again["test"].items():
        if name != "intervals":
            assert value == pytest.approx(results["test"][name], abs=1e-5), name


def test_changed_data_stop_a_run_before_it_trains(toy, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.directory, run)
    items = np.load(run / "store" / "items.npy")
    items[-2:] = items[-2:][::-1]
    np.save(run / "store" / "items.npy", items)
    with pytest.raises(InputError, match="is damaged: its arrays do not have its content hash"):
        train(*toy, "--output", run, "--resume")
    with pytest.raises(InputError, match="is damaged: its arrays do not have its content hash"):
        evaluate_checkpoint.main(evaluate_checkpoint.Arguments(run))
