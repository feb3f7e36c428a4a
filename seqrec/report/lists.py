"""Properties of recommendation lists beyond accuracy, added up part by part."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seqrec.baselines.popularity import training_counts
from seqrec.data.batches import Queries
from seqrec.data.ragged import blocks, ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.metrics import coverage_of_counts, gini_of_counts, novelty, popularity_bias
from seqrec.report.comparison_text import text_table

_OF_USERS = ("mean popularity", "novelty in bits", "personal repeat share")


class TrainingCounts(NamedTuple):
    """What the training part says of each item's popularity."""

    n_events: Int[np.ndarray, " n_items_plus_1"]
    n_item_users: Int[np.ndarray, " n_items_plus_1"]
    """Users with an event of the item."""
    n_users: int
    """Users with an event."""


class ListSums(NamedTuple):
    """Totals over lists; those of two parts add field by field."""

    exposures: Int[np.ndarray, " n_items_plus_1"]
    """How often each item is listed."""
    totals: Float[np.ndarray, "3"]
    """Sums over users of the figures of users, in the order of the printed table."""
    n_users: Int[np.ndarray, "3"]
    """Users whose list has the figure: one of no item has none."""


def item_popularity(store: SequenceStore, split: Split) -> TrainingCounts:
    """Counts of the training part of a split."""
    n_users = int(np.sum(split.train_stop > store.offsets[:-1]))
    return TrainingCounts(training_counts(store, split), training_counts(store, split, repeats=False), n_users)


def list_sums(
    lists: Int[np.ndarray, "part k"],
    query: Int[np.ndarray, " part"],
    queries: Queries,
    counts: TrainingCounts,
) -> ListSums:
    """The totals of the lists of some queries, whose places among all are given."""
    # Few sizes, of which each is compiled: empty lists count nowhere.
    filled_up = np.zeros((1 << max(len(lists) - 1, 0).bit_length(), lists.shape[1]), lists.dtype)
    filled_up[: len(lists)] = lists
    by_popularity = (
        popularity_bias(filled_up, counts.n_events),
        novelty(filled_up, counts.n_item_users, n_users=counts.n_users),
    )
    values = np.stack(
        [*(np.asarray(each, np.float64)[: len(lists)] for each in by_popularity), seen_shares(lists, query, queries)]
    )
    exposures = np.bincount(lists.reshape(-1), minlength=queries.store.n_items + 1)
    exposures[0] = 0
    return ListSums(exposures, np.nansum(values, axis=1), np.sum(~np.isnan(values), axis=1))


def added(one: ListSums, other: ListSums) -> ListSums:
    """The totals of both."""
    return ListSums(*map(np.add, one, other))


def list_figures(sums: ListSums) -> dict[str, float]:
    """Figures of the lists as a whole and means over users, by name; see `metrics.beyond_accuracy` for each.

    Popularity is the number of training events, novelty is in bits over the users of the training part.
    """
    with np.errstate(invalid="ignore"):
        means = sums.totals / sums.n_users
    return {
        "catalogue coverage": float(coverage_of_counts(sums.exposures)),
        "Gini of exposure": float(gini_of_counts(sums.exposures)),
        **dict(zip(_OF_USERS, means.tolist(), strict=True)),
    }


def seen_shares(
    lists: Int[np.ndarray, "part k"], query: Int[np.ndarray, " part"], queries: Queries
) -> Float[np.ndarray, " part"]:
    """`metrics.personal_repeat_share` of whole histories: its memory is that of their events, however long they are."""
    starts = queries.store.offsets[queries.users[query]]
    lengths = queries.target_positions[query] - starts
    n_ids = queries.store.n_items + 1
    n_seen = np.empty(len(lists))
    for block in blocks(lengths):
        user = np.arange(len(lengths[block]))
        history = queries.store.items[ranges(starts[block], lengths[block])]
        pairs = np.repeat(user, lengths[block]) * n_ids + history
        is_seen = np.isin(user[:, None] * n_ids + lists[block], pairs)  # id 0 is in no history
        n_seen[block] = np.count_nonzero(is_seen, axis=1)
    with np.errstate(invalid="ignore"):
        return n_seen / np.count_nonzero(lists, axis=1)


def format_list_figures(columns: dict[str, dict[str, float]]) -> str:
    """A table as text: one line per figure, one column per kind of list."""
    names = next(iter(columns.values()))
    rows = [[name, *(f"{figures[name]:,.4f}" for figures in columns.values())] for name in names]
    return "\n".join(text_table([["", *columns], *rows]))
