"""Product quantisation: each level codes its own share of the directions of a vector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from seqrec.config import check_at_least, check_fields
from seqrec.data.paths import as_input_error
from seqrec.semantic_ids.additive import Quantised, relative_errors
from seqrec.semantic_ids.kmeans import DEFAULT_KMEANS, KMeansConfig, check_vectors, kmeans, nearest, nothing
from seqrec.types import InputError

UPDATES_PER_ROTATION = 3
"""Updates of the centroids between two rotations, which start where the last ones ended."""


@dataclass(frozen=True)
class ProductConfig:
    """How the directions are divided among the levels."""

    rotations: int = 8
    """Product quantisation: number of times that the rotation of the vectors is fitted to their codes (optimised
    product quantisation, Ge et al. 2013). 0: no rotation; each level codes consecutive components of the vectors."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "rotations")


DEFAULT = ProductConfig()


def product_quantised(
    vectors: Float[np.ndarray, "n d"],
    n_codes: Sequence[int],
    config: ProductConfig = DEFAULT,
    *,
    kmeans_config: KMeansConfig = DEFAULT_KMEANS,
    seed: int,
    between_steps: Callable[[], object] = nothing,
) -> Quantised:
    """Codes of product quantisation (Jégou et al. 2011), by default of rotated vectors (Ge et al. 2013, section 3.1).

    The codebooks hold code vectors of the vectors' own width, so that codes add up as those of residual k-means do.

    Raises:
      InputError: see `kmeans`; fewer numbers of a vector than levels.
    """
    check_vectors(vectors, max(n_codes))
    width, n_levels = vectors.shape[1], len(n_codes)
    if width < n_levels:
        raise InputError(f"vectors of {width} numbers have no {n_levels} levels; take at most {width}")
    parts = np.array_split(np.arange(width), n_levels)
    n_sampled = min(len(vectors), kmeans_config.kmeans_batch)
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), n_sampled, replace=False))
    sample = np.asarray(vectors[rows], np.float32)
    rotation = _balanced_rotation(sample, parts) if config.rotations else np.eye(width, dtype=np.float32)
    centroids: list[np.ndarray | None] = [None] * n_levels
    few = replace(kmeans_config, kmeans_iterations=UPDATES_PER_ROTATION)

    def of_part(subvectors: np.ndarray, n: int, settings: KMeansConfig, *, level: int) -> np.ndarray:
        start = centroids[level]
        with as_input_error(f"in part {level + 1} of {n_levels}: {{error}}, or take fewer levels", InputError):
            return kmeans(subvectors, n, settings, seed=seed + level, start=start, between_steps=between_steps)

    for _ in range(config.rotations):
        rotated, quantised = sample @ rotation, np.zeros_like(sample)
        for level, (part, n) in enumerate(zip(parts, n_codes, strict=True)):
            subvectors = np.ascontiguousarray(rotated[:, part])
            table = of_part(subvectors, n, few, level=level)
            centroids[level] = table
            quantised[:, part] = table[nearest(subvectors, table)[0]]
        left, _, right = np.linalg.svd(sample.T @ quantised)  # orthogonal Procrustes
        rotation = left @ right
    tables, codes = [], np.zeros((len(vectors), n_levels), np.int32)
    for level, (part, n) in enumerate(zip(parts, n_codes, strict=True)):
        subvectors = np.asarray(vectors @ rotation[:, part], np.float32)
        table = of_part(subvectors, n, kmeans_config, level=level)
        codes[:, level] = nearest(subvectors, table)[0]
        tables.append(table @ rotation[:, part].T)
    codebooks = tuple(tables)
    return Quantised(vectors, codebooks, codes, relative_errors(vectors, codes, codebooks))


def _balanced_rotation(vectors: Float[np.ndarray, "n d"], parts: Sequence[np.ndarray]) -> Float[np.ndarray, "d d"]:
    """The principal directions, dealt out so that the product of variances is about the same in all parts."""
    variances, directions = np.linalg.eigh(np.cov(vectors, rowvar=False).reshape(vectors.shape[1], -1))
    logs = np.zeros(len(parts))
    members: list[list[int]] = [[] for _ in parts]
    for place in np.argsort(-variances, kind="stable"):
        room = np.array([len(each) < len(part) for each, part in zip(members, parts, strict=True)])
        part = int(np.argmin(np.where(room, logs, np.inf)))
        members[part].append(int(place))
        logs[part] += np.log(max(variances[place], np.finfo(np.float32).tiny))
    return directions[:, np.concatenate([np.array(each, int) for each in members])].astype(np.float32)
