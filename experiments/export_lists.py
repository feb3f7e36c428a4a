"""Writes the best items of a run's best checkpoint for each test user, for other tools and other people's analyses.

    python experiments/export_lists.py runs/sasrec-movielens-demo-20260101-120000 --k 100
    python experiments/export_lists.py runs/a --users all --output lists   # after whole histories, as when serving

Leaves top_items.parquet (user, item, rank, score: what compare.py takes with --top-k), and for test users a TREC run
and held-out items for `ir_measures qrels.trec run.trec nDCG@10 R@10`. Prints coverage, novelty and the like.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from scripts import TRAINING
from tyro.conf import Positional

from seqrec import phases, runtime
from seqrec.config import check_at_least, check_fields
from seqrec.data.buckets import working_copy
from seqrec.files import JsonObject, address_of
from seqrec.report.lists import format_list_figures
from seqrec.run.experiment import open_trained
from seqrec.run.lists import Users, choose_queries, files_for, write_item_vectors, write_lists
from seqrec.types import InputError


@dataclass(frozen=True)
class Arguments:
    """Writes the best items of a run for each test user, or for other users."""

    run: Positional[Path]
    """Directory of the run, as the training script printed it."""
    k: int = 100
    """Number of items in a list."""
    users: Users = "test"
    """Whose lists. test: test users, before their held-out items. all, or a file with a column user: all users or those
    of the file, after their whole histories."""
    output: Path | None = None
    """Directory of the files; by default that of the run, for test users alone."""
    item_vectors: Path | None = None
    """Directory to write the vectors of all items to: vectors.npy, and keys.parquet with the item of each row."""
    user_vectors: Path | None = None
    """The same of the users; the product of a user's and an item's vector is the item's score, but for items of the
    history under --repeat-mixture, and for what the tables of --fuse add."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "k")
        if self.users != "test" and self.output is None:
            raise InputError(f"--users {self.users} would replace the test users' lists in the run; give an --output")


def main(arguments: Arguments) -> JsonObject:
    """Writes the files, prints the lists' figures and returns them."""
    is_in_run = arguments.output is None
    with (
        working_copy(arguments.run, read_only=not is_in_run) as run,
        contextlib.nullcontext(run) if is_in_run else working_copy(arguments.output) as output,
    ):
        task, model, params = open_trained(run, TRAINING)
        queries = choose_queries(task, arguments.users)
        with phases.progress("writing lists", len(queries.users), unit="users") as phase:
            figures = write_lists(
                task, model, params, queries, output, k=arguments.k, user_vectors=arguments.user_vectors, report=phase
            )
        if arguments.item_vectors is not None:
            write_item_vectors(task, params, arguments.item_vectors)
    print(f"\n{format_list_figures(figures)}\n")
    files = [(arguments.output or arguments.run) / name for name in files_for(arguments.users)]
    for file in filter(None, (*files, arguments.item_vectors, arguments.user_vectors)):
        print(f"written  {address_of(file)}")
    return figures


if __name__ == "__main__":
    runtime.run_script(main, Arguments)
