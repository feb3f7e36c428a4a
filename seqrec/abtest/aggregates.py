"""Logs -> the sums from which a result is computed; later steps read no row of a user."""

from typing import NamedTuple

import duckdb
from jaxtyping import Float
from numpy import ndarray

from seqrec.abtest import tables
from seqrec.abtest.judgement import look_day, planned_look
from seqrec.abtest.logs import days_logged, set_period
from seqrec.abtest.plan import ExperimentPlan
from seqrec.abtest.sample_moments import SampleMoments
from seqrec.types import InputError

ByArm = dict[str, SampleMoments]


class Aggregates(NamedTuple):
    """Statistics of the analysed users. Sample moments are of a metric's numerator, denominator and two covariates."""

    n_days: int
    """Number of analysed days."""
    look: int
    """Number of planned looks that are due."""
    trust: tables.TrustCounts
    before: ByArm
    """The primary metric; its covariates are the metric itself before the start."""
    primary: ByArm
    """The primary metric, with the plan's covariates."""
    segments: dict[tuple[str, str], ByArm]
    days: dict[str, list[SampleMoments | None]]
    """By arm, at each day's end."""
    guardrails: list[ByArm]
    """In the plan's order."""
    quantiles: list[dict[str, Float[ndarray, " n_users"]]]
    """In the plan's order: every user's value by arm, sorted."""


def aggregate(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, *, n_days: int | None = None) -> Aggregates:
    """The sums of loaded logs (`load_logs`) over the plan's first `n_days`, by default all days that are logged.

    With planned looks (pocock, obrien-fleming) the days after the latest due look are left out, since the bound holds
    for that look.
    """
    if n_days is not None and not 1 <= n_days <= plan.n_days:
        raise InputError(
            f"n_days={n_days} is outside 1..{plan.n_days}, the plan's days; leave it out for all logged days"
        )
    try:
        return _aggregate(connection, plan, n_days or plan.n_days)
    except duckdb.Error as error:
        # Files are read to their end here for the first time, and most memory is needed here.
        raise InputError(
            f"the logs cannot be aggregated ({str(error).splitlines()[0]}); check that the files are whole, or set a "
            "memory limit and a spill directory with room"
        ) from error


def _aggregate(connection: duckdb.DuckDBPyConnection, plan: ExperimentPlan, most_days: int) -> Aggregates:
    n_days = min(days_logged(connection, plan), most_days)
    if n_days == 0:
        raise InputError(f"no event is on or after {plan.start}, the plan's start; give the plan of this experiment")
    look = planned_look(plan, n_days=n_days)
    if plan.n_looks > 1 and look:
        n_days = look_day(plan, look)
    set_period(connection, plan, n_days=n_days)
    tables.build_tables(connection)
    trust = tables.trust_counts(connection)
    tables.choose_metric(connection, plan.primary)
    before = primary = tables.moments_by_arm(connection)
    is_predicted = plan.is_adjusted and plan.adjustment == "cupac"
    if is_predicted:
        tables.predict_metric(connection, plan.primary)
        primary = tables.moments_by_arm(connection)
    segments = tables.moments_by_segment(connection)
    days = tables.moments_by_day(connection, plan, plan.primary, n_days=n_days)
    guardrails = []
    for metric in plan.guardrails:
        (tables.predict_metric if is_predicted else tables.choose_metric)(connection, metric)
        guardrails.append(tables.moments_by_arm(connection))
    quantiles = [tables.user_values(connection, each) for each in plan.quantiles]
    return Aggregates(n_days, look, trust, before, primary, segments, days, guardrails, quantiles)
