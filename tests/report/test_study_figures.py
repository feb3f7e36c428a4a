"""What a study knows of its variations, from runs whose truth is known."""

import numpy as np
import pytest
from study_runs import N_USERS, a_run, runs_of_a_study

from seqrec.metrics import metric_values
from seqrec.report.study_figures import study_figures
from seqrec.stats import compare_over_seeds_and_users
from seqrec.types import InputError

NAMES = ("ids", "genres", "shuffled")


def ndcg(run):
    return np.asarray(metric_values(run.ranks.rank)["ndcg@10"], np.float64)


def test_differences_are_those_of_users_and_seeds():
    runs = runs_of_a_study()
    figures = study_figures(NAMES, (0, 1, 2), runs)
    values = np.array([[ndcg(run) for run in runs if run.name == name] for name in NAMES])
    for row, (difference, adjusted) in enumerate(compare_over_seeds_and_users(values), start=1):
        each = figures["variations"][NAMES[row]]["ndcg@10"]
        assert each["difference"] == pytest.approx(np.mean(values[row] - values[0]))
        assert each["interval"] == pytest.approx([difference.lower, difference.upper])
        assert each["p_holm"] == pytest.approx(adjusted)
    assert figures["variations"]["genres"]["verdict"]["kind"] == "helps"
    assert figures["variations"]["shuffled"]["verdict"]["kind"] == "none"
    assert figures["systems"]["ids"]["values"] == pytest.approx(values[0].mean(axis=1).tolist())
    assert figures["systems"]["ids"]["seeds_sd"] == pytest.approx(values[0].mean(axis=1).std(ddof=1))
    assert figures["notes"] == []


def test_slices_are_the_same_figures_among_fewer_users():
    runs = runs_of_a_study()
    [cold] = [each for each in study_figures(NAMES, (0, 1, 2), runs)["slices"] if each["name"] == "cold targets"]
    assert [each["label"] for each in cold["slices"]] == ["cold: not in training", "warm"]
    inside = runs[0].ranks.columns["target_events"] == 0
    values = np.array([[ndcg(run)[inside] for run in runs if run.name == name] for name in NAMES])
    assert cold["slices"][0]["n_users"] == inside.sum()
    figures = cold["slices"][0]["differences"]["genres"]["ndcg@10"]
    [(genres, _), _] = compare_over_seeds_and_users(values)
    assert figures == pytest.approx([genres.estimate, genres.lower, genres.upper])


def test_costs_are_medians_without_the_first_interval_and_stand_beside_the_base():
    costs = study_figures(NAMES, (0, 1, 2), runs_of_a_study())["costs"]
    # Intervals of 5, .010 and .012 seconds a step, of which the first compiles; twice that for the others.
    assert costs["ids"]["step_seconds"] == pytest.approx(0.011)
    assert costs["genres"]["of_base"] == pytest.approx({"n_parameters": 1.1, "state_bytes": 1.1, "step_seconds": 2.0})


def test_only_whole_seeds_are_compared():
    runs = [run for run in runs_of_a_study() if (run.name, run.seed) != ("shuffled", 2)]
    figures = study_figures(NAMES, (0, 1, 2), runs)
    assert figures["seeds"] == [0, 1]
    assert figures["notes"] == ["2 finished runs are of seeds that not all variations have; they are not compared."]


def test_one_seed_says_that_it_knows_of_no_other():
    runs = [run for run in runs_of_a_study() if run.seed == 0]
    figures = study_figures(NAMES, (0, 1, 2), runs)
    assert figures["seeds"] == [0]
    assert "not about the variations" in figures["notes"][0]
    assert figures["variations"]["genres"]["ndcg@10"]["seeds_error"] is None
    assert figures["systems"]["ids"]["seeds_sd"] is None


def test_a_variation_without_runs_is_named_and_does_not_hide_the_others():
    runs = [run for run in runs_of_a_study() if run.name != "shuffled"]
    figures = study_figures(NAMES, (0, 1, 2), runs)
    assert list(figures["variations"]) == ["genres"]
    assert figures["seeds"] == [0, 1, 2]
    assert figures["notes"][0] == "Not compared, because runs are missing: shuffled."


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((), "ids has no finished run"),
        (("genres",), "ids has no finished run"),
        (("ids",), "no variation has finished"),
    ],
)
def test_without_a_base_or_a_variation_nothing_is_compared(kept, message):
    runs = [run for run in runs_of_a_study() if run.name in kept]
    with pytest.raises(InputError, match=message):
        study_figures(NAMES, (0, 1, 2), runs)


def test_runs_with_other_held_out_items_are_refused():
    runs = runs_of_a_study()
    other = a_run("shuffled", 2, items=np.arange(N_USERS) % 7)
    with pytest.raises(InputError, match="hold out different items"):
        study_figures(NAMES, (0, 1, 2), [*runs[:-1], other])
