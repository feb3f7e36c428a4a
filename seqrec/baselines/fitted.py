"""All baselines that a model has to beat, fitted on the training part of a split."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqrec.baselines import popularity
from seqrec.baselines.ials import ials
from seqrec.baselines.item_to_item import (
    ItemToItem,
    first_order_markov,
    item_knn,
    item_to_item_scorer,
    skip_gram_markov,
)
from seqrec.baselines.personal import personal_recency
from seqrec.baselines.scored import Scorer, ease, score_ranks
from seqrec.baselines.session_knn import stan, vs_sknn
from seqrec.baselines.slim import slim
from seqrec.config import check_above, check_at_least, check_between, check_fields, check_share
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore

Rank = Callable[[np.ndarray, bool, Callable[[int], None]], tuple[np.ndarray, np.ndarray]]
"""`rank(target_positions, mask_seen, report)` -> ranks, and numbers of candidates; `report` as in `score_ranks`."""

BaselineName = Literal[
    "popularity",
    "personal popularity",
    "personal recency",
    "recent popularity",
    "first-order Markov",
    "skip-gram Markov",
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
    recency_exponent: float = 0.5
    """Personal recency: power of the age by which events of the history are divided; 0 is personal popularity."""
    skip_window: int = 10
    """Skip-gram Markov: largest distance of pairs that are counted, and number of latest events that count."""
    skip_decay: float = 0.8
    """Skip-gram Markov: weight of a pair relative to that of a pair one event closer."""
    skip_age_decay: float = 0.6
    """Skip-gram Markov: weight of an event of the history relative to that of the next newer one."""
    n_neighbours: int = 100
    """item-kNN: number of most similar items that are kept for each item; VS-SkNN and STAN: number of similar
    sequences."""
    n_recent: int = 1000
    """VS-SkNN and STAN: the most recent sequences with an item of the history, among which similar ones are sought."""
    item_knn_latest: int = 10
    """item-kNN: number of latest events of a history that count."""
    item_knn_decay: float = 0.65
    """item-kNN: weight of an event relative to that of the next newer one."""
    item_knn_shrinkage: float = 5.0
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
        check_at_least(self, 1, "skip_window")
        check_at_least(self, 0, "item_knn_shrinkage")
        check_between(self, 0, 2, "recency_exponent")
        check_share(self, "item_knn_decay", "skip_decay", "skip_age_decay", zero=False)
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

    if name in ("popularity", "personal popularity"):
        return by_counts(counts, personal=name == "personal popularity")
    if name == "recent popularity":
        return by_counts(popularity.recent_counts(timed, split, days=config.recent_days))
    scorer = _fit_scorer(name, store, split, config, timed=timed, counts=counts)
    return lambda targets, mask_seen, report: score_ranks(store, targets, scorer, mask_seen=mask_seen, report=report)


def _fit_scorer(
    name: BaselineName,
    store: SequenceStore,
    split: Split,
    config: BaselinesConfig,
    *,
    timed: SequenceStore,
    counts: np.ndarray,
) -> Scorer:
    """The scores of a baseline that is more than counts of items; `timed` is the store with times, if there are any."""
    n_neighbours, n_recent = config.n_neighbours, config.n_recent
    item_to_item: dict[str, Callable[[], ItemToItem]] = {
        "first-order Markov": lambda: first_order_markov(store, split),
        "skip-gram Markov": lambda: skip_gram_markov(
            store, split, window=config.skip_window, decay=config.skip_decay, age_decay=config.skip_age_decay
        ),
        "item-kNN": lambda: item_knn(
            store,
            split,
            n_neighbours=n_neighbours,
            shrinkage=config.item_knn_shrinkage,
            n_latest=config.item_knn_latest,
            decay=config.item_knn_decay,
        ),
    }
    if name in item_to_item:
        return item_to_item_scorer(store, item_to_item[name]())
    others: dict[str, Callable[[], Scorer]] = {
        "personal recency": lambda: personal_recency(store, counts, exponent=config.recency_exponent),
        "VS-SkNN": lambda: vs_sknn(timed, split, n_neighbours=n_neighbours, n_recent=n_recent),
        "STAN": lambda: stan(timed, split, n_neighbours=n_neighbours, n_recent=n_recent),
        "iALS": lambda: ials(
            store,
            split,
            d_model=config.ials_d_model,
            unobserved_weight=config.ials_unobserved_weight,
            l2=config.ials_l2,
        ),
        "SLIM": lambda: slim(store, split, n_neighbours=config.slim_neighbours, l2=config.slim_l2),
        "EASE": lambda: ease(store, split, l2=config.ease_l2),
    }
    return others[name]()
