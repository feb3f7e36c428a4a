"""A run is begun, interrupted, resumed and discarded, and a trained run is opened again."""

import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from seqrec import runs, runtime
from seqrec.data.buckets import Part, working_copy
from seqrec.data.store import open_store, store_from_sequences, write_store
from seqrec.run import experiment
from seqrec.run.config import RunConfig
from seqrec.run.experiment import load_best, open_run, open_trained
from seqrec.types import InputError


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config = Config(RunConfig(output=tmp_path / "run"))
    names = {"experiment": "toy", "dataset": "none"}
    return lambda is_shared=False, **changes: open_run(
        config, RunConfig(output=tmp_path / "run", **changes), **names, is_shared=is_shared
    )


def test_input_that_cannot_be_read_leaves_no_run(begin):
    with pytest.raises(InputError, match="no such data"), begin() as run:
        raise InputError("no such data")
    assert not run.exists()


def test_input_that_is_refused_after_the_data_was_read_leaves_the_run(begin):
    with begin() as run:
        runs.note_data(run, content_hash="a")
    with pytest.raises(InputError, match="no such feature"), begin(resume=True):
        raise InputError("no such feature")
    assert (run / "config.json").exists()


def test_an_interrupt_anywhere_tells_how_to_go_on(begin):
    def stop_here():
        os.kill(os.getpid(), signal.SIGTERM)
        runtime.check_interrupt()

    with pytest.raises(runtime.Interrupted) as stop, begin() as run:
        stop_here()
    assert stop.value.signal_number == signal.SIGTERM
    assert str(stop.value).splitlines()[-1].strip() == runs.resume_command(run)
    assert run.exists()


def test_a_run_is_begun_once_and_resumed_on_request(begin):
    with begin():
        pass
    with pytest.raises(InputError, match="already holds a run; add --resume"), begin():
        pass
    with begin(resume=True) as run:
        assert run.exists()


def test_only_one_process_goes_on_with_a_run_unless_it_is_shared(begin):
    with begin(), pytest.raises(InputError, match="is in use by another process"), begin(resume=True):
        pass
    with begin(resume=True, is_shared=True) as first, begin(resume=True, is_shared=True) as second:
        assert first == second


def test_a_new_run_is_named_by_what_is_trained_and_on_which_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with open_run(Config(), RunConfig(), experiment="toy", dataset="pairs") as run:
        assert run.parent.name == "runs"
        assert run.name.startswith("toy-pairs-")


def test_resuming_needs_to_know_where():
    with (
        pytest.raises(InputError, match="--resume needs --output"),
        open_run(Config(), RunConfig(resume=True), experiment="toy", dataset="none"),
    ):
        pass


def test_a_config_file_holds_plain_values(begin):
    with begin() as run:
        assert json.loads((run / "config.json").read_text())["config"]["run"]["output"] == str(run)


def test_a_process_that_is_not_the_first_has_the_store_of_a_run_in_a_bucket_and_writes_nothing(monkeypatch):
    files = fsspec.filesystem("memory")
    monkeypatch.setattr(type(files), "store", {})
    monkeypatch.setattr(type(files), "pseudo_dirs", [""])
    output = Path("memory://b/run")
    with working_copy(output) as copy:
        write_store(copy / "store", store_from_sequences([[1, 2, 3]]))
        (copy / "config.json").write_text("the first's")
    before = {name: files.cat_file(name) for name in files.find("/b")}
    monkeypatch.setattr(runtime, "is_first", lambda: False)
    monkeypatch.setattr(runtime, "on_first", lambda function: None)
    monkeypatch.setattr(runtime, "part", lambda: Part(1, 2))
    with open_run(Config(), RunConfig(output=output), experiment="toy", dataset="none") as run:
        assert [path.name for path in run.iterdir()] == ["store"]
        assert open_store(run / "store").n_events == 3
        (run / "config.json").write_text("another's")
    assert {name: files.cat_file(name) for name in files.find("/b")} == before


def no_model(config, task=None):
    raise AssertionError("a run that is refused builds no model")


def test_a_run_of_an_unknown_script_is_refused(begin):
    with begin() as run:
        pass
    script = SimpleNamespace(__file__="train.py", Config=Config, build=no_model, main=no_model)
    with pytest.raises(InputError, match="holds a model toy, which is none of sasrec, hawk"):
        open_trained(run, {"sasrec": script, "hawk": script})


def test_a_run_that_has_not_finished_an_epoch_has_no_best_one(begin):
    with begin() as run:
        pass
    with pytest.raises(InputError, match="holds no checkpoints; let its training reach the end of an epoch"):
        load_best(run, {})


@pytest.fixture
def validated():
    """Validations whose NDCG and ranks a test gives in turn, in place of parameters."""

    def make_validate(*, keep, keep_ndcg):
        def validate(params, *, report):
            keep(params["ranks"])
            keep_ndcg(np.array([params["ndcg"]]))
            return {"ndcg@10": params["ndcg"]}

        return validate

    return experiment._Validated(make_validate, n_queries=1)


def test_the_ranks_of_the_best_validation_are_kept_the_earliest_among_equals(validated):
    for place, ndcg in enumerate([0.1, 0.3, 0.3, 0.2]):
        validated({"ndcg": ndcg, "ranks": np.array([place])})
    assert validated.ranks_of(20, 0.3).tolist() == [1]
    assert validated.ndcg_of_queries().tolist() == [0.2]  # of the latest


def test_ranks_of_an_earlier_start_or_before_a_roll_back_are_not_published(validated, caplog):
    validated({"ndcg": 0.3, "ranks": np.array([1])})
    validated.forget()
    validated({"ndcg": 0.2, "ranks": np.array([2])})
    with caplog.at_level("INFO", logger="seqrec"):
        assert validated.ranks_of(10, 0.3) is None
    assert "validating  step 10 once more for the published figures: its ranks are of an earlier start" in caplog.text
