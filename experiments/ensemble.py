"""Makes one model of several trained runs on the same data, of the same script or different ones, and tests it.

    python experiments/ensemble.py runs/a runs/b --fuse markov item-kNN slim --output runs/ensemble
    python experiments/ensemble.py runs/a --fuse slim --output runs/a-with-tables

Scores are added up with weights that are fitted on validation. The result is a run that evaluate_checkpoint.py and
export_lists.py read; it holds copies of its members. docs/ensembles.md says what to expect.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from scripts import TRAINING
from tyro.conf import Positional, arg

from seqrec import runtime
from seqrec.baselines.neighbour_tables import NeighbourTableName
from seqrec.config import check_fields
from seqrec.files import JsonObject
from seqrec.run.ensemble import make_ensemble
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Makes one model of several trained runs."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """Directories of the trained runs to combine."""
    output: Path
    """New directory for the ensemble."""
    fuse: tuple[NeighbourTableName, ...] = ()
    """Item-to-item tables to add to the scores: markov (what followed the newest item), item-kNN (what is similar to
    the latest items), slim (sparse linear weights of the latest items)."""

    def __post_init__(self):
        check_fields(self)
        if not self.runs or (len(self.runs) == 1 and not self.fuse):
            raise InputError("one run alone is no ensemble; name several, or add tables to one by --fuse")


def main(arguments: Arguments) -> JsonObject:
    """Writes the ensemble's run, prints its table and returns what its metrics.json holds."""
    return make_ensemble(arguments, arguments.runs, arguments.output, arguments.fuse, TRAINING)


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
