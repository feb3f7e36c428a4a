"""Plans an A/B test, simulates its logs, and analyses logs by the plan: from exposures to a decision.

    python experiments/ab_test.py plan my-plan.toml --name "Warmer home page" --start 2026-03-02 --n-days 28 \\
        --primary plays --guardrails "-skips/plays:0.02" "likes/plays:0.05" --segments country
    python experiments/ab_test.py simulate my-plan.toml --output logs --simulation.lift 0.03
    python experiments/ab_test.py analyze my-plan.toml --logs.assignments logs/assignments.parquet \\
        --logs.exposures logs/exposures.parquet --logs.events logs/events.parquet --output result

A metric is [-]numerator[/denominator][:margin]; a minus sign says that less is better. `analyze` writes ab_result.json
and ab_report.html into --output; a million events take a few seconds.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from seqrec import runtime
from seqrec.abtest.analysis import analyze, write_result
from seqrec.abtest.logs import Logs, load_logs
from seqrec.abtest.page import page
from seqrec.abtest.plan import PlanFlags, plan_of, read_plan, write_plan
from seqrec.abtest.simulate import Simulation, simulate, write_logs


@dataclass(frozen=True)
class PlanArguments:
    """Writes a plan, before any data are seen; edit the file for what has no flag here."""

    file: Positional[Path]
    """TOML file to write; one that exists is refused."""
    flags: OmitArgPrefixes[PlanFlags]


@dataclass(frozen=True)
class SimulateArguments:
    """Draws logs that fit a plan, with a known effect and chosen faults."""

    plan: Positional[Path]
    """The plan's TOML file."""
    output: Path = Path("logs")
    """Directory for the three Parquet files."""
    simulation: Simulation = field(default_factory=Simulation)


@dataclass(frozen=True)
class AnalyzeArguments:
    """Analyses logs by a plan and reports."""

    plan: Positional[Path]
    """The plan's TOML file."""
    logs: Logs
    n_days: int | None = None
    """Days to analyse; by default all that are logged."""
    output: Path = Path("ab_result")
    """Directory for ab_result.json and ab_report.html."""


@dataclass(frozen=True)
class Arguments:
    """Plans, simulates or analyses an A/B test."""

    command: Annotated[
        Annotated[PlanArguments, subcommand("plan", prefix_name=False)]
        | Annotated[SimulateArguments, subcommand("simulate", prefix_name=False)]
        | Annotated[AnalyzeArguments, subcommand("analyze", prefix_name=False)],
        arg(name=""),
    ]


def main(arguments: Arguments) -> dict[str, Any]:
    """Runs one of the three and returns what it made."""
    command = arguments.command
    if isinstance(command, PlanArguments):
        write_plan(plan_of(command.flags), command.file)
        print(f"plan     {command.file}")
        return {"plan": command.file}
    plan = read_plan(command.plan)
    if isinstance(command, SimulateArguments):
        files = write_logs(simulate(plan, command.simulation), command.output)
        print("\n".join(f"{name:12} {file}" for name, file in files.items()))
        return files
    result = analyze(load_logs(command.logs, plan), plan, n_days=command.n_days)
    for arm, verdict in result["verdicts"].items():
        print(f"{arm}: {verdict['decision']}. {verdict['headline']} {verdict['action']}")
    json_file, html_file = write_result(command.output, result, page(result))
    print(f"\nnumbers  {json_file}\npage     {html_file}")
    return result


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
