"""All baselines that a model has to beat, fitted on the training part of a split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqrec.baselines import popularity
from seqrec.baselines.ials import ials
from seqrec.baselines.scored import Scorer, ease, first_order_markov, item_knn, score_ranks
from seqrec.baselines.session_knn import stan, vs_sknn
from seqrec.baselines.slim import slim
from seqrec.config import check_above, check_at_least, check_fields, check_share
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

Rank = Callable[[np.ndarray, bool, Callable[[int], None]], tuple[np.ndarray, np.ndarray]]
"""`rank(target_positions, mask_seen, report)` -> ranks, and numbers of candidates; `report` as in `score_ranks`."""

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
    item_knn_latest: int = 10
    """item-kNN: number of latest events of a history that count."""
    item_knn_decay: float = 0.8
    """item-kNN: weight of an event relative to that of the next newer one."""
    item_knn_shrinkage: float = 20.0
    """item-kNN: what is added to the denominator of the cosine, against similarities that rest on few sequences."""
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
        check_at_least(self, 1, "n_neighbours", "n_recent", "item_knn_latest", "slim_neighbours", "ials_d_model")
        check_at_least(self, 0, "item_knn_shrinkage")
        check_share(self, "item_knn_decay", zero=False)
        check_above(self, 0, "recent_days", "ease_l2", "slim_l2", "ials_l2", "ials_unobserved_weight")


DEFAULT = BaselinesConfig()


def fit_baseline(
    name: BaselineName,
    store: SequenceStore,
    split: Split,
    config: BaselinesConfig = DEFAULT,
    *,
    store_with_times: SequenceStore | None = None,
    counts: np.ndarray | None = None,
) -> Rank:
    """The baseline of this name, fitted on the training part.

    `store_with_times` is the same store with times, if another one holds them: recent popularity needs them, and
    VS-SkNN and STAN weigh by them. `counts` are the `training_counts`, where they are known already.

    Raises:
      InputError: the catalogue is too large for it, or it needs times that are not there.
    """
    counts = popularity.training_counts(store, split) if counts is None else counts
    timed = store if store_with_times is None else store_with_times

    def by_counts(counts: np.ndarray, *, personal: bool = False) -> Rank:
        return lambda targets, mask_seen, report: popularity.popularity_ranks(
            store, targets, counts, mask_seen=mask_seen, personal=personal, report=report
        )

    def by_scores(scorer: Scorer) -> Rank:
        return lambda targets, mask_seen, report: score_ranks(
            store, targets, scorer, mask_seen=mask_seen, report=report
        )

    def by_sequences(fit: Callable[..., Scorer]) -> Rank:
        return by_scores(fit(timed, split, n_neighbours=config.n_neighbours, n_recent=config.n_recent))

    def by_neighbours() -> Rank:
        return by_scores(
            item_knn(
                store,
                split,
                n_neighbours=config.n_neighbours,
                shrinkage=config.item_knn_shrinkage,
                n_latest=config.item_knn_latest,
                decay=config.item_knn_decay,
            )
        )

    def by_factors() -> Rank:
        weight = config.ials_unobserved_weight
        return by_scores(ials(store, split, d_model=config.ials_d_model, unobserved_weight=weight, l2=config.ials_l2))

    fits: dict[BaselineName, Callable[[], Rank]] = {
        "popularity": lambda: by_counts(counts),
        "personal popularity": lambda: by_counts(counts, personal=True),
        "recent popularity": lambda: by_counts(popularity.recent_counts(timed, split, days=config.recent_days)),
        "first-order Markov": lambda: by_scores(first_order_markov(store, split)),
        "item-kNN": by_neighbours,
        "VS-SkNN": lambda: by_sequences(vs_sknn),
        "STAN": lambda: by_sequences(stan),
        "iALS": by_factors,
        "SLIM": lambda: by_scores(slim(store, split, n_neighbours=config.slim_neighbours, l2=config.slim_l2)),
        "EASE": lambda: by_scores(ease(store, split, l2=config.ease_l2)),
    }
    return fits[name]()
