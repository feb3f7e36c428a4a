"""What tests of scorers share: histories over a few items, and the parts of their leave-last-out split."""

import numpy as np
from hypothesis import strategies as st

from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences

N_ITEMS = 6
histories = st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=9), min_size=1, max_size=6).map(
    lambda sequences: [*sequences, [1, 2, 3]]  # one user at least is evaluated
)


def trained(sequences):
    """What of each history is trained on."""
    return [one[:-2] if len(one) >= 3 else one for one in sequences]


def a_task(sequences):
    """The store, its split, and the positions of the test targets."""
    store = store_from_sequences(sequences, n_items=N_ITEMS)
    split = leave_last_out(store)
    return store, split, split.test[split.test >= 0]


def history_of(store, position):
    """The items before a position."""
    user = np.searchsorted(store.offsets, position, side="right") - 1
    return store.items[store.offsets[user] : position].tolist()
