"""Residual k-means: each level is k-means of what the levels before it left over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float, Int32

from seqrec.config import check_at_least, check_fields
from seqrec.semantic_ids.additive import Codebooks, Quantised, encode, reconstructed, relative_errors
from seqrec.semantic_ids.kmeans import CHUNK, DEFAULT_KMEANS, KMeansConfig, check_vectors, kmeans, nearest, nothing


@dataclass(frozen=True)
class ResidualConfig:
    """How residual codebooks are fitted and used."""

    beam: int = 1
    """Residual k-means: number of prefixes kept at each level while an item's codes are chosen. More than 1 lowers the
    error, but similar items then share fewer prefixes."""
    refinements: int = 0
    """Residual k-means: number of times that the codebooks of all levels are fitted together, by least squares, to the
    codes chosen before."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "beam")
        check_at_least(self, 0, "refinements")


DEFAULT = ResidualConfig()


def residual_kmeans(
    vectors: Float[np.ndarray, "n d"],
    n_codes: Sequence[int],
    config: ResidualConfig = DEFAULT,
    *,
    kmeans_config: KMeansConfig = DEFAULT_KMEANS,
    seed: int,
    between_steps: Callable[[], object] = nothing,
) -> Quantised:
    """Codes of `len(n_codes)` levels, and the codebooks that they were chosen from (Chen, Guan and Wang 2010).

    Raises:
      InputError: see `kmeans`; equal vectors, or fewer of them than codes.
    """
    check_vectors(vectors, max(n_codes))
    codebooks = fit_codebooks(
        vectors, n_codes, config, kmeans_config=kmeans_config, seed=seed, between_steps=between_steps
    )
    codes = encode(vectors, codebooks, beam=config.beam)
    return Quantised(vectors, codebooks, codes, relative_errors(vectors, codes, codebooks))


def fit_codebooks(
    vectors: Float[np.ndarray, "n d"],
    n_codes: Sequence[int],
    config: ResidualConfig = DEFAULT,
    *,
    kmeans_config: KMeansConfig = DEFAULT_KMEANS,
    seed: int,
    between_steps: Callable[[], object] = nothing,
) -> Codebooks:
    """The codebooks of `residual_kmeans`, without the codes."""
    codebooks: Codebooks = ()
    rest = np.array(vectors, np.float32)
    for level, n in enumerate(n_codes):
        # Where few vectors differ, the levels before may have left nothing; their codes are then all 0.
        if rest.any():
            table = kmeans(rest, n, kmeans_config, seed=seed + level, between_steps=between_steps)
        else:
            table = np.zeros((n, rest.shape[1]), np.float32)
        codebooks += (table,)
        for first in range(0, len(rest), CHUNK) if level + 1 < len(n_codes) else ():
            part = rest[first : first + CHUNK]
            part -= table[nearest(part, table)[0]]
    if config.refinements:
        n_sampled = min(len(vectors), kmeans_config.kmeans_batch)
        rows = np.sort(np.random.default_rng(seed).choice(len(vectors), n_sampled, replace=False))
        sample = np.asarray(vectors[rows], np.float32)
        for _ in range(config.refinements):
            codebooks = refitted(sample, encode(sample, codebooks, beam=config.beam), codebooks)
            between_steps()
    return codebooks


def refitted(
    vectors: Float[np.ndarray, "n d"], codes: Int32[np.ndarray, "n n_levels"], codebooks: Codebooks
) -> Codebooks:
    """The codebooks with the least squared error for these codes; code vectors that none has stay as they are."""
    sizes = [len(table) for table in codebooks]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    n, n_levels = codes.shape
    columns = (codes + starts[:-1]).reshape(-1)
    chosen = scipy.sparse.csr_matrix((np.ones(n * n_levels), columns, np.arange(0, n * n_levels + 1, n_levels)))
    chosen.resize(n, starts[-1])
    normal = (chosen.T @ chosen).toarray()
    # What is added to all code vectors of one level may be taken from those of another: hence a ridge.
    normal[np.diag_indices_from(normal)] += 1e-3 + 1e-6 * n
    change = scipy.linalg.solve(normal, chosen.T @ (vectors - reconstructed(codes, codebooks)), assume_a="pos")
    return tuple(
        (table + change[start:stop]).astype(np.float32)
        for table, start, stop in zip(codebooks, starts[:-1], starts[1:], strict=True)
    )
