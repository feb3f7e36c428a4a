"""Product quantisation, and the rotation that makes it fit."""

import numpy as np
import pytest

from seqrec.semantic_ids.kmeans import KMeansConfig
from seqrec.semantic_ids.product import ProductConfig, product_quantised
from seqrec.types import InputError

RNG = np.random.default_rng(0)
FEW = KMeansConfig(5)


def test_levels_code_directions_of_their_own():
    vectors = RNG.normal(size=(300, 5)).astype(np.float32)
    quantised = product_quantised(vectors, (8, 8), ProductConfig(rotations=0), kmeans_config=FEW, seed=0)
    first, second = quantised.codebooks
    assert not first[:, 3:].any()
    assert not second[:, :3].any()
    distances = np.square(vectors[:, None, :3] - first[:, :3]).sum(axis=2)
    np.testing.assert_array_equal(quantised.codes[:, 0], distances.argmin(axis=1))


def test_a_rotation_pays_where_the_first_numbers_hold_all_the_variance():
    vectors = (RNG.normal(size=(500, 4)) * [5.0, 5.0, 0.1, 0.1]).astype(np.float32)
    plain, rotated = (
        product_quantised(vectors, (16, 16), ProductConfig(rotations=n), kmeans_config=FEW, seed=0) for n in (0, 3)
    )
    # 16 codes for a plane against 16 for each of its axes.
    assert rotated.errors[-1] < 0.5 * plain.errors[-1]
    np.testing.assert_allclose(rotated.codebooks[0] @ rotated.codebooks[1].T, 0.0, atol=1e-3)


def test_more_levels_than_numbers_are_refused():
    with pytest.raises(InputError, match="vectors of 2 numbers have no 3 levels"):
        product_quantised(RNG.normal(size=(9, 2)).astype(np.float32), (2, 2, 2), seed=0)
