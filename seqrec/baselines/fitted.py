"""All baselines that a model has to beat, fitted on the training part of a split."""

import logging
from collections.abc import Callable, Iterator

import numpy as np

from seqrec.baselines import popularity
from seqrec.baselines.scored import ease, first_order_markov, item_knn, score_ranks
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

log = logging.getLogger("seqrec")

Rank = Callable[[np.ndarray, bool], tuple[np.ndarray, np.ndarray]]
"""`rank(target_positions, mask_seen)` -> ranks, and numbers of candidates."""


def fitted_baselines(
    store: SequenceStore,
    split: Split,
    *,
    store_with_times: SequenceStore,
    recent_days: float = 30.0,
    n_neighbours: int = 100,
    ease_l2: float = 500.0,
) -> Iterator[tuple[str, Rank]]:
    """Each baseline with its name; it is fitted when the iterator reaches it.

    `store_with_times` is the same store with times, if there are any: recent popularity needs them.
    """
    counts = popularity.training_counts(store, split)

    def by_counts(counts, *, personal=False) -> Rank:
        return lambda targets, mask_seen: popularity.popularity_ranks(
            store, targets, counts, mask_seen=mask_seen, personal=personal
        )

    def by_scores(scorer) -> Rank:
        return lambda targets, mask_seen: score_ranks(store, targets, scorer, mask_seen=mask_seen)

    yield "popularity", by_counts(counts)
    yield "personal popularity", by_counts(counts, personal=True)
    if "timestamp_us" in store_with_times.columns:
        yield "recent popularity", by_counts(popularity.recent_counts(store_with_times, split, days=recent_days))
    yield "first-order Markov", by_scores(first_order_markov(store, split))
    for name, fit in (
        ("item-kNN", lambda: item_knn(store, split, n_neighbours=n_neighbours)),
        ("EASE", lambda: ease(store, split, l2=ease_l2)),
    ):
        try:
            yield name, by_scores(fit())
        except InputError as error:  # too many items
            log.warning("left out    %s", error)
