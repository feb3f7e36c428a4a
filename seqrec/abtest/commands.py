"""The commands of experiments/ab_test.py: their flags, and what they do."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from seqrec.abtest.analysis import analyze
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.offline_online import read_offline, with_offline
from seqrec.abtest.page import page
from seqrec.abtest.plan import ExperimentPlan, read_plan, write_plan
from seqrec.abtest.power import required_days, users_per_arm
from seqrec.abtest.simulate import Simulation, log_blocks, true_lifts, write_logs
from seqrec.abtest.verdict import signed_percent
from seqrec.config import check_at_least, check_between, check_fields
from seqrec.data.tables.rows import Limits
from seqrec.files import JsonObject
from seqrec.pages.html import write_report
from seqrec.types import InputError


@dataclass(frozen=True)
class Sizing:
    """Recent values of the primary metric, from which the sample size and duration follow."""

    mean: float | None = None
    """Mean of the primary metric over users, such as last month's; without it no sample size is computed."""
    standard_deviation: float | None = None
    """Standard deviation of the primary metric over users, such as last month's."""
    saved: float = 0.0
    """Expected share of the variance that covariates remove: the squared correlation of the metric with them, such as
    0.3."""
    users_per_day: float | None = None
    """New users per day in all arms; without it no duration is computed."""
    lift: float = 0.02
    """Relative effect to detect, for which the number of users is computed; 0.02 is 2%."""

    def __post_init__(self):
        check_fields(self)
        check_between(self, 1e-9, 1e12, "mean", "standard_deviation", "users_per_day")
        if not 1e-9 <= abs(self.lift) <= 1e3:
            raise InputError(f"lift={self.lift} is not a relative effect from 1e-9 to 1000; try lift=0.02")
        if (self.mean is None) != (self.standard_deviation is None):
            raise InputError("--mean and --standard-deviation go together; give both or neither")
        if not 0.0 <= self.saved < 1.0:
            raise InputError(f"saved={self.saved} is outside [0, 1); it is r^2 of the covariates")


@dataclass(frozen=True)
class PlanFlags:
    """Writes the plan of an experiment, before its data are seen, and computes the sample size."""

    file: Positional[Path]
    """TOML file to write; it must not exist."""
    plan: OmitArgPrefixes[ExperimentPlan]
    sizing: OmitArgPrefixes[Sizing] = field(default_factory=Sizing)

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class SimulateFlags:
    """Simulates logs of a planned experiment, with a known effect and, on request, faults."""

    plan: Positional[Path]
    """TOML file of the plan, which the plan command wrote."""
    output: Path = Path("logs")
    """Directory for assignments.parquet, exposures.parquet and events.parquet."""
    simulation: Simulation = field(default_factory=Simulation)

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class AnalyzeFlags:
    """Analyses the logs of a planned experiment and writes a report."""

    plan: Positional[Path]
    """TOML file of the plan, which the plan command wrote."""
    logs: Logs
    n_days: int | None = None
    """Number of days to analyse, from the start; by default all that are logged."""
    offline: Path | None = None
    """comparison.json of the same recommenders, which experiments/compare.py writes with the control as reference; the
    report then shows the offline differences beside the online ones."""
    past: tuple[Path, ...] = ()
    """ab_result.json files of past experiments that were analysed with --offline; with them the report says how often
    offline and online differences agreed."""
    output: Path = Path("ab_result")
    """Directory for ab_result.json and ab_report.html."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_days")
        if self.past and self.offline is None:
            raise InputError("--past needs the offline comparison of this experiment; give --offline too")


def run_plan(flags: PlanFlags) -> JsonObject:
    """Writes the plan, and prints the smallest detectable effect and the sample size."""
    write_plan(flags.plan, flags.file)
    print(f"plan     {flags.file}")
    return {"plan": flags.file, **_print_sizes(flags.plan, flags.sizing)}


def _print_sizes(plan: ExperimentPlan, sizing: Sizing) -> dict[str, float]:
    if sizing.mean is None or sizing.standard_deviation is None:
        return {}
    deviation = sizing.standard_deviation * (1.0 - sizing.saved) ** 0.5
    alpha = plan.alpha / (len(plan.arms) - 1)
    detectable = plan.detectable(deviation) / sizing.mean
    print(f"effect   {detectable:.2%} is detectable with {plan.expected_users:,} users (power {plan.power:g})")
    # With unequal shares, by the smallest arm, which asks for slightly too many users.
    needed = users_per_arm(sizing.lift * sizing.mean, variance=deviation**2, alpha=alpha, power=plan.power)
    needed /= min(plan.shares)
    print(f"users    {needed:,.0f} in all arms detect {sizing.lift:.2%}")
    if sizing.users_per_day is None:
        return {"detectable": detectable, "n_users": needed}
    n_days = required_days(needed, np.array([sizing.users_per_day]))
    print(f"days     {n_days} at {sizing.users_per_day:,.0f} new users per day, in whole weeks")
    return {"detectable": detectable, "n_users": needed, "n_days": n_days}


def run_simulate(flags: SimulateFlags) -> JsonObject:
    """Writes the logs and prints the true effect of the treatment on these listeners."""
    plan = read_plan(flags.plan)
    files = write_logs(log_blocks(plan, flags.simulation), flags.output)
    lifts = true_lifts(plan, flags.simulation)
    print("\n".join(f"{name:12} {file}" for name, file in files.items()))
    print(
        "truth        " + ", ".join(f"{name.replace('_', ' ')} {signed_percent(lift)}" for name, lift in lifts.items())
    )
    return {**files, "lifts": lifts}


def run_analyze(flags: AnalyzeFlags) -> JsonObject:
    """Writes the result and its page, and prints the verdicts."""
    plan = read_plan(flags.plan)
    offline = read_offline(flags.offline, plan.arms) if flags.offline else None
    result = analyze(load_logs(flags.logs, plan, limits=flags.limits), plan, n_days=flags.n_days)
    if offline is not None:
        result = with_offline(result, offline, flags.past)
    for arm, verdict in result["verdicts"].items():
        print(f"{arm}: {verdict['decision']}. {verdict['headline']} {verdict['action']}")
    write_report(flags.output / "ab_result.json", result, page(result), page_name="ab_report.html")
    return result
