"""Samples of users that are the same in every run, and hardly move when users join."""

import hashlib

import numpy as np
from jaxtyping import Int

from seqrec.data.own_shards import Gather, alone
from seqrec.data.ragged import distinct
from seqrec.data.store import SequenceStore

_USERS_PER_BLOCK = 1 << 20


def sampled_users(
    store: SequenceStore, users: Int[np.ndarray, " n_rows"], *, n: int, gather: Gather = alone
) -> Int[np.ndarray, " n_chosen"]:
    """Those of these rows of the store, each once, whose users' keys have the `n` smallest hashes; all if there are
    fewer.

    It depends on the keys alone: when users join, one leaves the sample only for each that enters it. Where each
    process has users of its own, the hashes are the smallest of all.

    >>> from seqrec.data.store import store_from_sequences
    >>> store = store_from_sequences([[1, 2]] * 9)
    >>> len(sampled_users(store, np.array([2, 2, 5, 7, 8]), n=3))
    3
    """
    users, hashes = distinct(users), [np.zeros(0, "<u8")]
    if sum(each.item() for each in gather(np.array([len(users)]))) <= n:
        return users
    for start in range(0, len(users), _USERS_PER_BLOCK):
        keys = store.user_keys[users[start : start + _USERS_PER_BLOCK]].tolist()
        texts = (f"seqrec sample of users {type(key).__name__} {key}" for key in keys)
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        hashes.append(np.frombuffer(digests, "<u8"))
    hash_of = np.concatenate(hashes)
    smallest = np.argsort(hash_of, kind="stable")[:n]
    bound = np.sort(np.concatenate(gather(hash_of[smallest])))[n - 1]
    return np.sort(users[smallest[hash_of[smallest] <= bound]])
