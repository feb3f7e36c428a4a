"""The data of a run: prepared, split, and made into training batches and queries."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from tyro.conf import OmitArgPrefixes

from seqrec import phases, runs, runtime
from seqrec.baselines.popularity import training_counts
from seqrec.config import check_at_least, check_fields
from seqrec.data.batches import EventFields, Queries, Share, TrainingBatches, Windows, make_queries, training_batches
from seqrec.data.engagement import EngagementConfig
from seqrec.data.engagement import engagement as read_engagement
from seqrec.data.event_features import EventFeatureConfig, features_hash, position_features
from seqrec.data.events import prepare
from seqrec.data.paths import as_input_error
from seqrec.data.ragged import distinct, rows_at
from seqrec.data.repeated_targets import MaskSeen, RepeatedTargets, choose_masking, seen_before
from seqrec.data.sources import Columns, Dataset, Ties, TimeUnit, read_source
from seqrec.data.split_config import SplitConfig, choose_split, split_store, stored_split
from seqrec.data.splits import Split, target_positions
from seqrec.data.steps import column_names
from seqrec.data.store import SequenceStore, check_content, open_store, read_preparation
from seqrec.data.user_samples import sampled_users
from seqrec.runtime import log
from seqrec.sharding import gather_rows, n_data_shards, row_share
from seqrec.types import InputError, Part, Times

NO_ENGAGEMENT = EngagementConfig()
NO_PREPARATION: Mapping[str, Any] = MappingProxyType({})
NO_SAMPLES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class DataConfig:
    """Which data to read, and what the model sees of it."""

    dataset: Literal[Dataset, "store"] = "movielens-demo"
    """Format of the data: a named public data set, events for your own table, or store for a directory that
    prepare_data.py wrote. movielens-demo needs no file."""
    data_path: Path | None = None
    """File of events (may be compressed with gzip), or directory of a store, which may be an s3:// or gs:// address."""
    shards: Literal["all", "own"] = "all"
    """Which shards of a store each of several processes reads in training. all: all of them. own: process p of P reads
    shards p, p+P, and so on, fetches only these from a bucket, and makes its rows of each batch of their users."""
    columns: tuple[str, str, str] = Columns()
    """Names of the user, item and time columns of an events file. Give none as the third if there is no time: events
    then have the order of the file."""
    time_unit: TimeUnit = "auto"
    """Unit of a numeric time column; auto chooses the unit that gives dates from 1980 to 2100."""
    ties: Ties = "auto"
    """Order of a user's events at equal times. file: as in the file. hash: by a hash of user, time and item, which is
    as good as random. auto: hash if such events are in the order of item ids far more often than by chance, as in a
    file sorted by user and item; otherwise file. Has no effect on a store, whose events are ordered already."""
    split: OmitArgPrefixes[SplitConfig] = field(default_factory=SplitConfig)
    max_length: int = 200
    """Number of latest events of a history that the model reads."""
    whole_histories: bool = True
    """Train on the whole history of each user, cut into windows of max-length; otherwise only on the latest window."""
    random_crops: bool = False
    """Cut histories longer than max-length at random positions, drawn again each epoch."""
    mask_seen: MaskSeen = "auto"
    """Whether items that the user has seen are excluded from the ranking. auto excludes them unless more than a fifth
    of the validation targets were seen before, as where tracks are played again; --no-mask-seen is short for no."""
    repeated_targets: RepeatedTargets = "exclude"
    """How to treat targets that the user has seen before, where seen items are masked: leave them out of all figures
    (exclude), or count them as misses (miss)."""
    times: Times = "none"
    """Timestamps that the model reads: none; those of the history; or also the time of the predicted event (query),
    which makes results time-aware and not comparable to others."""
    features: OmitArgPrefixes[EventFeatureConfig] = field(
        default_factory=EventFeatureConfig, metadata={"formerly": "behaviour"}
    )
    verify_data: bool = True
    """Compare the store's content with its hash before a run; --no-verify-data saves one pass over a large store."""
    validate_users: int = 0
    """Number of users to validate on, the same in every run: those whose keys have the smallest hashes. 0 validates on
    all. Where it pays: validation of many users after few steps."""
    test_users: int = 0
    """Number of users to test on, chosen in the same way; figures are labelled as those of a sample. 0 tests on all."""
    batch_size: int = 32
    """Average number of histories in a batch; short ones are packed into one row."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "max_length", "batch_size")
        check_at_least(self, 0, "validate_users", "test_users")
        if self.dataset != "store":
            choose_split(self.split)
        if self.shards == "own":
            if self.dataset != "store":
                raise ValueError(f"shards=own with dataset={self.dataset}; prepare a store, and use dataset=store")
            if self.features.is_read or self.split.holds_continuations:
                raise ValueError(
                    "shards=own goes with neither event_features and user_features nor several items held out to "
                    "generate, for which all shards are read; use shards=all"
                )
        if self.features.is_read and self.split.holds_continuations:
            raise ValueError("items are generated without events; leave event_features and user_features out")
        if self.times != "none" and self.split.holds_continuations:
            raise ValueError(
                f"times={self.times}, but items are generated without times; use times=none, or window_target=last"
            )


class Task(NamedTuple):
    """Prepared data: what a model learns from, and the queries that validate and test it."""

    config: DataConfig
    store: SequenceStore
    split: Split
    train: TrainingBatches
    valid: Queries
    test: Queries
    mask_seen: bool
    """Whether seen items are no candidates."""
    n_repeated_targets: int
    """Test targets that their user had seen before."""
    counts: Int[np.ndarray, " n_items_plus_1"]
    """How often each item occurs in training; see `training_counts`."""
    samples: Mapping[str, str] = NO_SAMPLES
    """"validation" and "test" -> which users are asked there, in words, where these are not all."""

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.store.n_items

    @property
    def max_length(self) -> int:
        """Latest items of a history that the model reads."""
        return self.config.max_length

    @property
    def times(self) -> Times:
        """Which timestamps the batches hold."""
        return self.config.times

    @property
    def n_generated(self) -> int | None:
        """How many items a model with a decoder continues each history by; None where only the next is held out."""
        return self.config.split.n_out if self.config.split.holds_continuations else None


class OpenedData(NamedTuple):
    """A run's store, and what it was prepared with."""

    store: SequenceStore
    preparation: Mapping[str, Any]


def open_data(
    run: Path, config: DataConfig, *, engagement: EngagementConfig = NO_ENGAGEMENT, events: Any = None
) -> OpenedData:
    """The run's own store, prepared first unless an earlier start has.

    A store that was prepared beforehand is read where it is. `events` is a pandas, Polars or Arrow frame in place of
    the data path. It too is read only once, so a run is resumed and evaluated without it.
    """

    def prepare_once() -> None:
        if not (run / "store").exists():
            with phases.progress("preparing the data"):
                prepare_store(run / "store", (config, engagement), events=events)

    if config.dataset == "store":
        if config.data_path is None or events is not None:
            raise InputError("store is read from a directory; give its data path, and no frame")
        directory = config.data_path
    else:
        runtime.on_first(prepare_once)
        prepare_once()  # of a run in a bucket, each process has a copy of its own
        directory = run / "store"
    runtime.check_interrupt()
    as_of = runtime.on_first(lambda: runs.started_with(run).get("data", {}).get("content_hash"))
    part = row_share() if config.shards == "own" else Part()
    if config.shards == "own":
        check_parts(run, part)
    with phases.progress("opening the data"):
        store = open_store(directory, as_of=as_of, part=part)
    if config.verify_data:
        with phases.progress("checking the data's hash", store.n_values, unit="values") as phase:
            check_content(store, report=phase)
    preparation = read_preparation(store.directory or directory, as_of=as_of)
    if runtime.on_first(lambda: store.content_hash) != store.content_hash:
        raise InputError(f"{run}: this process read other data than the first; give all of them the same")
    log.info(
        "data        %s: %s users, %s items, %s events",
        config.dataset,
        *(f"{count:,}" for count in ((store.own or store).n_users, store.n_items, (store.own or store).n_events)),
    )
    if store.own is not None:
        log.info(
            "shards      this process reads %d of them, with %s users", len(store.own.shards), f"{store.n_users:,}"
        )
    return OpenedData(store, preparation)


def check_parts(run: Path, part: Part) -> None:
    """Refuses to go on with another number of parts than the run, whose shards are shared out, was started with."""
    started = runtime.on_first(lambda: runs.started_with(run)).get("data", {})
    if (known := started.get("n_parts", part.n_parts)) != part.n_parts:
        raise InputError(
            f"{run}: the run was started with --shards own on {known} processes, and now there are {part.n_parts}, "
            f"which would make other batches; resume it with {known}, or choose another --output"
        )


def open_task(
    run: Path,
    config: DataConfig,
    *,
    seed: int,
    engagement: EngagementConfig = NO_ENGAGEMENT,
    events: Any = None,
    data: OpenedData | None = None,
) -> Task:
    """The run's data, split and made into batches and queries; says what it read.

    `data` is what `open_data` returned; without it, the data is opened here.
    """
    store, preparation = data or open_data(run, config, engagement=engagement, events=events)
    with phases.progress("splitting the data and packing histories"):
        task = make_task(config, store, seed=seed, engagement=engagement, preparation=preparation)
    log.info("split       %s", task.split.description)
    facts: dict[str, Any] = {"content_hash": store.content_hash, "split_hash": task.split.content_hash}
    if config.shards == "own":
        facts["n_parts"] = row_share().n_parts
    if config.features.user_features:
        facts["behaviour_hash"] = features_hash(task.train.fields.features, store)
    runtime.on_first(functools.partial(runs.note_data, run, **facts))
    return task


class OpenedSplit(NamedTuple):
    """The config with the split that auto stands for, how it falls on the store, and a note on the choice or ""."""

    config: DataConfig
    split: Split
    note: str


def open_split(config: DataConfig, store: SequenceStore, preparation: Mapping[str, Any]) -> OpenedSplit:
    """The split of a run with this config, on a store with this `preparation`."""
    chosen = choose_split(config.split, stored_split(preparation) if config.dataset == "store" else None)
    with as_input_error("{error}", ValueError):  # the store's split does not go with other flags
        config = replace(config, split=chosen.config)
    return OpenedSplit(config, split_store(store, config.split), chosen.note)


def share_of(store: SequenceStore) -> Share:
    """The part of each batch that this process makes, of all shards of the store or of its own."""
    part, n_parts = row_share()
    return Share(n_data_shards(), part, n_parts, None if store.own is None else gather_rows)


def make_task(
    config: DataConfig,
    store: SequenceStore,
    *,
    seed: int,
    engagement: EngagementConfig = NO_ENGAGEMENT,
    preparation: Mapping[str, Any] = NO_PREPARATION,
) -> Task:
    """Training batches and queries of a run with this config, this process's share of them.

    `preparation` is what the store was prepared with: the texts of columns of codes, and the split that auto stands
    for. The task's config names the split that is used.
    """
    config, split, note = open_split(config, store, preparation)
    if note:
        log.info("split       %s", note)
    categories = preparation.get("categories", {})
    share = share_of(store)
    fields = EventFields(
        config.times,
        read_engagement(engagement, store, categories=categories),
        position_features(config.features, store, split, seed=seed),
    )
    targets = dict(zip(("validation", "test"), target_positions(store, split), strict=True))
    seen = {part: seen_before(store, positions) for part, positions in targets.items()}
    masking = choose_masking(config.mask_seen, np.concatenate(share.of_all(seen["validation"])))
    if masking.note:
        log.info("mask-seen   %s", masking.note)

    n_seen = {part: share.total(int(each.sum())) for part, each in seen.items()}
    samples = {}

    def queries(part: str, n_users: int) -> Queries:
        positions, miss = targets[part], None
        if masking.mask_seen and config.repeated_targets == "miss":
            miss = seen[part]
        elif masking.mask_seen and n_seen[part]:
            n_all = share.total(len(positions))
            if n_seen[part] == n_all:
                raise InputError(
                    f"all {n_all} {part} targets are items that their users had seen before, and seen items are "
                    "masked; use --no-mask-seen"
                )
            log.info("left out    %s of %s %s targets, seen before", f"{n_seen[part]:,}", f"{n_all:,}", part)
            positions = positions[~seen[part]]
        if n_users:
            users = rows_at(store.offsets, positions)
            n_all = share.total(len(distinct(users)))
            if n_users < n_all:
                is_chosen = np.isin(users, sampled_users(store, users, n=n_users, gather=share.of_all))
                positions, miss = positions[is_chosen], None if miss is None else miss[is_chosen]
                samples[part] = f"a sample of {n_users:,} of {n_all:,} users, by a hash of their keys"
                log.info("%-11s %s", part, samples[part])
        return make_queries(
            store,
            positions,
            max_length=config.max_length,
            batch_size=2 * config.batch_size,
            mask_seen=masking.mask_seen,
            count_as_miss=miss,
            share=share,
            # What queries hold of the predicted events serves side tasks alone.
            fields=fields if engagement.heads else fields._replace(engagement=None),
        )

    valid, test = queries("validation", config.validate_users), queries("test", config.test_users)
    train = training_batches(
        store,
        split,
        max_length=config.max_length,
        batch_size=config.batch_size,
        seed=seed,
        windows=Windows(config.whole_histories, config.random_crops),
        share=share,
        fields=fields,
    )
    counts = training_counts(store, split)
    return Task(config, store, split, train, valid, test, masking.mask_seen, n_seen["test"], counts, samples)


def prepare_store(
    directory: Path, *readers: tuple[DataConfig, EngagementConfig], keep_times: bool = False, events: Any = None
) -> None:
    """Reads the events that the first config names and leaves them as a store, with what any of the readers needs.

    Times are kept where a reader needs them, or with `keep_times` where there are any. A frame of `events` is read in
    place of the data path.
    """
    config = readers[0][0]
    if events is not None and (config.dataset, config.data_path) != ("events", None):
        raise InputError(
            f"a frame of events, and dataset={config.dataset} with data_path={config.data_path}; "
            "take dataset=events without a data path"
        )
    kinds = {name: kind for each, _ in readers for name, kind in each.features.columns.items()}
    texts: dict[str, Sequence[str]] = {name: () for name, kind in kinds.items() if kind == "categories"}
    texts |= {name: () for _, engagement in readers for name in engagement.texts}
    engaged = {name for _, engagement in readers for name in set(engagement.columns) - engagement.texts}
    if clash := sorted(engaged & texts.keys()):
        raise InputError(f"{clash[0]} is read as text, of which no engagement is known; name a column of numbers")
    numbers = sorted((kinds.keys() | engaged) - texts.keys())
    source = read_source(
        config.dataset,
        config.data_path if events is None else events,
        columns=Columns(*config.columns),
        time_unit=config.time_unit,
        extra=numbers,
        categories=texts,
        ties=config.ties,
    )
    if source.ties is not None and not keep_times:  # the store that is read beside this one has said it
        log.info("ties        %s", source.ties)
    has_times = "timestamp_us" in column_names(source.events)
    keep_times = (keep_times and has_times) or any(
        each.split.split == "temporal"
        or each.times != "none"
        or each.features.reads_times
        or engagement.gap_head > 0
        or (engagement.half_life > 0 and has_times)
        for each, engagement in readers
    )
    # Of sessions in two files `part` says whose file each is.
    marks = ["part"] if config.split.split == "marked-users" and config.dataset == "sessions" else []
    prepare(source, directory, keep_times=keep_times, columns=[*texts, *numbers, *marks])
