"""k-means in blocks is k-means."""

import jax
import jax.extend
import numpy as np
import pytest

from seqrec.semantic_ids import kmeans as module
from seqrec.semantic_ids.kmeans import KMeansConfig, kmeans, nearest
from seqrec.types import InputError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(1500, 5)).astype(np.float32)  # more than a block, less than two


def slow_nearest(vectors, centroids):
    distances = np.array([[np.sum((x - c) ** 2) for c in centroids] for x in vectors])
    return distances.argmin(axis=1), distances.min(axis=1)


def slow_lloyd(vectors, centroids, n_iterations):
    for _ in range(n_iterations):
        index, _ = slow_nearest(vectors, centroids)
        centroids = np.array([vectors[index == place].mean(axis=0) for place in range(len(centroids))])
    return centroids


def test_updates_of_all_vectors_are_lloyds():
    start = VECTORS[:7]
    centroids = kmeans(VECTORS, 7, KMeansConfig(3), seed=0, start=start)
    np.testing.assert_allclose(centroids, slow_lloyd(VECTORS.astype(np.float64), start, 3), rtol=1e-4, atol=1e-5)
    index, distance = nearest(VECTORS, centroids)
    slow = slow_nearest(VECTORS.astype(np.float64), centroids)
    np.testing.assert_array_equal(index, slow[0])
    np.testing.assert_allclose(distance, slow[1], rtol=1e-3, atol=1e-4)


def clusters(n_each):
    centres = 100.0 * np.stack(np.meshgrid(*[np.arange(2.0)] * 3), axis=-1).reshape(-1, 3)
    return centres, (np.repeat(centres, n_each, axis=0) + RNG.normal(size=(8 * n_each, 3))).astype(np.float32)


@pytest.mark.parametrize("batch", [1 << 18, 256], ids=["all", "mini-batches"])
def test_eight_far_clusters_get_a_centroid_each(batch):
    centres, vectors = clusters(200)
    centroids = kmeans(vectors, 8, KMeansConfig(5, kmeans_batch=batch), seed=3)
    index, distance = slow_nearest(centres, centroids)
    assert sorted(index) == list(range(8))
    # The mean of 200 normal numbers, or of the latest hundred, is off by less than half in three directions.
    assert distance.max() < 0.75


def test_centroids_without_vectors_move_to_far_ones():
    _, vectors = clusters(50)
    start = np.full((8, 3), 1000.0, np.float32)
    start[0] = 0.0  # takes all
    centroids = kmeans(vectors, 8, KMeansConfig(25), seed=0, start=start)
    assert len(set(nearest(vectors, centroids)[0].tolist())) == 8
    assert nearest(vectors, centroids)[1].mean() < 0.5 * nearest(vectors, start)[1].mean()


def test_equal_seeds_give_equal_centroids_and_others_others():
    centroids = [kmeans(VECTORS, 4, KMeansConfig(2, kmeans_batch=700), seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(centroids[0], centroids[1])
    assert (centroids[0] != centroids[2]).any()


def test_the_first_of_equally_near_centroids_is_nearest():
    assert nearest(np.zeros((1, 1), np.float32), np.array([[1.0], [-1.0], [1.0]], np.float32))[0].tolist() == [0]


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (np.prod(v.aval.shape) for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_an_update_holds_distances_of_a_block_alone():
    n, k, d = 64 * module.BLOCK, 100, 30
    blocks = jax.ShapeDtypeStruct((n // module.BLOCK, module.BLOCK, d), np.float32)
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((k, d), (k, d), (k,))]
    valid = jax.ShapeDtypeStruct(blocks.shape[:2], bool)
    traced = jax.make_jaxpr(module._update)(module._Sums(*shapes), blocks, valid, 0.0, jax.random.key(0))
    assert max(sizes(traced.jaxpr)) <= n * d < n * k


@pytest.mark.parametrize(
    ("vectors", "n", "words"),
    [
        (VECTORS[:5], 6, "5 vectors are fewer than the 6 codes"),
        (np.ones((9, 2), np.float32), 3, "all 9 vectors are equal"),
        (np.where(np.arange(9)[:, None] == 4, np.nan, VECTORS[:9]), 3, "item id 5 holds a number that is not finite"),
    ],
)
def test_vectors_without_codebooks_are_refused(vectors, n, words):
    with pytest.raises(InputError, match=words):
        kmeans(vectors, n, seed=0)
