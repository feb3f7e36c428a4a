"""When listeners listen: how many sessions, when they start and how many tracks each has."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64

from seqrec.data.ragged import ranges
from seqrec.data.synthetic.config import DAY_SECONDS, MAX_TRACK_SECONDS, PAUSE_SECONDS, ListeningConfig
from seqrec.data.synthetic.draws import Stream, geometric, uniforms

_HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 2, 4, 7, 8, 6, 5, 5, 6, 6, 5, 5, 6, 8, 9, 9, 8, 7, 5, 3], np.float64)
"""Weights of the hours at which sessions start: people listen on the way to work and in the evening."""
_WEEKDAY_WEIGHTS = np.array([1, 1, 1, 1, 1.3, 1.2, 0.9])
"""Weights of the days of the week, from Monday."""
_MONDAY = 4
"""1970-01-05."""


class Sessions(NamedTuple):
    """Sessions of some listeners, listener by listener, each listener's in time order."""

    owner: Int64[np.ndarray, " n_sessions"]
    """Place of the listener among those asked for."""
    number: Int64[np.ndarray, " n_sessions"]
    """1, 2, … within the listener."""
    start_us: Int64[np.ndarray, " n_sessions"]
    n_tracks: Int64[np.ndarray, " n_sessions"]


def sessions(config: ListeningConfig, user_ids: Int[np.ndarray, " n_users"]) -> Sessions:
    """All sessions of these listeners.

    Starts follow the hour and the weekday. Where two would overlap or leave less than the least gap, the later one
    is put off, so that a listener's last sessions may begin after the last day.
    """
    counts = geometric(uniforms(config.seed, Stream.N_SESSIONS, user_ids), config.sessions_per_user)
    owner = np.repeat(np.arange(counts.size), counts)
    place = ranges(np.zeros_like(counts), counts)
    u, cumulative = uniforms(config.seed, Stream.SESSION_START, user_ids[owner], place), _cumulative_hours(config)
    hour = np.searchsorted(cumulative, u, side="right") - 1
    within = (u - cumulative[hour]) / (cumulative[hour + 1] - cumulative[hour])
    wanted = 3600 * hour + (3600 * within).astype(np.int64)
    wanted = wanted[np.lexsort((wanted, owner))]
    u = uniforms(config.seed, Stream.SESSION_TRACKS, user_ids[owner], place)
    n_tracks = geometric(u, config.tracks_per_session)

    # A start is the latest of: the start wanted, and each earlier one plus all that must fit between. Less what must
    # fit before it, that is a running maximum, within a listener by lifting each above the one before.
    needed = n_tracks * round(MAX_TRACK_SECONDS + PAUSE_SECONDS) + round(60 * config.session_gap_minutes)
    before = np.cumsum(needed) - needed
    before -= np.repeat(before[np.cumsum(counts) - counts], counts)
    slack = wanted - before
    lift = owner * (slack.max(initial=0) - slack.min(initial=0) + 1)
    start = np.maximum.accumulate(slack + lift) - lift + before
    return Sessions(owner, place + 1, (start + config.start_day * DAY_SECONDS) * 1_000_000, n_tracks)


@functools.lru_cache(maxsize=2)
def _cumulative_hours(config: ListeningConfig) -> Float[np.ndarray, " n_hours_plus_1"]:
    weekday = (config.start_day + np.arange(config.n_days) - _MONDAY) % 7
    weights = (_WEEKDAY_WEIGHTS[weekday, None] * _HOUR_WEIGHTS).ravel()
    total = np.cumsum(weights)
    return np.concatenate([np.zeros(1), total / total[-1]])
