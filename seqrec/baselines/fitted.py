"""All baselines that a model has to beat, fitted on the training part of a split."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from seqrec.baselines import popularity
from seqrec.baselines.ials import ials
from seqrec.baselines.scored import Scorer, ease, first_order_markov, item_knn, score_ranks
from seqrec.baselines.session_knn import stan, vs_sknn
from seqrec.baselines.slim import slim
from seqrec.config import check_above, check_at_least, check_fields
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

log = logging.getLogger("seqrec")

Rank = Callable[[np.ndarray, bool], tuple[np.ndarray, np.ndarray]]
"""`rank(target_positions, mask_seen)` -> ranks, and numbers of candidates."""

BaselineName = Literal[
    "popularity",
    "personal popularity",
    "recent popularity",
    "first-order Markov",
    "item-kNN",
    "VS-SkNN",
    "STAN",
    "iALS",
    "SLIM",
    "EASE",
]


@dataclass(frozen=True)
class BaselinesConfig:
    """Which baselines to fit, and their settings."""

    only: tuple[BaselineName, ...] = ()
    """Baselines to fit, such as item-kNN STAN; by default all."""
    recent_days: float = 30.0
    """Recent popularity: number of days before the newest training event whose events count; needs times."""
    n_neighbours: int = 100
    """item-kNN: number of most similar items that are kept for each item; VS-SkNN and STAN: number of similar
    sequences."""
    n_recent: int = 1000
    """VS-SkNN and STAN: the most recent sequences with an item of the history, among which similar ones are sought."""
    ease_l2: float = 500.0
    """EASE: strength of the L2 regularisation."""
    slim_neighbours: int = 50
    """SLIM: number of most similar items that each item is predicted from."""
    slim_l2: float = 100.0
    """SLIM: strength of the L2 regularisation."""
    ials_d_model: int = 64
    """iALS: width of the vectors."""
    ials_l2: float = 0.003
    """iALS: strength of the L2 regularisation."""
    ials_unobserved_weight: float = 0.1
    """iALS: weight of the items that a user has not taken."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "n_neighbours", "n_recent", "slim_neighbours", "ials_d_model")
        check_above(self, 0, "recent_days", "ease_l2", "slim_l2", "ials_l2", "ials_unobserved_weight")


DEFAULT = BaselinesConfig()


def fitted_baselines(
    store: SequenceStore, split: Split, config: BaselinesConfig = DEFAULT, *, store_with_times: SequenceStore
) -> Iterator[tuple[str, Rank]]:
    """Each baseline with its name; it is fitted when the iterator reaches it.

    `store_with_times` is the same store with times, if there are any: recent popularity needs them, and STAN weighs by
    them.
    """
    counts = popularity.training_counts(store, split)

    def by_counts(counts: np.ndarray, *, personal: bool = False) -> Rank:
        return lambda targets, mask_seen: popularity.popularity_ranks(
            store, targets, counts, mask_seen=mask_seen, personal=personal
        )

    def by_scores(scorer: Scorer) -> Rank:
        return lambda targets, mask_seen: score_ranks(store, targets, scorer, mask_seen=mask_seen)

    def by_sequences(fit: Callable[..., Scorer]) -> Rank:
        return by_scores(fit(store_with_times, split, n_neighbours=config.n_neighbours, n_recent=config.n_recent))

    def by_factors() -> Rank:
        weight = config.ials_unobserved_weight
        return by_scores(ials(store, split, d_model=config.ials_d_model, unobserved_weight=weight, l2=config.ials_l2))

    fits: dict[BaselineName, Callable[[], Rank]] = {
        "popularity": lambda: by_counts(counts),
        "personal popularity": lambda: by_counts(counts, personal=True),
        "recent popularity": lambda: by_counts(
            popularity.recent_counts(store_with_times, split, days=config.recent_days)
        ),
        "first-order Markov": lambda: by_scores(first_order_markov(store, split)),
        "item-kNN": lambda: by_scores(item_knn(store, split, n_neighbours=config.n_neighbours)),
        "VS-SkNN": lambda: by_sequences(vs_sknn),
        "STAN": lambda: by_sequences(stan),
        "iALS": by_factors,
        "SLIM": lambda: by_scores(slim(store, split, n_neighbours=config.slim_neighbours, l2=config.slim_l2)),
        "EASE": lambda: by_scores(ease(store, split, l2=config.ease_l2)),
    }
    for name in config.only or get_args(BaselineName):
        if name == "recent popularity" and "timestamp_us" not in store_with_times.columns and not config.only:
            continue
        try:
            yield name, fits[name]()
        except InputError as error:  # too many items, or no times
            log.warning("left out    %s", error)
