"""Additive codebooks: a vector is approximated by the sum of one code vector a level (residual quantisation)."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int32

from seqrec.semantic_ids.kmeans import CHUNK, chunks, nearest_in_block

Codebooks = tuple[Float[np.ndarray, "_ d"], ...]
"""The code vectors of each level."""


class Quantised(NamedTuple):
    """Points with their codes; every method of quantisation leaves one."""

    points: Float[np.ndarray, "n d"]
    """What is quantised: the vectors of the items, or what an encoder makes of them."""
    codebooks: Codebooks
    codes: Int32[np.ndarray, "n n_levels"]
    errors: tuple[float, ...]
    """Mean squared error of the vectors after each level, as a share of their variance."""

    @property
    def n_codes(self) -> tuple[int, ...]:
        return tuple(map(len, self.codebooks))


def encode(points: Float[np.ndarray, "n d"], codebooks: Codebooks, *, beam: int = 1) -> Int32[np.ndarray, "n n_levels"]:
    """The codes of each point: level by level the nearest code vector to what is left of it.

    With a `beam`, as many prefixes are kept at each level, and the codes are those of the best sum (Babenko and
    Lempitsky 2014, section 3.2): less error, but two near points may then differ at the first level.
    """
    codes = np.zeros((len(points), len(codebooks)), np.int32)
    tables = tuple(map(jnp.asarray, codebooks))
    for first, blocks in chunks(points):
        codes_of_blocks = np.asarray(_encode(tables, blocks, beam=beam))
        part = codes[first : first + CHUNK]
        part[:] = codes_of_blocks.reshape(-1, len(tables))[: len(part)]
    return codes


@functools.partial(jax.jit, static_argnames="beam")
def _encode(
    codebooks: tuple[Float[Array, "_ d"], ...], blocks: Float[Array, "blocks block d"], *, beam: int
) -> Int32[Array, "blocks block n_levels"]:
    return jax.lax.map(functools.partial(encode_block, codebooks, beam=beam), blocks)


def encode_block(
    codebooks: Sequence[Float[Array, "_ d"]], block: Float[Array, "block d"], *, beam: int = 1
) -> Int32[Array, "block n_levels"]:
    """As `encode`, of one block and inside a jitted function."""
    if beam == 1:
        codes = []
        for table in codebooks:
            index, _ = nearest_in_block(table, block)
            block = block - table[index]
            codes.append(index)
        return jnp.stack(codes, axis=1)
    rests, kept = block[:, None], jnp.zeros((len(block), 1, 0), jnp.int32)
    for table in codebooks:
        # The squared length of what each choice would leave.
        left = jnp.sum(jnp.square(rests), axis=-1, keepdims=True)
        left = left - 2.0 * rests @ table.T + jnp.sum(jnp.square(table), axis=1)
        _, places = jax.lax.top_k(-left.reshape(len(block), -1), min(beam, math.prod(left.shape[1:])))
        prefix, code = jnp.divmod(places, len(table))
        rests = jnp.take_along_axis(rests, prefix[..., None], axis=1) - table[code]
        kept = jnp.concatenate([jnp.take_along_axis(kept, prefix[..., None], axis=1), code[..., None]], axis=-1)
    return kept[:, 0].astype(jnp.int32)


def reconstructed(codes: Int32[np.ndarray, "n n_levels"], codebooks: Codebooks) -> Float[np.ndarray, "n d"]:
    """The sum of the code vectors of the first levels, as many as there are columns of codes.

    >>> reconstructed(np.array([[1, 0]], np.int32), (np.array([[0.0], [4.0]]), np.array([[0.5], [1.0]]))).tolist()
    [[4.5]]
    """
    total = np.zeros((len(codes), codebooks[0].shape[1]), codebooks[0].dtype)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total


def relative_errors(
    points: Float[np.ndarray, "n d"], codes: Int32[np.ndarray, "n n_levels"], codebooks: Codebooks
) -> tuple[float, ...]:
    """Mean squared error after each level, as a share of the points' variance; 0 is exact, 1 is no better than a mean.

    >>> points = np.array([[0.0], [1.0], [4.0], [5.0]])
    >>> relative_errors(points, np.array([[0], [0], [1], [1]], np.int32), (np.array([[0.5], [4.5]]),))
    (0.058823529411764705,)
    """
    squares, n_levels = np.zeros(codes.shape[1]), codes.shape[1]
    centre = points.mean(axis=0, dtype=np.float64)
    variance = 0.0
    for first in range(0, len(points), CHUNK):
        rest = points[first : first + CHUNK].astype(np.float64)
        variance += float(np.square(rest - centre).sum())
        for level in range(n_levels):
            rest -= codebooks[level][codes[first : first + CHUNK, level]]
            squares[level] += np.square(rest).sum()
    return tuple((squares / max(variance, np.finfo(float).tiny)).tolist())
