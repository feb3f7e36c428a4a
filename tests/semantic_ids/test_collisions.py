"""Items with equal codes are told apart."""

import numpy as np
import pytest

from seqrec.semantic_ids.additive import Quantised, encode
from seqrec.semantic_ids.collisions import balanced_codes, last_level, prefix_groups
from seqrec.types import InputError

RNG = np.random.default_rng(0)


def quantised(points, codebooks):
    return Quantised(points, codebooks, encode(points, codebooks), ())


def rows_of(codes):
    return [tuple(row) for row in codes.tolist()]


def test_the_last_level_numbers_equal_codes_by_falling_counts():
    codes = RNG.integers(0, 3, (50, 2)).astype(np.int32)
    counts = RNG.permutation(50)
    last = last_level(codes, (3, 3), counts)
    for row in set(rows_of(codes)):
        group = np.flatnonzero((codes == row).all(axis=1))
        assert last[group[np.argsort(-counts[group])]].tolist() == list(range(len(group)))


def test_prefixes_of_large_codebooks_stay_apart():
    codes = np.stack([np.arange(4)] * 6, axis=1) * 1000 + 1
    assert prefix_groups(codes, (1 << 20,) * 6)[-1].tolist() == [0, 1, 2, 3]


def test_balanced_codes_are_all_different_and_leave_alone_what_was():
    codebooks = tuple(RNG.normal(scale=scale, size=(6, 3)).astype(np.float32) for scale in (2.0, 1.0))
    points = RNG.normal(size=(30, 3)).astype(np.float32)
    before = quantised(points, codebooks)
    after = balanced_codes(before)
    assert len(set(rows_of(after))) == 30
    assert max(rows_of(before.codes).count(row) for row in rows_of(before.codes)) > 1
    crowded = np.bincount(before.codes[:, 0]).argmax()
    if np.bincount(before.codes[:, 0]).max() <= 6:  # each first code has room, so only the last level changes
        np.testing.assert_array_equal(after[:, 0], before.codes[:, 0])
    for row, code in enumerate(rows_of(before.codes)):
        if rows_of(before.codes).count(code) == 1 and code[0] != crowded and code in rows_of(after):
            assert after[row, 0] == code[0]


def test_of_equal_codes_the_nearest_keeps_them_and_the_next_takes_the_next_nearest():
    table = np.array([[0.0], [1.0], [5.0]], np.float32)
    codes = balanced_codes(quantised(np.array([[0.2], [0.1], [-9.0]], np.float32), (table,)))
    assert codes.ravel().tolist() == [1, 0, 2]


def test_a_full_prefix_sends_items_to_the_nearest_one_with_room():
    codebooks = (np.array([[0.0], [10.0]], np.float32), np.array([[0.0], [1.0]], np.float32))
    codes = balanced_codes(quantised(np.array([[0.0], [1.0], [4.0]], np.float32), codebooks))
    assert rows_of(codes) == [(0, 0), (0, 1), (1, 0)]


def test_as_many_items_as_codes_fill_them_all_and_one_more_is_refused():
    codebooks = (RNG.normal(size=(2, 1)).astype(np.float32),) * 2
    equal = np.ones((4, 1), np.float32)
    assert len(set(rows_of(balanced_codes(quantised(equal, codebooks))))) == 4
    with pytest.raises(InputError, match="5 items are more than the 4 codes"):
        balanced_codes(quantised(np.ones((5, 1), np.float32), codebooks))
