"""Properties of recommendation lists beyond accuracy, added up part by part."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from seqrec.baselines.popularity import training_counts
from seqrec.data.batches import Queries
from seqrec.data.ragged import blocks, ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.metrics import coverage_of_counts, gini_of_counts, novelty
from seqrec.report.comparison_text import text_table

_OF_USERS = ("mean popularity", "novelty in bits", "personal repeat share")


class ItemPopularity(NamedTuple):
    """What the training part says of each item; 0 of padding."""

    n_events: Float[np.ndarray, " n_items_plus_1"]
    bits: Float[np.ndarray, " n_items_plus_1"]
    """`metrics.novelty` of a list of this item."""


class ListSums(NamedTuple):
    """Totals over lists; those of two parts add field by field."""

    exposures: Int[np.ndarray, " n_items_plus_1"]
    """How often each item is listed."""
    totals: Float[np.ndarray, "3"]
    """Sums over users of the figures of users, in the order of the printed table."""
    n_users: int
    """Users whose list has an item; others have no such figure."""


def item_popularity(store: SequenceStore, split: Split) -> ItemPopularity:
    """Of the training part of a split."""
    n_users = int(np.sum(split.train_stop > store.offsets[:-1]))
    of_users, lists = training_counts(store, split, repeats=False), np.arange(store.n_items + 1)[:, None]
    bits = jax.jit(novelty, static_argnames="n_users")(lists, of_users.astype(np.float32), n_users=n_users)
    bits = np.nan_to_num(np.asarray(bits, np.float64))  # padding has none
    return ItemPopularity(training_counts(store, split).astype(np.float64), bits)


def list_sums(
    lists: Int[np.ndarray, "part k"], query: Int[np.ndarray, " part"], queries: Queries, popularity: ItemPopularity
) -> ListSums:
    """The totals of the lists of some queries, whose places among all are given."""
    n_listed = np.count_nonzero(lists, axis=1)
    sums = [*(table[lists].sum(axis=1) for table in popularity), seen_counts(lists, query, queries)]
    means = np.stack(sums) / np.maximum(n_listed, 1)
    exposures = np.bincount(lists.reshape(-1), minlength=queries.store.n_items + 1)
    exposures[0] = 0
    return ListSums(exposures, means.sum(axis=1), int(np.sum(n_listed > 0)))


def added(one: ListSums, other: ListSums) -> ListSums:
    """The totals of both."""
    return ListSums(one.exposures + other.exposures, one.totals + other.totals, one.n_users + other.n_users)


def list_figures(sums: ListSums) -> dict[str, float]:
    """Figures of the lists as a whole and means over users, by name; see `metrics.beyond_accuracy` for each.

    Popularity is the number of training events, novelty is in bits over the users of the training part.
    """
    means = sums.totals / sums.n_users if sums.n_users else np.full(len(_OF_USERS), np.nan)
    return {
        "catalogue coverage": float(jax.jit(coverage_of_counts)(sums.exposures)),
        "Gini of exposure": float(jax.jit(gini_of_counts)(sums.exposures)),
        **dict(zip(_OF_USERS, means.tolist(), strict=True)),
    }


def seen_counts(
    lists: Int[np.ndarray, "part k"], query: Int[np.ndarray, " part"], queries: Queries
) -> Int[np.ndarray, " part"]:
    """How many items of each list are in the history: `metrics.personal_repeat_share` before it is divided.

    Its memory is that of the histories' events, however long some are.
    """
    starts = queries.store.offsets[queries.users[query]]
    lengths = queries.target_positions[query] - starts
    n_ids = queries.store.n_items + 1
    n_seen = np.empty(len(lists), np.int64)
    for block in blocks(lengths):
        user = np.arange(len(lengths[block]))
        pairs = np.repeat(user, lengths[block]) * n_ids
        pairs = np.sort(pairs + queries.store.items[ranges(starts[block], lengths[block])])
        listed = user[:, None] * n_ids + lists[block]
        places = np.minimum(np.searchsorted(pairs, listed), len(pairs) - 1)
        n_seen[block] = np.count_nonzero(pairs[places] == listed, axis=1)  # id 0 is in no history
    return n_seen


def format_list_figures(columns: dict[str, dict[str, float]]) -> str:
    """A table as text: one line per figure, one column per kind of list."""
    names = next(iter(columns.values()))
    rows = [[name, *(f"{figures[name]:,.4f}" for figures in columns.values())] for name in names]
    return "\n".join(text_table([["", *columns], *rows]))
