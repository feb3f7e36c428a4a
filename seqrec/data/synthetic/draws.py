"""Random numbers without a generator: each is a function of the seed and of what it is drawn for.

A generator hands out its numbers in order, so that a listener's plays would depend on whom one asked for before.
Here the number for (seed, stream, user, play) is a hash of these, whichever else is drawn, in any order.
"""

import enum

import numpy as np
from jaxtyping import Float, Int, Shaped

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


Stream = enum.IntEnum(
    "Stream",
    "ITEM_RANK ITEM_ARTIST ITEM_IS_NEW ITEM_RELEASE ITEM_SECONDS ARTIST_GENRE GENRE_HOUR HOME_TASTE MOVING_TASTE "
    "ARTIST_FIT N_SESSIONS SESSION_START SESSION_TRACKS PLAY_SOURCE PLAY_GENRE PLAY_ITEM PLAY_LAG SKIP PLAYED_SHARE "
    "GENRE_FASHION",
)
"""What a number is for; numbers of two streams are independent."""


def uniforms(seed: int, stream: Stream, *counters: int | Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Numbers in (0, 1), one for each tuple of the counters, which broadcast against each other.

    >>> together = uniforms(7, Stream.SKIP, 3, np.arange(4))
    >>> bool(together[2] == uniforms(7, Stream.SKIP, 3, 2))
    True
    """
    # splitmix64 (Steele, Lea and Flood, 2014), one round for each counter; it wraps round on purpose.
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed), np.uint64(int(stream)))
        for counter in counters:
            state = _mix(state, np.asarray(counter).astype(np.uint64))
    # 52 bits and a half, so that neither 0 nor 1 comes out of the rounding.
    return np.asarray(((state >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def geometric(u: Float[np.ndarray, " n"], mean: float) -> Int[np.ndarray, " n"]:
    """1, 2, … geometrically distributed, from uniform `u`.

    A mean of 2 is a coin tossed until heads: one toss for half of all `u`, two for a quarter.

    >>> geometric(np.array([0.9, 0.6, 0.4, 0.2]), 2.0).tolist()
    [1, 1, 2, 3]
    """
    if mean == 1:
        return np.ones(u.shape, np.int64)
    return 1 + np.floor(np.log(u) / np.log1p(-1.0 / mean)).astype(np.int64)


def _mix(state: Shaped[np.ndarray, "..."] | np.uint64, counter: Shaped[np.ndarray, "..."] | np.uint64) -> np.ndarray:
    word = (state ^ counter * _GOLDEN) + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(word ^ (word >> np.uint64(31)))
