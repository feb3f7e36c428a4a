"""Baselines that add up what a history's latest items speak for, as arrays for a model to add to its scores."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from seqrec.baselines.item_to_item import ItemToItem, first_order_markov, item_knn, sparse_rows
from seqrec.baselines.slim import slim_weights
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

NeighbourTableName = Literal["markov", "item-kNN", "slim"]

MOST_NEIGHBOURS = 100
"""Entries of an item's row."""
MOST_BYTES = 500_000_000
"""Of a table: a catalogue of more than 600,000 items has shorter rows."""
MOST_PAIRS = 300_000_000
"""Pairs of items of one history that slim counts."""
SLIM_LATEST = 20
"""Items of a history that slim scores by: a bound on what a query costs, not chosen by any figure."""


class NeighbourRows(NamedTuple):
    """What each item of a history gives to some other items."""

    ids: Int[np.ndarray, "n_items_plus_1 n_neighbours"]
    """0 fills a row."""
    weights: Float[np.ndarray, "n_items_plus_1 n_neighbours"]
    recency: Float[np.ndarray, " n_latest"]
    """Factor of each of the latest items of a history, the newest first."""


def fit_neighbour_table(name: NeighbourTableName, store: SequenceStore, split: Split) -> NeighbourRows:
    """The table of a baseline with its default settings, fitted on the training part.

    markov: how often an item followed the newest one. item-kNN: `item_knn`. slim: `slim`, of the latest 20 items.

    Raises:
      InputError: the data are too large for it.
    """

    def slim() -> ItemToItem:
        lengths = np.clip(split.train_stop - store.offsets[:-1], 0, 1000).astype(np.float64)
        if (n_pairs := min(float(np.square(lengths).sum()), float(store.n_items) ** 2)) > MOST_PAIRS:
            raise InputError(
                f"slim counts {n_pairs:.0e} pairs of items of one history, and up to {MOST_PAIRS:.0e} as a table; "
                "leave it out"
            )
        return ItemToItem(slim_weights(store, split), np.ones(SLIM_LATEST), np.zeros(store.n_items + 1))

    fits: dict[NeighbourTableName, Callable[[], ItemToItem]] = {
        "markov": lambda: first_order_markov(store, split),
        "item-kNN": lambda: item_knn(store, split),
        "slim": slim,
    }
    fitted = fits[name]()
    longest = int(np.diff(fitted.weights.indptr).max(initial=0))
    n = max(1, min(MOST_NEIGHBOURS, longest, MOST_BYTES // (8 * (store.n_items + 1))))
    return NeighbourRows(*sparse_rows(fitted, n=n), fitted.by_age)
