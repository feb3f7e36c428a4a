"""What the command line of an A/B test says, and what each of its commands does."""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tyro.conf import OmitArgPrefixes, Positional

from seqrec.abtest.analysis import analyze, write_result
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.offline_online import read_offline, with_offline
from seqrec.abtest.page import page
from seqrec.abtest.plan import Adjustment, Plan, Stopping, metric_of, quantile_of, read_plan, write_plan
from seqrec.abtest.power import required_days, users_per_arm
from seqrec.abtest.simulate import Simulation, log_blocks, true_lifts, write_logs
from seqrec.abtest.verdict import signed
from seqrec.config import check_between, check_fields
from seqrec.data.files import Limits
from seqrec.types import InputError


@dataclass(frozen=True)
class Sizing:
    """What the primary metric was like lately, for how long the experiment must run; metrics as `metric_of` reads."""

    mean: float | None = None
    """Of the primary metric over users, such as last month's; without it nothing is sized."""
    standard_deviation: float | None = None
    """Over users."""
    saved: float = 0.0
    """Share of the variance that covariates take out."""
    users_per_day: float | None = None
    """New users a day in all arms; without it days are not sized."""
    lift: float = 0.02
    """The smallest relative effect that would matter."""

    def __post_init__(self):
        check_fields(self)
        check_between(self, 1e-9, 1e12, "mean", "standard_deviation", "users_per_day")
        if not 1e-9 <= abs(self.lift) <= 1e3:
            raise InputError(f"lift={self.lift} is not a relative effect from 1e-9 to 1000; try lift=0.02")
        if (self.mean is None) != (self.standard_deviation is None):
            raise InputError("a mean without its standard deviation sizes nothing; give both or neither")
        if not 0.0 <= self.saved < 1.0:
            raise InputError(f"saved={self.saved} is outside [0, 1); it is r^2 of the covariates")


@dataclass(frozen=True)
class PlanFlags:
    """Writes a plan, before any data are seen, and sizes it; edit the file for what has no flag here."""

    file: Positional[Path]
    """TOML file to write; one that exists is refused."""
    name: str
    """What is tried."""
    start: date
    """First day, from 0:00 UTC, such as 2026-03-02."""
    n_days: int = 28
    """Days until the planned end."""
    primary: str = "plays"
    """The metric that decides: [-]numerator[/denominator]."""
    guardrails: tuple[str, ...] = ("-skips/plays:0.02",)
    """Metrics with the largest acceptable relative loss."""
    quantiles: tuple[str, ...] = ()
    """Quantiles over users to show, such as plays@0.9."""
    arms: tuple[str, ...] = ("control", "treatment")
    """Names in the logs, the control first."""
    shares: tuple[float, ...] = (0.5, 0.5)
    """Of users, an arm each."""
    unit: str = "user_id"
    """Column of the logs that says who was randomised."""
    segments: tuple[str, ...] = ()
    """Columns of the assignments to show the effect by."""
    adjustment: Adjustment = "cuped"
    """What is known before the start and taken out: the metric itself, a prediction from all measures, nothing."""
    stopping: Stopping = "fixed"
    """When the result may be read."""
    n_looks: int = 1
    """Planned looks of pocock and obrien-fleming."""
    expected_users: int = 100_000
    """In all arms at the end."""
    sizing: OmitArgPrefixes[Sizing] = field(default_factory=Sizing)


@dataclass(frozen=True)
class SimulateFlags:
    """Draws logs that fit a plan, with a known effect and chosen faults."""

    plan: Positional[Path]
    """The plan's TOML file."""
    output: Path = Path("logs")
    """Directory for the three Parquet files."""
    simulation: Simulation = field(default_factory=Simulation)


@dataclass(frozen=True)
class AnalyzeFlags:
    """Analyses logs by a plan and reports."""

    plan: Positional[Path]
    """The plan's TOML file."""
    logs: Logs
    n_days: int | None = None
    """Days to analyse; by default all that are logged."""
    offline: Path | None = None
    """comparison.json of the same recommenders' rank tables, the control's first, from experiments/compare.py."""
    past: tuple[Path, ...] = ()
    """ab_result.json of past experiments that were analysed with --offline."""
    output: Path = Path("ab_result")
    """Directory for ab_result.json and ab_report.html."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)


def plan_of(flags: PlanFlags) -> Plan:
    """The plan that the flags describe."""
    fields = {name: value for name, value in vars(flags).items() if name not in ("file", "sizing")}
    fields["primary"] = metric_of(flags.primary)
    fields["guardrails"] = tuple(map(metric_of, flags.guardrails))
    fields["quantiles"] = tuple(map(quantile_of, flags.quantiles))
    return Plan(**fields)


def run_plan(flags: PlanFlags) -> dict[str, Any]:
    """Writes the plan and prints what its users could show and how many a lift takes."""
    plan = plan_of(flags)
    write_plan(plan, flags.file)
    print(f"plan     {flags.file}")
    return {"plan": flags.file, **_sized(plan, flags.sizing)}


def _sized(plan: Plan, sizing: Sizing) -> dict[str, float]:
    if sizing.mean is None or sizing.standard_deviation is None:
        return {}
    deviation = sizing.standard_deviation * (1.0 - sizing.saved) ** 0.5
    alpha = plan.alpha / (len(plan.arms) - 1)
    detectable = plan.detectable(deviation) / sizing.mean
    print(f"effect   {detectable:.2%} would be seen by {plan.expected_users:,} users (power {plan.power:g})")
    # For arms of unequal shares the one of the fewest users counts, which asks for a few too many.
    needed = users_per_arm(sizing.lift * sizing.mean, variance=deviation**2, alpha=alpha, power=plan.power)
    needed /= min(plan.shares)
    print(f"users    {needed:,.0f} in all arms would show {sizing.lift:.2%}")
    if sizing.users_per_day is None:
        return {"detectable": detectable, "n_users": needed}
    n_days = required_days(needed, np.array([sizing.users_per_day]))
    print(f"days     {n_days} at {sizing.users_per_day:,.0f} new users a day, in whole weeks")
    return {"detectable": detectable, "n_users": needed, "n_days": n_days}


def run_simulate(flags: SimulateFlags) -> dict[str, Any]:
    """Writes the logs and prints what the treatment really does to these listeners."""
    plan = read_plan(flags.plan)
    files = write_logs(log_blocks(plan, flags.simulation), flags.output)
    lifts = true_lifts(plan, flags.simulation)
    print("\n".join(f"{name:12} {file}" for name, file in files.items()))
    print("truth        " + ", ".join(f"{name.replace('_', ' ')} {signed(lift)}" for name, lift in lifts.items()))
    return {**files, "lifts": lifts}


def run_analyze(flags: AnalyzeFlags) -> dict[str, Any]:
    """Writes the result and its page, and prints the verdicts."""
    plan = read_plan(flags.plan)
    if flags.past and flags.offline is None:
        raise InputError("past results are held against offline figures; give --offline too")
    offline = read_offline(flags.offline, plan.arms) if flags.offline else None
    result = analyze(load_logs(flags.logs, plan, limits=flags.limits), plan, n_days=flags.n_days)
    if offline is not None:
        result = with_offline(result, offline, flags.past)
    for arm, verdict in result["verdicts"].items():
        print(f"{arm}: {verdict['decision']}. {verdict['headline']} {verdict['action']}")
    json_file, html_file = write_result(flags.output, result, page(result))
    print(f"\nnumbers  {json_file}\npage     {html_file}")
    return result
