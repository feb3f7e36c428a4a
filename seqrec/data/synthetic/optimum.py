"""The truth that a model can at best learn: the probability of each next track, and how well ranking by it does.

Who knows the truth knows also when the next play is and whether it opens a session, which a model may not be told.
Every track that is released is a candidate, heard before or not: compare without masking seen items.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from seqrec.data.synthetic.catalogue import catalogue, daily_popularity
from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.listeners import DAY_US, check_ids, taste
from seqrec.data.synthetic.simulation import simulate_events
from seqrec.types import InputError

MIN_EVENTS = 3
"""Listeners with fewer plays have no held-out one, as in `splits.leave_last_out`."""


class HeldOut(NamedTuple):
    """Last plays of listeners, sorted by user, and how the true probabilities rank them."""

    user_id: Int64[np.ndarray, " n"]
    item_id: Int64[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    """Of the track that was played."""
    rank: Float[np.ndarray, " n"]
    """1-based, among all tracks; a tie costs half."""
    expected_ndcg: Float[np.ndarray, " n"]
    """Mean NDCG@k over the tracks that could have been played; no ranking has a higher one."""


class BestPossible(NamedTuple):
    """NDCG@k of ranking by the truth."""

    ndcg: float
    """On the tracks that were played: compare a model's on the same listeners."""
    expected_ndcg: float
    """Over all the tracks that could have been played: the bound itself, less noisy."""
    n_users: int


def next_item_distribution(
    config: ListeningConfig,
    user_id: int,
    history: Int[np.ndarray, " n_earlier"],
    session_start_us: int,
    *,
    opens_session: bool,
) -> Float[np.ndarray, " n_items"]:
    """Probability that each track, item i at place i - 1, is a listener's next play.

    `history` holds the item ids of all earlier plays, oldest first; `session_start_us` is the time of the first play
    of the session that the next play belongs to. With shares r, a, g, c and the rest t of the config,

        p(i) = r return(i) + a pop(i | last artist) + g pop(i | last genre) + c pop(i) + t sum_G taste(G) pop(i | G)

    where return(i) sums (1 - 1 / repeat_memory_plays) ** k over the plays of i, k plays ago, and pop is the day's
    popularity, each normalised. Where there is no history r goes to t, and so do a and g in a play that opens a
    session.

    >>> world = ListeningConfig(n_items=2, n_artists=2, n_genres=2, repeat_share=0.6, artist_share=0.0, genre_share=0.0,
    ...     chart_share=0.4, zipf_exponent=0.0, release_share=0.0)
    >>> p = next_item_distribution(world, 1, np.array([2]), world.start_day * DAY_US + 50 * DAY_US, opens_session=True)
    >>> p.round(6).tolist()
    [0.2, 0.8]

    Six in ten return to track 2, and four in ten toss a coin between the two.
    """
    check_ids(np.array([user_id]), "user", config.n_users)
    check_ids(history, "item", config.n_items)
    if not opens_session and history.size == 0:
        raise InputError("a play that does not open a session has a play before it; give the history")
    if session_start_us < config.start_day * DAY_US:
        raise InputError(
            f"session_start_us={session_start_us} is before the first day, {config.start_day * DAY_US}; "
            "give microseconds since 1970 UTC"
        )
    liked = taste(config, np.array([user_id]), np.array([session_start_us]))[0]
    day = session_start_us // DAY_US - config.start_day
    return _distribution(config, liked, history, _charts(config, day), opens_session=opens_session)


def held_out_plays(
    config: ListeningConfig, *, k: int = 10, users: range | Int[np.ndarray, " n_users"] | None = None
) -> HeldOut:
    """The last play of each listener who has three or more, ranked by its true probability among all tracks.

    The cost is a few passes over the catalogue a listener, some 20 to 50 ns x n_items: for a catalogue of millions name
    a few hundred listeners.
    """
    if k < 1:
        raise InputError(f"k={k}; take at least 1")
    rows = [
        (user_id, item_id, *_judge(probability, item_id, k))
        for user_id, item_id, probability in _last_distributions(config, users)
    ]
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)] if rows else [np.zeros(0)] * 5
    user_id, item_id = (column.astype(np.int64) for column in columns[:2])
    return HeldOut(user_id, item_id, *(column.astype(np.float64) for column in columns[2:]))


def best_possible_ndcg(
    config: ListeningConfig, *, k: int = 10, users: range | Int[np.ndarray, " n_users"] | None = None
) -> BestPossible:
    """Mean NDCG@k of ranking by the truth on the last plays of listeners; see `held_out_plays` for what it costs."""
    held_out = held_out_plays(config, k=k, users=users)
    if held_out.rank.size == 0:
        raise InputError(f"no listener has {MIN_EVENTS} plays; name more users or more sessions_per_user")
    ndcg = np.where(held_out.rank <= k, 1 / np.log2(held_out.rank + 1), 0.0)
    return BestPossible(float(ndcg.mean()), float(held_out.expected_ndcg.mean()), held_out.rank.size)


def _charts(config: ListeningConfig, day: int) -> tuple[Float[np.ndarray, " n_items"], Float[np.ndarray, " n_items"]]:
    """Popularity on a day, which sums to 1 over all tracks, and over the tracks of each genre."""
    weight, genre = daily_popularity(config, day), catalogue(config).genre
    return weight / weight.sum(), weight / np.bincount(genre, weight)[genre]


def _distribution(
    config: ListeningConfig,
    liked: Float[np.ndarray, " n_genres"],
    history: Int[np.ndarray, " n_earlier"],
    charts: tuple[Float[np.ndarray, " n_items"], Float[np.ndarray, " n_items"]],
    *,
    opens_session: bool,
) -> Float[np.ndarray, " n_items"]:
    tracks, (overall, in_genre) = catalogue(config), charts
    genre_share = config.taste_share * liked
    if opens_session:
        genre_share = genre_share + (config.artist_share + config.genre_share) * liked
    else:
        genre_share[tracks.genre[history[-1] - 1] - 1] += config.genre_share
    if history.size == 0:
        genre_share = genre_share + config.repeat_share * liked
    probability = in_genre * genre_share[tracks.genre - 1]
    probability += config.chart_share * overall
    if not opens_session:
        same_artist = np.flatnonzero(tracks.artist == tracks.artist[history[-1] - 1])
        of_artist = overall[same_artist]
        probability[same_artist] += config.artist_share * of_artist / of_artist.sum()
    if history.size:
        keep = 1 - 1 / config.repeat_memory_plays
        returns = keep ** np.arange(history.size - 1, -1, -1.0)
        np.add.at(probability, history - 1, config.repeat_share * returns / returns.sum())
    return probability


def _last_distributions(
    config: ListeningConfig, users: range | Int[np.ndarray, " n_users"] | None, users_per_block: int = 1_000
) -> Iterator[tuple[int, int, Float[np.ndarray, " n_items"]]]:
    """User, last item and the distribution it was drawn from."""
    user_ids = np.arange(1, config.n_users + 1) if users is None else np.asarray(users, dtype=np.int64)
    for first in range(0, user_ids.size, users_per_block):
        plays = simulate_events(config, user_ids[first : first + users_per_block])
        starts = np.flatnonzero(np.diff(plays["user_id"], prepend=0))
        stops = np.append(starts[1:], plays["user_id"].size)
        starts, stops = starts[stops - starts >= MIN_EVENTS], stops[stops - starts >= MIN_EVENTS]
        opens = np.flatnonzero(np.diff(plays["user_id"], prepend=0) | np.diff(plays["session_id"], prepend=0))
        session_first = opens[np.searchsorted(opens, stops - 1, side="right") - 1]
        begin_us = plays["timestamp_us"][session_first]
        liked = taste(config, plays["user_id"][starts], begin_us)
        days = begin_us // DAY_US - config.start_day
        charts, charts_day = None, None
        # Day by day, because a day's charts cost more than a listener's distribution.
        for place in np.argsort(days, kind="stable"):
            if charts is None or days[place] != charts_day:
                charts, charts_day = _charts(config, int(days[place])), days[place]
            start, last = starts[place], stops[place] - 1
            probability = _distribution(
                config,
                liked[place],
                plays["item_id"][start:last],
                charts,
                opens_session=bool(session_first[place] == last),
            )
            yield int(plays["user_id"][start]), int(plays["item_id"][last]), probability


def _judge(probability: Float[np.ndarray, " n_items"], item_id: int, k: int) -> tuple[float, float, float]:
    target = probability[item_id - 1]
    rank = 1 + np.sum(probability > target) + 0.5 * (np.sum(probability == target) - 1)
    k = min(k, probability.size)
    best = -np.sort(-probability[np.argpartition(-probability, k - 1)[:k]])
    return float(target), float(rank), float(np.sum(best / np.log2(np.arange(2, k + 2))))
