"""Runs the SQL of `sql/` over loaded logs and hands back sufficient statistics."""

from importlib import resources
from typing import Any

import duckdb
import numpy as np

from seqrec.abtest.moments import Moments, moments_of_sums
from seqrec.abtest.plan import MEASURES, Metric, Plan

STEPS = (
    "assigned_users",
    "triggered_users",
    "busiest_days",
    "analysed_users",
    "user_events",
    "user_days",
    "user_totals",
    "user_segments",
)
"""Tables that are made of the logs, each from those before it."""

_COLUMNS = "yzvw"


def sql_text(name: str) -> str:
    """The statement of this name, as it is in its file."""
    return resources.files("seqrec.abtest").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def build_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables of STEPS, in place of earlier ones."""
    for name in STEPS:
        # Each event is read once more, so there is nothing to keep of this one.
        kind = "VIEW" if name == "user_events" else "TABLE"
        connection.execute(f"CREATE OR REPLACE {kind} {name} AS {sql_text(name)}")


def rows(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    """What the statement of this name finds."""
    found = connection.execute(sql_text(name))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def choose_metric(connection: duckdb.DuckDBPyConnection, metric: Metric) -> None:
    """Makes the table `metric_values` of this metric."""
    connection.execute(f"CREATE OR REPLACE TABLE metric_values AS {_filled('metric_values', metric)}")


def _filled(name: str, metric: Metric) -> str:
    # `Metric` has refused all else; this is the only place where a word enters a statement.
    assert {metric.numerator, metric.denominator} <= {"users", *MEASURES}
    return sql_text(name).replace("{numerator}", metric.numerator).replace("{denominator}", metric.denominator)


def moments_by_arm(connection: duckdb.DuckDBPyConnection) -> dict[str, Moments]:
    """Of the chosen metric: numerator, denominator, and both before the experiment; arms without users are absent."""
    return {row["arm"]: _moments(row) for row in rows(connection, "moments")}


def moments_by_segment(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, Moments]]:
    """Of the chosen metric, by segment and value, then arm."""
    found: dict[tuple[str, str], dict[str, Moments]] = {}
    for row in rows(connection, "segment_moments"):
        found.setdefault((row["segment"], row["value"]), {})[row["arm"]] = _moments(row)
    return found


def _moments(row: dict[str, Any]) -> Moments:
    sums = np.array([row[name] for name in _COLUMNS], float)
    centre = np.array([row[f"centre_{name}"] for name in _COLUMNS], float)
    return moments_of_sums(int(row["n_users"]), sums, _products(row), centre=centre)


def _products(row: dict[str, Any], columns: str = _COLUMNS) -> np.ndarray:
    return np.array([[row[min(a + b, b + a, key=_place)] for b in columns] for a in columns], float)


def _place(pair: str) -> tuple[int, ...]:
    return tuple(map(_COLUMNS.index, pair))


def moments_by_day(
    connection: duckdb.DuckDBPyConnection, plan: Plan, metric: Metric, *, n_days: int
) -> dict[str, list[Moments | None]]:
    """Of the chosen metric by arm: at each day's end, the users exposed so far with their totals so far."""
    pairs = ("yy", "yz", "yv", "yw", "zz", "zv", "zw", "vv", "vw", "ww")
    totals = {arm: {name: np.zeros(n_days) for name in ("n_users", *_COLUMNS, *pairs)} for arm in plan.arms}
    for row in rows(connection, "new_users_by_day"):
        for name in ("n_users", "v", "w", "vv", "vw", "ww"):
            totals[row["arm"]][name][row["day"]] += row[name]
    increments = connection.execute(_filled("increments_by_day", metric))
    names = [column[0] for column in increments.description]
    for values in increments.fetchall():
        row = dict(zip(names, values, strict=True))
        for name in names[2:]:
            totals[row["arm"]][name][row["day"]] += row[name]
    found: dict[str, list[Moments | None]] = {}
    for arm, by_name in totals.items():
        sums = {name: np.cumsum(values) for name, values in by_name.items()}
        if metric.denominator == "users":
            # A user counts as one from the exposure on, whether or not anything was played.
            sums |= {"z": sums["n_users"], "zz": sums["n_users"], "yz": sums["y"], "zv": sums["v"], "zw": sums["w"]}
        days = [{name: values[day] for name, values in sums.items()} for day in range(n_days)]
        found[arm] = [
            moments_of_sums(int(day["n_users"]), np.array([day[name] for name in _COLUMNS]), _products(day))
            if day["n_users"] > 0
            else None
            for day in days
        ]
    return found


def logging_moments(connection: duckdb.DuckDBPyConnection) -> dict[str, Moments]:
    """Events lost and events sent a user, by arm; empty where the player does not number its events."""
    return {
        row["arm"]: moments_of_sums(int(row["n_users"]), np.array([row["y"], row["z"]], float), _products(row, "yz"))
        for row in rows(connection, "check_logging")
        if row["z"] is not None
    }
