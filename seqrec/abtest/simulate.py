"""A simulated experiment: two recommenders serve the same listeners, with a known effect and, on request, the faults
that the checks detect."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int
from scipy import special

from seqrec.abtest.plan import MICROSECONDS_PER_DAY, ExperimentPlan
from seqrec.config import check_above, check_at_least, check_between, check_fields, check_share
from seqrec.data.ragged import ranges
from seqrec.data.synthetic.catalogue import catalogue, pick_items
from seqrec.data.synthetic.config import PAUSE_SECONDS, ListeningConfig
from seqrec.data.synthetic.draws import Stream, uniforms
from seqrec.data.synthetic.listeners import SKIPPED_BELOW, played_shares, skip_probability, taste
from seqrec.data.synthetic.sessions import Sessions, sessions
from seqrec.files import make_directory, replacing
from seqrec.types import InputError

_LIKE_SHARE = 0.1
"""Probability of a like for a play with skip probability 0."""
_USERS_PER_BLOCK = 10_000
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Simulation:
    """The simulated listeners, two recommenders, the effects of the treatment and faults of the logs.

    The control's recommender serves every listener before the exposure. Tracks that fit a listener better lead to fewer
    skips, more seconds and likes, and more plays where leave_share is above 0.
    """

    n_users: int = 10_000
    """Number of users in all arms; they arrive over the first half of the planned days."""
    sessions_per_day: float = 0.5
    """Mean sessions per user and day; a few users have most of them."""
    tracks_per_session: float = 8.0
    """Mean number of tracks in a session."""
    noise: float = 0.5
    """Standard deviation of the logarithm of a session's length, in addition to differences between listeners."""
    control_taste_share: float = 0.3
    """Share of tracks that the control's recommender chooses by the listener's taste, not from the charts."""
    treatment_taste_share: float = 0.4
    """Share of tracks that the recommender of every treatment arm chooses by the listener's taste."""
    leave_share: float = 0.0
    """Share of skips after which the listener ends the session."""
    lift: float = 0.05
    """Relative increase in plays in every treatment arm, in addition to the effect of its recommender; 0.05 is 5%."""
    novelty: float = 0.0
    """Further relative increase in plays at the exposure, which then fades; novelty_half_life_days says how fast."""
    novelty_half_life_days: float = 3.0
    """Days in which the novelty effect halves."""
    skip_lift: float = 0.0
    """Relative increase in the probability of a skip in every treatment arm."""
    exposed_share: float = 0.9
    """Share of assigned users who are exposed to the change, in their first session after the assignment."""
    bot_share: float = 0.0
    """Fault: share of users who are bots: they play four times the plan's max_plays_per_day within half a day of their
    exposure."""
    lost_share: float = 0.0
    """Fault: share of events that are never logged, in all arms."""
    treatment_lost_share: float = 0.0
    """Fault: further share of events that are never logged in treatment arms."""
    treatment_repeated_share: float = 0.0
    """Fault: share of events in treatment arms that are logged twice, as by clients that send an event again."""
    missing_share: float = 0.0
    """Fault: share of treated users whose assignment is not logged, which causes a sample ratio mismatch."""
    two_arm_share: float = 0.0
    """Fault: share of users who are later logged in a second arm."""
    seed: int = 0
    """Seed of the simulation."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_users")
        check_above(self, 0, "sessions_per_day", "novelty_half_life_days")
        check_between(self, 0, 3, "noise")
        check_share(self, *(name for name in vars(self) if name.endswith("_share")))
        if min(self.lift, self.skip_lift, self.novelty, self.lift + self.novelty) < -1.0:
            raise InputError(
                f"lift={self.lift}, novelty={self.novelty}, skip_lift={self.skip_lift}: "
                "more than all cannot be lost; stay above -1"
            )


class SimulatedLogs(NamedTuple):
    """The three tables of an experiment."""

    assignments: pa.Table
    exposures: pa.Table
    events: pa.Table


class _Block(NamedTuple):
    """Some users of an experiment and what is drawn for them."""

    plan: ExperimentPlan
    simulation: Simulation
    world: ListeningConfig
    ids: Int[np.ndarray, " n_users"]
    rng: np.random.Generator


class _Listeners(NamedTuple):
    """The listeners of a block and their sessions, independent of what is played."""

    visits: Sessions
    liked: Float[np.ndarray, "n_sessions n_genres"]
    """Taste at each session's start."""
    arms: Int[np.ndarray, " n_users"]
    assigned_us: Int[np.ndarray, " n_users"]
    exposed_us: Int[np.ndarray, " n_users"]
    """`_NEVER` for users who are not exposed."""


def simulate(plan: ExperimentPlan, simulation: Simulation) -> SimulatedLogs:
    """Logs of the plan's whole duration and of the days before; a pure function of both arguments."""
    return SimulatedLogs(*map(pa.concat_tables, zip(*log_blocks(plan, simulation), strict=True)))


def log_blocks(plan: ExperimentPlan, simulation: Simulation) -> Iterator[SimulatedLogs]:
    """The logs of `simulate` in blocks of users, so that memory does not grow with `n_users`.

    Events get their sequence numbers before any is lost. Segment columns that the plan names in addition to country and
    platform are drawn from two values.
    """
    return map(_logs, _blocks(plan, simulation))


def true_lifts(plan: ExperimentPlan, simulation: Simulation) -> dict[str, float]:
    """The true relative effects on the sums of plays, seconds listened, skips and likes since the exposure.

    Each exposed user is served by both recommenders. NaN where the control has none. Intervals at level 1 - alpha must
    contain these in at least that share of experiments.
    """
    totals = np.zeros((2, 4))
    for block in _blocks(plan, simulation):
        people = _listeners(block)
        is_exposed_session = people.visits.start_us >= people.exposed_us[people.visits.owner]
        for arm in range(2):
            plays = _play(block, people, treated=is_exposed_session & (arm == 1))
            is_counted = is_exposed_session[plays["session"]] & (plays["timestamp_us"] < plan.end_us)
            of_events = (np.ones(is_counted.size), plays["seconds"], plays["skipped"], plays["liked"])
            totals[arm] += [values[is_counted].sum() for values in of_events]
    with np.errstate(divide="ignore", invalid="ignore"):
        lifts = np.where(totals[0] > 0, totals[1] / totals[0] - 1.0, np.nan)
    return dict(zip(("plays", "seconds_listened", "skips", "likes"), lifts.tolist(), strict=True))


def _blocks(plan: ExperimentPlan, simulation: Simulation) -> Iterator[_Block]:
    n_days = plan.days_before + plan.n_days
    world = ListeningConfig(
        n_users=simulation.n_users,
        n_days=n_days,
        sessions_per_user=max(simulation.sessions_per_day * n_days, 1.0),
        tracks_per_session=simulation.tracks_per_session,
        start_day=(plan.start - date(1970, 1, 1)).days - plan.days_before,
        seed=simulation.seed,
    )
    for block, first in enumerate(range(1, simulation.n_users + 1, _USERS_PER_BLOCK)):
        ids = np.arange(first, min(first + _USERS_PER_BLOCK, simulation.n_users + 1))
        yield _Block(plan, simulation, world, ids, np.random.default_rng([simulation.seed, block]))


def _listeners(block: _Block) -> _Listeners:
    plan, simulation, world, ids, rng = block
    n = ids.size
    arms = rng.choice(len(plan.arms), size=n, p=np.array(plan.shares))
    half = max(1, plan.n_days // 2)
    assigned_us = plan.start_us + (rng.random(n) * half * MICROSECONDS_PER_DAY).astype(np.int64)
    visits = sessions(world, ids)
    later = np.where(visits.start_us >= assigned_us[visits.owner], visits.start_us, _NEVER)
    exposed_us = np.full(n, _NEVER)
    np.minimum.at(exposed_us, visits.owner, later)
    is_exposed = (rng.random(n) < simulation.exposed_share) & (exposed_us < plan.end_us)
    liked = taste(world, ids[visits.owner], visits.start_us)
    return _Listeners(visits, liked, arms, assigned_us, np.where(is_exposed, exposed_us, _NEVER))


def _logs(block: _Block) -> SimulatedLogs:
    plan, simulation, _, ids, rng = block
    people = _listeners(block)
    assignments = _assignments(block, people)
    arms, owner = people.arms, people.visits.owner
    treated = (arms > 0)[owner] & (people.visits.start_us >= people.exposed_us[owner])
    plays = _play(block, people, treated=treated)
    plays["place"] = owner[plays.pop("session")]
    bots = np.flatnonzero((rng.random(ids.size) < simulation.bot_share) & (people.exposed_us < _NEVER))
    of_bots = _bot_plays(bots, people.exposed_us[bots], 4 * plan.max_plays_per_day)
    plays = {name: np.concatenate([plays[name], values]) for name, values in of_bots.items()}

    order = np.lexsort((plays["timestamp_us"], plays["place"]))
    plays = {name: values[order] for name, values in plays.items()}
    n_plays = np.bincount(plays["place"], minlength=ids.size)
    plays["sequence"] = ranges(np.ones_like(n_plays), n_plays)
    lost = simulation.lost_share + np.where(arms > 0, simulation.treatment_lost_share, 0.0)
    arrived = (rng.random(order.size) >= lost[plays["place"]]) & (plays["timestamp_us"] < plan.end_us)
    kept = np.flatnonzero(arrived)
    repeated = np.where(arms > 0, simulation.treatment_repeated_share, 0.0)[plays["place"][kept]]
    kept = np.concatenate([kept, kept[rng.random(kept.size) < repeated]])
    # In the order of arrival.
    kept = kept[np.argsort(plays["timestamp_us"][kept], kind="stable")]
    events = {
        plan.unit: ids[plays["place"][kept]],
        "timestamp_us": plays["timestamp_us"][kept],
        "seconds": plays["seconds"][kept].round(1),
        "skipped": plays["skipped"][kept].astype(np.int8),
        "liked": plays["liked"][kept].astype(np.int8),
        "sequence": plays["sequence"][kept],
    }
    is_exposed = people.exposed_us < _NEVER
    exposures = {plan.unit: ids[is_exposed], "timestamp_us": people.exposed_us[is_exposed]}
    return SimulatedLogs(assignments, pa.table(exposures), pa.table(events))


def _play(block: _Block, people: _Listeners, *, treated: Bool[np.ndarray, " n_sessions"]) -> dict[str, np.ndarray]:
    """The plays of these listeners, from the treatment's recommender in `treated` sessions, else from the control's.

    The reaction to a track depends only on the listener, the track and the position in the session: a listener who is
    served twice reacts alike to the same tracks.
    """
    _, simulation, world, ids, _ = block
    visits = people.visits
    user, number = ids[visits.owner], visits.number
    age = (visits.start_us - people.exposed_us[visits.owner]) / MICROSECONDS_PER_DAY
    novelty = simulation.novelty * 0.5 ** (np.where(treated, age, 0.0) / simulation.novelty_half_life_days)
    # The third counter makes these draws independent of those of the session.
    normal = special.ndtri(uniforms(world.seed, Stream.SESSION_TRACKS, user, number, 1))
    longer = np.exp(simulation.noise * normal - simulation.noise**2 / 2)
    wanted = visits.n_tracks * longer * np.where(treated, 1.0 + simulation.lift + novelty, 1.0)
    # Stochastic rounding keeps the mean.
    n_plays = np.floor(wanted + uniforms(world.seed, Stream.SESSION_TRACKS, user, number, 2)).astype(np.int64)

    session = np.repeat(np.arange(user.size), n_plays)
    place = ranges(np.zeros_like(n_plays), n_plays)
    u_source, u_genre, u_item, u_skip, u_share = (
        uniforms(world.seed, stream, user[session], number[session], place)
        for stream in (Stream.PLAY_SOURCE, Stream.PLAY_GENRE, Stream.PLAY_ITEM, Stream.SKIP, Stream.PLAYED_SHARE)
    )
    taste_share = np.where(treated, simulation.treatment_taste_share, simulation.control_taste_share)[session]
    genre = 1 + (np.cumsum(people.liked, axis=1)[session, :-1] <= u_genre[:, None]).sum(axis=1)
    day = visits.start_us // MICROSECONDS_PER_DAY - world.start_day
    items = pick_items(world, np.where(u_source < taste_share, genre, 0), day[session], u_item)
    tracks = catalogue(world)
    fit = people.liked[session, tracks.genre[items - 1] - 1]
    skip = skip_probability(world, user[session], items, fit)
    skip = np.minimum(skip * np.where(treated, 1.0 + simulation.skip_lift, 1.0)[session], 1.0)
    share = played_shares(skip, u_skip, u_share)
    skipped = share < SKIPPED_BELOW
    seconds = share * tracks.seconds[items - 1]

    first = np.cumsum(n_plays) - n_plays
    until = np.concatenate([[0], np.cumsum(np.round(1e6 * (seconds + PAUSE_SECONDS)).astype(np.int64))])
    # A play is a skip where u_skip is below `skip`; a share `leave_share` of skips ends the session.
    left = np.concatenate([[0], np.cumsum(u_skip < simulation.leave_share * skip)])
    still_there = left[:-1] == left[first][session]
    plays = {
        "session": session,
        "timestamp_us": visits.start_us[session] + until[:-1] - until[first][session],
        "seconds": seconds,
        "skipped": skipped,
        "liked": ~skipped & (u_share < _LIKE_SHARE * (1.0 - skip)),
    }
    return {name: values[still_there] for name, values in plays.items()}


def _bot_plays(
    bots: Int[np.ndarray, " n_bots"], exposed_us: Int[np.ndarray, " n_bots"], n_plays: int
) -> dict[str, np.ndarray]:
    step_us = MICROSECONDS_PER_DAY // 2 // n_plays
    n = bots.size * n_plays
    return {
        "place": np.repeat(bots, n_plays),
        "timestamp_us": np.repeat(exposed_us, n_plays) + np.tile(step_us * np.arange(n_plays), bots.size),
        "seconds": np.full(n, 30.0),
        "skipped": np.zeros(n, bool),
        "liked": np.zeros(n, bool),
    }


def _assignments(block: _Block, people: _Listeners) -> pa.Table:
    plan, simulation, _, ids, rng = block
    n, arms, assigned_us = ids.size, people.arms, people.assigned_us
    logged = np.flatnonzero(~((arms > 0) & (rng.random(n) < simulation.missing_share)))
    again = np.flatnonzero(rng.random(n) < simulation.two_arm_share)
    rows = np.concatenate([logged, again])
    arm = np.concatenate([arms[logged], (arms[again] + 1) % len(plan.arms)])
    time = np.concatenate([assigned_us[logged], assigned_us[again] + MICROSECONDS_PER_DAY // 4])
    columns = {plan.unit: ids[rows], "arm": np.array(plan.arms)[arm], "timestamp_us": time}
    values = {"country": ("se", "de", "br"), "platform": ("mobile", "desktop")}
    for segment in dict.fromkeys((*values, *plan.segments)):
        if segment == plan.unit:
            continue
        choices = values.get(segment, ("a", "b"))
        columns[segment] = np.array(choices)[rng.integers(len(choices), size=n)][rows]
    return pa.table(columns)


def write_logs(blocks: Iterable[SimulatedLogs], directory: Path) -> dict[str, Path]:
    """Writes assignments.parquet, exposures.parquet and events.parquet block by block, replacing earlier files."""
    files = {name: directory / f"{name}.parquet" for name in SimulatedLogs._fields}
    writers: dict[str, pq.ParquetWriter] = {}
    make_directory(directory)
    with contextlib.ExitStack() as stack:
        partial = {name: stack.enter_context(replacing(file)) for name, file in files.items()}
        for block in blocks:
            for name, table in block._asdict().items():
                if name not in writers:
                    writers[name] = stack.enter_context(pq.ParquetWriter(partial[name], table.schema))
                writers[name].write_table(table)
    return files
