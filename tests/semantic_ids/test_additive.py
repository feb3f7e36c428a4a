"""Codes of additive codebooks, and what they reconstruct."""

import itertools

import numpy as np

from seqrec.semantic_ids.additive import encode, reconstructed, relative_errors

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(60, 3)).astype(np.float32)
CODEBOOKS = tuple(RNG.normal(scale=scale, size=(4, 3)).astype(np.float32) for scale in (1.0, 0.6, 0.3))


def errors(codes):
    return np.square(POINTS - reconstructed(np.asarray(codes), CODEBOOKS)).sum(axis=1)


def test_without_a_beam_each_level_takes_the_nearest_to_what_is_left():
    expected = []
    for point in POINTS:
        row = []
        for table in CODEBOOKS:
            row.append(int(np.square(point - table).sum(axis=1).argmin()))
            point = point - table[row[-1]]
        expected.append(row)
    np.testing.assert_array_equal(encode(POINTS, CODEBOOKS), expected)


def test_a_beam_as_wide_as_all_prefixes_finds_the_best_of_all_sums():
    every = np.array(list(itertools.product(range(4), repeat=3)), np.int32)
    best = np.min([errors(np.broadcast_to(codes, (60, 3))) for codes in every], axis=0)
    np.testing.assert_allclose(errors(encode(POINTS, CODEBOOKS, beam=16)), best, rtol=1e-4, atol=1e-5)
    assert best.sum() < errors(encode(POINTS, CODEBOOKS)).sum()


def test_relative_errors_are_shares_of_the_variance():
    codes = encode(POINTS, CODEBOOKS)
    variance = np.square(POINTS - POINTS.mean(axis=0)).sum()
    expected = [np.square(POINTS - reconstructed(codes[:, : n + 1], CODEBOOKS)).sum() / variance for n in range(3)]
    np.testing.assert_allclose(relative_errors(POINTS, codes, CODEBOOKS), expected, rtol=1e-5)
