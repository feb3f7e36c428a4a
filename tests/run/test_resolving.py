"""A run's recipe is decided once, kept with its facts and reasons, and followed on a resume and by a warm start."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from seqrec import runs, runtime
from seqrec.backtest.periods import BacktestConfig
from seqrec.backtest.replay import run_backtest
from seqrec.config import to_json, without_flags
from seqrec.data.store import store_from_sequences, write_store
from seqrec.files import read_json, write_json
from seqrec.run import resolving
from seqrec.run.config import RunConfig, TrainingConfig
from seqrec.run.data import open_data
from seqrec.run.recipe import Rule, check_no_recipe
from seqrec.study.plan import StudyConfig, arms_of
from seqrec.tuning.training import check_population
from seqrec.types import InputError

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

import sasrec


def run_and_exit(main, config_type, *, default):
    """As `runtime.run_script`, which would print errors in place of raising them."""
    main(runtime.parse(config_type, sys.argv[1:], default=default))
    sys.exit(0)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts or resumes a run of the script with these flags as far as its recipe, and returns its config."""
    monkeypatch.setattr(sys, "argv", ["sasrec.py"])
    monkeypatch.setattr(runtime, "run_script", run_and_exit)
    histories = [[1 + (user + place) % 6 for place in range(6)] for user in range(3)]
    write_store(tmp_path / "store", store_from_sequences(histories))
    resolved = []

    def main(config, *, given):
        data, run = config.training.data, config.training.run
        directory = runs.prepare_run_directory(run.output, config, experiment="sasrec", resume=run.resume)
        resolved.append(resolving.resolve(directory, config, open_data(directory, data), given=given))

    def start(*flags, output=tmp_path / "run"):
        data = ["--dataset", "store", "--data-path", str(tmp_path / "store"), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["sasrec.py", *data, *flags])
        with pytest.raises(SystemExit):
            resolving.run_script(main, sasrec.Config)
        return resolved[-1]

    return start


def test_a_run_without_flags_keeps_what_was_decided_and_why(started, tmp_path):
    config = started()
    kept = read_json(tmp_path / "run" / "config.json")
    assert kept["config"] == to_json(config)
    recipe = kept["recipe"]
    assert (recipe["facts"]["n_users"], recipe["facts"]["n_events"]) == (3, 12)
    assert recipe["values"].keys() == recipe["reasons"].keys() != set()
    plain = sasrec.Config(training=config.training, model=config.model)
    assert to_json(config) == to_json(plain) | {"recipe": "auto"}


def test_a_resumed_run_decides_nothing_anew(started, monkeypatch):
    first = started()
    monkeypatch.setattr(resolving, "RULES", [Rule("model.d_model", 16, lambda facts, config: True, "another version")])
    again = started("--resume", "--patience", "77")
    assert again.training.fit.patience == 77  # which a resumed run may change
    assert to_json(again)["model"] == to_json(first)["model"]
    assert again.training.data == first.training.data
    with pytest.raises(InputError, match=r"started with model.dropout=.*, by its recipe, not 0.11; leave the flag out"):
        started("--resume", "--dropout", "0.11")
    with pytest.raises(InputError, match="repeat its flags"):
        started("--resume", "--recipe", "none")


def test_a_flag_with_the_value_of_its_default_is_kept_on_a_resume_too(started, tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "RULES", [Rule("model.d_model", 16, lambda facts, config: True, "small data")])
    assert started().model.d_model == 16
    with pytest.raises(InputError, match="not 64"):
        started("--resume", "--d-model", "64")
    assert started("--d-model", "64", output=tmp_path / "other").model.d_model == 64


def test_a_run_that_was_started_without_a_recipe_goes_on_without(started, tmp_path):
    plain = started("--recipe", "none")
    assert "recipe" not in read_json(tmp_path / "run" / "config.json")
    assert started("--resume").training.data == plain.training.data
    kept = read_json(tmp_path / "run" / "config.json")
    del kept["config"]["recipe"]  # as a version without recipes wrote it
    write_json(tmp_path / "run" / "config.json", kept)
    assert started("--resume").training.data == plain.training.data


@pytest.mark.parametrize("damaged", [5, {"values": 5}, {"values": {"model.unknown": 1}}])
def test_a_damaged_record_is_named(started, tmp_path, damaged):
    started()
    kept = read_json(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "config.json", kept | {"recipe": damaged})
    with pytest.raises(InputError, match=r"config\.json: recipe does not hold values of the config's fields"):
        started("--resume")


def test_a_warm_start_takes_the_values_of_the_run_that_it_starts_from(started, tmp_path):
    earlier = started("--d-model", "48", "--max-length", "37", output=tmp_path / "monday")
    later = started("--start-from", str(tmp_path / "monday"), "--batch-size", "9", output=tmp_path / "tuesday")
    assert (later.model, later.training.data.max_length) == (earlier.model, 37)
    assert later.training.data.batch_size == 9
    assert "as in monday" in read_json(tmp_path / "tuesday" / "config.json")["recipe"]["reasons"]["model.d_model"]


def test_what_a_warm_start_has_in_common_with_its_source_is_no_choice_of_the_recipe(started, tmp_path):
    started("--recipe", "none", output=tmp_path / "monday")
    started("--start-from", str(tmp_path / "monday"), output=tmp_path / "tuesday")
    assert read_json(tmp_path / "tuesday" / "config.json")["recipe"]["values"] == {}


def test_the_command_line_follows_the_recipe_and_a_program_does_not():
    assert without_flags(sasrec.Config).recipe == "auto"
    assert sasrec.Config().recipe == "none"


def test_searches_studies_and_backtests_refuse_a_recipe(tmp_path):
    check_no_recipe(sasrec.Config(), "a study")
    check_no_recipe(RunConfig(), "a study")  # a script that knows no recipe
    study = StudyConfig(base="plain=--recipe auto", variations=("wide=--d-model 128",))
    with pytest.raises(InputError, match="plain: a study trains what its flags say; leave --recipe out"):
        arms_of(study, sasrec)
    with pytest.raises(InputError, match="a search trains"):
        check_population(sasrec.Config(recipe="auto"), {}, population=1)
    config = SimpleNamespace(training=TrainingConfig(), backtest=BacktestConfig(), recipe="auto")
    with pytest.raises(InputError, match="a backtest trains"):
        run_backtest(tmp_path, config, sasrec.build)
