"""Small stores of drawn histories, and slow loops that say what is learned from them."""

import numpy as np
from hypothesis import strategies as st

from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences

N_ITEMS = 40
histories_strategy = st.lists(st.lists(st.integers(1, N_ITEMS), max_size=14), min_size=1, max_size=12).filter(
    lambda histories: any(len(history) >= 3 for history in histories)
)


def random_histories(n_users=30, longest=14, seed=0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, N_ITEMS + 1, generator.integers(0, longest + 1)).tolist() for _ in range(n_users)]


def a_store(histories):
    store = store_from_sequences(histories, n_items=N_ITEMS)
    return store, leave_last_out(store)


def training_part(history):
    return history[:-2] if len(history) >= 3 else history


def latest_pairs(histories, max_length):
    """What each user is trained on: the latest `max_length` pairs of an item and the next."""
    pairs = []
    for history in map(training_part, histories):
        if len(history) >= 2:
            pairs.append((tuple(history[:-1][-max_length:]), tuple(history[1:][-max_length:])))
    return pairs


def held(batch) -> list[np.ndarray]:
    """The fields that a batch has."""
    return [field for field in batch if field is not None]


def segments_of(batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(items, next items) of each history in a batch, once its other fields are found to fit."""
    segments = []
    for row in range(batch.items.shape[0]):
        ids = batch.segment_ids[row]
        # Segments count from 1 and stand side by side, padding at the end.
        filled = np.count_nonzero(ids)
        assert not np.any(ids[filled:])
        assert not np.any([field[row, filled:] for field in held(batch)])
        assert np.isin(np.diff(ids[:filled], prepend=0), [0, 1]).all()
        for segment in range(1, ids.max() + 1):
            places = ids == segment
            assert batch.positions[row, places].tolist() == list(range(places.sum()))
            segments.append((tuple(batch.items[row, places].tolist()), tuple(batch.next_items[row, places].tolist())))
    return segments
