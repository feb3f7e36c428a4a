"""The SQL against a plain loop over the same events, by hand-made logs and by drawn ones."""

import itertools
from collections import defaultdict
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from seqrec.abtest import tables
from seqrec.abtest.logs import Logs, days_logged, load_logs, set_period
from seqrec.abtest.moments import moments
from seqrec.abtest.plan import MEASURES, MICROSECONDS_PER_DAY, Metric, Plan
from seqrec.abtest.simulate import Simulation, simulate, write_logs
from seqrec.types import InputError

MINUTE = 60_000_000


def plan_with(**fields) -> Plan:
    return Plan(**{"name": "p", "start": date(2026, 3, 2), "n_days": 6, "primary": Metric("plays"), **fields})


PLAN = plan_with(days_before=3, max_plays_per_day=50)
START = PLAN.start_us


def slow_totals(logs, plan: Plan) -> dict:
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
    found = {}
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
            found[user] = (next(iter(arms[user])), slow_measures(during, plan), slow_measures(before, plan))
    return found


def slow_measures(events, plan: Plan) -> dict:
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


def loaded(tmp_path, logs, plan: Plan, *, n_days: int | None = None):
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
    found = connection.execute(f"SELECT user_id, arm, {columns} FROM user_totals").fetchall()
    expected = drawn_totals
    assert len(expected) > 50
    assert {row[0]: row[1] for row in found} == {user: arm for user, (arm, _, _) in expected.items()}
    for user, _, *values in found:
        _, during, before = expected[user]
        np.testing.assert_allclose(values, [x for name in names for x in (during[name], before[name])], rtol=1e-9)


@pytest.mark.parametrize("metric", [Metric("plays"), Metric("skips", "plays"), Metric("plays", "sessions")])
def test_moments_are_those_of_the_users_rows(tmp_path, drawn, drawn_totals, metric):
    connection = loaded(tmp_path, drawn, PLAN)
    tables.choose_metric(connection, metric)
    found = tables.moments_by_arm(connection)
    totals = drawn_totals.values()
    pair = (metric.numerator, metric.denominator)
    for arm in PLAN.arms:
        rows = [[*(during[n] for n in pair), *(before[n] for n in pair)] for a, during, before in totals if a == arm]
        expected = moments(np.array(rows, float))
        assert found[arm].n_users == expected.n_users
        np.testing.assert_allclose(found[arm].mean, expected.mean, rtol=1e-9)
        np.testing.assert_allclose(found[arm].covariance, expected.covariance, rtol=1e-9, atol=1e-9)


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
            found = by_day[arm][n_days - 1]
            assert found.n_users == expected.n_users
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9)
            np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-7, atol=1e-7)


def test_segments_add_up_to_the_whole(tmp_path):
    plan = plan_with(segments=("country",))
    logs = simulate(plan, Simulation(n_users=100))
    connection = loaded(tmp_path, logs, plan)
    tables.choose_metric(connection, plan.primary)
    parts = tables.moments_by_segment(connection)
    for arm, whole in tables.moments_by_arm(connection).items():
        each = [found[arm] for found in parts.values() if arm in found]
        assert sum(part.n_users for part in each) == whole.n_users
        total = sum(part.n_users * part.mean for part in each)
        np.testing.assert_allclose(total / whole.n_users, whole.mean)


def small_logs(directory, *, assignments=None, events=None) -> Logs:
    """Two users, one an arm, each with two plays."""
    assignments = assignments or {
        "user_id": [1, 2],
        "arm": ["control", "treatment"],
        "timestamp_us": [START, START],
    }
    events = events or {
        "user_id": [1, 1, 2, 2],
        "timestamp_us": [START + k * MINUTE for k in (1, 40, 1, 20)],
        "seconds": [200.0, 10.0, 200.0, 200.0],
        "skipped": [0, 1, 0, 0],
        "liked": [0, 0, 1, 0],
    }
    for name, columns in (("assignments", assignments), ("events", events)):
        pq.write_table(pa.table(columns), directory / f"{name}.parquet")
    return Logs(directory / "assignments.parquet", directory / "events.parquet")


def test_a_silence_longer_than_the_gap_starts_a_session_and_one_as_long_does_not(tmp_path):
    times = [START, START + 30 * MINUTE, START + 60 * MINUTE + 1]
    events = {"user_id": [1] * 3, "timestamp_us": times, "seconds": [1.0] * 3, "skipped": [0] * 3, "liked": [0] * 3}
    connection = load_logs(small_logs(tmp_path, events=events), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    tables.build_tables(connection)
    assert connection.execute("SELECT user_id, sessions FROM user_totals ORDER BY 1").fetchall() == [(1, 2), (2, 0)]


def test_text_files_hold_the_same_as_parquet_and_ids_may_be_text(tmp_path):
    logs = small_logs(tmp_path)
    texts = {}
    for name in ("assignments", "events"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        users = pa.array([f"u'{user}" for user in table["user_id"].to_pylist()])
        texts[name] = tmp_path / f"{name} [copy]*.csv"
        pyarrow.csv.write_csv(table.set_column(0, "user_id", users), texts[name])
    found = []
    for each in (logs, Logs(texts["assignments"], texts["events"])):
        connection = load_logs(each, PLAN)
        set_period(connection, PLAN, n_days=days_logged(connection, PLAN))
        tables.build_tables(connection)
        found.append(connection.execute("SELECT arm, plays, skips, sessions FROM user_totals ORDER BY arm").fetchall())
    assert found[0] == found[1] == [("control", 2, 1, 2), ("treatment", 2, 0, 1)]


def test_leading_zeros_of_ids_and_arms_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text(f"user_id,arm,timestamp_us\n007,01,{START}\n7,02,{START}\n")
    (tmp_path / "e.csv").write_text(
        f"user_id,timestamp_us,seconds,skipped,liked\n007,{START},1.5,0,1\nx,{START},1,0,0\n"
    )
    connection = load_logs(Logs(tmp_path / "a.csv", tmp_path / "e.csv"), plan_with(arms=("01", "02")))
    assert connection.execute("SELECT user_id, arm FROM assignments").fetchall() == [("007", "01"), ("7", "02")]
    assert connection.execute("SELECT user_id FROM events").fetchall() == [("007",), ("x",)]


def test_a_text_file_without_any_due_column_is_told_so(tmp_path):
    logs = small_logs(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="lacks the column 'user_id', only a, b"):
        load_logs(Logs(tmp_path / "other.csv", logs.events), PLAN)


def test_names_with_sql_in_them_are_only_names(tmp_path):
    hostile = 'x"; DROP TABLE assignments; --'
    value = "'); DROP TABLE events; --"
    plan = plan_with(arms=("control", value), segments=(hostile,))
    assignments = {
        "user_id": [1, 2],
        "arm": ["control", value],
        "timestamp_us": [START, START],
        hostile: [value, None],
    }
    connection = load_logs(small_logs(tmp_path, assignments=assignments), plan)
    found = connection.execute("SELECT segment, value FROM segment_values ORDER BY user_id").fetchall()
    assert found == [(hostile, value), (hostile, "(unknown)")]
    assert connection.execute("SELECT COUNT(*) FROM events").fetchall() == [(4,)]
    assert connection.execute("SELECT arm FROM assignments ORDER BY user_id").fetchall() == [("control",), (value,)]


def changed(columns: dict, **changes) -> dict:
    return {**columns, **changes}


ASSIGNMENTS = {"user_id": [1, 2], "arm": ["control", "treatment"], "timestamp_us": [START, START]}
EVENTS = {"user_id": [1, 2], "timestamp_us": [START, START], "seconds": [1.0, 2.0], "skipped": [0, 0], "liked": [0, 1]}


@pytest.mark.parametrize(
    ("assignments", "events", "words"),
    [
        ({"user_id": [1], "arm": ["control"]}, EVENTS, "lacks the column 'timestamp_us', only user_id, arm"),
        (changed(ASSIGNMENTS, arm=["control", "C"]), EVENTS, "has the arm 'C', the plan 'control', 'treatment'"),
        (changed(ASSIGNMENTS, arm=["control", None]), EVENTS, "row 2: arm is missing"),
        (changed(ASSIGNMENTS, timestamp_us=[START, -5]), EVENTS, "row 2: timestamp_us is '-5'"),
        (changed(ASSIGNMENTS, timestamp_us=[1.5, 2.5]), EVENTS, "not whole numbers"),
        (changed(ASSIGNMENTS, user_id=[None, 2]), EVENTS, "row 1: user_id is missing"),
        (ASSIGNMENTS, changed(EVENTS, timestamp_us=[START // 10**6] * 2), "row 1: timestamp_us is"),
        (ASSIGNMENTS, changed(EVENTS, seconds=[1.0, float("nan")]), "row 2: seconds is 'nan'"),
        (ASSIGNMENTS, changed(EVENTS, seconds=[-1.0, 1.0]), "row 1: seconds is '-1.0'"),
        (ASSIGNMENTS, changed(EVENTS, skipped=[0, 2]), "row 2: skipped is '2'; give 0 or 1"),
        (ASSIGNMENTS, changed(EVENTS, skipped=[0.5, 0.0]), "row 1: skipped is '0.5'; give 0 or 1"),
        (ASSIGNMENTS, changed(EVENTS, liked=["no", "yes"]), "liked is text"),
        (ASSIGNMENTS, changed(EVENTS, sequence=[1, None]), "row 2: sequence is missing"),
    ],
)
def test_a_row_that_cannot_be_is_named(tmp_path, assignments, events, words):
    with pytest.raises(InputError) as error:
        load_logs(small_logs(tmp_path, assignments=assignments, events=events), PLAN)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_segment_that_is_absent_or_has_too_many_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="lacks the column 'country'"):
        load_logs(small_logs(tmp_path), plan_with(segments=("country",)))
    n = 51
    many = {"user_id": list(range(n)), "arm": ["control"] * n, "timestamp_us": [START] * n, "city": list(range(n))}
    with pytest.raises(InputError, match="51 values, more than 50"):
        load_logs(small_logs(tmp_path, assignments=many), plan_with(segments=("city",)))


def test_the_sql_keeps_to_what_other_engines_run():
    for name in (*tables.STEPS, "metric_values", "moments", "segment_moments", "increments_by_day"):
        code = "\n".join(line for line in tables.sql_text(name).splitlines() if not line.startswith("--")).upper()
        for word in ("QUALIFY", "FILTER (", "GROUP BY ALL", "EXCLUDE", "::", "$", "ILIKE", "LIST(", "EPOCH", "ASOF"):
            assert word not in code, (name, word)
