"""Decides whether a new run may replace the one in use: no metric may drop by more than a margin, on the same users.

    python experiments/gate.py runs/new --against runs/old --max-drop ndcg@10=0.002
    python experiments/gate.py runs/new --against runs/old --max-drop ndcg@10=0.002 recall@10=0.005 --slice cold \\
        --json gate.json --junit gate.xml --markdown gate.md
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tyro.conf import Positional

from seqrec import runtime
from seqrec.files import JsonObject, make_directory, write_text
from seqrec.report.compared_runs import local_paths
from seqrec.report.gate import judge, parse_max_drops
from seqrec.report.gate_text import as_json, as_junit, as_markdown, as_text
from seqrec.types import InputError

EXIT_STATUS = {"pass": 0, "cannot tell": 3, "fail": 4}


@dataclass(frozen=True)
class Arguments:
    """Decides whether a run may replace another: no metric may drop by more than its margin, on the same users.

    Exit status: 0 if every drop is shown to be within its margin; 2, with one line, if the runs cannot be compared; 3
    if these users cannot tell; 4 if a drop is shown to be beyond its margin. 1 is a crash.
    """

    candidate: Positional[Path]
    """Directory of the run that is to be used, or its ranks.parquet."""
    against: Path
    """Directory of the run that is in use, or its ranks.parquet; tested on the same split of the same data."""
    max_drop: tuple[str, ...]
    """METRIC=MARGIN: the largest drop that is acceptable, such as ndcg@10=0.002; several may be given."""
    slice: tuple[str, ...] = ()
    """Slices of users that are tested by the same margins: cold, warm, SLICING=LABEL, or the name of a slicing, such as
    history_length, for all its slices."""
    join: tuple[str, ...] = ()
    """Files with a column user, or a column item, and columns to slice by; or user=FILE, item=FILE: keys come first."""
    strict: bool = False
    """Whether a slice that nobody is in, such as cold on a day without new items, counts as "cannot tell"; otherwise a
    note says that nothing is judged there."""
    level: float = 0.95
    """Confidence level of the verdict, corrected over metrics and slices."""
    json: Path | None = None
    """File to write all figures to, as JSON."""
    junit: Path | None = None
    """File to write to in the XML format of JUnit, which build servers show: a case for each metric and slice."""
    markdown: Path | None = None
    """File to write a summary to, in Markdown, for a pull request."""


def main(arguments: Arguments) -> JsonObject:
    """Prints what the gate finds, writes the files that are asked for, and returns what the JSON file holds."""
    max_drops = parse_max_drops(arguments.max_drop)
    with local_paths((arguments.against, arguments.candidate), ()) as paths:
        if len(paths.runs) != 2:
            raise InputError(f"the directories hold the runs {', '.join(paths.runs)}; name two of them")
        options = {"level": arguments.level, "strict": arguments.strict}
        gate = judge(paths.runs, max_drops, slices=arguments.slice, joins=arguments.join, **options)
    print(as_text(gate))
    forms = ((arguments.json, as_json), (arguments.junit, as_junit), (arguments.markdown, as_markdown))
    for file, form in forms:
        if file is not None:
            make_directory(file.parent)
            write_text(file, form(gate))
    return gate


def decide(arguments: Arguments) -> NoReturn:
    """Exits with the status that stands for the verdict."""
    sys.exit(EXIT_STATUS[main(arguments)["verdict"]])


if __name__ == "__main__":
    runtime.run_script(decide, Arguments)
