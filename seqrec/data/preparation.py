"""From raw events to a sequence store by the steps that a config names, with what is left counted after each."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data import steps
from seqrec.data.engines import Engine, collect, engine_of
from seqrec.data.events import gathered_store, history_lengths
from seqrec.data.sources import Source
from seqrec.data.splits import SplitConfig, moment_us, split_store
from seqrec.data.store import SequenceStore, write_store
from seqrec.types import InputError


@dataclass(frozen=True)
class StepsConfig:
    """What raw events go through, in this order; what is not set is left out, except the first two."""

    earliest: str | None = None
    """ISO date or time, UTC: events before it are invalid, as are those without user, item or time."""
    latest: str | None = None
    """ISO date or time, UTC: events after it are invalid."""
    drop_duplicates: bool = True
    """Of events of one user, item and moment keep the first."""
    duplicate_gap_seconds: float | None = None
    """Drop an event at most this long after the same user's previous event of that item."""
    max_events_per_day: int | None = None
    """Drop all events of users with more than this on any day (UTC)."""
    min_column: str | None = None
    """Keep events whose column of this name, such as rating, is at least min-value."""
    min_value: float | None = None
    """The least that min-column, or its share of min-share-of, may be."""
    min_share_of: str | None = None
    """Column of the whole that min-column is a part of, such as a track's length where that is what was played."""
    collapse_repeats: bool = False
    """Of a run of one item in a user's events keep the first, with the column run_length."""
    min_user_events: int = 1
    """Drop users with fewer events, and again until users and items both have enough (k-core)."""
    min_item_events: int = 1
    """Drop items with fewer events, likewise."""
    session_gap_seconds: float | None = None
    """Number each user's sessions, parted by pauses of more than this, in the column session."""
    item_order: Literal["key", "first-time", "count"] = "key"
    """Item ids from 1 by sorted key, by first event, or by falling count."""

    def __post_init__(self):
        for name in ("max_events_per_day", "min_user_events", "min_item_events"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1; try {name}=1")
        for name in ("duplicate_gap_seconds", "session_gap_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1e11:
                raise ValueError(f"{name}={value} is outside 0 to 1e11 seconds; try {name}=1800")
        for name in ("earliest", "latest"):
            if getattr(self, name) is not None:
                moment_us(getattr(self, name))
        if (self.min_column is None) != (self.min_value is None):
            raise ValueError(f"min_column={self.min_column} and min_value={self.min_value}; give both or neither")
        if self.min_share_of is not None and self.min_column is None:
            raise ValueError(f"min_share_of={self.min_share_of} without min_column; give the column that is the part")


class StepCount(NamedTuple):
    """What a step left."""

    step: str
    n_events: int
    n_users: int
    n_items: int
    n_removed: int
    """Events that were there before the step and are not after it."""


class Cleaned(NamedTuple):
    """Events that went through the steps."""

    events: nw.LazyFrame
    rejected: nw.LazyFrame
    """The events that the first step, which drops invalid ones, removed, each with its `reason`."""
    counts: list[StepCount]
    """First what was found, then what each step left."""


class Prepared(NamedTuple):
    """A store as it lies on disk, and how it came about."""

    store: SequenceStore
    counts: list[StepCount]
    split_description: str


class _Step(NamedTuple):
    name: str
    apply: Callable[[nw.LazyFrame], nw.LazyFrame]
    remedy: str


def clean_events(
    events: nw.LazyFrame,
    config: StepsConfig,
    engine: Engine,
    *,
    report: Callable[[StepCount], None] = lambda count: None,
) -> Cleaned:
    """The events after the steps of `config`; `report` is told of each as soon as it is done.

    Raises:
      InputError: a step leaves no event; the message names it.
    """
    for name, dtype in events.collect_schema().items():
        if name in ("user_id", "item_id") and not (dtype.is_integer() or dtype == nw.String):
            raise InputError(f"{name} is {dtype}, ids are integers or text; cast the column")
    counts = [_count("found", events, None)]
    report(counts[0])
    if counts[0].n_events == 0:
        raise InputError("there are no events to prepare; give a table with at least one row")
    kept = engine.keep(
        steps.with_reason(
            events,
            earliest_us=None if config.earliest is None else moment_us(config.earliest),
            latest_us=None if config.latest is None else moment_us(config.latest),
        )
    )
    rejected = engine.keep(kept.filter(~nw.col("reason").is_null()))
    for step in [_Step("valid", _without_reason, _valid_remedy(config)), *_steps_of(config, engine)]:
        after = engine.keep(step.apply(kept))
        engine.forget(kept)
        kept = after
        counts.append(_count(step.name, kept, counts[-1]))
        report(counts[-1])
        if counts[-1].n_events == 0:
            raise InputError(
                f"the step {step.name!r} leaves none of {counts[-2].n_events:,} events of {counts[-2].n_users:,} users "
                f"and {counts[-2].n_items:,} items; {step.remedy}"
            )
    return Cleaned(kept, rejected, counts)


def _without_reason(judged: nw.LazyFrame) -> nw.LazyFrame:
    return judged.filter(nw.col("reason").is_null()).drop("reason")


def _valid_remedy(config: StepsConfig) -> str:
    bounds = [f"{name}={getattr(config, name)}" for name in ("earliest", "latest") if getattr(config, name) is not None]
    return " or ".join(["check the columns of user, item and time", *(f"change {bound}" for bound in bounds)])


def _steps_of(config: StepsConfig, engine: Engine) -> list[_Step]:
    found = []
    if config.drop_duplicates:
        found.append(_Step("duplicates", steps.drop_duplicates, "set drop_duplicates=False"))
    if config.duplicate_gap_seconds is not None:
        near = functools.partial(steps.drop_near_duplicates, gap_us=seconds_to_us(config.duplicate_gap_seconds))
        remedy = f"give a gap below duplicate_gap_seconds={config.duplicate_gap_seconds:g}"
        found.append(_Step("near duplicates", near, remedy))
    if config.max_events_per_day is not None:
        users = functools.partial(steps.drop_implausible_users, max_events_per_day=config.max_events_per_day)
        remedy = f"allow more than max_events_per_day={config.max_events_per_day}"
        found.append(_Step("implausible users", users, remedy))
    if config.min_column is not None and config.min_value is not None:
        enough = functools.partial(
            steps.keep_at_least, column=config.min_column, minimum=config.min_value, share_of=config.min_share_of
        )
        whole = "" if config.min_share_of is None else f" of {config.min_share_of}"
        remedy = f"lower min_value={config.min_value:g} of {config.min_column}{whole}"
        found.append(_Step(f"{config.min_column} at least {config.min_value:g}{whole}", enough, remedy))
    if config.collapse_repeats:
        found.append(_Step("immediate repeats", steps.collapse_repeats, "set collapse_repeats=False"))
    if config.min_user_events > 1 or config.min_item_events > 1:
        core = functools.partial(
            steps.k_core,
            min_user_events=config.min_user_events,
            min_item_events=config.min_item_events,
            engine=engine,
        )
        remedy = f"lower min_user_events={config.min_user_events} or min_item_events={config.min_item_events}"
        found.append(_Step(f"{config.min_user_events}-{config.min_item_events}-core", core, remedy))
    if config.session_gap_seconds is not None:
        gap_us = seconds_to_us(config.session_gap_seconds)
        found.append(_Step("sessions", functools.partial(steps.number_sessions, gap_us=gap_us), ""))
    return found


def store_of(events: nw.LazyFrame, config: StepsConfig, engine: Engine, titles: pa.Table | None) -> SequenceStore:
    """Cleaned events as an in-memory store: users by sorted key, items in `config.item_order`, events by time.

    All columns but the ids and event_index stand beside the items.
    """
    item_numbers = engine.keep(steps.number_items(events, config.item_order))
    vocabulary = collect(item_numbers.sort("item"))
    users = collect(history_lengths(events))
    columns = [name for name in steps.column_names(events) if name not in ("user_id", "item_id", "event_index")]
    ordered = collect(steps.ordered_events(events, item_numbers, columns))
    engine.forget(item_numbers)
    return gathered_store(
        vocabulary, users, ordered, titles, columns={name: event_column(name, ordered[name]) for name in columns}
    )


def event_column(name: str, values: pa.ChunkedArray) -> np.ndarray:
    """The column as a store holds it: where values are missing, float64 with NaN for them."""
    if values.null_count:
        if not (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        ):
            raise InputError(f"event column {name!r} is {values.type}, a store holds numbers; leave the column out")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        try:
            return values.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise InputError(
                f"event column {name!r} has missing values and integers beyond 2^53; fill in what is missing"
            ) from error
    return values.to_numpy()


def prepare_store(
    source: Source,
    directory: Path | str,
    config: StepsConfig,
    split: SplitConfig,
    *,
    report: Callable[[StepCount], None] = lambda count: None,
    facts: dict[str, Any] | None = None,
) -> Prepared:
    """The store of `source` after the steps of `config`, written to `directory` and opened there, whole or not at all.

    The manifest's `preparation` says what each step left, the configs, the split's hash, and `facts`; events that
    are not valid are in rejected.parquet, each with its reason.
    """
    engine = engine_of(source)
    cleaned = clean_events(source.events, config, engine, report=report)
    store = store_of(cleaned.events, config, engine, source.titles)
    found = split_store(store, split)
    preparation = {
        "source": source.name,
        "steps": dataclasses.asdict(config),
        "counts": [count._asdict() for count in cleaned.counts],
        "split": {**dataclasses.asdict(split), "description": found.description, "hash": found.content_hash},
        **({"categories": dict(source.categories)} if source.categories else {}),
        **(facts or {}),
    }
    rejected = collect(cleaned.rejected.sort("event_index"))
    written = write_store(directory, store, preparation=preparation, side_tables={"rejected": rejected})
    return Prepared(written, cleaned.counts, found.description)


def format_counts(counts: Sequence[StepCount]) -> str:
    """One line a step.

    >>> print(format_counts([StepCount("found", 1200, 30, 40, 0), StepCount("duplicates", 1000, 30, 40, 200)]))
    found                        1,200 events       30 users       40 items
    duplicates                   1,000 events       30 users       40 items  (200 events removed)
    """
    return "\n".join(
        f"{count.step:<24}{count.n_events:>10,} events {count.n_users:>8,} users {count.n_items:>8,} items"
        + (f"  ({count.n_removed:,} events removed)" if count.n_removed else "")
        for count in counts
    )


def _count(step: str, events: nw.LazyFrame, before: StepCount | None) -> StepCount:
    # Missing ids count as no user and no item.
    row = collect(
        events.select(
            nw.len().alias("n_events"),
            *(
                (nw.col(key).n_unique() - nw.col(key).is_null().any().cast(nw.Int64)).alias(name)
                for key, name in (("user_id", "n_users"), ("item_id", "n_items"))
            ),
        )
    ).to_pylist()[0]
    n_events, n_users, n_items = (int(row[name] or 0) for name in ("n_events", "n_users", "n_items"))
    return StepCount(step, n_events, n_users, n_items, 0 if before is None else before.n_events - n_events)


def seconds_to_us(seconds: float) -> int:
    return round(seconds * steps.MICROSECONDS_PER_SECOND)
