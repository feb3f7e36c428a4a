"""Plays of simulated listeners, in blocks of listeners."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Int32

from seqrec.data.ragged import ranges
from seqrec.data.synthetic.catalogue import catalogue, item_table, pick_items
from seqrec.data.synthetic.config import PAUSE_SECONDS, ListeningConfig
from seqrec.data.synthetic.draws import Stream, uniforms
from seqrec.data.synthetic.listeners import DAY_US, SKIPPED_BELOW, check_ids, played_shares, skip_probability, taste
from seqrec.data.synthetic.sessions import sessions
from seqrec.files import replacing
from seqrec.types import InputError

# Why a track was played.
_RETURN, _SAME_ARTIST, _SAME_GENRE, _CHART, _TASTE = range(5)


def simulate_events(
    config: ListeningConfig, users: range | Int[np.ndarray, " n_users"] | None = None
) -> dict[str, np.ndarray]:
    """Plays of the listeners with these ids (1..n_users; all, if none are named), listener by listener in time order.

    A listener's plays depend on the config and their id alone, whoever else is asked for. Columns: user_id, item_id,
    timestamp_us (start of the play), session_id (1, 2, … within the listener), played_share (of the track's length),
    skipped (played_share below one half) and is_repeat (the listener chose to return to an earlier play's track;
    a track chosen otherwise may have been heard before too, by chance).

    >>> world = ListeningConfig()
    >>> both, second = simulate_events(world, range(1, 3)), simulate_events(world, range(2, 3))
    >>> both["item_id"][both["user_id"] == 2].tolist() == second["item_id"].tolist()
    True
    """
    user_ids = np.arange(1, config.n_users + 1) if users is None else np.asarray(users, dtype=np.int64)
    check_ids(user_ids, "user", config.n_users)
    visits = sessions(config, user_ids)
    session = np.repeat(np.arange(visits.owner.size), visits.n_tracks)
    place_in_session = ranges(np.zeros_like(visits.n_tracks), visits.n_tracks)
    owner = visits.owner[session]
    user_id = user_ids[owner]
    n_plays = np.bincount(owner, minlength=user_ids.size)
    n_earlier = ranges(np.zeros_like(n_plays), n_plays)
    # A session's taste and charts are those of its start.
    liked = taste(config, user_ids[visits.owner], visits.start_us)

    source = _sources(config, user_id, n_earlier, place_in_session)
    day = (visits.start_us // DAY_US - config.start_day)[session]
    items = _choose_items(config, source, user_id, n_earlier, day, session, liked)

    tracks = catalogue(config)
    fit = liked[session, tracks.genre[items - 1] - 1]
    played_share = played_shares(
        skip_probability(config, user_id, items, fit),
        uniforms(config.seed, Stream.SKIP, user_id, n_earlier),
        uniforms(config.seed, Stream.PLAYED_SHARE, user_id, n_earlier),
    )
    lasted = np.round(1e6 * (played_share * tracks.seconds[items - 1] + PAUSE_SECONDS)).astype(np.int64)
    since_first = np.cumsum(lasted) - lasted
    first = np.cumsum(visits.n_tracks) - visits.n_tracks
    return {
        "user_id": user_id,
        "item_id": items.astype(np.int64),
        "timestamp_us": visits.start_us[session] + since_first - since_first[first][session],
        "session_id": visits.number[session],
        "played_share": played_share,
        "skipped": played_share < SKIPPED_BELOW,
        "is_repeat": source == _RETURN,
    }


def event_blocks(config: ListeningConfig, users_per_block: int = 1_000) -> Iterator[dict[str, np.ndarray]]:
    """All plays, `users_per_block` listeners at a time; memory grows with the block, not with `n_users`."""
    if users_per_block < 1:
        raise InputError(f"users_per_block={users_per_block}; take at least 1")
    for first in range(1, config.n_users + 1, users_per_block):
        yield simulate_events(config, range(first, min(first + users_per_block, config.n_users + 1)))


def write_events(config: ListeningConfig, file: Path | str, *, users_per_block: int = 1_000) -> int:
    """Writes all plays to a Parquet file, block by block; how many there are.

    `read_source("events", file, columns=Columns(time="timestamp_us"), time_unit="us")` reads them.
    """
    n_events = 0
    writer = None
    with replacing(file) as partial, contextlib.ExitStack() as stack:
        for block in event_blocks(config, users_per_block):
            table = pa.table(block)
            writer = writer or stack.enter_context(pq.ParquetWriter(partial, table.schema))
            writer.write_table(table)
            n_events += table.num_rows
    return n_events


def write_items(config: ListeningConfig, file: Path | str) -> None:
    """Writes the item table to a Parquet file."""
    with replacing(file) as partial:
        pq.write_table(pa.table(item_table(config)), partial)


def _sources(
    config: ListeningConfig,
    user_id: Int[np.ndarray, " n"],
    n_earlier: Int[np.ndarray, " n"],
    place_in_session: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """Why each play's track was chosen; what lacks a history, or one in its session, goes by taste."""
    shares = [config.repeat_share, config.artist_share, config.genre_share, config.chart_share]
    # Nobody reaches the last bound by rounding where the four shares are all there is.
    bounds = np.cumsum(shares) if config.taste_share else np.append(np.cumsum(shares[:3]), 1.0)
    source = np.searchsorted(bounds, uniforms(config.seed, Stream.PLAY_SOURCE, user_id, n_earlier), side="right")
    source[(source == _RETURN) & (n_earlier == 0)] = _TASTE
    source[((source == _SAME_ARTIST) | (source == _SAME_GENRE)) & (place_in_session == 0)] = _TASTE
    return source


def _choose_items(
    config: ListeningConfig,
    source: Int[np.ndarray, " n"],
    user_id: Int[np.ndarray, " n"],
    n_earlier: Int[np.ndarray, " n"],
    day: Int[np.ndarray, " n"],
    session: Int[np.ndarray, " n"],
    liked: Float[np.ndarray, "n_sessions n_genres"],
) -> Int32[np.ndarray, " n"]:
    """The tracks. Each follows from at most one earlier play, so that all listeners' are found in a few rounds."""
    tracks = catalogue(config)
    u = uniforms(config.seed, Stream.PLAY_ITEM, user_id, n_earlier)
    items = np.zeros(source.size, np.int32)

    by_taste = np.flatnonzero(source == _TASTE)
    u_genre = uniforms(config.seed, Stream.PLAY_GENRE, user_id[by_taste], n_earlier[by_taste])
    below = np.cumsum(liked, axis=1)[session[by_taste], :-1] <= u_genre[:, None]
    items[by_taste] = pick_items(config, 1 + below.sum(1), day[by_taste], u[by_taste])
    chart = np.flatnonzero(source == _CHART)
    items[chart] = pick_items(config, np.zeros(chart.size, np.int64), day[chart], u[chart])

    parent = np.arange(source.size) - 1
    back = np.flatnonzero(source == _RETURN)
    u_lag = uniforms(config.seed, Stream.PLAY_LAG, user_id[back], n_earlier[back])
    parent[back] -= _lags(u_lag, n_earlier[back], config.repeat_memory_plays) - 1
    waiting = np.flatnonzero(source < _CHART)
    while waiting.size:
        is_known = items[parent[waiting]] > 0
        ready, waiting = waiting[is_known], waiting[~is_known]
        old = items[parent[ready]]
        is_return = source[ready] == _RETURN
        items[ready[is_return]] = old[is_return]
        stay, old = ready[~is_return], old[~is_return]
        genre, artist = tracks.genre[old - 1], config.n_genres + tracks.artist[old - 1]
        group = np.where(source[stay] == _SAME_GENRE, genre, artist)
        items[stay] = pick_items(config, group.astype(np.int64), day[stay], u[stay])
    return items


def _lags(u: Float[np.ndarray, " n"], n_earlier: Int[np.ndarray, " n"], memory_plays: float) -> Int[np.ndarray, " n"]:
    """How many plays back each return goes: 1..n_earlier, k with weight (1 - 1 / memory_plays) ** k."""
    log_keep = np.log1p(-1.0 / memory_plays)
    lag = 1 + np.floor(np.log1p(u * np.expm1(log_keep * n_earlier)) / log_keep).astype(np.int64)
    return np.clip(lag, 1, n_earlier)
