"""Logs -> the sums that a result is made of; after this no row of a user is touched again."""

from typing import NamedTuple

import duckdb
from jaxtyping import Float
from numpy import ndarray

from seqrec.abtest import tables
from seqrec.abtest.judgement import look_day, planned_look
from seqrec.abtest.logs import days_logged, set_period
from seqrec.abtest.moments import Moments
from seqrec.abtest.plan import Plan
from seqrec.types import InputError

ByArm = dict[str, Moments]


class Aggregates(NamedTuple):
    """Of the analysed users. Moments are of a metric's numerator, denominator and two covariates."""

    n_days: int
    """Days that are analysed."""
    look: int
    """How many of the planned looks are due."""
    trust: tables.TrustCounts
    before: ByArm
    """Of the primary metric, its covariates being the metric itself before the start."""
    primary: ByArm
    """Of the primary metric, with the plan's covariates."""
    segments: dict[tuple[str, str], ByArm]
    days: dict[str, list[Moments | None]]
    """By arm, at each day's end."""
    guardrails: list[ByArm]
    """In the plan's order."""
    quantiles: list[dict[str, Float[ndarray, " n_users"]]]
    """In the plan's order: every user's value by arm, rising."""


def aggregate(connection: duckdb.DuckDBPyConnection, plan: Plan, *, n_days: int | None = None) -> Aggregates:
    """The sums of loaded logs (`load_logs`), of the plan's first `n_days`; by default of as many as are logged.

    At planned looks (pocock, obrien-fleming) the days after the newest due look are left out, since the bound is for
    that look.
    """
    if n_days is not None and not 1 <= n_days <= plan.n_days:
        raise InputError(
            f"n_days={n_days} is outside 1..{plan.n_days}, the plan's days; leave it out for all that is logged"
        )
    try:
        return _aggregate(connection, plan, n_days or plan.n_days)
    except duckdb.Error as error:
        # Files are read here for the first time to their end, and here memory is needed.
        raise InputError(
            f"the logs cannot be aggregated ({str(error).splitlines()[0]}); check that the files are whole, or set a "
            "memory limit and a spill directory with room"
        ) from error


def _aggregate(connection: duckdb.DuckDBPyConnection, plan: Plan, most_days: int) -> Aggregates:
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
