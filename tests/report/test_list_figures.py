"""Figures of lists that are added up part by part are those of `metrics.beyond_accuracy` over all of them at once."""

import functools

import numpy as np
import pytest

from seqrec import metrics
from seqrec.baselines.popularity import training_counts
from seqrec.data import ragged
from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.report.lists import added, item_popularity, list_figures, list_sums

N_ITEMS, K = 30, 5


@pytest.mark.parametrize("events_per_block", [1, 1 << 22])
def test_figures_of_parts_are_those_of_all_lists(events_per_block, monkeypatch):
    monkeypatch.setattr(ragged, "EVENTS_PER_BLOCK", events_per_block)
    generator = np.random.default_rng(0)
    store = store_from_sequences(
        [generator.integers(1, N_ITEMS - 3, generator.integers(3, 12)).tolist() for _ in range(20)], n_items=N_ITEMS
    )
    split = leave_last_out(store)
    queries = make_queries(store, split.test, max_length=4, batch_size=8, mask_seen=False)
    lists = np.stack([generator.permutation(N_ITEMS)[:K] + 1 for _ in queries.users]).astype(np.int32)
    lists[3, 2:], lists[7] = 0, 0  # a short list, and an empty one
    popularity = item_popularity(store, split)
    parts = np.array_split(generator.permutation(len(lists)), 3)
    figures = list_figures(functools.reduce(added, (list_sums(lists[p], p, queries, popularity) for p in parts)))
    histories = queries.latest(np.arange(len(lists)), len(lists), 12)
    per_user = {
        "mean popularity": metrics.popularity_bias(lists, training_counts(store, split)),
        "novelty in bits": metrics.novelty(lists, training_counts(store, split, repeats=False), n_users=20),
        "personal repeat share": metrics.personal_repeat_share(lists, histories),
    }
    assert figures.keys() == {"catalogue coverage", "Gini of exposure", *per_user}
    for name, values in per_user.items():
        assert figures[name] == pytest.approx(np.nanmean(values), rel=1e-5)
    assert figures["catalogue coverage"] == pytest.approx(float(metrics.catalogue_coverage(lists, n_items=N_ITEMS)))
    assert figures["Gini of exposure"] == pytest.approx(float(metrics.gini(lists, n_items=N_ITEMS)))
