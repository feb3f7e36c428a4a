"""What a simulated world of music listening is made of."""

import dataclasses

from seqrec.config import check_above, check_at_least, check_between, check_fields, check_share
from seqrec.types import InputError

DAY_SECONDS = 86_400
MAX_TRACK_SECONDS = 300.0
PAUSE_SECONDS = 5.0
"""Between the end of a play and the start of the next in its session."""


@dataclasses.dataclass(frozen=True)
class ListeningConfig:
    """Sizes and habits of a simulated music service; all that is drawn follows from these and the seed.

    >>> ListeningConfig(repeat_share=0.3, artist_share=0.2, genre_share=0.2, chart_share=0.1).taste_share
    0.2
    """

    n_users: int = 1_000
    n_items: int = 5_000
    n_artists: int = 500
    n_genres: int = 12
    n_days: int = 120
    seed: int = 0

    sessions_per_user: float = 20.0
    """Mean; at least one, geometrically distributed, so that few listeners have most plays."""
    tracks_per_session: float = 10.0
    """Mean; at least one, geometrically distributed."""
    session_gap_minutes: float = 60.0
    """Least silence between two sessions of a listener."""

    repeat_share: float = 0.25
    """Share of plays, among those with a history, for which the listener returns to an earlier play's track."""
    artist_share: float = 0.2
    """Share of plays, among those with a history in their session, that stay with the last track's artist."""
    genre_share: float = 0.2
    """As `artist_share`, but it is the genre of the last track that stays."""
    chart_share: float = 0.05
    """Share of plays by popularity alone; what the four shares leave follows the listener's taste."""
    repeat_memory_plays: float = 50.0
    """A return goes `k` plays back with weight (1 - 1 / repeat_memory_plays) ** k."""

    taste_sharpness: float = 1.0
    """0: every listener likes genres as the world does; 2: nearly all listen to one genre each."""
    drift_share: float = 0.5
    """Part of a listener's taste that moves; the rest stays for good."""
    drift_days: float = 30.0
    """The moving part is a straight line from one draw of a taste to the next, which takes so long."""
    fashion_strength: float = 0.0
    """Genres come into fashion for all listeners at once: at most its weight is exp(2 * fashion_strength) times that at
    least."""
    fashion_days: float = 20.0
    """The fashion of a genre is a straight line from one draw to the next, which takes so long."""
    hour_strength: float = 0.5
    """Genres have hours: at its best hour a genre's weight is exp(2 * hour_strength) times that at its worst."""

    zipf_exponent: float = 0.9
    """Popularity of the track of rank r is r ** -zipf_exponent."""
    release_share: float = 0.2
    """Share of tracks released during the simulated days; the others are up to ten years older."""
    daily_releases: int = 0
    """Instead of `release_share`: exactly so many tracks, the last ones, are released on each simulated day. 0 draws
    days at random."""
    new_days: int = 14
    """For so many days after its release a track is `1 + new_boost` times as popular as later."""
    new_boost: float = 4.0

    skip_share: float = 0.25
    """Probability that a track which fits neither well nor badly is skipped."""
    fit_strength: float = 1.0
    """How much the log odds of a skip fall where the fit rises by one; the fit lies in -2..2."""

    start_day: int = 19_723
    """First day, counted from 1970-01-01; the default is Monday 2024-01-01. Times are UTC."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_users", "n_days", "sessions_per_user", "tracks_per_session")
        check_between(self, 1, 2**31 - 2, "n_items")  # so that ids fit int32
        check_between(self, 1, self.n_items, "n_artists")
        check_between(self, 1, self.n_artists, "n_genres")
        check_at_least(self, 0, "seed", "new_days", "daily_releases")
        check_above(self, 0, "session_gap_minutes", "drift_days", "fashion_days")
        check_above(self, 1, "repeat_memory_plays")
        check_between(
            self, 0, 10, "taste_sharpness", "fashion_strength", "hour_strength", "zipf_exponent", "fit_strength"
        )
        check_between(self, 0, 1000, "new_boost")
        shares = ("repeat_share", "artist_share", "genre_share", "chart_share")
        check_share(self, *shares, "drift_share", "release_share")
        check_share(self, "skip_share", zero=False, one=False)
        if self.daily_releases * self.n_days > self.n_items - self.n_genres:
            raise InputError(
                f"daily_releases={self.daily_releases} on n_days={self.n_days} leave fewer old tracks than "
                f"n_genres={self.n_genres}; take at most {(self.n_items - self.n_genres) // self.n_days}"
            )
        if self.taste_share < 0:
            total = sum(getattr(self, name) for name in shares)
            raise InputError(
                f"repeat_share, artist_share, genre_share and chart_share sum to {total:g}, above 1; lower one of them"
            )
        session_seconds = self.tracks_per_session * (MAX_TRACK_SECONDS + PAUSE_SECONDS) + 60 * self.session_gap_minutes
        most = 0.5 * self.n_days * DAY_SECONDS / session_seconds
        if self.sessions_per_user > max(most, 1.0):
            raise InputError(
                f"sessions_per_user={self.sessions_per_user:g} fill more than half of n_days={self.n_days}; "
                f"take at most {most:.1f}, more days or shorter sessions"
            )

    @property
    def taste_share(self) -> float:
        """Share of plays within a session that follow the listener's taste of the moment."""
        # Rounded, so that shares which sum to 1 on paper leave nothing.
        return round(1.0 - self.repeat_share - self.artist_share - self.genre_share - self.chart_share, 12)
