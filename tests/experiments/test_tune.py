"""The script that tunes: what it leaves and says, and that no trial can see the test."""

import contextlib
import html
import io
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import sasrec
import tune
from conftest import EXPERIMENTS, TOY_MODEL, toy_histories
from scripts import TRAINING, script_named

from seqrec import runs, runtime
from seqrec.config import to_json, with_values
from seqrec.files import read_json
from seqrec.report.kept_results import condense_search, read_results
from seqrec.report.studies_page import MARK, studies_page
from seqrec.run.experiment import open_run
from seqrec.tuning.training import make_courses
from seqrec.types import InputError

pytest.importorskip("optuna", reason='optuna is an extra: pip install -e ".[tune]"')


def search(*flags, script="sasrec"):
    """Runs the script in this process."""
    flags = [script, *map(str, flags)]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [str(EXPERIMENTS / "tune.py"), *flags])
        findings = tune.main(runtime.parse(tune.config_type(script), flags))
    return findings, printed.getvalue()


@pytest.fixture(scope="module")
def study(toy, tmp_path_factory):
    """A study of 3 trials of the toy run's config and others."""
    flags = (*toy, "--output", tmp_path_factory.mktemp("studies") / "toy")
    flags = (*flags, "--search", "d-model=16,8", "--hold", "temperature", "weight-decay")
    return flags, *search(*flags, "--n-trials", "3")


def test_the_first_trial_is_the_run_that_the_script_would_do(study, finished):
    lines = map(runs.json.loads, (finished.directory / "metrics.jsonl").read_text().splitlines())
    expected = [line["valid"]["ndcg@10"] for line in lines if "valid" in line]
    # Ranks are whole numbers: rounding may move a user or two by a rank, not more.
    np.testing.assert_allclose(study[1]["trials"][0]["curve"], expected, atol=0.01)


def test_the_best_config_is_a_command_that_means_it(study, toy):
    _, findings, printed = study
    command = findings["best"]["command"]
    assert command in printed
    python, script, *flags = shlex.split(command)
    assert (python, Path(script).resolve()) == ("python", EXPERIMENTS / "sasrec.py")
    given = runtime.parse(sasrec.Config, toy)
    values = findings["best"]["values"]
    expected = with_values(
        given,
        {
            "model.d_model": values["d-model"],
            "model.dropout": values["dropout"],
            "training.loss.label_smoothing": values["label-smoothing"],
            "training.optimizer.learning_rate": values["learning-rate"],
        },
    )
    assert runtime.parse(sasrec.Config, flags) == expected
    assert set(values) == {"d-model", "dropout", "label-smoothing", "learning-rate"}


def test_a_study_leaves_its_figures_and_one_page_that_links_nothing(study):
    flags, findings, printed = study
    directory = flags[flags.index("--output") + 1]
    assert read_json(directory / "tune.json") == findings
    page = (directory / "tune.html").read_text()
    # Flags are marked up so that they break between words alone.
    assert findings["best"]["command"] in html.unescape(re.sub("<[^>]*>", "", page))
    assert not re.search(r'(src|href)="(?!#)', page)
    assert str(directory / "tune.html") in printed
    best = max(findings["trials"], key=lambda trial: max(trial["curve"]))
    assert findings["best"]["number"] == best["number"]
    assert findings["best"]["ndcg@10"] == best["curve"][findings["best"]["epoch"] - 1]


def test_a_kept_search_stands_beside_the_study_of_its_name_and_says_what_it_cost(study):
    flags, findings, _ = study
    kept = condense_search(flags[flags.index("--output") + 1])
    assert str(flags[flags.index("--output") + 1].parent) not in str(kept)
    assert str(flags[flags.index("--data-path") + 1]) not in str(kept)
    name, other = "toy-tuning", "another"
    studies = read_results(EXPERIMENTS / "results" / "studies")
    test_of_it = {name: studies["yoochoose-behaviour"]}
    empty = f"<!-- {MARK} -->\n<!-- end of {MARK} -->\n"
    defaults = {"sasrec": tune.config_type("sasrec")()}
    text = studies_page(empty, test_of_it, {name: kept}, defaults=defaults)
    minutes = sum(trial["seconds"] for trial in findings["trials"]) / 60
    n_epochs = sum(len(trial["curve"]) for trial in findings["trials"])
    assert (
        f"in {n_epochs} epochs, {minutes:.1f} minutes of training: trial {findings['best']['number']}, the best" in text
    )
    _, script, name_of_script, *words = shlex.split(text[text.index("python experiments/tune.py") :].splitlines()[0])
    assert (script, name_of_script) == ("experiments/tune.py", "sasrec")
    again = to_json(runtime.parse(tune.config_type("sasrec"), words))
    assert again == kept["config"]
    with pytest.raises(InputError, match="search another has no study of that name"):
        studies_page(empty, test_of_it, {other: kept}, defaults=defaults)


def test_a_study_goes_on_where_it_stopped_and_refuses_another_config(study):
    flags, before, _ = study
    findings, _ = search(*flags, "--n-trials", "4", "--resume")
    assert findings["trials"][:3] == before["trials"]
    assert len(findings["trials"]) == 4
    with pytest.raises(ValueError, match=r"n_blocks=1, not 2"):
        search(*flags, "--n-blocks", "2", "--resume")
    with pytest.raises(ValueError, match="add --resume"):
        search(*flags)


def test_a_study_is_joined_while_another_process_is_at_it(study):
    flags, before, _ = study
    output = flags[flags.index("--output") + 1]
    joined = tune.config_type("sasrec"), ["sasrec", *map(str, flags), "--n-trials", "3", "--resume"]
    config = runtime.parse(*joined)
    names = {"experiment": "tune-sasrec", "dataset": config.training.data.dataset}
    with open_run(config, config.training.run, **names, is_shared=True) as first:
        assert first == output
        findings, _ = search(*flags, "--n-trials", "3", "--resume")
    assert findings["trials"][:3] == before["trials"]


def test_a_population_is_one_study_like_any_other(toy, tmp_path):
    findings, _ = search(
        *toy, "--output", tmp_path / "study", "--n-trials", "3", "--population", "3", "--reduction", "2"
    )
    assert sorted(len(trial["curve"]) for trial in findings["trials"]) == [1, 2, 4]


def write_log(file, last_items):
    lines = [
        f"{user} {item}\n"
        for user, (history, last) in enumerate(zip(toy_histories(), last_items, strict=True), start=1)
        for item in [*history[:-1], last]
    ]
    file.write_text("".join(lines))
    return file


def test_no_trial_sees_the_test(tmp_path, monkeypatch):
    # The same histories, but for each user's last item, which is the test's. Items that take part stay the same.
    last = [history[-1] for history in toy_histories()]
    findings = []
    seen = []
    build = sasrec.build
    monkeypatch.setattr(sasrec, "build", lambda config, task: seen.append(task) or build(config, task))
    for name, items in (("one", last), ("other", np.roll(last, 7).tolist())):
        file = write_log(tmp_path / f"{name}.txt", items)
        flags = ("--dataset", "ml-1m", "--data-path", file, *TOY_MODEL, "--max-epochs", "2", "--n-trials", "2")
        findings.append(search(*flags, "--output", tmp_path / name)[0])
    assert findings[0]["trials"][0]["curve"] == findings[1]["trials"][0]["curve"]
    assert [trial["values"] for trial in findings[0]["trials"]] == [trial["values"] for trial in findings[1]["trials"]]
    assert len(seen) >= 4
    for task in seen:
        assert len(task.test.users) == len(task.test.targets) == 0
        assert list(task.test.batches()) == []
        assert (task.split.test == -1).all()
        assert len(task.valid.users) > 0
    # The histories do differ where the test is.
    assert (seen[0].store.items != seen[-1].store.items).any()


def test_ctrl_c_keeps_what_was_found_and_says_how_to_go_on(toy, tmp_path, monkeypatch, capsys):
    def interrupted_in_the_second(config, build, task):
        begin = make_courses(config, build, task)
        begun = []

        def begin_or_stop(several):
            begun.append(several)
            if len(begun) > 1:
                os.kill(os.getpid(), signal.SIGINT)
                runtime.check_interrupt()
            return begin(several)

        return begin_or_stop

    flags = [*toy, "--max-epochs", "1", "--n-trials", "3", "--output", str(tmp_path / "study")]
    with monkeypatch.context() as patch:
        patch.setattr(tune, "make_courses", interrupted_in_the_second)
        patch.setattr(sys, "argv", [str(EXPERIMENTS / "tune.py"), *flags])
        with pytest.raises(SystemExit) as stop:
            runtime.run_script(tune.main, tune.config_type("sasrec"))
    assert stop.value.code == 130
    printed = capsys.readouterr()
    assert "best of 2 trials: 0" in printed.out
    command = printed.err.split("go on with\n")[1].split("\n")[0]
    assert "tune.py" in command
    assert command.endswith("--resume")
    findings, _ = search(*shlex.split(command)[2:])
    assert len(findings["trials"]) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sasrek"], "sasrek"),
        (["--n-trial", "3"], "--n-trials"),
        (["--max-epoch", "3"], "--max-epochs"),
        (["--n-trials", "0"], "n_trials=0"),
        (["--search", "dropot=0..0.1"], "perhaps you meant dropout"),
        (["--search", "dropout=0..2"], r"dropout=2.0 is not a share"),
        (["--hold", "dropuot"], "perhaps you meant dropout"),
        (["--population", "2", "--search", "d-model=8,16"], "use --population 1"),
        (["--resume"], "--output"),
        (["--dataset", "movielens", "--data-path", "absent.csv"], "absent.csv does not exist"),
    ],
)
def test_flags_that_cannot_be_used_get_one_line(monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tune.py", *flags])
    with pytest.raises(SystemExit) as stop:
        runtime.run_script(tune.main, tune.config_type(script_named(flags)))
    assert stop.value.code == 2
    complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tune.py: ")]
    assert len(complaints) == 1
    assert re.search(message, complaints[0])
    assert not list(tmp_path.glob("runs/*"))


def test_without_optuna_nothing_is_left_behind(monkeypatch, tmp_path, toy):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"seqrec\[tune\]"):
        search(*toy, "--output", tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", TRAINING)
def test_every_script_can_be_tuned_with_its_own_flags(name):
    config = runtime.parse(tune.config_type(name), [name])
    assert config.script == name
    own = TRAINING[name].Config()
    assert all(getattr(config, part) == getattr(own, part) for part in vars(own))
