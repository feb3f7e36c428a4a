"""Plans an A/B test, simulates its logs, and analyses logs by the plan: from exposures to a decision.

    python experiments/ab_test.py plan my-plan.toml --name "Warmer home page" --start 2026-03-02 --n-days 28 \\
        --primary plays --guardrails "-skips/plays:0.02" "likes/plays:0.05" --segments country \\
        --mean 40 --standard-deviation 50 --users-per-day 5000
    python experiments/ab_test.py simulate my-plan.toml --output logs --simulation.lift 0.03
    python experiments/ab_test.py analyze my-plan.toml --logs.assignments logs/assignments.parquet \\
        --logs.exposures logs/exposures.parquet --logs.events logs/events.parquet --output result

A metric is [-]numerator[/denominator][:margin]; a minus sign means that less is better. `plan` computes the sample size
from --mean and --standard-deviation; `analyze` writes ab_result.json and ab_report.html into --output. A million events
take a few seconds.
"""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg, subcommand

from seqrec import runtime
from seqrec.abtest.commands import AnalyzeFlags, PlanFlags, SimulateFlags, run_analyze, run_plan, run_simulate
from seqrec.config import check_fields
from seqrec.files import JsonObject


@dataclass(frozen=True)
class Arguments:
    """Plans, simulates or analyses an A/B test."""

    command: Annotated[
        Annotated[PlanFlags, subcommand("plan", prefix_name=False)]
        | Annotated[SimulateFlags, subcommand("simulate", prefix_name=False)]
        | Annotated[AnalyzeFlags, subcommand("analyze", prefix_name=False)],
        arg(name=""),
    ]

    def __post_init__(self):
        check_fields(self)


def main(arguments: Arguments) -> JsonObject:
    """Runs the command and returns its results."""
    command = arguments.command
    if isinstance(command, PlanFlags):
        return run_plan(command)
    return run_simulate(command) if isinstance(command, SimulateFlags) else run_analyze(command)


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
