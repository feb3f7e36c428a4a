"""Which events train a model, which choose it and which judge it."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from seqrec.data.store import SequenceStore
from seqrec.types import InputError


class Split(NamedTuple):
    """User u trains on `items[offsets[u]:train_stop[u]]`; targets are positions in `store.items`."""

    train_stop: Int64[np.ndarray, " n_users"]
    valid: Int64[np.ndarray, " n_users"]
    """Position of each user's validation target; -1 where the user has none."""
    test: Int64[np.ndarray, " n_users"]
    """Position of each user's test target; -1 where the user has none."""
    content_hash: str
    """sha256 over the store's hash and the arrays: equal hashes mean the same evaluation."""
    description: str


def leave_last_out(store: SequenceStore) -> Split:
    """The last event of each user is for the test, the last but one for validation, the rest for training.

    Users with fewer than three events train on all they have and are not evaluated.

    >>> from seqrec.data.store import store_from_sequences
    >>> split = leave_last_out(store_from_sequences([[1, 2, 3, 4], [2, 3]]))
    >>> split.train_stop.tolist(), split.valid.tolist(), split.test.tolist()
    ([2, 6], [2, -1], [3, -1])
    """
    stop = np.asarray(store.offsets[1:])
    n_user_events = np.diff(store.offsets)
    evaluated = n_user_events >= 3
    n_evaluated = int(evaluated.sum())
    if n_evaluated == 0:
        raise InputError(
            f"no user has 3 events (the longest history has {n_user_events.max(initial=0)}), so none can be "
            "evaluated by leaving the last one out; give longer histories"
        )
    train_stop = np.where(evaluated, stop - 2, stop)
    valid = np.where(evaluated, stop - 2, -1)
    test = np.where(evaluated, stop - 1, -1)
    description = (
        f"leave last out: {n_evaluated:,} users with 3 or more events are tested on the last one, "
        "validated on the last but one and trained on the rest; "
        f"{store.n_users - n_evaluated:,} users with fewer are trained on whole and not evaluated"
    )
    return Split(train_stop, valid, test, _content_hash(store, train_stop, valid, test), description)


def _content_hash(store: SequenceStore, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(f"seqrec split 1\n{store.content_hash}\n".encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype="<i8").data)
    return digest.hexdigest()
