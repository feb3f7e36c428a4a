"""The periods of a backtest: when each is, what is known before it, and which of its events are predicted."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from seqrec.baselines.popularity import training_counts
from seqrec.config import check_above, check_at_least, check_fields
from seqrec.data.batches import Queries, make_queries
from seqrec.data.moments import iso_moment, moment_us
from seqrec.data.ragged import first_places, ranges
from seqrec.data.repeated_targets import seen_before
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.run.data import Task
from seqrec.types import InputError

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class BacktestConfig:
    """How a log is replayed."""

    period_days: float = 1.0
    """Length of a period in days. Each model is tested on a period's events, then refreshed with them."""
    n_periods: int = 8
    """Number of periods that are tested. All models are the same in the first one, and are refreshed before each of the
    others."""
    first_period: str | None = None
    """ISO date or time (UTC) at which the first tested period begins; by default such that the last one ends with the
    log, at midnight if period-days is a whole number."""
    targets: Literal["first", "every"] = "first"
    """Which of a user's events in a period to predict: the first one, or every one, each after all before it."""
    refresh_on: Literal["active", "all"] = "active"
    """What a warm refresh learns from. active: the newest window of each user with an event since the last refresh.
    all: all events so far."""
    refresh_epochs: int = 8
    """Epochs of a warm refresh; training anew takes max-epochs over all events so far."""
    refresh_learning_rate: float = 0.0
    """Learning rate of a warm refresh after its warm-up, which is a tenth of its steps at most; 0 means the learning
    rate of the training."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_above(self, 0, "period_days")
        check_at_least(self, 2, "n_periods")
        check_at_least(self, 1, "refresh_epochs")
        check_at_least(self, 0, "refresh_learning_rate")
        if self.first_period is not None:
            moment_us(self.first_period)


class Period(NamedTuple):
    """A tested period."""

    start_us: int
    stop_us: int
    split: Split
    """Training ends where the period begins; nothing is validated on."""
    is_known: Bool[np.ndarray, " n_items_plus_1"]
    """Which item ids have an event before the period; padding has none."""
    queries: Queries | None
    """What is predicted; targets that are not known count as misses. None where no user has a target."""
    n_new_targets: int
    """Targets without an event before the period."""


def period_starts(store: SequenceStore, config: BacktestConfig) -> list[int]:
    """Starts of the tested periods in microseconds, and the end of the last.

    >>> from seqrec.data.store import sequence_store
    >>> times = {"timestamp_us": np.array([0, 5 * DAY_US // 2])}
    >>> store = sequence_store(np.array([1, 1]), np.array([0, 2]), np.array([1]), np.array([1]), columns=times)
    >>> [moment // DAY_US for moment in period_starts(store, BacktestConfig(n_periods=2))]
    [1, 2, 3]
    """
    if "timestamp_us" not in store.columns or store.n_events == 0:
        raise InputError("a backtest replays events by their times, which this log lacks; name the time column")
    times = store.columns["timestamp_us"]
    first, last = int(times.min()), int(times.max())
    length = round(config.period_days * DAY_US)
    if config.first_period is not None:
        start = moment_us(config.first_period)
    else:
        end = (last // DAY_US + 1) * DAY_US if float(config.period_days).is_integer() else last + 1
        start = end - config.n_periods * length
    if not first < start <= last:
        raise InputError(
            f"the first tested period would begin at {iso_moment(start)}, but events are of {iso_moment(first)} to "
            f"{iso_moment(last)} and some must come before it; take fewer or shorter periods, or another first_period"
        )
    starts = [start + number * length for number in range(config.n_periods + 1)]
    if starts[-2] > last:
        raise InputError(
            f"the last tested period would begin at {iso_moment(starts[-2])}, after the last event, of "
            f"{iso_moment(last)}; take fewer periods, or an earlier first_period"
        )
    return starts


def make_periods(task: Task, starts: Sequence[int], *, targets: Literal["first", "every"]) -> list[Period]:
    """The periods between these moments; their queries come in batches of one shape.

    `task` says how its queries are made. Where it masks seen items, targets that were seen before are left out or count
    as misses, as its config says.
    """
    periods = [_period(task, start, stop, targets=targets) for start, stop in itertools.pairwise(starts)]
    shaped = iter(of_one_shape([period.queries for period in periods if period.queries is not None]))
    return [period if period.queries is None else period._replace(queries=next(shaped)) for period in periods]


def _period(task: Task, start_us: int, stop_us: int, *, targets: Literal["first", "every"]) -> Period:
    store = task.store
    starts = np.asarray(store.offsets[:-1])
    first, stop = (_first_from(store, moment) for moment in (start_us, stop_us))
    # A user's very first event has no history to be predicted from.
    begin = np.maximum(first, starts + 1) if targets == "every" else np.where(first > starts, first, stop)
    n_each = np.maximum(stop - begin, 0)
    positions = ranges(begin, n_each if targets == "every" else np.minimum(n_each, 1))
    nobody = np.full(store.n_users, -1)
    description = f"events from {iso_moment(start_us)} to {iso_moment(stop_us)}, after training on all before"
    split = Split(first, nobody, nobody, "", description)
    is_known = training_counts(store, split) > 0
    seen = seen_before(store, positions) if task.mask_seen else np.zeros(len(positions), bool)
    if task.config.repeated_targets == "exclude":
        positions, seen = positions[~seen], seen[~seen]
    is_new = ~is_known[store.items[positions]]
    queries = None
    if len(positions):
        queries = make_queries(
            store,
            positions,
            max_length=task.max_length,
            batch_size=2 * task.config.batch_size,
            mask_seen=task.mask_seen,
            count_as_miss=seen | is_new,
            share=task.test.share,
            fields=task.test.fields,
        )
    return Period(start_us, stop_us, split, is_known, queries, int(is_new.sum()))


def _first_from(store: SequenceStore, moment_us: int) -> Int64[np.ndarray, " n_users"]:
    """Position of each user's first event from a moment on."""
    times, offsets = np.asarray(store.columns["timestamp_us"]), np.asarray(store.offsets)
    return first_places(times, offsets, np.full(store.n_users, moment_us))


def of_one_shape(several: Sequence[Queries]) -> list[Queries]:
    """The same queries in batches of one shape for all, so that one compiled step serves them."""
    if not several:
        return []
    n_rows = max(queries.row_groups.shape[1] for queries in several)
    regrouped = []
    for queries in several:
        rows = queries.row_groups[queries.row_groups >= 0]
        groups = np.full((-(-len(rows) // n_rows), n_rows), -1)
        groups.reshape(-1)[: len(rows)] = rows
        regrouped.append(queries._replace(row_groups=groups))
    n_needed = max(_most_queries(queries) for queries in regrouped)
    step = 8 * several[0].share.n_shards
    n_excluded = max(queries.n_excluded for queries in several)
    return [each._replace(n_queries=-(-n_needed // step) * step, n_excluded=n_excluded) for each in regrouped]


def _most_queries(queries: Queries) -> int:
    n_segments = np.append(np.diff(queries.packed.row_offsets), 0)
    return int(n_segments[queries.row_groups].sum(axis=1).max())


def unknown_ids(is_known: Bool[np.ndarray, " n_items_plus_1"], *, n_ids: int) -> Int[np.ndarray, " n_ids"]:
    """Ids of the items that are not known, filled up with zeros.

    >>> unknown_ids(np.array([False, True, False]), n_ids=3).tolist()
    [2, 0, 0]
    """
    ids = np.zeros(n_ids, np.int32)
    new_items = 1 + np.flatnonzero(~is_known[1:])
    ids[: len(new_items)] = new_items
    return ids
