"""VS-SkNN and STAN against plain loops over sequences."""

import math

import numpy as np
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from seqrec.baselines.session_knn import DAY_US, stan, vs_sknn
from seqrec.data.ragged import ranges
from seqrec.data.splits import leave_last_out
from seqrec.data.store import sequence_store

N_ITEMS = 6
histories = st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=8), min_size=1, max_size=6).map(
    lambda sequences: [*sequences, [1, 2, 3]]  # one user at least is evaluated
)
QUICK = examples(60)


def a_task(sequences, *, with_times):
    lengths = np.array([len(one) for one in sequences])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Users begin a day apart, in an order that is not theirs; their events are hours apart.
    days = np.random.default_rng(0).permutation(len(sequences))
    times = np.repeat(days, lengths) * DAY_US + ranges(np.zeros_like(lengths), lengths) * DAY_US // 24
    store = sequence_store(
        np.concatenate(sequences),
        offsets,
        np.arange(1, N_ITEMS + 1),
        np.arange(len(sequences)),
        columns={"timestamp_us": times} if with_times else {},
    )
    split = leave_last_out(store)
    return store, split, split.test[split.test >= 0]


def newest_first(items, n):
    """Each item once, the newest `n` events alone."""
    return list(dict.fromkeys(reversed(items[-n:])))


def slow_neighbours(store, split, position, n_latest, n_recent, weight, final):
    """(similarity, sequence, age of the newest shared item) of each neighbour, the most similar and recent first."""
    own = np.searchsorted(store.offsets, position, side="right") - 1
    history = newest_first(store.items[store.offsets[own] : position].tolist(), n_latest)
    times = store.columns.get("timestamp_us", np.arange(store.n_events))
    neighbours = []
    for user in range(store.n_users):
        sequence = store.items[store.offsets[user] : split.train_stop[user]].tolist()
        shared = [age for age, item in enumerate(history) if item in sequence]
        if user != own and shared:
            ended = times[split.train_stop[user] - 1] if "timestamp_us" in store.columns else user
            similarity = sum(weight(age, len(history)) for age in shared)
            neighbours.append((ended, user, similarity, sequence, min(shared), history))
    recent = sorted(neighbours, reverse=True)[:n_recent]
    each = [(final(similarity, sequence, history, user), ended, sequence, age, history[age], len(history))
            for ended, user, similarity, sequence, age, history in recent]  # fmt: skip
    return sorted(each, key=lambda one: (-one[0], -one[1]))


def last_place(sequence, item):
    return len(sequence) - 1 - sequence[::-1].index(item)


@QUICK
@given(histories, st.booleans(), st.integers(1, 4), st.integers(1, 5), st.integers(1, 8))
def test_vs_sknn_adds_up_the_items_of_the_most_similar_sequences(
    sequences, with_times, n_neighbours, n_recent, n_latest
):
    store, split, tests = a_task(sequences, with_times=with_times)
    sizes = {"n_neighbours": n_neighbours, "n_recent": n_recent, "n_latest": n_latest}
    scores = vs_sknn(store, split, **sizes).query_scores(tests).toarray()
    trained = [store.items[store.offsets[u] : split.train_stop[u]].tolist() for u in range(store.n_users)]
    for query, position in enumerate(tests):
        expected = np.zeros(N_ITEMS + 1)
        near = slow_neighbours(
            store, split, position, n_latest, n_recent, lambda age, n: (n - age) / n, lambda s, *_: s
        )
        for similarity, _, sequence, age, _, n in near[:n_neighbours]:
            for item in set(sequence):
                n_with = sum(item in one for one in trained)
                expected[item] += similarity * (n - age) / n * math.log(store.n_users / n_with)
        np.testing.assert_allclose(scores[query], expected, rtol=1e-9, atol=1e-12)


@QUICK
@given(histories, st.booleans(), st.integers(1, 4), st.integers(1, 8))
def test_stan_decays_by_age_by_time_and_by_distance(sequences, with_times, n_neighbours, n_latest):
    store, split, tests = a_task(sequences, with_times=with_times)
    decays = {"age_decay": 2.0, "days_decay": 3.0, "distance_decay": 1.5}
    scores = stan(store, split, n_neighbours=n_neighbours, n_latest=n_latest, **decays).query_scores(tests).toarray()
    for query, position in enumerate(tests):

        def final(similarity, sequence, history, user, position=position):
            similarity /= math.sqrt(len(history) * len(set(sequence)))
            if with_times:
                times = store.columns["timestamp_us"]
                passed = times[position - 1] - times[split.train_stop[user] - 1]
                similarity *= math.exp(-max(0, passed) / DAY_US / 3.0)
            return similarity

        expected = np.zeros(N_ITEMS + 1)
        near = slow_neighbours(store, split, position, n_latest, 1000, lambda age, _: math.exp(-age / 2.0), final)
        # Neighbours that are equally similar but for rounding may change places.
        if len(near) > n_neighbours and math.isclose(near[n_neighbours - 1][0], near[n_neighbours][0], rel_tol=1e-9):
            continue
        for similarity, _, sequence, _, shared, _ in near[:n_neighbours]:
            for item in set(sequence):
                distance = abs(last_place(sequence, item) - last_place(sequence, shared))
                expected[item] += similarity * math.exp(-distance / 1.5)
        np.testing.assert_allclose(scores[query], expected, rtol=1e-9, atol=1e-12)
