"""Writes the best items of a run's best checkpoint for each test user, for other tools and other people's analyses.

    python experiments/export_lists.py runs/sasrec-movielens-demo-20260101-120000 --k 100

Into the run's directory go top_items.parquet (user, item, rank, score: what compare.py takes with --top-k), and the
same as a TREC run (run.trec) with the held-out items (qrels.trec), so that ir-measures or ranx can check our figures:
`ir_measures qrels.trec run.trec nDCG@10 R@10 RR@100`. Prints what the lists are like: coverage, novelty and the like.
"""

from dataclasses import dataclass
from pathlib import Path

from scripts import TRAINING
from tyro.conf import Positional

from seqrec import runtime
from seqrec.config import check_at_least, check_fields
from seqrec.data.buckets import working_copy
from seqrec.evaluation import make_top_step, top_items
from seqrec.files import JsonObject, address_of
from seqrec.report.lists import format_list_figures, list_figures, write_top_items
from seqrec.report.trec import write_qrels, write_trec_run
from seqrec.run.experiment import open_trained
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Writes the best items of a run for each test user."""

    run: Positional[Path]
    """Directory of the run, as the training script printed it."""
    k: int = 100
    """Number of items in a list."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "k")


def main(arguments: Arguments) -> JsonObject:
    """Writes the files, prints the lists' figures and returns them."""
    with working_copy(arguments.run) as run:
        return export(run, arguments)


def export(run: Path, arguments: Arguments) -> JsonObject:
    """The same, of the run in `run`."""
    task, model, params = open_trained(run, TRAINING)
    store = task.store
    if arguments.k > store.n_items:
        raise InputError(f"--k {arguments.k} is above {store.n_items}, the number of items; try --k {store.n_items}")
    if len(set(task.test.users.tolist())) < len(task.test.users):
        raise InputError(f"{run} asks several times of a user, and a list is one of a user; test the last target alone")
    best = top_items(make_top_step(model, k=arguments.k), params, task.test)
    users = store.user_keys[best.user].tolist()
    lists = [store.item_keys[row[row > 0] - 1].tolist() for row in best.items]
    scores = [row[ids > 0].tolist() for row, ids in zip(best.scores, best.items, strict=True)]
    write_top_items(run / "top_items.parquet", users, lists, scores)
    write_trec_run(run / "run.trec", users, lists, scores, tag="seqrec")
    write_qrels(run / "qrels.trec", users, store.item_keys[task.test.targets - 1].tolist())
    figures = {
        name: list_figures(items, store, task.split, task.test)
        for name, items in {f"lists of {arguments.k}": best.items, "held-out items": task.test.targets[:, None]}.items()
    }
    print(f"\n{format_list_figures(figures)}\n")
    for name in ("top_items.parquet", "run.trec", "qrels.trec"):
        print(f"written  {address_of(arguments.run / name)}")
    return figures


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
