"""Made-up listeners in a made-up experiment: a known effect and, by choice, the faults that trust checks look for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from seqrec.abtest.plan import MICROSECONDS_PER_DAY, Plan
from seqrec.types import InputError

_COUNTRIES = ("se", "de", "br")
_PLATFORMS = ("mobile", "desktop")


@dataclass(frozen=True)
class Simulation:
    """How listeners behave, what the treatments do to them, and what goes wrong."""

    n_users: int = 10_000
    """Users in all arms; they come in over the first half of the days."""
    plays_per_day: float = 4.0
    """Of the median user; the mean is higher, as a few play very much."""
    spread: float = 1.0
    """Standard deviation of the logarithm of a user's plays a day."""
    lift: float = 0.05
    """Relative rise in plays in every treatment arm."""
    novelty: float = 0.0
    """A further relative rise on the day of exposure, which halves every `novelty_half_life_days`."""
    novelty_half_life_days: float = 3.0
    skip_lift: float = 0.0
    """Relative rise in the chance of a skip in every treatment arm."""
    exposed_share: float = 0.9
    """Assigned users who ever meet what differs."""
    bot_share: float = 0.0
    """Users who play 3,000 tracks a day."""
    lost_share: float = 0.0
    """Events that never arrive, in all arms."""
    treatment_lost_share: float = 0.0
    """Further events that never arrive in treatment arms."""
    missing_share: float = 0.0
    """Treated users whose assignment was never logged, which makes a sample ratio mismatch."""
    two_arm_share: float = 0.0
    """Users who are logged in a second arm later."""
    seed: int = 0

    def __post_init__(self):
        if self.n_users < 1:
            raise InputError(f"n_users={self.n_users} is below 1; 10000 is a good start")
        for name in (
            "exposed_share",
            "bot_share",
            "lost_share",
            "treatment_lost_share",
            "missing_share",
            "two_arm_share",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name}={getattr(self, name)} is outside [0, 1]; give a share")
        for name in ("plays_per_day", "novelty_half_life_days"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name}={getattr(self, name)} is not above 0; give a positive number")
        if self.spread < 0.0 or min(self.lift, self.skip_lift, self.novelty) < -1.0:
            raise InputError(f"spread={self.spread}, lift={self.lift}: a spread below 0 or a lift below -1 cannot be")


@dataclass(frozen=True)
class SimulatedLogs:
    """The three tables of an experiment."""

    assignments: pa.Table
    exposures: pa.Table
    events: pa.Table


def simulate(plan: Plan, simulation: Simulation) -> SimulatedLogs:
    """Logs of the plan's whole duration and of the days before, a pure function of both arguments.

    Each user has a rate of plays, a leaning to skip and an hour; plays a day are Poisson of the rate, which the lift
    raises from the exposure on. A day's plays fall into sessions of a few. The number of the event is the player's,
    and is given before events are lost. Columns of segments that the plan names beside country and platform are
    drawn from two values.
    """
    rng = np.random.default_rng(simulation.seed)
    n = simulation.n_users
    arms = rng.choice(len(plan.arms), size=n, p=np.array(plan.shares))
    rate = simulation.plays_per_day * rng.lognormal(0.0, simulation.spread, n)
    rate[rng.random(n) < simulation.bot_share] = 3000.0
    skip_chance = rng.beta(2.0, 5.0, n)
    half = max(1, plan.n_days // 2)
    assigned_us = plan.start_us + (rng.random(n) * half * MICROSECONDS_PER_DAY).astype(np.int64)
    exposed_us = assigned_us + (rng.exponential(0.1, n) * MICROSECONDS_PER_DAY).astype(np.int64)
    is_exposed = (rng.random(n) < simulation.exposed_share) & (
        exposed_us < plan.start_us + plan.n_days * MICROSECONDS_PER_DAY
    )

    users, times = _plays(
        plan, simulation, rng, rate, np.where((arms > 0) & is_exposed, exposed_us, np.iinfo(np.int64).max)
    )
    treated = (arms[users] > 0) & is_exposed[users] & (times >= exposed_us[users])
    chance = np.minimum(skip_chance[users] * np.where(treated, 1.0 + simulation.skip_lift, 1.0), 1.0)
    skipped = rng.random(len(users)) < chance
    seconds = np.where(skipped, rng.uniform(1.0, 30.0, len(users)), rng.uniform(120.0, 300.0, len(users)))
    liked = ~skipped & (rng.random(len(users)) < 0.05)
    first = np.searchsorted(users, np.arange(n))
    sequence = np.arange(len(users)) - first[users] + 1
    lost = simulation.lost_share + np.where(arms[users] > 0, simulation.treatment_lost_share, 0.0)
    kept = rng.random(len(users)) >= lost
    events = {
        "user_id": users + 1,
        "timestamp_us": times,
        "seconds": seconds.round(1),
        "skipped": skipped.astype(np.int8),
        "liked": liked.astype(np.int8),
        "sequence": sequence,
    }
    return SimulatedLogs(
        _assignments(plan, simulation, rng, arms, assigned_us),
        pa.table({"user_id": np.flatnonzero(is_exposed) + 1, "timestamp_us": exposed_us[is_exposed]}),
        pa.table({name: values[kept] for name, values in events.items()}),
    )


def _plays(
    plan: Plan,
    simulation: Simulation,
    rng: np.random.Generator,
    rate: Float[np.ndarray, " n_users"],
    treated_from_us: Int[np.ndarray, " n_users"],
) -> tuple[Int[np.ndarray, " n_events"], Int[np.ndarray, " n_events"]]:
    """User and time of each play, sorted by both."""
    users, times = [], []
    hour = rng.normal(19.0, 3.0, len(rate))
    for day in range(-plan.days_before, plan.n_days):
        midnight = plan.start_us + day * MICROSECONDS_PER_DAY
        # The day of the exposure counts as treated from its start: only plays after the exposure are analysed.
        age = np.maximum((midnight + MICROSECONDS_PER_DAY - treated_from_us.astype(float)) / MICROSECONDS_PER_DAY, 0.0)
        is_treated = age > 0.0
        novelty = simulation.novelty * 0.5 ** (age / simulation.novelty_half_life_days)
        mean = rate * np.where(is_treated, 1.0 + simulation.lift + novelty, 1.0)
        n_plays = rng.poisson(mean)
        owner = np.repeat(np.arange(len(rate)), n_plays)
        # Plays of one evening follow one another; about one in five starts anew at another hour.
        place = np.arange(len(owner)) - np.repeat(np.cumsum(n_plays) - n_plays, n_plays)
        own_hour = hour[owner] + rng.normal(0.0, 0.5, len(rate))[owner] + 5.0 * (rng.random(len(owner)) < 0.2)
        within = (own_hour / 24 * MICROSECONDS_PER_DAY + place * 200e6) % MICROSECONDS_PER_DAY
        users.append(owner)
        times.append(midnight + within.astype(np.int64))
    all_users, all_times = np.concatenate(users), np.concatenate(times)
    order = np.lexsort((all_times, all_users))
    return all_users[order], all_times[order]


def _assignments(
    plan: Plan,
    simulation: Simulation,
    rng: np.random.Generator,
    arms: Int[np.ndarray, " n_users"],
    assigned_us: Int[np.ndarray, " n_users"],
) -> pa.Table:
    n = len(arms)
    logged = np.flatnonzero(~((arms > 0) & (rng.random(n) < simulation.missing_share)))
    again = np.flatnonzero(rng.random(n) < simulation.two_arm_share)
    rows = np.concatenate([logged, again])
    arm = np.concatenate([arms[logged], (arms[again] + 1) % len(plan.arms)])
    time = np.concatenate([assigned_us[logged], assigned_us[again] + MICROSECONDS_PER_DAY // 4])
    columns = {"user_id": rows + 1, "arm": np.array(plan.arms)[arm], "timestamp_us": time}
    values = {"country": _COUNTRIES, "platform": _PLATFORMS}
    for segment in dict.fromkeys((*values, *plan.segments)):
        columns[segment] = np.array(values.get(segment, ("a", "b")))[
            rng.integers(len(values.get(segment, "ab")), size=n)
        ][rows]
    return pa.table(columns)


def write_logs(logs: SimulatedLogs, directory: Path) -> dict[str, Path]:
    """Writes assignments.parquet, exposures.parquet and events.parquet, in place of earlier ones."""
    files = {name: directory / f"{name}.parquet" for name in ("assignments", "exposures", "events")}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            pq.write_table(getattr(logs, name), file)
    except OSError as error:
        raise InputError(f"{directory} cannot be written ({error.strerror}); name another directory") from error
    return files
