"""From raw events to a sequence store by the steps that a config names, with what is left counted after each."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

try:
    import narwhals as nw
except ModuleNotFoundError as error:
    raise ImportError(f'{error.name} is missing; run pip install "seqrec[data]"') from error

from seqrec.config import check_at_least, check_between, check_fields
from seqrec.data import steps
from seqrec.data.directories import replacing_directory
from seqrec.data.engines import Engine, Parts, collect, engine_of, n_rows, one_part
from seqrec.data.events import EVENTS_PER_SHARD, gathered_store, source_facts, with_keys
from seqrec.data.moments import moment_us
from seqrec.data.sources import Source
from seqrec.data.split_config import SplitConfig, choose_split, split_store
from seqrec.data.store import SequenceStore, open_store, write_files
from seqrec.data.ties import TIE_HASH
from seqrec.types import InputError


@dataclass(frozen=True)
class StepsConfig:
    """Cleaning steps, applied in this order; those that are not set are skipped, except the first two."""

    earliest: str | None = None
    """ISO date or time (UTC); earlier events are dropped as invalid, like events without user, item or time."""
    latest: str | None = None
    """ISO date or time (UTC); later events are dropped as invalid."""
    drop_duplicates: bool = True
    """Keep one of several events with the same user, item and time: the first in the order of ties."""
    duplicate_gap_seconds: float | None = None
    """Also drop an event that follows the same user's previous event of the same item within this many seconds."""
    max_events_per_day: int | None = None
    """Drop users with more events than this on any single day (UTC), such as bots."""
    min_column: str | None = None
    """Column, such as rating, that must be at least min-value for an event to be kept."""
    min_value: float | None = None
    """Smallest value of min-column, or of min-column / min-share-of, that is kept."""
    min_share_of: str | None = None
    """Divide min-column by this column before comparing it to min-value, such as the track length for a played time."""
    collapse_repeats: bool = False
    """Keep only the first of several events in a row of the same user and item; the column run_length counts them."""
    min_user_events: int = 1
    """Drop users with fewer events, and repeat this and min-item-events until both hold (k-core)."""
    min_item_events: int = 1
    """Drop items with fewer events, and repeat this and min-user-events until both hold (k-core)."""
    session_gap_seconds: float | None = None
    """Number each user's sessions in a column session; a pause longer than this starts a new session."""
    sessions_as_users: bool = False
    """Make each session a user of its own before users and items with few events are dropped; the second session of
    user ann becomes ann:1."""
    item_order: Literal["key", "first-time", "count"] = "key"
    """How item ids 1, 2, ... are assigned: by sorted key, by time of the first event, or by frequency, most frequent
    first."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "max_events_per_day", "min_user_events", "min_item_events")
        check_between(self, 0, 1e11, "duplicate_gap_seconds", "session_gap_seconds")
        for name in ("earliest", "latest"):
            if getattr(self, name) is not None:
                moment_us(getattr(self, name))
        if (self.min_column is None) != (self.min_value is None):
            raise ValueError(f"min_column={self.min_column} and min_value={self.min_value}; give both or neither")
        if self.sessions_as_users and self.session_gap_seconds is None:
            raise ValueError("sessions_as_users without session_gap_seconds; give the pause that parts sessions")
        if self.min_share_of is not None and self.min_column is None:
            raise ValueError(f"min_share_of={self.min_share_of} without min_column; give the column that is the part")


class StepCount(NamedTuple):
    """What a step left.

    >>> print(StepCount("duplicates", 1000, 30, 40, 200))
    duplicates                   1,000 events       30 users       40 items  (200 events removed)
    """

    step: str
    n_events: int
    n_users: int
    n_items: int
    n_removed: int
    """Events that were there before the step and are not after it."""

    def __str__(self) -> str:
        left = f"{self.step:<24}{self.n_events:>10,} events {self.n_users:>8,} users {self.n_items:>8,} items"
        return f"{left}  ({self.n_removed:,} events removed)" if self.n_removed else left


class Cleaned(NamedTuple):
    """Events that went through the steps."""

    parted: Parts
    """The events without sessions, with numbers in the order of the ids for ids of text."""
    keys: dict[str, nw.LazyFrame]
    """For user_id and item_id, if numbered: each number in a column of that name, and its `key`."""
    rejected: nw.LazyFrame
    """The events that the first step, which drops invalid ones, removed, each with its `reason`."""
    counts: list[StepCount]
    """First what was found, then what each step left."""
    session_gap_us: int | None = None
    """The pause that parts the sessions of `events`; those of `parted` are numbered once they are sorted."""

    @property
    def events(self) -> nw.LazyFrame:
        """The events with the ids that the data has."""
        events = self.parted.whole
        if self.session_gap_us is not None:
            events = steps.number_sessions(events, gap_us=self.session_gap_us)
        for column in self.keys:
            events = with_keys(events, column, self.keys)
        return events

    @property
    def columns(self) -> list[str]:
        """All columns of `parted` but the ids and those of the order in the file."""
        internal = ("user_id", "item_id", "event_index", TIE_HASH)
        return [name for name in steps.column_names(self.parted.whole) if name not in internal]


class Prepared(NamedTuple):
    """A store as it lies on disk, and how it came about."""

    store: SequenceStore
    counts: list[StepCount]
    split_description: str


class _Step(NamedTuple):
    name: str
    change: Callable[[nw.LazyFrame, Engine, steps.Tally | None], steps.Change]
    """What it does to events, of all or of some users, once all events are known; with their tally if it `tallies`."""
    remedy: str
    sorts_users: bool = False
    """Whether it sorts each user's events, which is done in parts; what it leaves is held."""
    keeps_ids: bool = False
    """Whether each user keeps an event of each of their items, so that there are as many users and items as before."""
    tallies: bool = False
    """Whether it reads the tally of all events; what it leaves is computed once and held."""
    makes_users: bool = False
    """Whether each session that it numbers becomes a user."""


def clean_events(
    events: nw.LazyFrame,
    config: StepsConfig,
    engine: Engine,
    *,
    parts: Sequence[nw.LazyFrame] = (),
    report: Callable[[StepCount], None] = lambda count: None,
) -> Cleaned:
    """The events after the steps of `config`; `report` is told of each as soon as it is done.

    `parts` are those of the source, if it has any.

    Raises:
      InputError: a step leaves no event; the message names it.
    """
    for name, dtype in events.collect_schema().items():
        if name in ("user_id", "item_id") and not (dtype.is_integer() or dtype == nw.String):
            raise InputError(f"{name} is {dtype}, ids are integers or text; cast the column")
    counts = [StepCount("found", *steps.sizes_of(steps.totals_of(events)), 0)]
    report(counts[0])
    if counts[0].n_events == 0:
        raise InputError("there are no events to prepare; give a table with at least one row")
    bounds = {"earliest": config.earliest, "latest": config.latest}
    bounds_us = {f"{name}_us": None if bound is None else moment_us(bound) for name, bound in bounds.items()}
    judged = steps.with_reason(events, **bounds_us)
    rejected = engine.keep(judged.filter(~nw.col("reason").is_null()).drop(TIE_HASH, strict=False))
    n_rejected = n_rows(rejected)

    def drop_invalid(part: nw.LazyFrame) -> nw.LazyFrame:
        return steps.with_reason(part, **bounds_us).filter(nw.col("reason").is_null()).drop("reason")

    # A step that filters by itself, or by a small table, is left to what comes after it; another is computed, in parts
    # where all events would exceed the memory, and `held` is then the only table of all events that there is.
    is_timed = "timestamp_us" in steps.column_names(events)
    given = [f"change {name}={bound}" for name, bound in bounds.items() if bound is not None]
    remedy = " or ".join(["check the columns of user, item and time", *given])
    pipeline = [
        _Step("valid", lambda *_: drop_invalid if n_rejected else _same, remedy),
        *_steps_of(config, is_timed=is_timed),
    ]
    keys: dict[str, nw.LazyFrame] = {}
    kept, is_parted, held = Parts(events, parts or [events]), bool(parts), None
    tally: steps.Tally | None = None
    for place, (step, following) in enumerate(zip(pipeline, [*pipeline[1:], None], strict=True)):
        computed = []
        if not is_parted and (step.sorts_users or step.tallies):
            kept, is_parted = engine.partition(kept.whole, counts[-1].n_events), True
            if len(kept.parts) > 1:
                computed.append(kept.whole)
        before = kept.whole
        change = step.change(before, engine, tally)
        kept = kept.map(change)
        is_changed = kept.whole is not before
        if step.sorts_users or (step.tallies and is_changed):
            kept = engine.keep_parts(kept.parts)
            computed.append(kept.whole)
        if step.makes_users:
            kept, is_parted = one_part(steps.sessions_as_users(with_keys(kept.whole, "user_id", keys))), False
        if place == 0 or step.makes_users:
            number = _numbering(kept.whole, keys, engine)
            kept = kept.map(number)
            if number is not _same and not (following and following.sorts_users):
                kept = engine.keep_parts(kept.parts)
                computed.append(kept.whole)
        for table in computed:
            if held is not None:
                engine.forget(held)
            held = table
        last = counts[-1]
        # Read by the step that follows; it counts what this one left, too.
        tally = steps.tally(kept.whole, engine) if following and following.tallies else None
        if is_changed:
            sizes = _sizes(step, change, kept.whole, last, tally)
            counts.append(StepCount(step.name, *sizes, last.n_events - sizes.n_events))
        else:
            counts.append(last._replace(step=step.name, n_removed=0))
        report(counts[-1])
        if counts[-1].n_events == 0:
            raise InputError(
                f"the step {step.name!r} leaves none of {last.n_events:,} events of {last.n_users:,} users "
                f"and {last.n_items:,} items; {step.remedy}"
            )
    if not is_parted:
        kept = engine.partition(kept.whole, counts[-1].n_events)
    pause = None if config.sessions_as_users else config.session_gap_seconds
    return Cleaned(kept, keys, rejected, counts, None if pause is None else steps.seconds_to_us(pause))


def _sizes(
    step: _Step, change: steps.Change, events: nw.LazyFrame, before: StepCount, tally: steps.Tally | None
) -> steps.Sizes:
    """The sizes of the `events` that a step left; their ids are counted only where nothing else tells."""
    if isinstance(change, steps.Core):
        return change.sizes
    if tally is not None:
        return steps.sizes_of(tally.totals)
    if step.keeps_ids:
        return steps.Sizes(n_rows(events), before.n_users, before.n_items)
    return steps.sizes_of(steps.totals_of(events))


def _same(events: nw.LazyFrame) -> nw.LazyFrame:
    """The events, as the change of a step that changes nothing."""
    return events


def _numbering(events: nw.LazyFrame, keys: dict[str, nw.LazyFrame], engine: Engine) -> steps.Change:
    """The change that puts numbers in place of ids of text, `_same` without such ids; notes the numbers in `keys`.

    Numbers join and sort in a fraction of the time.
    """
    schema = events.collect_schema()
    tables = {}
    for column in (name for name in ("user_id", "item_id") if schema[name] == nw.String):
        distinct = events.select(key=nw.col(column)).unique()
        numbers = distinct.with_row_index("_number", order_by="key").with_columns(nw.col("_number").cast(nw.Int64))
        tables[column] = engine.keep(numbers)
        keys[column] = tables[column].rename({"_number": column})

    def number(part: nw.LazyFrame) -> nw.LazyFrame:
        for column, table in tables.items():
            part = part.join(table, left_on=column, right_on="key", how="inner").drop(column)
            part = part.rename({"_number": column}).select(schema.names())
        return part

    return number if tables else _same


def _steps_of(config: StepsConfig, *, is_timed: bool) -> Iterator[_Step]:
    gap, per_day = config.duplicate_gap_seconds, config.max_events_per_day
    column, least = config.min_column, config.min_value
    if config.drop_duplicates:
        yield _Step(
            "duplicates",
            lambda *_: functools.partial(steps.drop_duplicates, keep_gaps=gap is not None),
            "set drop_duplicates=False",
            sorts_users=is_timed,
            keeps_ids=True,
        )
    if gap is not None:
        yield _Step(
            "near duplicates",
            lambda *_: functools.partial(steps.drop_near_duplicates, gap_us=steps.seconds_to_us(gap)),
            f"give a gap below duplicate_gap_seconds={gap:g}",
            sorts_users=not config.drop_duplicates,
            keeps_ids=True,
        )
    if per_day is not None:
        yield _Step(
            "implausible users",
            lambda events, engine, _: steps.drop_implausible_users(events, max_events_per_day=per_day, engine=engine),
            f"allow more than max_events_per_day={per_day}",
        )
    if column is not None and least is not None:
        whole = "" if config.min_share_of is None else f" of {config.min_share_of}"
        yield _Step(
            f"{column} at least {least:g}{whole}",
            lambda *_: functools.partial(
                steps.keep_at_least, column=column, minimum=least, share_of=config.min_share_of
            ),
            f"lower min_value={least:g} of {column}{whole}",
        )
    if config.collapse_repeats:
        yield _Step(
            "immediate repeats",
            lambda *_: steps.collapse_repeats,
            "set collapse_repeats=False",
            sorts_users=True,
            keeps_ids=True,
        )
    pause = config.session_gap_seconds
    if pause is not None and config.sessions_as_users:
        yield _Step(
            "sessions",
            lambda *_: functools.partial(steps.number_sessions, gap_us=steps.seconds_to_us(pause)),
            "",
            sorts_users=True,
            makes_users=True,
        )
    minima = {name: getattr(config, name) for name in ("min_user_events", "min_item_events")}
    if max(minima.values()) > 1:
        yield _Step(
            "-".join(map(str, [*minima.values(), "core"])),
            lambda events, engine, tally: steps.k_core(events, **minima, engine=engine, tallied=tally),
            "lower " + " or ".join(f"{name}={least}" for name, least in minima.items()),
            tallies=True,
        )
    if pause is not None and not config.sessions_as_users:
        # Numbered as the store is written, in whose order they are counted off.
        yield _Step("sessions", lambda *_: functools.partial(steps.require_times, option="session gap"), "")


def stages(config: StepsConfig) -> list[str]:
    """What `prepare_store` goes through: what it reports, in that order, and the writing of the store."""
    return ["found", "valid", *(step.name for step in _steps_of(config, is_timed=True)), "store"]


def prepare_store(
    source: Source,
    directory: Path | str,
    config: StepsConfig,
    split: SplitConfig,
    events_per_shard: int = EVENTS_PER_SHARD,
    *,
    report: Callable[[StepCount], None] = lambda count: None,
) -> Prepared:
    """The store of `source` after the steps of `config`, written to `directory` and opened there, whole or not at all.

    The manifest's `preparation` says what each step left, the configs, the split's hash, how ties in time are ordered;
    events that are not valid are in rejected.parquet, each with its reason. More than `events_per_shard` events lie in
    shards of about so many.
    """
    engine, split = engine_of(source), choose_split(split).config
    if events_per_shard < 1:
        raise InputError(f"events_per_shard={events_per_shard} is below 1; try events_per_shard={EVENTS_PER_SHARD}")
    with replacing_directory(directory) as fresh, contextlib.closing(engine):
        cleaned = clean_events(source.events, config, engine, parts=source.parts, report=report)
        store = gathered_store(
            cleaned.parted,
            engine,
            source,
            columns=cleaned.columns,
            item_order=config.item_order,
            keys=cleaned.keys,
            session_gap_us=cleaned.session_gap_us,
            directory=fresh,
            events_per_shard=events_per_shard,
        )
        rejected = collect(cleaned.rejected.sort("event_index"))
        # What follows needs the memory, and the events no more.
        engine.close()
        store_split = split_store(store, split)
        preparation = {
            "source": source.name,
            "steps": dataclasses.asdict(config),
            "counts": [count._asdict() for count in cleaned.counts],
            "split": {
                **dataclasses.asdict(split),
                "description": store_split.description,
                "hash": store_split.content_hash,
            },
            **source_facts(source),
        }
        write_files(fresh, store, preparation=preparation, side_tables={"rejected": rejected})
    return Prepared(open_store(directory), cleaned.counts, store_split.description)
