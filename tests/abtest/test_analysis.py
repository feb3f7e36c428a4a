"""From logs to verdicts: planted effects are found, planted faults block, and nothing is said too early."""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from page_reader import PageReader

from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.page import page
from seqrec.abtest.plan import MICROSECONDS_PER_DAY, ExperimentPlan, Metric, Quantile, metric_of
from seqrec.abtest.simulate import SimulatedLogs, Simulation, simulate, write_logs
from seqrec.types import InputError


def plan_with(**fields) -> ExperimentPlan:
    defaults = {"name": "p", "start": date(2026, 3, 2), "n_days": 6, "primary": Metric("plays"), "days_before": 6}
    return ExperimentPlan(**{**defaults, "expected_users": 1000, **fields})


def analysed(directory, plan: ExperimentPlan, logs: SimulatedLogs, **options) -> dict:
    files = write_logs([logs], directory)
    return analyze(load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan), plan, **options)


def simulated(directory, plan: ExperimentPlan, *, n_days: int | None = None, **faults) -> dict:
    return analysed(
        directory,
        plan,
        simulate(plan, Simulation(**{"n_users": 1000, "sessions_per_day": 2.0, **faults})),
        n_days=n_days,
    )


def failed(result: dict) -> set[str]:
    return {check["name"] for check in result["checks"] if check["status"] == "failed"}


def test_a_planted_lift_is_shipped_and_its_interval_holds_it(tmp_path):
    plan = plan_with(guardrails=(metric_of("-skips/plays:0.2"),), segments=("country",))
    result = simulated(tmp_path, plan, lift=0.2)
    assert failed(result) == set()
    assert result["verdicts"]["treatment"]["decision"] == "ship"
    primary = result["effects"]["treatment"]["primary"]
    assert primary["relative_lower"] <= 0.2 <= primary["relative_upper"]
    assert sum(row["n_users"] for row in result["segments"]) == sum(result["n_users"].values())


def test_the_last_days_effect_is_the_primary_effect(tmp_path):
    result = simulated(tmp_path, plan_with(), lift=0.1)
    primary, last = result["effects"]["treatment"]["primary"], result["days"]["treatment"][-1]
    last_figures = [last[name] for name in ("difference", "fixed_lower", "fixed_upper")]
    assert last_figures == pytest.approx([primary[name] for name in ("difference", "lower", "upper")])
    # The price of looking at any time.
    assert last["lower"] < last["fixed_lower"] < last["fixed_upper"] < last["upper"]


def test_quantiles_of_the_plan_are_those_of_the_users(tmp_path):
    plan = plan_with(quantiles=(Quantile("plays", 0.5), Quantile("seconds_listened", 0.9)))
    logs = simulate(plan, Simulation(n_users=1000, sessions_per_day=2.0, lift=0.3))
    files = write_logs([logs], tmp_path)
    connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
    quantiles = analyze(connection, plan)["effects"]["treatment"]["quantiles"]
    for each, quantile in zip(quantiles, plan.quantiles, strict=True):
        for arm in plan.arms:
            rows = connection.execute(f"SELECT {quantile.measure} FROM user_totals WHERE arm = $arm", {"arm": arm})
            values = np.array(rows.fetchall(), float)[:, 0]
            assert each["effect"][arm] == np.quantile(values, quantile.quantile, method="inverted_cdf")
    # The median user's plays rise by .3 of some 50.
    assert quantiles[0]["effect"]["lower"] > 0.0


def test_no_effect_shown_comes_with_the_smallest_detectable_effect(tmp_path):
    verdict = simulated(tmp_path, plan_with(), lift=0.0)["verdicts"]["treatment"]
    assert verdict["decision"] == "no effect shown"
    assert "the smallest detectable effect is" in verdict["headline"]


def test_a_loss_stops_and_so_does_a_harmed_guardrail(tmp_path):
    assert simulated(tmp_path, plan_with(), lift=-0.2)["verdicts"]["treatment"]["decision"] == "stop"
    plan = plan_with(guardrails=(metric_of("-skips/plays:0.05"),))
    result = simulated(tmp_path, plan, lift=0.2, skip_lift=0.5)
    assert result["effects"]["treatment"]["guardrails"][0]["state"] == "harmed"
    assert result["verdicts"]["treatment"]["decision"] == "stop"


def test_a_guardrail_that_could_not_be_ruled_out_holds_a_better_arm(tmp_path):
    plan = plan_with(guardrails=(metric_of("likes/plays:0.001"),))
    result = simulated(tmp_path, plan, lift=0.2, treatment_taste_share=0.3)
    assert result["effects"]["treatment"]["guardrails"][0]["state"] == "unclear"
    assert result["verdicts"]["treatment"]["decision"] == "hold"


@pytest.mark.parametrize(
    ("faults", "name"),
    [
        ({"missing_share": 0.3}, "sample ratio, assigned"),
        ({"two_arm_share": 0.02}, "users in two arms"),
        ({"treatment_lost_share": 0.04}, "events lost"),
        ({"lost_share": 0.2}, "events lost"),
        ({"treatment_repeated_share": 1.0}, "events repeated"),
        ({"treatment_repeated_share": 0.02}, "events repeated"),
    ],
)
def test_a_planted_fault_blocks_the_verdict_and_is_named(tmp_path, faults, name):
    result = simulated(tmp_path, plan_with(), lift=0.2, **faults)
    assert name in failed(result)
    verdict = result["verdicts"]["treatment"]
    assert verdict["decision"] == "blocked"
    assert name in verdict["headline"]


def test_exposure_that_differs_by_arm_blocks_the_verdict(tmp_path):
    plan = plan_with()
    logs = simulate(plan, Simulation(n_users=1000))
    # A trigger that is logged for some of the control's users only.
    arms = dict(zip(logs.assignments["user_id"].to_pylist(), logs.assignments["arm"].to_pylist(), strict=True))
    kept = [arms[user] != "control" or user % 4 > 0 for user in logs.exposures["user_id"].to_pylist()]
    result = analysed(tmp_path, plan, logs._replace(exposures=logs.exposures.filter(kept)))
    assert "exposure" in failed(result)
    assert result["verdicts"]["treatment"]["decision"] == "blocked"


def test_an_arm_without_users_is_blocked_and_not_an_error(tmp_path):
    plan = plan_with()
    logs = simulate(plan, Simulation(n_users=200))
    control = logs.assignments.filter(pc.equal(logs.assignments["arm"], "control"))
    result = analysed(tmp_path, plan, logs._replace(assignments=control))
    assert result["verdicts"]["treatment"]["decision"] == "blocked"
    assert "treatment has fewer than 2 users" in result["verdicts"]["treatment"]["headline"]
    assert result["effects"] == {}
    assert "Blocked" in page(result)


def test_a_metric_that_is_constant_in_one_arm_is_blocked(tmp_path):
    plan = plan_with(primary=Metric("likes"), days_before=0)
    logs = simulate(plan, Simulation(n_users=300))
    arms = dict(zip(logs.assignments["user_id"].to_pylist(), logs.assignments["arm"].to_pylist(), strict=True))
    is_control = np.array([arms[user] == "control" for user in logs.events["user_id"].to_pylist()])
    liked = np.where(is_control, 0, logs.events["liked"].to_numpy())
    events = logs.events.set_column(logs.events.column_names.index("liked"), "liked", pa.array(liked))
    result = analysed(tmp_path, plan, logs._replace(events=events))
    assert "variation" in failed(result)
    assert result["effects"]["treatment"]["primary"]["relative"] is None


def test_a_ratio_over_nothing_is_blocked_and_as_a_guardrail_unknown(tmp_path):
    logs = simulate(plan_with(), Simulation(n_users=300))
    events = logs.events.set_column(logs.events.column_names.index("liked"), "liked", pa.array([0] * len(logs.events)))
    logs = logs._replace(events=events)
    blocked = analysed(tmp_path, plan_with(primary=metric_of("plays/likes")), logs)
    assert "primary metric" in failed(blocked)
    assert "cannot be computed: denominator has mean 0" in blocked["verdicts"]["treatment"]["headline"]
    guarded = analysed(tmp_path, plan_with(guardrails=(metric_of("plays/likes:0.1"),)), logs)
    assert guarded["effects"]["treatment"]["guardrails"][0]["state"] == "unknown"


def test_a_fixed_plan_is_not_judged_before_its_end_and_a_sequence_may_be(tmp_path):
    fixed = simulated(tmp_path, plan_with(), n_days=3, lift=0.5)
    assert fixed["verdicts"]["treatment"]["decision"] == "continue"
    anytime = simulated(tmp_path, plan_with(stopping="always-valid"), n_days=4, lift=0.5)
    assert anytime["verdicts"]["treatment"]["decision"] == "ship"


def test_a_few_clocks_that_run_ahead_do_not_end_an_experiment(tmp_path):
    plan = plan_with()
    logs = simulate(plan, Simulation(n_users=300, lift=0.5))
    early = pc.less(logs.events["timestamp_us"], plan.start_us + 3 * MICROSECONDS_PER_DAY)
    ahead = logs.events.slice(0, 2)
    times = pa.array([plan.start_us + 6 * MICROSECONDS_PER_DAY - 1, plan.start_us + 400 * MICROSECONDS_PER_DAY])
    ahead = ahead.set_column(ahead.column_names.index("timestamp_us"), "timestamp_us", times)
    result = analysed(tmp_path, plan, logs._replace(events=pa.concat_tables([logs.events.filter(early), ahead])))
    assert (result["n_days"], result["complete"]) == (3, False)
    assert result["verdicts"]["treatment"]["decision"] == "continue"


def test_planned_looks_use_the_days_up_to_the_look(tmp_path):
    plan = plan_with(stopping="obrien-fleming", n_looks=3)
    # Looks are due at the ends of days 2, 4 and 6; day 5 is read as the look of day 4.
    for n_days, look, used in ((1, 0, 1), (2, 1, 2), (5, 2, 4), (6, 3, 6)):
        result = simulated(tmp_path, plan, n_days=n_days, lift=0.0)
        assert (result["look"], result["n_days"]) == (look, used)
        assert result["verdicts"]["treatment"]["decision"] == ("continue" if look < 3 else "no effect shown")


def test_three_arms_are_each_held_against_the_control_at_a_stricter_level(tmp_path):
    three = plan_with(arms=("control", "b", "c"), shares=(0.5, 0.25, 0.25))
    result = simulated(tmp_path, three, lift=0.3)
    assert set(result["verdicts"]) == {"b", "c"}
    assert failed(result) == set()
    b = result["effects"]["b"]["primary"]
    # Bonferroni: 97.5% intervals, t at 1.25% in each tail, about 2.24 standard errors.
    error = (b["upper"] - b["lower"]) / 2 / 2.24
    could = (2.2414 + 0.8416) * error / b["control"]
    assert b["detectable"] == pytest.approx(could, rel=0.02)


def test_users_and_events_that_are_left_out_are_counted(tmp_path):
    plan = plan_with()
    logs = simulate(plan, Simulation(n_users=300))
    early = {"user_id": [9001], "arm": ["control"], "timestamp_us": [plan.start_us - 5]}
    twice = logs.assignments.slice(0, 7)
    columns = ["user_id", "arm", "timestamp_us"]
    assignments = pa.concat_tables([logs.assignments.select(columns), twice.select(columns), pa.table(early)])
    stranger = pa.table({**logs.events.slice(0, 1).to_pydict(), "user_id": [9002]}).cast(logs.events.schema)
    events = pa.concat_tables([logs.events, stranger])
    result = analysed(tmp_path, plan, logs._replace(assignments=assignments, events=events))
    notes = " | ".join(check["finding"] for check in result["checks"] if check["name"] == "left out")
    assert "1 users were assigned outside" in notes
    assert "7 assignments repeat" in notes
    assert "1 events are of users without" in notes


def test_a_plan_of_another_time_is_refused(tmp_path):
    logs = simulate(plan_with(), Simulation(n_users=50))
    later = plan_with(start=date(2027, 1, 1))
    with pytest.raises(InputError, match="no event is on or after 2027-01-01"):
        analysed(tmp_path, later, logs)
    with pytest.raises(InputError, match=r"n_days=9 is outside 1\.\.6"):
        analysed(tmp_path, plan_with(), logs, n_days=9)


def test_the_page_stands_alone_escapes_names_and_says_the_verdict_first(tmp_path):
    name = "<script>alert('x')</script>"
    plan = plan_with(
        name=name,
        arms=("control", f'"{name}'),
        guardrails=(metric_of("likes:0.1"),),
        segments=("country",),
        quantiles=(Quantile("plays", 0.5),),
        adjustment="cupac",
    )
    result = simulated(tmp_path, plan)
    text = page(result)
    assert json.loads(json.dumps(result)) == result
    assert "<script" not in text
    assert "http" not in text
    assert PageReader(text).stands_alone()
    places = [text.index(words) for words in ('class="verdict', "Can it be trusted?", "Primary metric", "Guardrails")]
    heads = (
        "<h2>Quantiles",
        "<h2>Segments",
        "Effect to date",
        "Offline against online",
        "<h2>Method",
        "GROUP BY user_id",
    )
    places += [text.index(words) for words in heads]
    assert places == sorted(places)


@pytest.mark.slow
def test_a_false_alarm_is_as_rare_as_planned(tmp_path):
    # Logs of one long A/A experiment, whose users are dealt out anew: exact re-randomisation.
    plan = plan_with(n_days=2, days_before=2)
    logs = simulate(plan, Simulation(n_users=400, lift=0.0))
    shown = 0
    random = np.random.default_rng(0)
    n = 60
    for _ in range(n):
        arms = np.array(plan.arms)[random.integers(2, size=len(logs.assignments))]
        dealt = logs.assignments.set_column(1, "arm", pa.array(arms))
        result = analysed(tmp_path, plan, logs._replace(assignments=dealt))
        shown += result["effects"]["treatment"]["primary"]["shown"] != 0
    # The binomial's 99.9% quantile of 60 at 5% is 9.
    assert shown <= 9
