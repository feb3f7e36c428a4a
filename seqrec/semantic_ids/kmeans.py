"""k-means in blocks: Lloyd's iterations where all vectors fit a batch, mini-batches of them otherwise."""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int32

from seqrec.config import check_at_least, check_fields
from seqrec.types import InputError

BLOCK = 1024
"""Vectors whose distances to all centroids are in memory at once."""
CHUNK = 64 * BLOCK
"""Vectors that are sent to the device at once, where only their codes are wanted."""
STARTS_PER_CENTROID = 64
"""Vectors that k-means++ draws each centroid from; among all of a million, a start takes longer than the rest."""
MOST_KEPT = 0.9
"""Most that a mini-batch step keeps of the sums of earlier batches."""


def nothing() -> None:
    """What happens between steps unless the caller says otherwise."""


@dataclass(frozen=True)
class KMeansConfig:
    """How the centroids of a codebook are fitted."""

    kmeans_iterations: int = 25
    """k-means: number of updates of the centroids."""
    kmeans_batch: int = 1 << 18
    """k-means: number of vectors that an update reads; of more vectors than this, each update reads another batch."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "kmeans_iterations", "kmeans_batch")


DEFAULT_KMEANS = KMeansConfig()


class _Sums(NamedTuple):
    centroids: Float[Array, "k d"]
    totals: Float[Array, "k d"]
    """Sum of the vectors of each centroid, those of earlier batches with less weight."""
    counts: Float[Array, " k"]


def kmeans(
    vectors: Float[np.ndarray, "n d"],
    n_centroids: int,
    config: KMeansConfig = DEFAULT_KMEANS,
    *,
    seed: int,
    start: Float[np.ndarray, "k d"] | None = None,
    between_steps: Callable[[], object] = nothing,
) -> Float[np.ndarray, "k d"]:
    """The centroids of k-means (Lloyd 1982), started by k-means++ (Arthur and Vassilvitskii 2007) or at `start`.

    Of more than `kmeans_batch` vectors, an update reads a batch, and a centroid is the mean of its vectors in the
    latest batches (after Sculley 2010). Centroids without a vector move to vectors that are drawn in proportion to
    their squared distance from their own centroid. `vectors` may be memory-mapped.

    Raises:
      InputError: fewer vectors than centroids, a number that is not finite, or vectors that are all equal.
    """
    check_vectors(vectors, n_centroids)
    n, batch_size = len(vectors), min(len(vectors), config.kmeans_batch)
    rng = np.random.default_rng([seed, n_centroids])
    if start is None:
        n_starts = min(n, STARTS_PER_CENTROID * n_centroids)
        rows = np.sort(rng.choice(n, n_starts, replace=False)) if n_starts < n else np.arange(n)
        centroids = _plus_plus(jnp.asarray(vectors[rows]), jax.random.key(seed), n_centroids)
    else:
        centroids = jnp.asarray(start)
    kept = 0.0 if batch_size == n else min(MOST_KEPT, 1.0 - batch_size / n)
    sums = _Sums(centroids, jnp.zeros_like(centroids), jnp.zeros(n_centroids))
    fixed = _blocks(vectors, batch_size) if batch_size == n else None
    batches = _batches(rng, n, batch_size)
    for step in range(config.kmeans_iterations):
        blocks, valid = fixed or _blocks(vectors[next(batches)], batch_size)
        sums = _update(sums, blocks, valid, kept, jax.random.fold_in(jax.random.key(seed), step))
        between_steps()
    return np.asarray(sums.centroids)


def nearest(
    vectors: Float[np.ndarray, "n d"], centroids: Float[np.ndarray, "k d"]
) -> tuple[Int32[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Index of each vector's nearest centroid, the first of equally near ones, and the squared distance to it."""
    index, distance = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float32)
    table = jnp.asarray(centroids)
    for first, blocks in chunks(vectors):
        nearest_of_blocks = _nearest(table, blocks)
        for of, values in zip((index, distance), nearest_of_blocks, strict=True):
            part = of[first : first + CHUNK]
            part[:] = np.asarray(values).reshape(-1)[: len(part)]
    return index, distance


def check_vectors(vectors: Float[np.ndarray, "n d"], n_centroids: int) -> None:
    """Refuses what has no codebook of this size."""
    n = len(vectors)
    if n < n_centroids:
        raise InputError(f"{n:,} vectors are fewer than the {n_centroids:,} codes of a level; take fewer codes")
    is_equal = True
    for first in range(0, n, CHUNK):
        part = np.asarray(vectors[first : first + CHUNK])
        if (bad := np.flatnonzero(~np.isfinite(part).all(axis=1))).size:
            raise InputError(
                f"the vector of item id {first + bad[0] + 1} holds a number that is not finite; correct it or leave "
                "the item out"
            )
        is_equal = is_equal and bool((part == vectors[0]).all())
    if n_centroids > 1 and is_equal:
        raise InputError(f"all {n:,} vectors are equal, so codes cannot tell them apart; use other vectors")


def chunks(vectors: Float[np.ndarray, "n d"]) -> Iterator[tuple[int, Float[Array, "blocks block d"]]]:
    """(first row, blocks of vectors) of all vectors, in as many blocks each; zeros fill the last ones."""
    size = min(CHUNK, BLOCK * math.ceil(len(vectors) / BLOCK))
    for first in range(0, len(vectors), size):
        yield first, _blocks(vectors[first : first + size], size)[0]


def _batches(rng: np.random.Generator, n: int, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of rows, without end; each row comes once in a pass, and what does not fill a batch waits for another."""
    while True:
        order = rng.permutation(n)
        for first in range(0, n - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def _blocks(
    vectors: Float[np.ndarray, "n d"], n_rows: int
) -> tuple[Float[Array, "blocks block d"], Bool[Array, "blocks block"]]:
    """The vectors in blocks, with zeros behind them, and which of them are vectors."""
    n_blocks = math.ceil(n_rows / BLOCK)
    filled = np.zeros((n_blocks * BLOCK, vectors.shape[1]), np.float32)
    filled[: len(vectors)] = vectors
    valid = np.arange(len(filled)) < len(vectors)
    return jnp.asarray(filled.reshape(n_blocks, BLOCK, -1)), jnp.asarray(valid.reshape(n_blocks, BLOCK))


def nearest_in_block(
    centroids: Float[Array, "k d"], block: Float[Array, "block d"]
) -> tuple[Int32[Array, " block"], Float[Array, " block"]]:
    """As `nearest`, of one block."""
    # Centroids in rows: maxima down the columns are taken for many vectors at once, and so is the first place of each;
    # an argmax along rows took 4 times as long on a CPU.
    scores = centroids @ block.T - 0.5 * jnp.sum(jnp.square(centroids), axis=1)[:, None]
    best = jnp.max(scores, axis=0)
    places = jnp.arange(len(centroids), dtype=jnp.int32)[:, None]
    index = jnp.min(jnp.where(scores == best, places, len(centroids) - 1), axis=0)
    return index, jnp.maximum(jnp.sum(jnp.square(block), axis=1) - 2.0 * best, 0.0)


@jax.jit
def _nearest(
    centroids: Float[Array, "k d"], blocks: Float[Array, "blocks block d"]
) -> tuple[Int32[Array, "blocks block"], Float[Array, "blocks block"]]:
    return jax.lax.map(functools.partial(nearest_in_block, centroids), blocks)


@jax.jit
def _update(
    sums: _Sums,
    blocks: Float[Array, "blocks block d"],
    valid: Bool[Array, "blocks block"],
    kept: Float[Array, ""] | float,
    key: Array,
) -> _Sums:
    """One update of the centroids by a batch; `kept` is the weight of what the sums hold already."""
    k = len(sums.centroids)

    def add(carried: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        totals, counts = carried
        vectors, is_vector = block
        index, distance = nearest_in_block(sums.centroids, vectors)
        index = jnp.where(is_vector, index, k)  # beyond the last: dropped
        totals = totals.at[index].add(vectors, mode="drop")
        return (totals, counts.at[index].add(1.0, mode="drop")), jnp.where(is_vector, distance, 0.0)

    before = kept * sums.totals, kept * sums.counts
    (totals, counts), distances = jax.lax.scan(add, before, (blocks, valid))
    # The largest of log d^2 with Gumbel noise are a draw without repeats in proportion to d^2.
    noise = jax.random.gumbel(key, (distances.size,))
    _, rows = jax.lax.top_k(jnp.log(distances.reshape(-1)) + noise, min(k, distances.size))
    is_empty = counts < 0.5
    row = rows[jnp.minimum(jnp.cumsum(is_empty) - 1, len(rows) - 1)]
    drawn = blocks.reshape(-1, blocks.shape[-1])[row]
    totals = jnp.where(is_empty[:, None], drawn, totals)
    counts = jnp.where(is_empty, 1.0, counts)
    return _Sums(totals / counts[:, None], totals, counts)


@functools.partial(jax.jit, static_argnames="n_centroids")
def _plus_plus(vectors: Float[Array, "n d"], key: Array, n_centroids: int) -> Float[Array, "k d"]:
    """Centroids drawn one after another, each a vector in proportion to its squared distance from those before."""

    def draw(place: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids, distances = carried
        noise = jax.random.gumbel(jax.random.fold_in(key, place), distances.shape)
        row = jnp.argmax(jnp.log(distances) + noise)  # of zeros alone, the first
        chosen = vectors[row]
        distances = jnp.minimum(distances, jnp.sum(jnp.square(vectors - chosen), axis=1))
        return centroids.at[place].set(chosen), distances.at[row].set(0.0)

    # The first is drawn evenly; the fill of its distances holds for the first draw alone.
    empty = jnp.zeros((n_centroids, vectors.shape[1])), jnp.ones(len(vectors))
    centroids, _ = draw(jnp.array(0), empty)
    distances = jnp.sum(jnp.square(vectors - centroids[0]), axis=1)
    return jax.lax.fori_loop(1, n_centroids, draw, (centroids, distances))[0]
