"""Lists of recommended items of a trained run as files, part by part, for any of its users."""

import contextlib
import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from seqrec.bundle.weights import ITEM_TABLE
from seqrec.data.batches import Queries, make_queries
from seqrec.data.ragged import distinct
from seqrec.data.store import SequenceStore
from seqrec.data.store_files import key_column
from seqrec.data.tables.columns import required_id
from seqrec.data.tables.rows import Destination, connect
from seqrec.data.tables.user_table import open_table
from seqrec.evaluation import ROWS_PER_PART, Report, make_top_step, no_report, top_items_in_parts
from seqrec.files import make_directory
from seqrec.model import Model
from seqrec.params import Params
from seqrec.report.list_files import WriteLists, WriteVectors, list_table, table_writer, vectors_writer
from seqrec.report.lists import ListSums, added, item_popularity, list_figures, list_sums
from seqrec.report.rank_tables import USER_NAMES
from seqrec.report.trec import trec_run_writer, write_qrels
from seqrec.run.data import Task
from seqrec.runtime import log
from seqrec.sharding import on_host
from seqrec.types import InputError

LISTS, TREC_RUN, TREC_QRELS = "top_items.parquet", "run.trec", "qrels.trec"

Users = Literal["test", "all"] | Path
"""Whose lists: those of the test, before their held-out items; or after their whole histories all users, or those that
a file names."""


def files_for(users: Users) -> tuple[str, ...]:
    """The names of what is written of these users' lists; others than test users have no held-out items."""
    return (LISTS, TREC_RUN, TREC_QRELS) if users == "test" else (LISTS,)


def choose_queries(task: Task, users: Users) -> Queries:
    """The queries of these users.

    Raises:
      InputError: a file of users cannot be read or names none that the data has; a user is queried several times; or
        the model reads the time of the query, which no whole history has.
    """
    if users == "test":
        if len(distinct(task.test.users)) < len(task.test.users):
            raise InputError("the test asks several times of a user, and a list is one of a user; take --users all")
        return task.test
    if task.times == "query":
        raise InputError(
            "the model reads the time of the predicted event, which is not known after a whole history; export a "
            "bundle, and give the time to recommend.py by --at"
        )
    store = task.store
    rows = np.arange(store.n_users) if users == "all" else users_in_file(users, store)
    rows = rows[store.offsets[rows + 1] > store.offsets[rows]]
    return make_queries(
        store,
        store.offsets[rows + 1],
        users=rows,
        max_length=task.max_length,
        batch_size=2 * task.config.batch_size,
        mask_seen=task.mask_seen,
        share=task.test.share,
        fields=task.test.fields._replace(engagement=None),
    )


def users_in_file(file: Path, store: SequenceStore) -> Int[np.ndarray, " users"]:
    """The users that a file names in a column user, as rows of the store, in its order; others are counted and skipped.

    Keys are compared as integers if both sides have integers, else as text.
    """
    table = open_table(file)
    name = table.required(*USER_NAMES, any_case=True, remedy="name the column of users user")
    rows = table.load({"user": name}, Destination(connect()))
    query = f"SELECT DISTINCT {required_id(rows, 'user')} AS user FROM {rows.view}"
    listed = key_column(rows.connection.execute(query).fetchnumpy()["user"])
    rows.drop()
    known = key_column(store.user_keys)
    if not (pa.types.is_integer(known.type) and pa.types.is_integer(listed.type)):
        known, listed = known.cast(pa.large_string()), listed.cast(pa.large_string())
    is_asked = pc.is_in(known, value_set=listed).to_numpy(zero_copy_only=False)
    places = np.flatnonzero(is_asked)
    if not len(places):
        raise InputError(
            f"{file}: none of its users, such as {listed[0].as_py()!r}, is in the data, which has users such as "
            f"{known[0].as_py()!r}; write the keys of the data's own file"
        )
    if n_unknown := len(listed) - len(places):
        log.warning("left out    %s of %s users of %s: not in the data", f"{n_unknown:,}", f"{len(listed):,}", file)
    return places


def write_lists(
    task: Task,
    model: Model,
    params: Params,
    queries: Queries,
    directory: Path,
    *,
    k: int,
    user_vectors: Path | None = None,
    report: Report = no_report,
) -> dict[str, dict[str, float]]:
    """Writes the `k` best items of each query, and returns `report.lists.list_figures` of the lists.

    Files are written part by part, users in the order of batches, whole or not at all: `LISTS`, and where targets are
    held out also `TREC_RUN` and `TREC_QRELS`. The directory `user_vectors` gets the users' vectors, in the same order.
    `params` are composed ones.
    """
    store = task.store
    if k > store.n_items:
        raise InputError(f"--k {k} is above {store.n_items}, the number of items; try --k {store.n_items}")
    item_keys, popularity = key_column(store.item_keys), item_popularity(store, task.split)
    has_targets = queries is task.test
    step = make_top_step(model, k=k, with_vectors=user_vectors is not None)
    sums: list[ListSums] = []
    with contextlib.ExitStack() as stack:
        make_directory(directory)
        write_table = stack.enter_context(table_writer(directory / LISTS))
        write_trec: WriteLists = _write_nothing
        write_vectors: WriteVectors = _write_nothing
        if has_targets:
            write_trec = stack.enter_context(trec_run_writer(directory / TREC_RUN, item_keys, tag="seqrec"))
        if user_vectors is not None:
            size = {"n_rows": len(queries.users), "d_model": model.d_model}
            write_vectors = stack.enter_context(vectors_writer(user_vectors, **size))
        for part in top_items_in_parts(step, params, queries, report=report):
            users = key_column(store.user_keys[part.user])
            write_table(list_table(users, item_keys, part.items, part.scores))
            write_trec(users, part.items, part.scores)
            if part.vectors is not None:
                write_vectors(users, part.vectors)
            sums = [functools.reduce(added, [*sums, list_sums(part.items, part.query, queries, popularity)])]
    figures = {f"lists of {k}": list_figures(sums[0])}
    if has_targets:
        targets = queries.targets
        users = key_column(store.user_keys[queries.users])
        write_qrels(directory / TREC_QRELS, users, item_keys.take(pa.array(targets - 1)))
        parts = np.split(np.arange(len(targets)), range(ROWS_PER_PART, len(targets), ROWS_PER_PART))
        held_out = (list_sums(targets[part, None], part, queries, popularity) for part in parts)
        figures["held-out items"] = list_figures(functools.reduce(added, held_out))
    return figures


def write_item_vectors(task: Task, params: Params, directory: Path) -> None:
    """Writes the vectors of all items, as the head reads them; `params` are composed ones."""
    vectors, store = on_host(params[ITEM_TABLE])[1 : task.n_items + 1], task.store
    with vectors_writer(directory, n_rows=len(vectors), d_model=vectors.shape[1]) as write:
        write(key_column(store.item_keys), vectors)


def _write_nothing(*arrays: Any) -> None:
    del arrays
