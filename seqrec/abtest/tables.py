"""Runs the SQL of `sql/` over loaded logs and returns sufficient statistics."""

from importlib import resources
from typing import NamedTuple

import duckdb
import numpy as np
from jaxtyping import Float

from seqrec.abtest.means import cross_fitted_weights
from seqrec.abtest.plan import MEASURES, ExperimentPlan, Metric, Quantile
from seqrec.abtest.sample_moments import SampleMoments, sample_moments_of_sums
from seqrec.files import JsonObject

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
"""Tables made from the logs, each from those before it."""

_COLUMNS = ("y", "z", "v", "w")
_CUPAC_COLUMNS = ("y", "z", "x1", "x2", "x3", "x4", "x5", "x6")


class TrustCounts(NamedTuple):
    """The counts behind the checks: the rows of the SQL statements with these names."""

    check_arms: list[JsonObject]
    check_days: list[JsonObject]
    check_segments: list[JsonObject]
    check_left_out: list[JsonObject]
    lost: dict[str, SampleMoments]
    """Events lost and events sent per user, by arm; empty where the player does not number its events."""
    repeated: dict[str, SampleMoments]
    """Repeated events and all events per user, by arm; empty where no analysed user has an event."""
    n_dropped: int
    """Repeated events that were dropped when the logs were loaded."""
    check_resent: list[JsonObject]


def sql_text(name: str) -> str:
    """The text of the SQL file with this name."""
    return resources.files("seqrec.abtest").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def build_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates the tables of STEPS, replacing earlier ones."""
    for name in STEPS:
        # The events are larger than all other tables, so they stay where they are.
        kind = "VIEW" if name == "user_events" else "TABLE"
        connection.execute(f"CREATE OR REPLACE {kind} {name} AS {sql_text(name)}")


def rows(connection: duckdb.DuckDBPyConnection, name: str, metric: Metric | Quantile | None = None) -> list[JsonObject]:
    """The rows of the SQL statement with this name, of a metric where the statement takes one."""
    cursor = connection.execute(sql_text(name) if metric is None else _statement(name, metric))
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def trust_counts(connection: duckdb.DuckDBPyConnection) -> TrustCounts:
    """The counts behind the checks, from the tables of `build_tables`."""
    lost, repeated = (
        {row["arm"]: _moments(row, ("y", "z")) for row in rows(connection, name) if row["z"] is not None}
        for name in ("check_logging", "check_repeated")
    )
    n_dropped = connection.execute("SELECT n_events FROM dropped_events").fetchall()[0][0]
    names = ("check_arms", "check_days", "check_segments", "check_left_out")
    arms, days, segments, left_out = (rows(connection, name) for name in names)
    # Without sequence numbers these are among the repeated ones.
    resent = rows(connection, "check_resent") if lost else []
    return TrustCounts(arms, days, segments, left_out, lost, repeated, n_dropped, resent)


def choose_metric(connection: duckdb.DuckDBPyConnection, metric: Metric) -> None:
    """Creates the table `metric_values` of this metric; its covariates are the metric itself before the start."""
    connection.execute(f"CREATE OR REPLACE TABLE metric_values AS {_statement('metric_values', metric)}")


def predict_metric(connection: duckdb.DuckDBPyConnection, metric: Metric) -> None:
    """Creates the table `metric_values` of this metric; its covariate is a prediction (CUPAC) from all measures before
    the start, with weights fitted on the other half of the users."""
    connection.execute(f"CREATE OR REPLACE TABLE user_folds AS {sql_text('user_folds')}")
    connection.execute(f"CREATE OR REPLACE TABLE cupac_values AS {_statement('cupac_values', metric)}")
    folds: list[list[SampleMoments]] = [[], []]
    for row in rows(connection, "cupac_moments"):
        folds[row["fold"]].append(_moments(row, _CUPAC_COLUMNS))
    weights = cross_fitted_weights(folds, range(2, len(_CUPAC_COLUMNS)), numerator=0, denominator=1)
    columns = ", ".join(f"{name} DOUBLE" for name in _CUPAC_COLUMNS[2:])
    connection.execute(f"CREATE OR REPLACE TABLE cupac_weights (fold BIGINT, {columns})")
    places = ", ".join("?" * (len(_CUPAC_COLUMNS) - 1))
    connection.executemany(
        f"INSERT INTO cupac_weights VALUES ({places})", [[i, *w.tolist()] for i, w in enumerate(weights)]
    )
    connection.execute(f"CREATE OR REPLACE TABLE metric_values AS {sql_text('cupac_predictions')}")


def _statement(name: str, metric: Metric | Quantile) -> str:
    words = {"numerator": metric.measure} if isinstance(metric, Quantile) else vars(metric)
    text = sql_text(name)
    for word in ("numerator", "denominator"):
        if word in words:
            # `Metric` and `Quantile` refuse other words; no other place puts a word into a statement.
            assert words[word] in ("users", *MEASURES)
            text = text.replace(f"{{{word}}}", words[word])
    return text


def user_values(connection: duckdb.DuckDBPyConnection, quantile: Quantile) -> dict[str, Float[np.ndarray, " n_users"]]:
    """The measure of every analysed user, by arm, sorted."""
    columns = connection.execute(_statement("user_values", quantile)).fetchnumpy()
    arms = np.asarray(columns["arm"], str)
    return {str(arm): np.asarray(columns["y"], float)[arms == arm] for arm in np.unique(arms)}


def moments_by_arm(connection: duckdb.DuckDBPyConnection) -> dict[str, SampleMoments]:
    """Sample moments of the chosen metric's numerator and denominator, and of both before the start, by arm; arms
    without users are absent."""
    return {row["arm"]: _moments(row) for row in rows(connection, "moments")}


def moments_by_segment(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, SampleMoments]]:
    """Sample moments of the chosen metric, by segment and value, then arm."""
    by_segment: dict[tuple[str, str], dict[str, SampleMoments]] = {}
    for row in rows(connection, "segment_moments"):
        by_segment.setdefault((row["segment"], row["value"]), {})[row["arm"]] = _moments(row)
    return by_segment


def _moments(row: JsonObject, columns: tuple[str, ...] = _COLUMNS) -> SampleMoments:
    sums = np.array([row[name] for name in columns], float)
    # Some statements compute sums of products about 0.
    centre = np.array([row.get(f"centre_{name}", 0.0) for name in columns], float)
    places = range(len(columns))
    products = [[row[columns[min(i, j)] + columns[max(i, j)]] for j in places] for i in places]
    return sample_moments_of_sums(int(row["n_users"]), sums, np.array(products, float), centre=centre)


def moments_by_day(
    connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, metric: Metric, *, n_days: int
) -> dict[str, list[SampleMoments | None]]:
    """Sample moments of the chosen metric by arm, at each day's end: of the users exposed so far, with their totals so
    far."""
    pairs = ("yy", "yz", "yv", "yw", "zz", "zv", "zw", "vv", "vw", "ww")
    totals = {arm: {name: np.zeros(n_days) for name in ("n_users", *_COLUMNS, *pairs)} for arm in plan.arms}
    for row in [*rows(connection, "new_users_by_day"), *rows(connection, "increments_by_day", metric)]:
        for name in row.keys() - {"arm", "day"}:
            totals[row["arm"]][name][row["day"]] += row[name]
    by_arm: dict[str, list[SampleMoments | None]] = {}
    for arm, by_name in totals.items():
        sums = {name: np.cumsum(values) for name, values in by_name.items()}
        if metric.denominator == "users":
            # A user counts as one from the exposure on, with or without events.
            sums |= {"z": sums["n_users"], "zz": sums["n_users"], "yz": sums["y"], "zv": sums["v"], "zw": sums["w"]}
        days = [{name: values[day] for name, values in sums.items()} for day in range(n_days)]
        by_arm[arm] = [_moments(day) if day["n_users"] > 0 else None for day in days]
    return by_arm
