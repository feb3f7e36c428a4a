r"""Compares the figures of a generative model's beams with those of exact ranks, on the test queries of a run.

python experiments/beam_widths.py runs/generative-s3rec-20260101-120000 --json beams.json
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from scripts import TRAINING
from tyro.conf import Positional

from seqrec import phases, runtime
from seqrec.config import check_fields
from seqrec.data.buckets import working_copy
from seqrec.evaluation import evaluate, make_eval_step
from seqrec.files import JsonObject, write_json
from seqrec.heads.depth_decoder import DepthDecoder
from seqrec.metrics import means, metric_sums
from seqrec.run.experiment import open_trained
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Evaluates a run's best checkpoint by exact ranks and by beams of several widths."""

    run: Positional[Path]
    """Directory of the run, as the training script printed it."""
    widths: tuple[int, ...] = (10, 20, 50, 100)
    """Widths of the beams, of which the narrowest that loses little is told."""
    most_loss: float = 0.01
    """Share of the exact NDCG@10 that counts as little."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        check_fields(self)
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths={self.widths} are to be numbers of 1 or more; exact ranks are always beside them")


def main(arguments: Arguments) -> JsonObject:
    """Prints NDCG@10 and recall@10 of each, and returns all metrics."""
    with working_copy(arguments.run, read_only=True) as run:
        task, model, params = open_trained(run, TRAINING)
        if not isinstance(model.head, DepthDecoder):
            raise InputError(
                f"{arguments.run} holds no model of codes that ranks both exactly and by beams; give a run of "
                "generative.py with --tokens items, and without --dense-weight"
            )
        head, figures = model.head, {}
        for width in (*arguments.widths, 0):
            how = {"ranks": "beam", "beam_width": width} if width else {"ranks": "exact"}
            head_of_width = dataclasses.replace(head, config=dataclasses.replace(head.config, **how))
            step = make_eval_step(dataclasses.replace(model, head=head_of_width))
            name = f"beam of {width}" if width else "exact"
            with phases.progress(name, len(task.test.users), unit="queries") as phase:
                figures[name] = means(metric_sums(evaluate(step, params, task.test, report=phase).rank))
            print(f"{name:14} NDCG@10 {figures[name]['ndcg@10']:.4f}   recall@10 {figures[name]['recall@10']:.4f}")
    least = (1 - arguments.most_loss) * figures["exact"]["ndcg@10"]
    enough = [width for width in sorted(arguments.widths) if figures[f"beam of {width}"]["ndcg@10"] >= least]
    narrowest = f"a beam of {enough[0]}" if enough else "no beam"
    print(f"\n{narrowest} loses at most {arguments.most_loss:.1%} of the exact NDCG@10")
    result = {"figures": figures, "narrowest": enough[0] if enough else None, "versions": runtime.versions()}
    if arguments.json:
        write_json(arguments.json, result)
    return result


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
