"""Computes a run's test figures again, from its best checkpoint and its own store of the data.

    python experiments/evaluate_checkpoint.py runs/sasrec-movielens-demo-20260101-120000

Exits with status 1 if they differ from the run's `metrics.json`, which on one machine they do not, to the last digit.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from scripts import TRAINING
from tyro.conf import Positional

from seqrec import runtime
from seqrec.config import check_fields
from seqrec.data.buckets import working_copy
from seqrec.files import JsonObject, address_of, read_object
from seqrec.report.baseline_comparison import verdict_on_baselines
from seqrec.run.baselines import POPULARITIES
from seqrec.run.experiment import open_trained
from seqrec.run.results import print_test, test

METRICS = "metrics.json"


@dataclass(frozen=True)
class Arguments:
    """Evaluates the best checkpoint of a run."""

    run: Positional[Path]
    """Directory of the run, as the training script printed it."""

    def __post_init__(self):
        check_fields(self)


def main(arguments: Arguments) -> JsonObject:
    """Prints the test figures, with those of the baselines that the run has tested, and returns them."""
    with working_copy(arguments.run, read_only=True) as run:
        task, model, params = open_trained(run, TRAINING)
        is_tested = (run / METRICS).exists()
        baselines = tuple(read_object(run / METRICS, baselines=dict)["baselines"]) if is_tested else POPULARITIES
        results = test(task, model, params, valid_ranks=None, baselines=baselines).results
    print_test(results, name="checkpoint")
    print(verdict_on_baselines(results["comparisons"], name="checkpoint"))
    return results


def compare(arguments: Arguments) -> None:
    """Prints the figures and how they stand to those that training left."""
    with working_copy(arguments.run, read_only=True) as run:
        results = main(Arguments(run))
        earlier = read_object(run / METRICS) if (run / METRICS).exists() else None
    file = address_of(arguments.run / METRICS)
    if earlier is None:
        print(f"\n{file} is not there: training has not finished, so there is nothing to compare with")
        return
    if "comparisons" not in earlier:  # a run from before there were any
        del results["comparisons"]
    differing = [name for name in results if earlier.get(name) != results[name]]
    print(f"\n{', '.join(differing)} differ from {file}" if differing else f"\nequal to {file}, to the last digit")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    runtime.run_script(compare, Arguments)
