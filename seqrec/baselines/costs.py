"""What a baseline costs, estimated from the sizes of the data, so that a run tests those that it can afford."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seqrec.baselines.fitted import DEFAULT, BaselineName, BaselinesConfig
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

_SECONDS_AN_EVENT = 1e-7  # to read it, and sort it among others
_SECONDS_A_PAIR = 1e-8  # of items of one sequence, to count it
_SECONDS_A_SCORE = 4e-8  # to add it up, and sort it among those of its query
_SECONDS_A_NEIGHBOUR = 3e-7  # to find a sequence that shares an item with a history, and sort it among others
_BYTES_AN_EVENT = 64  # of coordinates, while a sparse matrix is made of them
_LONGEST = 1000  # events of a sequence of which item-kNN counts pairs
_LATEST = 20  # items of a history by which VS-SkNN and STAN look for sequences


class Cost(NamedTuple):
    """About what it takes to fit a baseline and to rank the queries with it, on one core."""

    seconds: float
    n_bytes: float


def estimated_cost(
    name: BaselineName,
    store: SequenceStore,
    split: Split,
    history_lengths: Int[np.ndarray, " n_queries"],
    *,
    counts: Int[np.ndarray, " n_items_plus_1"],
    config: BaselinesConfig = DEFAULT,
) -> Cost:
    """The cost of a baseline within a factor of three or so; that of one with a dense model is infinite.

    `history_lengths` are those of the queries, `counts` the `training_counts`. No sequence is read.
    """
    lengths = np.maximum(split.train_stop - store.offsets[:-1], 0).astype(np.float64)
    n_events, n_read = float(lengths.sum()), float(history_lengths.sum())
    # An item stands in as many sequences as it has events, and as many items follow it, at most.
    n_of_item = float(counts @ np.minimum(counts, store.n_items)) / max(1.0, n_events)
    n_recent = float(counts @ np.minimum(counts, config.n_recent)) / max(1.0, n_events)
    seconds, n_bytes = _SECONDS_AN_EVENT * (n_events + n_read), _BYTES_AN_EVENT * n_events
    if name in ("popularity", "personal popularity", "recent popularity"):
        return Cost(seconds, 0.0)
    if name == "personal recency":
        return Cost(seconds + _SECONDS_A_SCORE * n_read, 0.0)
    if name == "first-order Markov":
        return Cost(seconds + _SECONDS_A_SCORE * n_of_item * len(history_lengths), n_bytes)
    if name == "skip-gram Markov":
        n_followed = float(counts @ np.minimum(config.skip_window * counts, store.n_items)) / max(1.0, n_events)
        n_added = float(np.minimum(history_lengths, config.skip_window).sum()) * n_followed
        n_scores = min(n_added, float(len(history_lengths)) * store.n_items)
        seconds += _SECONDS_AN_EVENT * config.skip_window * n_events
        return Cost(seconds + _SECONDS_A_PAIR * n_added + _SECONDS_A_SCORE * n_scores, config.skip_window * n_bytes)
    if name == "item-kNN":
        n_pairs = float(np.square(np.minimum(lengths, _LONGEST)).sum())
        n_scores = float(np.minimum(history_lengths, config.item_knn_latest).sum()) * config.n_neighbours
        n_bytes += 24.0 * min(n_pairs, store.n_items * config.n_neighbours)
        return Cost(seconds + _SECONDS_A_PAIR * n_pairs + _SECONDS_A_SCORE * n_scores, n_bytes)
    if name in ("VS-SkNN", "STAN"):
        n_found = float(np.minimum(history_lengths, _LATEST).sum()) * n_recent
        n_scores = len(history_lengths) * config.n_neighbours * n_events / max(1, len(lengths))
        return Cost(seconds + _SECONDS_A_NEIGHBOUR * n_found + _SECONDS_A_SCORE * n_scores, n_bytes)
    return Cost(float("inf"), float("inf"))
