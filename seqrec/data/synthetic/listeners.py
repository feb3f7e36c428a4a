"""What a listener likes at a moment, and what becomes of a track that is played to them.

Pure functions of (config, user, item, time) without a history, so that two recommenders can serve the same listeners.
"""

import functools

import numpy as np
from jaxtyping import Float, Int, Shaped

from seqrec.data.synthetic.catalogue import catalogue
from seqrec.data.synthetic.config import DAY_SECONDS, ListeningConfig
from seqrec.data.synthetic.draws import Stream, uniforms
from seqrec.types import InputError

DAY_US = DAY_SECONDS * 1_000_000
HOUR_US = DAY_US // 24
SKIPPED_BELOW = 0.5
"""A play that ends before this share of its track is a skip."""


def taste(
    config: ListeningConfig, user_ids: Int[np.ndarray, " n"], times_us: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n n_genres"]:
    """Probability of each genre, g at place g - 1, for each listener at a moment: drift, fashion and hour included.

    >>> world = ListeningConfig(n_genres=2, taste_sharpness=0.0, hour_strength=0.0)
    >>> taste(world, np.array([5]), np.array([world.start_day * DAY_US])).round(3).tolist()
    [[0.586, 0.414]]

    Without tastes of their own all listeners follow the world's, in which genre g has weight 1 / sqrt(g).
    """
    since_start = times_us - config.start_day * DAY_US
    knot, fraction = _knots(since_start, config.drift_days)
    moving = (1 - fraction) * _drawn_taste(config, Stream.MOVING_TASTE, user_ids, knot)
    moving += fraction * _drawn_taste(config, Stream.MOVING_TASTE, user_ids, knot + 1)
    home = _drawn_taste(config, Stream.HOME_TASTE, user_ids, np.zeros_like(knot))
    liked = (1 - config.drift_share) * home + config.drift_share * moving
    if config.fashion_strength:
        liked = liked * fashion(config, times_us)
    return _normalise(liked * _hour_weights(config)[since_start // HOUR_US % 24])


def fashion(config: ListeningConfig, times_us: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n_genres"]:
    """Factor of each genre's weight at a moment, the same for all listeners, within exp(-strength) and exp(strength).

    >>> fashion(ListeningConfig(n_genres=2), np.array([0])).tolist()
    [[1.0, 1.0]]
    """
    knot, fraction = _knots(times_us - config.start_day * DAY_US, config.fashion_days)
    genres = np.arange(1, config.n_genres + 1)
    now, later = (uniforms(config.seed, Stream.GENRE_FASHION, place[:, None], genres) for place in (knot, knot + 1))
    return np.exp(config.fashion_strength * (2 * ((1 - fraction) * now + fraction * later) - 1))


def _knots(
    since_start_us: Int[np.ndarray, " n"], days: float
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 1"]]:
    """The draw before each moment, of one every so many days, and the share of the way to the next."""
    knot, fraction = np.divmod(since_start_us / (days * DAY_US), 1.0)
    return knot.astype(np.int64), fraction[:, None]


def skip_probability(
    config: ListeningConfig,
    user_ids: Int[np.ndarray, " n"],
    item_ids: Int[np.ndarray, " n"],
    genre_taste: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Chance of a skip, given each listener's `taste` for the track's genre.

    The fit is a term of the genre, from -1 where it has at most exp(-2) times its even share of the taste to 1 where
    it has exp(2) times, and one of the artist, uniform on -1..1, which each listener has for good. Only the log odds
    of a skip depend on it, not the choice of tracks.
    """
    artist = catalogue(config).artist[item_ids - 1]
    genre_fit = np.clip(np.log(np.maximum(genre_taste * config.n_genres, 1e-300)) / 2, -1, 1)
    artist_fit = 2 * uniforms(config.seed, Stream.ARTIST_FIT, user_ids, artist) - 1
    neutral = np.log(config.skip_share / (1 - config.skip_share))
    return 1 / (1 + np.exp(config.fit_strength * (genre_fit + artist_fit) - neutral))


def played_shares(
    skip_probability: Float[np.ndarray, " n"], u_skip: Float[np.ndarray, " n"], u_share: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Share of its track that each play lasts, from two uniform numbers; below one half is a skip.

    >>> played_shares(np.array([0.3, 0.3]), np.array([0.2, 0.4]), np.array([0.5, 0.5])).tolist()
    [0.25, 0.96875]

    The first is skipped at 0.5 x 0.5 of its length, the second is heard for 1 - 0.5 x 0.5 ** 4.
    """
    heard = 1 - (1 - SKIPPED_BELOW) * u_share * u_share * u_share * u_share
    return np.where(u_skip < skip_probability, SKIPPED_BELOW * u_share, heard)


def check_ids(ids: Int[np.ndarray, "..."], name: str, n_ids: int) -> None:
    if ids.size and (ids.min() < 1 or ids.max() > n_ids):
        bad = int(ids.min() if ids.min() < 1 else ids.max())
        raise InputError(f"{name} id {bad} is outside 1..n_{name}s={n_ids}; ids count from 1")


def _drawn_taste(
    config: ListeningConfig, stream: Stream, user_ids: Int[np.ndarray, " n"], knot: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n n_genres"]:
    genres = np.arange(1, config.n_genres + 1)
    u = uniforms(config.seed, stream, user_ids[:, None], knot[:, None], genres)
    # Weight E ** -sharpness of an exponential E: heavy-tailed, so that a few genres hold most of a taste.
    return _normalise(genres**-0.5 * (-np.log(u)) ** -config.taste_sharpness)


def _normalise(weights: Shaped[np.ndarray, "n n_genres"]) -> Float[np.ndarray, "n n_genres"]:
    # A running sum adds in one order, whatever the number of rows; so a listener's numbers do not depend on the block.
    return weights / np.cumsum(weights, axis=1)[:, -1:]


@functools.lru_cache(maxsize=2)
def _hour_weights(config: ListeningConfig) -> Float[np.ndarray, "24 n_genres"]:
    best_hour = 24 * uniforms(config.seed, Stream.GENRE_HOUR, np.arange(1, config.n_genres + 1))
    return np.exp(config.hour_strength * np.cos(2 * np.pi * (np.arange(24)[:, None] - best_hour) / 24))
