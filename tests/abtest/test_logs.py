"""Logs from files and databases: read as they are, refused by name and row, and never run as SQL."""

from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from seqrec.abtest import tables
from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, days_logged, load_logs, set_period
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.abtest.simulate import Simulation, simulate, write_logs
from seqrec.types import InputError

MINUTE = 60_000_000


def plan_with(**fields) -> ExperimentPlan:
    return ExperimentPlan(**{"name": "p", "start": date(2026, 3, 2), "n_days": 6, "primary": Metric("plays"), **fields})


def tables_of(*names: str, database: str) -> Logs:
    return Logs(*map(Path, names), database=database)


PLAN = plan_with(days_before=3)
START = PLAN.start_us


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


def test_text_files_hold_the_same_as_parquet_and_ids_may_be_text(tmp_path):
    logs = small_logs(tmp_path)
    texts = {}
    for name in ("assignments", "events"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        users = pa.array([f"u'{user}" for user in table["user_id"].to_pylist()])
        texts[name] = tmp_path / f"{name} [copy]*.csv"
        pyarrow.csv.write_csv(table.set_column(0, "user_id", users), texts[name])
    totals = []
    for each in (logs, Logs(texts["assignments"], texts["events"])):
        connection = load_logs(each, PLAN)
        set_period(connection, PLAN, n_days=days_logged(connection, PLAN))
        tables.build_tables(connection)
        totals.append(connection.execute("SELECT arm, plays, skips, sessions FROM user_totals ORDER BY arm").fetchall())
    assert totals[0] == totals[1] == [("control", 2, 1, 2), ("treatment", 2, 0, 1)]


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
    with pytest.raises(InputError, match="has no column 'user_id'; it has 'a', 'b'"):
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
    rows = connection.execute("SELECT segment, value FROM segment_values ORDER BY user_id").fetchall()
    assert rows == [(hostile, value), (hostile, "(unknown)")]
    assert connection.execute("SELECT COUNT(*) FROM events").fetchall() == [(4,)]
    assert connection.execute("SELECT arm FROM assignments ORDER BY user_id").fetchall() == [("control",), (value,)]


def changed(columns: dict, **changes) -> dict:
    return {**columns, **changes}


ASSIGNMENTS = {"user_id": [1, 2], "arm": ["control", "treatment"], "timestamp_us": [START, START]}
EVENTS = {"user_id": [1, 2], "timestamp_us": [START, START], "seconds": [1.0, 2.0], "skipped": [0, 0], "liked": [0, 1]}


@pytest.mark.parametrize(
    ("assignments", "events", "words"),
    [
        ({"user_id": [1], "arm": ["control"]}, EVENTS, "has no column 'timestamp_us'; it has 'user_id', 'arm'"),
        (changed(ASSIGNMENTS, arm=["control", "C"]), EVENTS, "has the arm 'C', the plan 'control', 'treatment'"),
        (changed(ASSIGNMENTS, arm=["control", None]), EVENTS, "row 2: arm is missing"),
        (changed(ASSIGNMENTS, timestamp_us=[START, -5]), EVENTS, "row 2: timestamp_us is '-5'"),
        (changed(ASSIGNMENTS, timestamp_us=[1.5, 2.5]), EVENTS, "row 1: timestamp_us is '1.5'; give microseconds"),
        (changed(ASSIGNMENTS, user_id=[None, 2]), EVENTS, "row 1: the user_id is missing"),
        (ASSIGNMENTS, changed(EVENTS, timestamp_us=[START // 10**6] * 2), "row 1: timestamp_us is"),
        (ASSIGNMENTS, changed(EVENTS, seconds=[1.0, float("nan")]), "row 2: seconds is missing"),
        (ASSIGNMENTS, changed(EVENTS, seconds=[-1.0, 1.0]), "row 1: seconds is '-1.0'"),
        (ASSIGNMENTS, changed(EVENTS, skipped=[0, 2]), "row 2: skipped is '2'; give 0 or 1"),
        (ASSIGNMENTS, changed(EVENTS, skipped=[0.5, 0.0]), "row 1: skipped is '0.5'; give 0 or 1"),
        (ASSIGNMENTS, changed(EVENTS, liked=["no", "yes"]), "row 1: liked 'no' is not a number; give 0 or 1"),
        (ASSIGNMENTS, changed(EVENTS, sequence=[1, None]), "row 2: sequence is missing"),
    ],
)
def test_a_row_that_cannot_be_is_named(tmp_path, assignments, events, words):
    with pytest.raises(InputError) as error:
        load_logs(small_logs(tmp_path, assignments=assignments, events=events), PLAN)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["seconds", "skipped", "liked"])
def test_one_nan_among_many_events_is_named_although_statistics_leave_it_out(tmp_path, column):
    n = 22_000
    events = {"user_id": np.arange(n) % 2 + 1, "timestamp_us": np.full(n, START), "seconds": np.arange(n) % 200.0}
    events |= {"skipped": np.zeros(n), "liked": np.ones(n)}
    events[column][777] = np.nan
    with pytest.raises(InputError, match=rf"events.parquet, row 778: {column} is missing"):
        load_logs(small_logs(tmp_path, events=events), PLAN)


def decimal_ids(ids):
    return pa.array(ids).cast(pa.decimal128(30, 2))


@pytest.mark.parametrize("assigned", [pa.array, decimal_ids, lambda ids: pa.array(ids, pa.float64())])
@pytest.mark.parametrize(
    "logged", [decimal_ids, lambda ids: pa.array(ids, pa.float64()), lambda ids: pa.array(map(str, ids))]
)
def test_ids_are_the_same_users_whatever_their_types(tmp_path, assigned, logged):
    logs = small_logs(
        tmp_path,
        assignments=changed(ASSIGNMENTS, user_id=assigned([1, 2])),
        events=changed(EVENTS, user_id=logged([1, 2])),
    )
    connection = load_logs(logs, PLAN)
    joined = connection.execute("SELECT arm FROM events JOIN assignments USING (user_id) ORDER BY arm").fetchall()
    assert joined == [("control",), ("treatment",)]


def test_a_column_of_true_and_false_in_a_text_file_is_one_and_zero(tmp_path):
    (tmp_path / "e.csv").write_text(
        f"user_id,timestamp_us,seconds,skipped,liked\n1,{START},1.5,True,False\n2,{START},1,False,False\n"
    )
    logs = small_logs(tmp_path)
    connection = load_logs(Logs(logs.assignments, tmp_path / "e.csv"), PLAN)
    assert connection.execute("SELECT skipped, liked FROM events ORDER BY user_id").fetchall() == [(1, 0), (0, 0)]


def test_a_segment_that_is_absent_or_has_too_many_values_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no column 'country'"):
        load_logs(small_logs(tmp_path), plan_with(segments=("country",)))
    n = 51
    many = {"user_id": list(range(n)), "arm": ["control"] * n, "timestamp_us": [START] * n, "city": list(range(n))}
    with pytest.raises(InputError, match="51 values, more than 50"):
        load_logs(small_logs(tmp_path, assignments=many), plan_with(segments=("city",)))


@pytest.mark.parametrize("unit", ["account_id", """u"; DROP TABLE assignments; --'"""])
def test_the_plans_unit_is_a_column_of_any_name(tmp_path, unit):
    plans = [plan_with(unit=name, days_before=4) for name in ("user_id", unit)]
    effects = []
    for plan in plans:
        logs = simulate(plan, Simulation(n_users=300, sessions_per_day=1.0))
        assert unit in logs.events.column_names or plan.unit == "user_id"
        files = write_logs([logs], tmp_path / str(len(effects)))
        connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plan)
        effects.append(analyze(connection, plan)["effects"]["treatment"]["primary"])
    # Sums of the same numbers in another order.
    assert effects[0] == pytest.approx(effects[1])
    with pytest.raises(InputError, match="has no column 'user_id'"):
        load_logs(Logs(files["assignments"], files["events"], files["exposures"]), plans[0])


def test_a_unit_of_several_users_is_one_row(tmp_path):
    # Users 1 and 2 are of one account: their plays are one row's.
    assignments = {"account": [7, 8], "arm": ["control", "treatment"], "timestamp_us": [START, START]}
    events = {
        "account": [7, 7, 8],
        "user_id": [1, 2, 3],
        "timestamp_us": [START + MINUTE] * 3,
        "seconds": [1.0] * 3,
        "skipped": [0] * 3,
        "liked": [0] * 3,
    }
    plan = plan_with(unit="account")
    connection = load_logs(small_logs(tmp_path, assignments=assignments, events=events), plan)
    set_period(connection, plan, n_days=plan.n_days)
    tables.build_tables(connection)
    assert connection.execute("SELECT user_id, plays FROM user_totals ORDER BY 1").fetchall() == [(7, 2), (8, 1)]


def test_tables_of_a_database_hold_the_same_as_files(tmp_path):
    files = write_logs([simulate(PLAN, Simulation(n_users=200, sessions_per_day=1.0))], tmp_path)
    path = tmp_path / "it's logs.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA web")
        for name, file in files.items():
            connection.execute(f"CREATE TABLE web.{name} AS SELECT * FROM '{file}'")
    of_files = Logs(files["assignments"], files["events"], files["exposures"])
    of_tables = tables_of("web.assignments", "web.events", "web.exposures", database=str(path))
    analyses = [analyze(load_logs(logs, PLAN), PLAN) for logs in (of_files, of_tables)]
    assert analyses[0]["n_users"] == analyses[1]["n_users"]
    effects = [each["effects"]["treatment"]["primary"] for each in analyses]
    assert effects[0] == pytest.approx(effects[1])


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        (tables_of("a", "e", database="none.duckdb"), "none.duckdb does not exist"),
        (tables_of("a; DROP TABLE t", "e", database="db"), "table a; DROP TABLE t cannot be read"),
        (tables_of("t", "t", database="db"), "t has no column 'user_id'; it has 'x'"),
        (tables_of("a", "e", database="text.duckdb"), "text.duckdb cannot be opened"),
        # Without its extension it says so, with it nobody answers at this port.
        (
            tables_of("a", "e", database="postgresql://nobody:secret@127.0.0.1:1/x"),
            "the PostgreSQL database cannot be opened",
        ),
    ],
)
def test_a_database_that_cannot_be_read_is_said_in_one_line(tmp_path, monkeypatch, logs, words):
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("db") as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    (tmp_path / "text.duckdb").write_text("no database\n")
    with pytest.raises(InputError) as error:
        load_logs(logs, PLAN)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_damaged_file_ends_in_one_line(tmp_path):
    files = write_logs([simulate(PLAN, Simulation(n_users=100, sessions_per_day=1.0))], tmp_path)
    content = bytearray(files["events"].read_bytes())
    # Its pages, between the head and the footer.
    half = len(content) // 2
    content[4:half] = bytes(half - 4)
    files["events"].write_bytes(content)
    # What is known from the footer may be checked already.
    with pytest.raises(InputError, match=r"cannot be (read|aggregated)") as error:
        analyze(load_logs(Logs(files["assignments"], files["events"], files["exposures"]), PLAN), PLAN)
    assert "\n" not in str(error.value)


def test_an_assignment_that_is_logged_twice_counts_once_and_from_its_first_time(tmp_path):
    assignments = {
        "user_id": [1, 1, 2],
        "arm": ["control", "control", "treatment"],
        "timestamp_us": [START + 30 * MINUTE, START, START],
    }
    connection = load_logs(small_logs(tmp_path, assignments=assignments), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    tables.build_tables(connection)
    assert connection.execute("SELECT user_id, plays FROM user_totals ORDER BY 1").fetchall() == [(1, 2), (2, 2)]
