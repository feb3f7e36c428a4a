"""Studies of tiny trainings: each is made once, however often a study is stopped, extended or asked again."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import feature_study
import pytest
import sasrec
from conftest import TOY_MODEL, train
from scripts import TRAINING

from seqrec import runs, runtime
from seqrec.data.store import store_from_sequences, write_store
from seqrec.files import read_json
from seqrec.study.plan import StudyConfig, make_plan, plan_text
from seqrec.types import InputError

BASE, YEAR = "ids alone=", "year=--item-features year:buckets"


@pytest.fixture(scope="session")
def base(ratings) -> str:
    """The base of all studies here: 2 epochs of 6 steps."""
    return BASE + " ".join(["--dataset movielens --data-path", str(ratings), *TOY_MODEL, "--max-epochs 2"])


@pytest.fixture(scope="session")
def finished(base, tmp_path_factory) -> StudyConfig:
    """A study that nothing disturbed."""
    study = StudyConfig(base, (YEAR,), seeds=(0, 1), output=tmp_path_factory.mktemp("study") / "study")
    feature_study.main(feature_study.Config(study))
    return study


@pytest.fixture
def copied(finished, tmp_path) -> StudyConfig:
    """The finished study, in a directory of its own."""
    shutil.copytree(finished.output, tmp_path / "study")
    return dataclasses.replace(finished, output=tmp_path / "study")


def result_of(study: StudyConfig) -> dict:
    return json.loads((study.output / "study.json").read_text())


def without_output(study: StudyConfig) -> dict:
    result = result_of(study)
    del result["study"]["output"]
    return result


def test_each_training_is_the_one_of_its_own_command(finished, base, tmp_path):
    result = result_of(finished)
    assert [(run["name"], run["seed"], run["state"]) for run in result["runs"]] == [
        ("ids alone", 0, "done"),
        ("year", 0, "done"),
        ("ids alone", 1, "done"),
        ("year", 1, "done"),
    ]
    run = result["runs"][3]
    command = run["command"].split()
    assert Path(command[1]).resolve() == Path(sasrec.__file__)
    alone = train(*command[2:], "--output", tmp_path / "alone")
    kept = read_json(finished.output / "runs" / run["key"] / "metrics.json")
    # Which baselines stand beside a model depends on how long its training took.
    of_time = ("train_seconds", "baselines", "comparisons", "baselines_left_out")
    assert {name: alone[name] for name in alone if name not in of_time} == {
        name: kept[name] for name in kept if name not in of_time
    }
    assert result["systems"]["year"]["values"][1] == pytest.approx(alone["test"]["ndcg@10"], abs=1e-7)
    log = (finished.output / "runs" / f"{run['key']}.log").read_text()
    assert "NDCG@10" in log
    assert "run directory" in log


def test_a_study_leaves_verdicts_costs_and_a_page(finished):
    result = result_of(finished)
    assert result["seeds"] == [0, 1]
    assert result["variations"]["year"]["verdict"]["kind"] in ("helps", "hurts", "none")
    # Of ten deciles of the years and one vector for those of none; ids keep theirs.
    more = result["costs"]["year"]["n_parameters"] - result["costs"]["ids alone"]["n_parameters"]
    assert more % 16 == 0
    assert 0 < more <= 11 * 16
    assert result["costs"]["year"]["state_bytes"] > 4 * 4 * result["costs"]["year"]["n_parameters"]
    assert [slicing["name"] for slicing in result["slices"]][:2] == ["history length", "target popularity"]
    page = (finished.output / "study.html").read_text()
    assert "What helps sasrec on ratings?" in page
    assert not re.search('(src|href)="[^#]', page)


def test_nothing_is_trained_twice(copied, monkeypatch, capsys):
    monkeypatch.setattr(sasrec, "main", None)
    before = without_output(copied)
    feature_study.main(feature_study.Config(copied))
    assert without_output(copied) == before
    assert "year" in capsys.readouterr().out


def test_a_dry_run_tells_what_is_left_and_trains_nothing(copied, tmp_path, monkeypatch, capsys):
    more = dataclasses.replace(copied, variations=(YEAR, "wide=--d-model 32"), seeds=(0, 1, 2), dry_run=True)
    feature_study.main(feature_study.Config(more))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study       3 models x 3 seeds = 9 trainings of sasrec; 4 done, 5 left"
    [year] = [line.split() for line in lines if line.startswith("year")]
    assert year[1:4] == ["done", "done", "left"]
    [wide] = [line.split() for line in lines if line.startswith("wide")]
    assert wide[1:4] == ["left"] * 3
    assert wide[5] == "12"  # 2 epochs of 6 steps
    assert "5 left" in lines[0]
    fresh = dataclasses.replace(copied, output=tmp_path / "fresh", dry_run=True)
    assert "not known before the first run" in plan_text(make_plan(fresh, TRAINING))
    assert not fresh.output.exists()


def test_a_study_of_a_store_makes_its_output_directory(tmp_path, monkeypatch):
    def refuse(*args):
        raise InputError("not trained here")

    monkeypatch.setattr("seqrec.study.run._train", refuse)
    write_store(tmp_path / "store", store_from_sequences([[1, 2, 3, 4], [2, 3, 4, 1]]))
    base = f"{BASE}--dataset store --data-path {tmp_path / 'store'}"
    fresh = StudyConfig(base, ("wide=--d-model 32",), output=tmp_path / "new" / "study")
    with pytest.raises(InputError, match="no finished run"):
        feature_study.main(feature_study.Config(fresh))
    assert "data" in json.loads((fresh.output / "study.json").read_text())


def test_what_does_not_fit_the_budget_is_left_and_said(copied, capsys):
    more = dataclasses.replace(copied, seeds=(0, 1, 2), max_minutes=1e-6)
    result = feature_study.main(feature_study.Config(more))
    assert result["seeds"] == [0, 1]
    assert [run["state"] for run in result["runs"]] == ["done"] * 4 + ["left"] * 2
    assert "does not fit into max_minutes=1e-06" in capsys.readouterr().out
    assert "not run: no time was left" in (copied.output / "study.html").read_text()


def test_a_stopped_study_goes_on_where_it_stopped(copied, monkeypatch):
    before = without_output(copied)
    last = copied.output / "runs" / before["runs"][-1]["key"]
    shutil.rmtree(last)
    append = runs.append_json_line

    def append_and_signal(file: Path, content: dict) -> None:
        append(file, content)
        if content["step"] == 6 and "loss" in content:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "append_json_line", append_and_signal)
        with pytest.raises(runtime.Interrupted, match=r"stopped in year, seed 1; .* the same command continues"):
            feature_study.main(feature_study.Config(copied))
    assert (last / "checkpoints").is_dir()
    assert not (last / "metrics.json").exists()
    feature_study.main(feature_study.Config(copied))
    after = without_output(copied)
    assert "resumed     from the checkpoint of step 6" in last.with_suffix(".log").read_text()
    for result in (before, after):
        # All else is the same; only time has gone by.
        del result["study"]["minutes"], result["costs"]
    assert after == before


def test_a_variation_that_fails_does_not_stop_the_others(copied, capsys):
    wild = "wild=--learning-rate 1e30 --schedule constant --warmup-steps 0"
    study = dataclasses.replace(copied, variations=(YEAR, wild), seeds=(0,))
    result = feature_study.main(feature_study.Config(study))
    assert list(result["variations"]) == ["year"]
    assert [run["state"] for run in result["runs"]] == ["done", "done", "failed"]
    printed = capsys.readouterr().out
    assert "wild, seed 0 failed: the " in printed
    assert "Not compared, because runs are missing: wild." in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variations": ("wide",)}, "'wide' is not of the form NAME=FLAGS"),
        ({"variations": ("=--d-model 32",)}, "is not of the form NAME=FLAGS"),
        ({"variations": ("year=", YEAR)}, "year is named twice"),
        ({"variations": ("wide=--d-modl 32",)}, "wide: .*--d-modl, 32; perhaps you meant --d-model"),
        ({"variations": ("wide=--d-model 15",)}, "wide: .*d_model=15"),
        ({"variations": ("wide='--d-model",)}, "wide: No closing quotation"),
        ({"variations": ("same=",)}, "ids alone and same are equal"),
        ({"variations": (YEAR, "again=--item-features year:buckets --d-model 16")}, "year and again are equal"),
        ({"variations": ("other=--split users",)}, "other has another split than ids alone"),
        ({"variations": ("other=--seed 4",)}, "other: --seed, --output and --resume are the study's own"),
        ({"variations": ("mood=--item-features mood",)}, "mood: item feature 'mood' is in none of the tables"),
        ({"variations": ("year=--item-features year --shuffled-features x",)}, "shuffled_features names x"),
        ({"variations": ("sound=--item-features a --feature-files absent.npy",)}, "absent.npy does not exist"),
        ({"experiment": "sasrek"}, "experiment 'sasrek' is not one of sasrec, "),
    ],
)
def test_studies_that_cannot_be_get_one_line(base, tmp_path, changes, message):
    study = dataclasses.replace(StudyConfig(base, (YEAR,), output=tmp_path / "study"), **changes)
    with pytest.raises(InputError, match=message) as refusal:
        feature_study.main(feature_study.Config(study))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variations": ()}, "no variations"),
        ({"seeds": ()}, "must be one or more different numbers"),
        ({"seeds": (1, 1)}, "must be one or more different numbers"),
        ({"max_minutes": -1.0}, "max_minutes=-1.0 is below 0"),
        ({"level": 95.0}, r"level=95.0 is not a share in \(0, 1\)"),
    ],
)
def test_a_config_that_makes_no_study_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(StudyConfig(variations=("wide=--d-model 128",)), **changes)


def test_a_directory_of_other_data_is_refused(copied, ratings, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ratings.parent, other)
    lines = (other / "ratings.csv").read_text().splitlines()
    (other / "ratings.csv").write_text("\n".join(lines[:-1]) + "\n")
    # The same bytes elsewhere are the same data.
    moved = dataclasses.replace(copied, base=copied.base.replace(str(ratings), str(other / "ratings.csv")))
    with pytest.raises(InputError, match="holds a study of other data or another split") as refusal:
        make_plan(moved, TRAINING)
    assert "\n" not in str(refusal.value)
    shutil.copy(ratings, other / "ratings.csv")
    assert all(run.is_done for run in make_plan(moved, TRAINING).runs)


def test_a_feature_file_is_known_by_its_content(copied, tmp_path):
    file = tmp_path / "mood.csv"
    keys = {}
    for mood in ("calm", "wild", "calm"):
        file.write_text("".join(["item,mood\n", *(f"{item},{mood}\n" for item in range(1, 31))]))
        study = dataclasses.replace(copied, variations=(f"mood=--item-features mood --feature-files {file}",))
        keys.setdefault(mood, []).append(make_plan(study, TRAINING).runs[1].key)
    assert keys["calm"][0] == keys["calm"][1] != keys["wild"][0]


def test_a_variation_may_name_skips_by_their_text(tmp_path):
    lines = [
        f"u{user},i{(user + place) % 9},{place},{'play' if place % 3 else 'skip'}"
        for user in range(12)
        for place in range(6)
    ]
    plays = tmp_path / "plays.csv"
    plays.write_text("\n".join(["user_id,item_id,timestamp,kind", *lines]) + "\n")
    flags = ["--dataset events --data-path", str(plays), "--time-unit s --no-mask-seen", *TOY_MODEL]
    head = "head=--skips kind=skip --skip-head 0.1"
    plan = make_plan(StudyConfig("plain=" + " ".join(flags), (head,), output=tmp_path / "study"), TRAINING)
    # A bilinear form of the state and the item, a vector for each, and a bias.
    d_model = plan.arms[0].config.model.d_model
    assert plan.n_parameters["head"] - plan.n_parameters["plain"] == d_model**2 + 2 * d_model + 1
