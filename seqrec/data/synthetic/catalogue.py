"""Tracks, their artists and genres, and how popular each is on a day."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32, Int64

from seqrec.data.synthetic.config import DAY_SECONDS, MAX_TRACK_SECONDS, ListeningConfig
from seqrec.data.synthetic.draws import Stream, uniforms

_OLDER_DAYS = 3650
_MIN_TRACK_SECONDS = 120.0


class Catalogue(NamedTuple):
    """Item i is at place i - 1. Days count from the config's first day, so that older tracks have negative ones.

    Groups, among which a next track is chosen: 0 is all tracks, g is genre g, n_genres + a is artist a.
    """

    artist: Int32[np.ndarray, " n_items"]
    """1..n_artists."""
    genre: Int32[np.ndarray, " n_items"]
    """1..n_genres, the artist's."""
    release_day: Int64[np.ndarray, " n_items"]
    seconds: Float[np.ndarray, " n_items"]
    weight: Float[np.ndarray, " n_items"]
    """Popularity of a track that is no longer new."""
    members: Int32[np.ndarray, " n_members"]
    """Item ids, once in each of their three groups, sorted by group and then by release."""
    member_keys: Int64[np.ndarray, " n_members"]
    """Group and release day in one number, rising."""
    group_start: Int64[np.ndarray, " n_groups"]
    cumulative: Float[np.ndarray, " n_members_plus_1"]
    """Weights of `members`, summed from the first on."""
    days: tuple[int, int]
    """First and last release."""


@functools.lru_cache(maxsize=2)
def catalogue(config: ListeningConfig) -> Catalogue:
    """The tracks of a config; its first tracks are one of each artist, its first artists one of each genre.

    >>> tracks = catalogue(ListeningConfig(n_items=6, n_artists=3, n_genres=2))
    >>> tracks.artist[:3].tolist(), tracks.genre[:2].tolist()
    ([1, 2, 3], [1, 2])
    """
    item, artists = np.arange(config.n_items), np.arange(config.n_artists)
    # Squared, a uniform number leans to 0: the first of 100 artists has 10 times as many tracks as the mean one.
    numbers = config.n_artists * uniforms(config.seed, Stream.ITEM_ARTIST, item) ** 2
    artist = np.where(item < config.n_artists, item, numbers.astype(np.int64))
    numbers = config.n_genres * uniforms(config.seed, Stream.ARTIST_GENRE, artists)
    genre = np.where(artists < config.n_genres, artists, numbers.astype(np.int64))[artist]
    rank = np.empty(config.n_items, np.int64)
    rank[np.argsort(uniforms(config.seed, Stream.ITEM_RANK, item), kind="stable")] = item + 1
    weight = rank**-config.zipf_exponent
    # The first track of each genre is old, so that no genre is ever empty.
    is_new = (uniforms(config.seed, Stream.ITEM_IS_NEW, item) < config.release_share) & (item >= config.n_genres)
    u = uniforms(config.seed, Stream.ITEM_RELEASE, item)
    new_day = u * config.n_days
    if config.daily_releases:
        number = item - (config.n_items - config.daily_releases * config.n_days)
        is_new, new_day = number >= 0, number / config.daily_releases
    release_day = np.floor(np.where(is_new, new_day, -u * _OLDER_DAYS)).astype(np.int64)
    u = uniforms(config.seed, Stream.ITEM_SECONDS, item)

    days = int(release_day.min()), int(release_day.max())
    span = days[1] - days[0] + 1
    group = np.concatenate([np.zeros_like(item), genre + 1, config.n_genres + artist + 1])
    keys = group * span + np.tile(release_day - days[0], 3)
    order = np.argsort(keys, kind="stable")
    member_keys = keys[order]
    members = (order % config.n_items).astype(np.int32)
    return Catalogue(
        artist=(artist + 1).astype(np.int32),
        genre=(genre + 1).astype(np.int32),
        release_day=release_day,
        seconds=_MIN_TRACK_SECONDS + (MAX_TRACK_SECONDS - _MIN_TRACK_SECONDS) * u,
        weight=weight,
        members=members + np.int32(1),
        member_keys=member_keys,
        group_start=np.searchsorted(member_keys, span * np.arange(1 + config.n_genres + config.n_artists)),
        cumulative=np.concatenate([np.zeros(1), np.cumsum(weight[members])]),
        days=days,
    )


def daily_popularity(config: ListeningConfig, day: int) -> Float[np.ndarray, " n_items"]:
    """Weight of each track on a day: 0 before its release, raised while it is new; not divided by the sum.

    >>> world = ListeningConfig(n_items=3, n_artists=1, n_genres=1, release_share=0.0, zipf_exponent=1.0)
    >>> (6 * np.sort(daily_popularity(world, 100))).tolist()
    [2.0, 3.0, 6.0]
    """
    tracks = catalogue(config)
    age = day - tracks.release_day
    return tracks.weight * ((age >= 0) + config.new_boost * ((age >= 0) & (age < config.new_days)))


def pick_items(
    config: ListeningConfig, group: Int[np.ndarray, " n"], day: Int[np.ndarray, " n"], u: Float[np.ndarray, " n"]
) -> Int32[np.ndarray, " n"]:
    """A track of each group, by the popularity of the day, from uniform `u`; the group must have one by then."""
    tracks = catalogue(config)
    first, last = tracks.days
    base = group * (last - first + 1) - first
    low = tracks.group_start[group]
    high = np.searchsorted(tracks.member_keys, base + np.minimum(day, last), side="right")
    # Sorted by release, the released tracks of a group are its first ones and the new ones the last of these.
    new = np.searchsorted(tracks.member_keys, base + np.clip(day - config.new_days, first - 1, last), side="right")
    released = tracks.cumulative[high] - tracks.cumulative[low]
    boosted = config.new_boost * (tracks.cumulative[high] - tracks.cumulative[new])
    at = u * (released + boosted)
    beyond = (at - released) / max(config.new_boost, 1e-300)
    at = np.where(at < released, tracks.cumulative[low] + at, tracks.cumulative[new] + beyond)
    place = np.searchsorted(tracks.cumulative, at, side="right") - 1
    return tracks.members[np.clip(place, low, high - 1)]


def item_table(config: ListeningConfig) -> dict[str, np.ndarray]:
    """Columns item_id, title, artist, genre, release_time_us (midnight of the day) and seconds, a row a track.

    >>> table = item_table(ListeningConfig(n_items=6, n_artists=3, n_genres=2))
    >>> str(table["title"][1]), int(table["artist"][1]), int(table["genre"][1])
    ('Track 2 of artist 2', 2, 2)
    """
    tracks = catalogue(config)
    item_id = np.arange(1, config.n_items + 1, dtype=np.int64)
    titles = [f"Track {item} of artist {artist}" for item, artist in enumerate(tracks.artist.tolist(), start=1)]
    return {
        "item_id": item_id,
        "title": np.array(titles, dtype=object),
        "artist": tracks.artist.copy(),
        "genre": tracks.genre.copy(),
        "release_time_us": (config.start_day + tracks.release_day) * DAY_SECONDS * 1_000_000,
        "seconds": tracks.seconds.copy(),
    }
