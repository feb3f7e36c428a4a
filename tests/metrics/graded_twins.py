"""The graded metrics of lists of scores and labels, and their slow twins, which walk every order that ties allow."""

import functools
import itertools
import math

import jax
import numpy as np

from seqrec.metrics import (
    ap_metric,
    dcg_metric,
    hit_metric,
    mrr_metric,
    ndcg_metric,
    precision_metric,
    recall_metric,
)

METRICS = {
    "dcg": dcg_metric,
    "ndcg": ndcg_metric,
    "precision": precision_metric,
    "recall": recall_metric,
    "ap": ap_metric,
    "mrr": mrr_metric,
    "hit": hit_metric,
}
N_ITEMS = 6


@functools.partial(jax.jit, static_argnames="topn")
def all_metrics(scores, labels, where, topn=None):
    """Every metric of every list."""
    return {name: metric(scores, labels, where=where, topn=topn, reduce_fn=None) for name, metric in METRICS.items()}


def metrics_of(scores, labels, where=None, topn=None) -> dict[str, float]:
    """Every metric of one list, masked up to a common length so that each cut-off compiles once."""
    n_items = len(scores)
    padded = [np.full(max(n_items, N_ITEMS), fill, np.float32) for fill in (math.inf, 3.0, False)]
    for row, values in zip(padded, (scores, labels, True if where is None else where), strict=True):
        row[:n_items] = values
    return {name: float(value) for name, value in all_metrics(*padded[:2], padded[2].astype(bool), topn).items()}


def slow_metrics_of_order(labels: list[float], n_places: int, topn: int | None) -> dict[str, float]:
    """The textbook's metrics of labels in ranked order."""
    top = labels[:topn]
    n_relevant = sum(label > 0 for label in labels)
    hits = [place for place, label in enumerate(top, start=1) if label > 0]

    def dcg(ranked):
        return sum((2**label - 1) / math.log2(1 + place) for place, label in enumerate(ranked, start=1))

    return {
        "dcg": dcg(top),
        "ndcg": dcg(top) / dcg(sorted(labels, reverse=True)[:topn]),
        "precision": len(hits) / n_places,
        "recall": len(hits) / n_relevant,
        "ap": sum(n_found / place for n_found, place in enumerate(hits, start=1)) / n_relevant,
        "mrr": 1 / hits[0] if hits else 0.0,
        "hit": float(bool(hits)),
    }


def slow_metrics(scores, labels, where, topn) -> dict[str, float]:
    """The mean over all orders that the scores allow; NaN scores come last and the least relevant of them first."""
    items = [(score, label) for score, label, kept in zip(scores, labels, where, strict=True) if kept]
    if not any(label > 0 for _, label in items):
        return dict.fromkeys(METRICS, math.nan)
    tail = sorted(label for score, label in items if math.isnan(score))
    scored = [item for item in items if not math.isnan(item[0])]
    orders = [
        [label for _, label in order] + tail
        for order in itertools.permutations(scored)
        if all(above[0] >= below[0] for above, below in itertools.pairwise(order))
    ]
    values = [slow_metrics_of_order(order, topn or len(items), topn) for order in orders]
    return {name: float(np.mean([value[name] for value in values])) for name in METRICS}
