"""Pairs come from training histories alone."""

import numpy as np

from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.semantic_ids.neighbours import neighbour_pairs

STORE = store_from_sequences([[1, 2, 3, 8, 9], [4, 5, 6, 9, 8], [7, 1]])
EXPECTED = {(1, 2), (2, 3), (4, 5), (5, 6), (7, 1)}


def pairs_of(store):
    return {
        (a, b) for block in neighbour_pairs(store, leave_last_out(store)).blocks() for a, b in zip(*block, strict=True)
    }


def test_no_pair_has_an_event_of_validation_or_test_or_of_two_users():
    assert pairs_of(STORE) == EXPECTED


def test_pairs_end_with_a_session():
    sessions = np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], np.int64)
    assert pairs_of(STORE._replace(columns={"session": sessions})) == EXPECTED - {(2, 3)}


def test_drawn_pairs_are_pairs():
    pairs = neighbour_pairs(STORE, leave_last_out(STORE))
    drawn = pairs.draw(np.random.default_rng(0), 200)
    assert set(zip(*map(np.ndarray.tolist, drawn), strict=True)) == EXPECTED
