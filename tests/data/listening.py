"""Simulated worlds, and walks over what is played in them, that tests of the simulator share."""

import math

import numpy as np

from seqrec.data.synthetic.config import ListeningConfig
from seqrec.data.synthetic.optimum import next_item_distribution

DAY_US = 86_400_000_000
WORLD = ListeningConfig(n_users=300, n_items=400, n_artists=60, n_genres=6, sessions_per_user=8.0, n_days=60)
# Few enough tracks that each is played often, and so few days that many are new.
SMALL = ListeningConfig(
    n_users=400, n_items=12, n_artists=5, n_genres=3, n_days=40, sessions_per_user=3.0, tracks_per_session=4.0,
    release_share=0.5, new_boost=8.0, repeat_memory_plays=3.0,
)  # fmt: skip


def opens_session(plays):
    return (np.diff(plays["user_id"], prepend=0) != 0) | (np.diff(plays["session_id"], prepend=0) != 0)


def states(config, plays):
    """Of each play: its user, the earlier items, the start of its session, whether it opens it, and its item."""
    for user in np.unique(plays["user_id"]):
        rows = np.flatnonzero(plays["user_id"] == user)
        items, session, times = (plays[name][rows] for name in ("item_id", "session_id", "timestamp_us"))
        for j, item in enumerate(items):
            opens = j == 0 or session[j] != session[j - 1]
            start = int(times[j]) if opens else start
            yield int(user), items[:j], start, bool(opens), int(item)


def distributions(config, plays):
    for user, history, start_us, opens, item in states(config, plays):
        yield next_item_distribution(config, user, history, start_us, opens_session=opens), item


def within(count, n, share, n_errors=4.5):
    """Whether `count` of `n` is what a coin of this bias gives, up to so many standard errors."""
    return abs(count - n * share) <= n_errors * math.sqrt(n * share * (1 - share))
