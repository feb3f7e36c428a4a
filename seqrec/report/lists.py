"""Recommendation lists as a file, and their properties beyond accuracy."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from seqrec.baselines.popularity import training_counts
from seqrec.data.batches import Queries
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.files import replacing
from seqrec.metrics import catalogue_coverage, gini, novelty, personal_repeat_share, popularity_bias
from seqrec.report.comparison_text import text_table

_USERS_PER_BLOCK = 1024


def write_top_items(
    file: Path, users: Iterable[Any], lists: Iterable[Iterable[Any]], scores: Iterable[Iterable[float]]
) -> None:
    """Writes Parquet with one row per place: the keys of user and item, the 1-based rank and the score."""
    rows = [
        (user, item, rank, score)
        for user, items, item_scores in zip(users, lists, scores, strict=True)
        for rank, (item, score) in enumerate(zip(items, item_scores, strict=True), start=1)
    ]
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    table = pa.table(dict(zip(("user", "item", "rank", "score"), map(list, columns), strict=True)))
    with replacing(file) as partial:
        pq.write_table(table, partial)


def list_figures(
    lists: Int[np.ndarray, "queries k"], store: SequenceStore, split: Split, queries: Queries
) -> dict[str, float]:
    """Figures of the lists as a whole and means over users, by name; see `metrics.beyond_accuracy` for each.

    Popularity is the number of training events, novelty is in bits over the users of the training part.
    """
    n_events = training_counts(store, split)
    n_users = training_counts(store, split, repeats=False)
    repeats = [
        personal_repeat_share(
            lists[block], queries.latest(block, len(block), int(queries.history_lengths[block].max()))
        )
        for block in np.split(np.arange(len(lists)), range(_USERS_PER_BLOCK, len(lists), _USERS_PER_BLOCK))
    ]
    per_user = {
        "mean popularity": popularity_bias(lists, n_events),
        "novelty in bits": novelty(lists, n_users, n_users=int(np.sum(split.train_stop > store.offsets[:-1]))),
        "personal repeat share": np.concatenate(repeats),
    }
    return {
        "catalogue coverage": float(catalogue_coverage(lists, n_items=store.n_items)),
        "Gini of exposure": float(gini(lists, n_items=store.n_items)),
        **{name: float(np.nanmean(np.asarray(values))) for name, values in per_user.items()},
    }


def format_list_figures(columns: dict[str, dict[str, float]]) -> str:
    """A table as text: one line per figure, one column per kind of list."""
    names = next(iter(columns.values()))
    rows = [[name, *(f"{figures[name]:,.4f}" for figures in columns.values())] for name in names]
    return "\n".join(text_table([["", *columns], *rows]))
