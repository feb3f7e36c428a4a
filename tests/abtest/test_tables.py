"""The SQL against a plain loop over the same events, by hand-made logs and by drawn ones."""

import itertools
from collections import defaultdict
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.abtest import tables
from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs, set_period
from seqrec.abtest.plan import MEASURES, MICROSECONDS_PER_DAY, ExperimentPlan, Metric
from seqrec.abtest.sample_moments import sample_moments
from seqrec.abtest.simulate import Simulation, simulate, write_logs
from seqrec.types import InputError

MINUTE = 60_000_000


def plan_with(**fields) -> ExperimentPlan:
    return ExperimentPlan(**{"name": "p", "start": date(2026, 3, 2), "n_days": 6, "primary": Metric("plays"), **fields})


PLAN = plan_with(days_before=3, max_plays_per_day=50)
START = PLAN.start_us


def slow_totals(logs, plan: ExperimentPlan) -> dict:
    """user -> (arm, measures during, measures before), by a loop."""
    assignments, exposures, events = (t.to_pylist() for t in (logs.assignments, logs.exposures, logs.events))
    until = plan.start_us + plan.n_days * MICROSECONDS_PER_DAY
    arms, assigned = defaultdict(set), {}
    for row in assignments:
        arms[row["user_id"]].add(row["arm"])
        assigned[row["user_id"]] = min(row["timestamp_us"], assigned.get(row["user_id"], row["timestamp_us"]))
    exposed = {}
    for row in exposures:
        user, time = row["user_id"], row["timestamp_us"]
        if user in assigned and assigned[user] <= time < until:
            exposed[user] = min(time, exposed.get(user, time))
    by_user = defaultdict(list)
    for row in events:
        by_user[row["user_id"]].append(row)
    totals = {}
    for user, since in exposed.items():
        if len(arms[user]) > 1:
            continue
        during = [e for e in by_user[user] if since <= e["timestamp_us"] < until]
        before_us = plan.start_us - plan.days_before * MICROSECONDS_PER_DAY
        before = [e for e in by_user[user] if before_us <= e["timestamp_us"] < plan.start_us]
        plays_a_day = defaultdict(int)
        for event in during:
            plays_a_day[(event["timestamp_us"] - plan.start_us) // MICROSECONDS_PER_DAY] += 1
        if max(plays_a_day.values(), default=0) <= plan.max_plays_per_day:
            totals[user] = (next(iter(arms[user])), slow_measures(during, plan), slow_measures(before, plan))
    return totals


def slow_measures(events, plan: ExperimentPlan) -> dict:
    times = sorted(e["timestamp_us"] for e in events)
    gaps = [b - a > plan.session_gap_minutes * MINUTE for a, b in itertools.pairwise(times)]
    return {
        "users": 1.0,
        "plays": len(events),
        "seconds_listened": sum(e["seconds"] for e in events),
        "skips": sum(e["skipped"] for e in events),
        "likes": sum(e["liked"] for e in events),
        "active_days": len({(t - plan.start_us) // MICROSECONDS_PER_DAY for t in times}),
        "sessions": bool(times) + sum(gaps),
    }


def loaded(tmp_path, logs, plan: ExperimentPlan, *, n_days: int | None = None):
    files = write_logs([logs], tmp_path)
    connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
    set_period(connection, plan, n_days=n_days or plan.n_days)
    tables.build_tables(connection)
    return connection


@pytest.fixture(scope="module")
def drawn():
    faults = {"bot_share": 0.01, "two_arm_share": 0.05, "lost_share": 0.02, "exposed_share": 0.8}
    return simulate(PLAN, Simulation(n_users=200, seed=3, **faults))


@pytest.fixture(scope="module")
def drawn_totals(drawn):
    return slow_totals(drawn, PLAN)


def test_user_totals_are_those_of_a_loop(tmp_path, drawn, drawn_totals):
    connection = loaded(tmp_path, drawn, PLAN)
    names = ("users", *MEASURES)
    columns = ", ".join(f"{name}, {name}_before" for name in names)
    rows = connection.execute(f"SELECT user_id, arm, {columns} FROM user_totals").fetchall()
    expected = drawn_totals
    assert len(expected) > 50
    assert {row[0]: row[1] for row in rows} == {user: arm for user, (arm, _, _) in expected.items()}
    for user, _, *values in rows:
        _, during, before = expected[user]
        np.testing.assert_allclose(values, [x for name in names for x in (during[name], before[name])], rtol=1e-9)


@pytest.mark.parametrize("metric", [Metric("plays"), Metric("skips", "plays"), Metric("plays", "sessions")])
def test_moments_are_those_of_the_users_rows(tmp_path, drawn, drawn_totals, metric):
    connection = loaded(tmp_path, drawn, PLAN)
    tables.choose_metric(connection, metric)
    moments = tables.moments_by_arm(connection)
    totals = drawn_totals.values()
    pair = (metric.numerator, metric.denominator)
    for arm in PLAN.arms:
        rows = [[*(during[n] for n in pair), *(before[n] for n in pair)] for a, during, before in totals if a == arm]
        expected = sample_moments(np.array(rows, float))
        assert moments[arm].n_users == expected.n_users
        np.testing.assert_allclose(moments[arm].mean, expected.mean, rtol=1e-9)
        np.testing.assert_allclose(moments[arm].covariance, expected.covariance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", [Metric("plays"), Metric("skips", "plays")])
def test_a_days_moments_are_those_of_an_analysis_that_ends_with_it(tmp_path, drawn, metric):
    # A bot may show itself on a later day only, so none are left out here.
    plan = plan_with(days_before=3, max_plays_per_day=10**9)
    connection = loaded(tmp_path, drawn, plan)
    tables.choose_metric(connection, metric)
    by_day = tables.moments_by_day(connection, plan, metric, n_days=plan.n_days)
    for n_days in (2, 4, 6):
        earlier = loaded(tmp_path, drawn, plan, n_days=n_days)
        tables.choose_metric(earlier, metric)
        for arm, expected in tables.moments_by_arm(earlier).items():
            moments = by_day[arm][n_days - 1]
            assert moments.n_users == expected.n_users
            np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-9)
            np.testing.assert_allclose(moments.covariance, expected.covariance, rtol=1e-7, atol=1e-7)


def test_segments_add_up_to_the_whole(tmp_path):
    plan = plan_with(segments=("country",))
    logs = simulate(plan, Simulation(n_users=100))
    connection = loaded(tmp_path, logs, plan)
    tables.choose_metric(connection, plan.primary)
    parts, wholes = tables.moments_by_segment(connection), tables.moments_by_arm(connection)
    assert len(parts) > 1
    assert set(wholes) == set(plan.arms)
    for arm, whole in wholes.items():
        each = [by_arm[arm] for by_arm in parts.values() if arm in by_arm]
        assert sum(part.n_users for part in each) == whole.n_users
        total = sum(part.n_users * part.mean for part in each)
        np.testing.assert_allclose(total / whole.n_users, whole.mean)


@pytest.mark.parametrize("adjustment", ["cuped", "cupac"])
@pytest.mark.parametrize("during", [True, False])
def test_a_nan_among_the_events_is_refused_and_gives_no_verdict(tmp_path, adjustment, during):
    plan = plan_with(primary=Metric("seconds_listened"), days_before=3, adjustment=adjustment)
    connection = loaded(tmp_path, simulate(plan, Simulation(n_users=50)), plan)
    # Of a user who is analysed, as a source of events would give it that checks nothing.
    since = "e.timestamp_us >= u.exposed_us" if during else "e.timestamp_us < $start AND e.timestamp_us >= $before"
    bounds = {} if during else {"start": plan.start_us, "before": plan.start_us - 3 * MICROSECONDS_PER_DAY}
    user, time = connection.execute(
        f"SELECT e.user_id, MAX(e.timestamp_us) FROM events e JOIN analysed_users u ON u.user_id = e.user_id "
        f"WHERE {since} GROUP BY e.user_id ORDER BY e.user_id LIMIT 1",
        bounds,
    ).fetchall()[0]
    connection.execute(
        "CREATE TABLE with_nan AS SELECT * REPLACE "
        "(CASE WHEN user_id = $user AND timestamp_us = $time THEN CAST('nan' AS DOUBLE) ELSE seconds END AS seconds) "
        "FROM events",
        {"user": user, "time": time},
    )
    connection.execute("CREATE OR REPLACE VIEW events AS SELECT * FROM with_nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        analyze(connection, plan)


def test_a_silence_longer_than_the_gap_starts_a_session_and_one_as_long_does_not(tmp_path):
    times = [START, START + 30 * MINUTE, START + 60 * MINUTE + 1]
    events = {"user_id": [1] * 3, "timestamp_us": times, "seconds": [1.0] * 3, "skipped": [0] * 3, "liked": [0] * 3}
    assignments = {"user_id": [1, 2], "arm": ["control", "treatment"], "timestamp_us": [START, START]}
    for name, columns in (("assignments", assignments), ("events", events)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    connection = load_logs(Logs(tmp_path / "assignments.parquet", tmp_path / "events.parquet"), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    tables.build_tables(connection)
    assert connection.execute("SELECT user_id, sessions FROM user_totals ORDER BY 1").fetchall() == [(1, 2), (2, 0)]


def test_the_sql_keeps_to_what_other_engines_run():
    for name in (*tables.STEPS, "metric_values", "moments", "segment_moments", "increments_by_day"):
        code = "\n".join(line for line in tables.sql_text(name).splitlines() if not line.startswith("--")).upper()
        for word in ("QUALIFY", "FILTER (", "GROUP BY ALL", "EXCLUDE", "::", "$", "ILIKE", "LIST(", "EPOCH", "ASOF"):
            assert word not in code, (name, word)
