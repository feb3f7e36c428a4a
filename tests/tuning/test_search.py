"""The search over trials whose curves are formulas: pruning, repetition, and processes that die or share a search."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seqrec.config import Choices, Range
from seqrec.tuning.search import TuneConfig, open_search, rungs, tune
from seqrec.types import InputError

pytest.importorskip("optuna", reason='optuna is an extra: pip install -e ".[tune]"')

SPACE = {"rate": Range(1e-4, 1e-1, log=True), "share": Range(0.0, 1.0), "kind": Choices(("a", "b")), "n": Range(1, 4)}
FIRST = {"rate": 1e-3, "share": 0.5, "kind": "b", "n": 9}
MAX_EPOCHS = 9


def height(values) -> float:
    """Highest at share 1 of kind a."""
    return values["share"] + (values["kind"] == "a")


def begin(several, *, on_epoch=lambda epoch, n_members: None):
    """Curves that rise to the values' height."""
    epoch, members = 0, list(several)
    while True:
        epoch += 1
        on_epoch(epoch, len(members))
        places = yield [height(values) * (1 - 0.5**epoch) for values in members]
        members = [members[place] for place in places]


def search(directory, *, begin=begin, seed=0, patience=MAX_EPOCHS, configure=dict, **config):
    """Runs trials and returns (state, values, curve) of each."""
    message = []
    with open_search(directory, SPACE, TuneConfig(**config), first=FIRST, seed=seed, max_epochs=MAX_EPOCHS) as study:
        tune(study, configure, begin, max_epochs=MAX_EPOCHS, patience=patience, say=message.append)
        return trials_of(study)


def trials_of(study):
    return [
        (trial.state.name, trial.user_attrs["values"], list(trial.intermediate_values.values()))
        for trial in study.journal.get_trials()
        if trial.state.name != "WAITING"
    ]


def test_the_first_trial_is_the_config_as_given_where_the_ranges_hold_it(tmp_path):
    ((state, values, curve),) = search(tmp_path, n_trials=1)
    assert state == "COMPLETE"
    assert {**values, "n": None} == {**FIRST, "n": None}
    assert 1 <= values["n"] <= 4
    assert curve == [height(values) * (1 - 0.5**epoch) for epoch in range(1, MAX_EPOCHS + 1)]


def test_trials_are_drawn_inside_their_ranges_to_four_digits_and_the_weak_are_pruned(tmp_path):
    findings = search(tmp_path, n_trials=15)
    assert len(findings) == 15
    for _, values, _ in findings:
        assert 1e-4 <= values["rate"] <= 1e-1
        assert values["rate"] == float(f"{values['rate']:.4g}")
        assert values["kind"] in "ab"
        assert values["n"] in (1, 2, 3, 4)
    complete = [curve for state, _, curve in findings if state == "COMPLETE"]
    pruned = [curve for state, _, curve in findings if state == "PRUNED"]
    assert len(complete) + len(pruned) == 15
    assert complete
    assert pruned
    assert all(len(curve) == MAX_EPOCHS for curve in complete)
    # Pruning looks at rungs alone, which lie a factor of 3 apart.
    assert {len(curve) for curve in pruned} <= {1, 3, 9}


def test_a_search_repeats_itself_for_a_seed_and_not_for_another(tmp_path):
    first, again, other = (
        search(tmp_path / name, n_trials=8, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == again
    assert first != other


def test_a_search_in_two_parts_ends_as_one_in_one_part(tmp_path):
    whole = search(tmp_path / "whole", n_trials=8)
    search(tmp_path / "parts", n_trials=3)
    assert search(tmp_path / "parts", n_trials=8) == whole


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_search

epochs = 0

def die(epoch, n_members):
    global epochs
    epochs += 1
    if epochs == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

test_search.search(Path({directory!r}), begin=lambda several: test_search.begin(several, on_epoch=die), **{config!r})
"""


@pytest.mark.parametrize("population", [1, 4])
def test_a_search_that_is_killed_in_a_trial_ends_as_an_undisturbed_one(tmp_path, population):
    config = {"n_trials": 8, "population": population}
    whole = search(tmp_path / "whole", **config)
    n_epochs = sum(len(curve) for _, _, curve in whole) // population
    for at in (2, n_epochs // 2):
        code = KILLED.format(here=str(Path(__file__).parent), at=at, directory=str(tmp_path / "killed"), config=config)
        killed = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = tmp_path / "killed" / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')  # a line that was cut short
    assert search(tmp_path / "killed", **config) == whole
    assert not list((tmp_path / "killed" / "workers").iterdir())


def test_a_trial_that_kills_its_process_every_time_is_given_up(tmp_path):
    starts = []

    class Killed(BaseException):
        pass

    def deadly(several):
        starts.append(several)
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            search(tmp_path, n_trials=2, begin=deadly)
    (state, *_), (other, *_) = search(tmp_path, n_trials=2)
    assert (state, other) == ("FAIL", "COMPLETE")
    assert starts[0] == starts[1] == starts[2]


def test_ctrl_c_is_no_reason_to_give_a_trial_up(tmp_path):
    def interrupted(several):
        yield [0.0]
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, n_trials=1, begin=interrupted)
    ((state, *_),) = search(tmp_path, n_trials=1)
    assert state == "COMPLETE"


def test_two_processes_share_a_search_without_training_a_trial_twice(tmp_path):
    config = TuneConfig(n_trials=4)
    options = {"first": FIRST, "seed": 0, "max_epochs": MAX_EPOCHS}
    trained = []

    def noted(several):
        trained.extend(several)
        return begin(several)

    def with_another(several):
        """In the midst of a trial another process takes the next one, and ends it."""
        trained.extend(several)
        course = begin(several)
        figures = next(course)
        with open_search(tmp_path, SPACE, TuneConfig(n_trials=2), **options) as other:
            assert other.worker != one.worker
            tune(other, dict, noted, max_epochs=MAX_EPOCHS, patience=9, say=print)
        while True:
            figures = course.send((yield figures))

    with open_search(tmp_path, SPACE, config, **options) as one:
        tune(one, dict, with_another, max_epochs=MAX_EPOCHS, patience=9, say=print)
        trials = trials_of(one)
    assert len(trials) == len(trained) == 4
    assert all(state in ("COMPLETE", "PRUNED") for state, *_ in trials)
    assert sorted(map(str, trained)) == sorted(str(values) for _, values, _ in trials)


def test_a_population_is_cut_to_its_best_third_at_each_rung(tmp_path):
    sizes = []

    def noted(several):
        return begin(several, on_epoch=lambda epoch, n_members: sizes.append(n_members))

    findings = search(tmp_path, n_trials=9, population=9, begin=noted)
    assert sizes == [9] + 2 * [3] + 6 * [1]
    ends = sorted((len(curve), height(values)) for _, values, curve in findings)
    assert [n for n, _ in ends] == 6 * [1] + 2 * [3] + [9]
    # Curves do not cross here, so halving keeps the highest.
    assert [value for _, value in ends[6:]] == sorted(height(values) for _, values, _ in findings)[6:]


def test_a_trial_ends_when_its_patience_is_spent(tmp_path):
    def falling(several):
        epoch = 0
        while True:
            epoch += 1
            yield [1 / epoch for _ in several]

    ((state, _, curve),) = search(tmp_path, n_trials=1, begin=falling, patience=2)
    assert (state, curve) == ("COMPLETE", [1, 1 / 2, 1 / 3])


def test_values_that_the_config_refuses_fail_alone(tmp_path):
    def configure(values):
        if values["kind"] == "a":
            raise ValueError("no kind a")

    findings = search(tmp_path, n_trials=10, configure=configure)
    for state, values, curve in findings:
        assert (state == "FAIL") == (values["kind"] == "a")
        assert bool(curve) == (values["kind"] == "b")
    assert {"FAIL", "COMPLETE"} <= {state for state, *_ in findings}


def test_no_trial_begins_after_the_time_is_spent(tmp_path):
    findings = search(tmp_path, n_trials=5, tuning_minutes=1e-9)
    assert findings == []


def test_the_journal_is_lines_of_json(tmp_path):
    search(tmp_path, n_trials=2)
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"journal.jsonl", "study.lock", "workers"}
    assert all(isinstance(json.loads(line), dict) for line in (tmp_path / "journal.jsonl").open())


def test_a_damaged_journal_is_named(tmp_path):
    search(tmp_path, n_trials=1)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    (tmp_path / "journal.jsonl").write_text("\n".join([lines[0], "{nonsense", *lines[2:], ""]))
    with pytest.raises(InputError, match=r"journal\.jsonl is damaged"):
        search(tmp_path, n_trials=2)


def test_later_brackets_cut_later():
    assert rungs(27, 3, bracket=0) == [1, 3, 9]
    assert rungs(28, 3, bracket=0) == [1, 3, 9, 27]
    assert rungs(2, 3, bracket=5) == [1]


@pytest.mark.parametrize("bad", [{"n_trials": 0}, {"population": 0}, {"reduction": 1}, {"tuning_minutes": -1.0}])
def test_what_cannot_be_run_is_refused(bad):
    with pytest.raises(ValueError, match="try"):
        TuneConfig(**bad)


def test_without_optuna_one_line_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'pip install "seqrec\[tune\]"') as refusal:
        search(tmp_path, n_trials=1)
    assert "\n" not in str(refusal.value)
    assert not os.listdir(tmp_path)
