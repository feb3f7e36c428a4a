"""Residual k-means: levels that build on one another."""

import numpy as np

from seqrec.semantic_ids.additive import encode, reconstructed
from seqrec.semantic_ids.kmeans import KMeansConfig, kmeans, nearest
from seqrec.semantic_ids.residual import ResidualConfig, refitted, residual_kmeans

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(400, 6)).astype(np.float32)
FEW = KMeansConfig(5)


def test_the_second_level_is_k_means_of_what_the_first_left():
    quantised = residual_kmeans(VECTORS, (8, 8), kmeans_config=FEW, seed=0)
    first = kmeans(VECTORS, 8, FEW, seed=0)
    index, distance = nearest(VECTORS, first)
    rest = VECTORS - first[index]
    second = kmeans(rest, 8, FEW, seed=1)
    np.testing.assert_array_equal(quantised.codes, np.stack([index, nearest(rest, second)[0]], axis=1))
    variance = np.square(VECTORS - VECTORS.mean(axis=0)).sum()
    np.testing.assert_allclose(quantised.errors[0], distance.sum() / variance, rtol=1e-4)
    assert quantised.errors[1] < quantised.errors[0] < 1.0


def test_refitted_codebooks_have_the_least_squared_error():
    quantised = residual_kmeans(VECTORS, (8, 8), kmeans_config=FEW, seed=0)
    codebooks = (np.concatenate([quantised.codebooks[0], np.full((1, 6), 7.0, np.float32)]), quantised.codebooks[1])
    fitted = refitted(VECTORS, quantised.codes, codebooks)
    one_hot = np.concatenate([np.eye(8)[quantised.codes[:, level]] for level in range(2)], axis=1)
    least = VECTORS - one_hot @ np.linalg.lstsq(one_hot, VECTORS, rcond=None)[0]
    ours = VECTORS - reconstructed(quantised.codes, fitted)
    np.testing.assert_allclose(np.square(ours).sum(), np.square(least).sum(), rtol=1e-4)
    np.testing.assert_array_equal(fitted[0][8], codebooks[0][8])  # no item has this code


def test_a_beam_and_joint_fits_lower_the_error():
    greedy, wide = (
        residual_kmeans(VECTORS, (8, 8), ResidualConfig(*values), kmeans_config=FEW, seed=0).errors[-1]
        for values in ((1, 0), (8, 3))
    )
    assert wide < greedy


def test_levels_beyond_what_differs_have_the_code_0():
    two = np.repeat(np.array([[0.0, 1.0], [5.0, 0.0]], np.float32), 4, axis=0)
    quantised = residual_kmeans(two, (2, 2), kmeans_config=FEW, seed=0)
    assert quantised.errors[0] < 1e-12
    np.testing.assert_array_equal(quantised.codes, encode(two, quantised.codebooks))
    assert not quantised.codes[:, 1].any()
