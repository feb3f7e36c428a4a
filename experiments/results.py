"""Keeps the figures of a finished run, and writes docs/results.md and the tables of other pages from all kept runs.

    python experiments/results.py runs/my-run --name ml-1m-modern-seed-0     # keep one, then write
    python experiments/results.py runs/feature-study --name lastfm-tags      # a study
    python experiments/results.py                                            # write

Runs are kept under experiments/results/, in one JSON file for each data set and experiment with a line for each run:
figures, config, versions, wall time, hashes of data and split. Its folders hold continuations (docs/seq2seq.md),
studies (docs/studies.md) and searches, each search under the name of the study that tests it. The run that the README
shows also keeps its learning curve, in docs/pictures/.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import baselines
import tune
from published import PUBLISHED
from scripts import TRAINING
from tyro.conf import Positional

from seqrec import runtime
from seqrec.config import check_fields, without_flags
from seqrec.files import write_text
from seqrec.report.kept_results import keep, read_results
from seqrec.report.results_page import continuations_page, page, readme
from seqrec.report.studies_page import studies_page
from seqrec.types import InputError

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "experiments" / "results"
DEMO = "movielens-demo-seed-0"
"""The kept run whose table and learning curve the README shows."""

DEFAULTS = {name: without_flags(script.Config) for name, script in {**TRAINING, "baselines": baselines}.items()}
TUNING = {name: tune.config_type(name)() for name in TRAINING}


@dataclass(frozen=True)
class Arguments:
    """Keeps the figures of a run and writes the pages of results."""

    run: Positional[Path | None] = None
    """Directory of a finished run, study or search to keep; without one, the pages are only written again."""
    name: str = ""
    """Name to keep it under, such as ml-1m-modern-seed-0."""

    def __post_init__(self):
        check_fields(self)
        if self.run is not None and not self.name:
            raise InputError(f"{self.run} needs a --name to be kept under, such as --name ml-1m-modern-seed-0")


def pages() -> dict[Path, str]:
    """The text of each page that shows kept runs."""
    folders = ("", "continuations", "studies", "searches")
    runs, continuation_runs, study_runs, search_runs = (read_results(KEPT / folder) for folder in folders)
    continuations, studies = ROOT / "docs" / "seq2seq.md", ROOT / "docs" / "studies.md"
    return {
        studies: studies_page(studies.read_text(), study_runs, search_runs, defaults=TUNING),
        continuations: continuations_page(continuations.read_text(), continuation_runs),
        ROOT / "docs" / "results.md": page(runs, PUBLISHED, defaults=DEFAULTS),
        ROOT / "README.md": readme((ROOT / "README.md").read_text(), runs[DEMO]),
    }


def main(arguments: Arguments) -> None:
    """Keeps the run, study or search, if one is named, and writes the pages."""
    if arguments.run is not None:
        print(f"kept     {keep(arguments.run, KEPT, arguments.name, show=pages)}")
        if arguments.name == DEMO:
            shutil.copy(arguments.run / "learning_curve.png", ROOT / "docs" / "pictures" / f"{DEMO}.png")
    for file, text in pages().items():
        write_text(file, text)
        print(f"written  {file}")


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
