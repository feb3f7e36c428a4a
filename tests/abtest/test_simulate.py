"""The simulated experiment: one world of listeners, two recommenders, and what was planted is there."""

import dataclasses
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.plan import MICROSECONDS_PER_DAY, ExperimentPlan, Metric, metric_of
from seqrec.abtest.simulate import SimulatedLogs, Simulation, log_blocks, simulate, true_lifts, write_logs
from seqrec.types import InputError

PLAN = ExperimentPlan(name="p", start=date(2026, 3, 2), n_days=8, primary=Metric("plays"), days_before=8)


def drawn(**chosen) -> Simulation:
    return Simulation(**{"n_users": 2000, "sessions_per_day": 2.0, **chosen})


def plays_of(logs: SimulatedLogs, arm: str) -> pa.Table:
    """The events of this arm's exposed users since their exposure, with the exposure's time."""
    assigned = logs.assignments.filter(pc.equal(logs.assignments["arm"], arm)).select(["user_id"])
    exposed = logs.exposures.rename_columns(["user_id", "exposed_us"]).join(assigned, "user_id", join_type="inner")
    joined = logs.events.join(exposed, "user_id", join_type="inner")
    return joined.filter(pc.greater_equal(joined["timestamp_us"], joined["exposed_us"]))


def test_logs_repeat_with_the_seed_and_do_not_depend_on_what_goes_wrong_later():
    logs, again = simulate(PLAN, drawn(n_users=200)), simulate(PLAN, drawn(n_users=200))
    assert logs.events.equals(again.events)
    assert not logs.events.equals(simulate(PLAN, drawn(n_users=200, seed=1)).events)
    lossy = simulate(PLAN, drawn(n_users=200, lost_share=0.5)).events
    kept = set(zip(*(lossy[name].to_pylist() for name in ("user_id", "sequence")), strict=True))
    assert kept < set(zip(*(logs.events[name].to_pylist() for name in ("user_id", "sequence")), strict=True))


def test_a_unit_with_the_name_of_a_segment_holds_ids():
    logs = simulate(dataclasses.replace(PLAN, unit="country"), drawn(n_users=200))
    plain = simulate(PLAN, drawn(n_users=200))
    assert logs.assignments["country"].to_pylist() == plain.assignments["user_id"].to_pylist()


def test_blocks_of_users_add_up_to_all():
    simulation = Simulation(n_users=10_001, sessions_per_day=0.2)
    blocks = list(log_blocks(PLAN, simulation))
    assert [len(block.assignments) for block in blocks] == [10_000, 1]
    assert simulate(PLAN, simulation).events.equals(pa.concat_tables([block.events for block in blocks]))


def test_the_same_recommender_without_a_plant_does_exactly_nothing():
    assert set(true_lifts(PLAN, drawn(lift=0.0, treatment_taste_share=0.3)).values()) == {0.0}


def test_tracks_by_taste_are_skipped_less_and_keep_those_who_would_leave():
    lifts = true_lifts(PLAN, drawn(lift=0.0, treatment_taste_share=0.9))
    assert lifts["skips"] < 0.0 < lifts["likes"]
    assert lifts["seconds_listened"] > 0.0
    # How long a session is does not depend on its tracks, unless a skip may end it, or the experiment's end.
    assert abs(lifts["plays"]) < 1e-3
    assert true_lifts(PLAN, drawn(lift=0.0, treatment_taste_share=0.9, leave_share=0.3))["plays"] > 0.01


def test_plays_rise_by_the_planted_lift():
    simulation = drawn(lift=0.25, treatment_taste_share=0.3, n_users=4000)
    truth = true_lifts(PLAN, simulation)["plays"]
    # A session's length is rounded up or down by a fair chance: with some 250,000 plays to within a percent.
    assert truth == pytest.approx(0.25, abs=0.01)
    logs = simulate(PLAN, simulation)
    n_plays = {
        arm: len(plays_of(logs, arm)) / pc.sum(pc.equal(logs.assignments["arm"], arm)).as_py() for arm in PLAN.arms
    }
    # The coefficient of variation of a user's plays is about 1, over 2,000 users an arm.
    assert n_plays["treatment"] / n_plays["control"] - 1 == pytest.approx(truth, abs=4 * 1.25 * np.sqrt(2 / 2000))


def test_a_planted_rise_of_skips_is_found():
    lifts = true_lifts(PLAN, drawn(lift=0.0, treatment_taste_share=0.3, skip_lift=0.4))
    # Chances near 1 cannot rise by so much.
    assert 0.3 < lifts["skips"] <= 0.41


def test_novelty_wears_off_from_day_to_day(tmp_path):
    plan = dataclasses.replace(PLAN, n_days=16)
    simulation = drawn(lift=0.0, treatment_taste_share=0.3, novelty=1.0, novelty_half_life_days=2.0)
    logs = simulate(plan, simulation)
    rates = {}
    for arm in plan.arms:
        events = plays_of(logs, arm)
        age = (events["timestamp_us"].to_numpy() - events["exposed_us"].to_numpy()) // MICROSECONDS_PER_DAY
        rates[arm] = np.bincount(age, minlength=8)[:8] / len(np.unique(events["user_id"].to_numpy()))
    lift = rates["treatment"] / rates["control"] - 1
    # Sessions of day k of a user's are, on the mean, half a day older than k: 2 ** -((k + 1 / 2) / 2), less at first,
    # where all begin with a session at age 0.
    assert lift[1:7:2] == pytest.approx(2.0 ** -((np.array([1, 3, 5]) + 0.5) / 2), abs=0.25)
    # The effect to date falls accordingly.
    files = write_logs([logs], tmp_path)
    connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
    relative = {
        when: analyze(connection, plan, n_days=n_days)["effects"]["treatment"]["primary"]["relative"]
        for when, n_days in (("early", 4), ("late", 16))
    }
    assert relative["late"] < relative["early"]


def test_bots_are_found_by_their_plays_in_all_arms_alike(tmp_path):
    logs = simulate(PLAN, drawn(n_users=500, bot_share=0.02))
    n_plays = pc.value_counts(logs.events["user_id"]).field("counts").to_numpy()
    n_bots = int(np.sum(n_plays > 3 * PLAN.max_plays_per_day))
    assert 1 <= n_bots <= 30
    files = write_logs([logs], tmp_path)
    result = analyze(load_logs(Logs(files["assignments"], files["events"], files["exposures"]), PLAN), PLAN)
    (check,) = (check for check in result["checks"] if check["name"] == "bots")
    assert check["status"] == "passed"
    assert sum(result["n_users"].values()) == len(logs.exposures) - n_bots


def test_the_events_that_are_lost_leave_gaps_in_the_players_numbers():
    logs = simulate(PLAN, drawn(n_users=500, lost_share=0.1))
    by_user = logs.events.group_by("user_id").aggregate([("sequence", "max"), ("sequence", "count")])
    share = 1 - pc.sum(by_user["sequence_count"]).as_py() / pc.sum(by_user["sequence_max"]).as_py()
    # Some 100,000 events; a user's last may be lost without a trace.
    assert share == pytest.approx(0.1, abs=0.01)


def check_coverage(directory, n_experiments: int) -> None:
    """Intervals hold the true effect on these very listeners, and the guardrail's too."""
    plan = dataclasses.replace(PLAN, guardrails=(metric_of("likes:0.5"),))
    covered = 0
    for seed in range(n_experiments):
        simulation = Simulation(n_users=500, sessions_per_day=1.0, lift=0.1, leave_share=0.1, seed=seed)
        truth = true_lifts(plan, simulation)
        files = write_logs([simulate(plan, simulation)], directory)
        connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
        effects = analyze(connection, plan)["effects"]["treatment"]
        for name, effect in (("plays", effects["primary"]), ("likes", effects["guardrails"][0]["effect"])):
            covered += effect["relative_lower"] <= truth[name] <= effect["relative_upper"]
    n = 2 * n_experiments
    # Who was dealt where is random, the listeners are the same: coverage is at least the interval's.
    assert covered / n >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / n)


def test_the_true_effect_lies_in_the_interval(tmp_path):
    check_coverage(tmp_path, 6)


@pytest.mark.slow
def test_the_true_effect_lies_in_the_interval_in_many_experiments(tmp_path):
    check_coverage(tmp_path, 200)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_users": 0}, "n_users=0"),
        ({"bot_share": 1.5}, "bot_share=1.5"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"sessions_per_day": 0.0}, "sessions_per_day=0.0"),
        ({"lift": -0.6, "novelty": -0.6}, "more than all"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Simulation(**fields)
