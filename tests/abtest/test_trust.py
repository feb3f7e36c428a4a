"""Checks of the logs: repeated events, and events that belong to nobody."""

import dataclasses
import re
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs, set_period
from seqrec.abtest.means import effect, ratio_estimate
from seqrec.abtest.page import page
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.abtest.sample_moments import sample_moments
from seqrec.abtest.simulate import SimulatedLogs, Simulation, simulate, write_logs
from seqrec.abtest.tables import build_tables, trust_counts

PLAN = ExperimentPlan(
    name="p", start=date(2026, 3, 2), n_days=6, primary=Metric("plays"), days_before=6, expected_users=1000
)


def written(directory: Path, logs: SimulatedLogs, **options) -> Logs:
    files = write_logs([logs], directory)
    return Logs(files["assignments"], files["events"], files["exposures"], **options)


def analysed(directory: Path, logs: SimulatedLogs, *, plan: ExperimentPlan = PLAN, **options) -> dict:
    return analyze(load_logs(written(directory, logs, **options), plan), plan)


def check(result: dict, name: str) -> dict:
    (match,) = [each for each in result["checks"] if each["name"] == name]
    return match


@pytest.fixture(scope="module")
def once() -> SimulatedLogs:
    return simulate(PLAN, Simulation(n_users=600, sessions_per_day=2.0, lift=0.2))


def with_treatment_events_twice(logs: SimulatedLogs, *, numbered: bool) -> SimulatedLogs:
    """Logs of a client that since the start sends each event of the treatment again."""
    arms = dict(zip(logs.assignments["user_id"].to_pylist(), logs.assignments["arm"].to_pylist(), strict=True))
    is_treated = np.array([arms[user] == "treatment" for user in logs.events["user_id"].to_pylist()])
    again = logs.events.filter(is_treated & (logs.events["timestamp_us"].to_numpy() >= PLAN.start_us))
    events = pa.concat_tables([logs.events, again])
    return logs._replace(events=events if numbered else events.drop_columns(["sequence"]))


@pytest.mark.parametrize("numbered", [True, False])
def test_events_that_are_logged_twice_block_the_verdict_and_can_be_dropped(tmp_path, once, numbered):
    twice = with_treatment_events_twice(once, numbered=numbered)
    blocked = analysed(tmp_path, twice)
    assert blocked["verdicts"]["treatment"]["decision"] == "blocked"
    finding = check(blocked, "events repeated")["finding"]
    assert re.search(r"0% of control's and [234]\d(\.\d)?% of treatment's repeat an earlier one", finding)
    assert "--logs.drop-repeated" in finding
    # The truth is 20%, and twice the treatment's plays would be 140%.
    assert blocked["effects"]["treatment"]["primary"]["relative"] > 1.0

    dropped = analysed(tmp_path, twice, drop_repeated=True)
    n_again = len(twice.events) - len(once.events)
    expected = {"name": "events repeated", "status": "noted", "finding": f"{n_again:,} repeated events were dropped"}
    assert check(dropped, "events repeated") == expected
    assert f"{n_again:,} repeated events were dropped" in page(dropped)
    original = analysed(tmp_path, once)
    assert check(original, "events repeated")["finding"] == "none"
    assert dropped["verdicts"] == original["verdicts"]
    # Sums of the same numbers in another order.
    primaries = [each["effects"]["treatment"]["primary"] for each in (dropped, original)]
    assert primaries[0] == pytest.approx(primaries[1])


def test_a_repeat_with_another_time_is_seen_by_its_sequence_and_the_first_counts(tmp_path, once):
    again = once.events.slice(0, 100)
    later = pa.array(again["timestamp_us"].to_numpy() + 5_000_000)
    again = again.set_column(again.column_names.index("timestamp_us"), "timestamp_us", later)
    logs = written(tmp_path, once._replace(events=pa.concat_tables([again, once.events])), drop_repeated=True)
    connection = load_logs(logs, PLAN)
    assert connection.execute("SELECT n_events FROM dropped_events").fetchall() == [(100,)]
    columns = ["user_id", "sequence", "timestamp_us"]
    kept = connection.execute(f"SELECT {', '.join(columns)} FROM events").fetchall()
    assert sorted(kept) == sorted(zip(*(once.events[name].to_pylist() for name in columns), strict=True))


def test_a_few_repeats_in_both_arms_are_noted_and_more_than_the_plan_allows_are_not(tmp_path, once):
    every_2000th = once.events.take(np.arange(0, len(once.events), 2000))
    logs = once._replace(events=pa.concat_tables([once.events, every_2000th]))
    assert check(analysed(tmp_path, logs), "events repeated")["status"] == "noted"
    strict = dataclasses.replace(PLAN, max_repeated_share=0.0)
    assert check(analysed(tmp_path, logs, plan=strict), "events repeated")["status"] == "failed"


def test_rows_that_agree_in_all_but_their_number_are_noted_and_do_not_block(tmp_path, once):
    again = with_treatment_events_twice(once, numbered=True).events.slice(len(once.events))
    index = again.column_names.index("sequence")
    exposed = dict(zip(*(once.exposures[name].to_pylist() for name in ("user_id", "timestamp_us")), strict=True))
    users, times = (again[name].to_pylist() for name in ("user_id", "timestamp_us"))
    again = again.filter(np.array([time >= exposed.get(user, np.inf) for user, time in zip(users, times, strict=True)]))
    # The numbers follow the user's last, so that none is lost.
    last = dict(zip(*(once.events[name].to_pylist() for name in ("user_id", "sequence")), strict=True))
    numbers = []
    for user in again["user_id"].to_pylist():
        last[user] += 1
        numbers.append(last[user])
    renumbered = again.set_column(index, "sequence", pa.array(numbers, again["sequence"].type))
    result = analysed(tmp_path, once._replace(events=pa.concat_tables([once.events, renumbered])))
    repeats = check(result, "events sent again")
    assert repeats["status"] == "noted"
    assert re.match(r"[\d.]+% of treatment's agree with an earlier one of the user in all but", repeats["finding"])
    assert check(result, "events repeated")["finding"] == "none"
    assert not [each for each in result["checks"] if each["status"] == "failed"]
    assert "events sent again" not in {each["name"] for each in analysed(tmp_path, once)["checks"]}


def test_repeated_events_are_counted_by_user(tmp_path, once):
    random = np.random.default_rng(0)
    again = once.events.take(random.integers(len(once.events), size=500))
    logs = once._replace(events=pa.concat_tables([once.events, again]))
    connection = load_logs(written(tmp_path, logs), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    build_tables(connection)
    counts = trust_counts(connection)
    for arm in PLAN.arms:
        rows = connection.execute("SELECT user_id, sequence FROM user_events WHERE arm = $arm", {"arm": arm}).fetchall()
        copies = Counter(rows)
        by_user: dict[int, list[int]] = {}
        for (user, _), n in copies.items():
            sums = by_user.setdefault(user, [0, 0])
            sums[0] += n - 1
            sums[1] += n
        expected = sample_moments(np.array(list(by_user.values()), float))
        assert counts.repeated[arm].n_users == len(by_user)
        np.testing.assert_allclose(counts.repeated[arm].mean, expected.mean)
        np.testing.assert_allclose(counts.repeated[arm].covariance, expected.covariance, atol=1e-9)


def test_shares_that_differ_by_arm_are_tested_over_users(tmp_path, once):
    repeated = simulate(PLAN, Simulation(n_users=600, sessions_per_day=2.0, treatment_repeated_share=0.0005))
    connection = load_logs(written(tmp_path, repeated), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    build_tables(connection)
    shares = [ratio_estimate(trust_counts(connection).repeated[arm]) for arm in PLAN.arms]
    p_value = effect(*shares).p_value
    repeats = check(analysed(tmp_path, repeated), "events repeated")
    assert max(share.value for share in shares) < PLAN.max_repeated_share
    assert repeats["status"] == ("failed" if p_value < PLAN.trust_alpha else "noted")
    assert f"(p {p_value:.1e})" in repeats["finding"] or f"(p {p_value:.3f})" in repeats["finding"]


def test_events_of_nobody_who_was_assigned_are_named_as_such(tmp_path, once):
    others = pa.array(once.events["user_id"].to_numpy() + 1_000_000)
    logs = once._replace(events=once.events.set_column(0, "user_id", others))
    result = analysed(tmp_path, logs)
    headline = result["verdicts"]["treatment"]["headline"]
    assert "no event is of an analysed user" in headline
    assert f"{len(others):,} are of users without an assignment: compare the ids in both logs" in headline
    assert "same value for every user" not in headline


def test_repeats_of_one_user_an_arm_still_fail_the_check(tmp_path, once):
    # No difference of shares can be tested then.
    users = {
        name: once.assignments["user_id"].to_pylist()[once.assignments["arm"].to_pylist().index(name)]
        for name in PLAN.arms
    }
    kept = once.events.filter([user in users.values() for user in once.events["user_id"].to_pylist()])
    logs = once._replace(events=pa.concat_tables([kept, kept]))
    repeats = check(analysed(tmp_path, logs), "events repeated")
    assert repeats["status"] == "failed"
    assert "(p unknown)" in repeats["finding"]
