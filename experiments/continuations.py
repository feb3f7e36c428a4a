"""Continues the test histories of a run in another way than its training script did: by beam search, or by drawing.

    python experiments/continuations.py runs/seq2seq --method beam --beam-width 8
    python experiments/continuations.py runs/sasrec --method sample --temperature 0.7 --top-k 50 --json sampled.json

The run is of a split in which the first of the last n events is the target: seq2seq.py's own, and for the other scripts
--n-out 5 --window-target first. "iterated" is a next-item model that predicts item after item, by the same method.
"""

from dataclasses import dataclass, field
from pathlib import Path

from scripts import TRAINING
from tyro.conf import OmitArgPrefixes, Positional

from seqrec import runtime
from seqrec.baselines.popularity import training_counts
from seqrec.config import check_fields, to_json
from seqrec.files import JsonObject, write_json
from seqrec.generation import DecodingConfig
from seqrec.report.continuations import continuation_figures
from seqrec.report.figures import format_table
from seqrec.run.experiment import open_trained
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Compares what a trained model puts in place of each user's last n items."""

    run: Positional[Path]
    """Directory of the run, as the training script printed it."""
    json: Path | None = None
    """JSON file to write the figures to."""
    decoding: OmitArgPrefixes[DecodingConfig] = field(default_factory=DecodingConfig)

    def __post_init__(self):
        check_fields(self)


def main(arguments: Arguments) -> JsonObject:
    """Prints the figures of each way and returns them, with the way of decoding and the split."""
    task, model, params = open_trained(arguments.run, TRAINING)
    if not task.config.split.holds_continuations:
        raise InputError(
            f"{arguments.run} holds out no items to generate; train it with --n-out 5 --window-target first"
        )
    figures_by_method = continuation_figures(
        model,
        params,
        task.test,
        n=task.config.split.n_out,
        counts=training_counts(task.store, task.split),
        config=arguments.decoding,
    )
    print(format_table(figures_by_method, title="generated lists"))
    results = {"figures": figures_by_method, "decoding": to_json(arguments.decoding), "split": task.split.description}
    if arguments.json:
        write_json(arguments.json, results)
    return results


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
