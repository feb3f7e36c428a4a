"""Features of events and users, as codes and numbers for each position of a batch."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Float32, Int32

from seqrec.config import check_above, check_fields
from seqrec.data.feature_values import Form, Places, PositionFeature, Read, features_at, name_and_kind
from seqrec.data.features import deciles, read_user_features, shuffled_feature
from seqrec.data.gaps import N_GAP_BUCKETS, gap_buckets, seconds_since_previous
from seqrec.data.ragged import ranges, rows_at
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.data.tables.columns import MAX_CATEGORIES
from seqrec.types import InputError

EventKind = Literal["categories", "number", "buckets", "waves"]
EVENT_KINDS: tuple[str, ...] = get_args(EventKind)
OF_TIMES = ("gap", "hour", "weekday", "session")
"""Features that are made of an event's time, and of the time of the same user's event before it."""
HOUR, DAY = 3_600_000_000, 86_400_000_000
"""In microseconds."""

Numbers = Callable[[SequenceStore, Places], np.ndarray]
"""`numbers(store, places)`: float64, NaN for unknown."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EventFeatureConfig:
    """Features of events and users that the model reads in addition to item ids."""

    event_features: tuple[str, ...] = ()
    """Event features to read: columns of the data's events, or gap (time since the previous event), hour, weekday and
    session (whether an event opens one), which are computed from times. Append :categories, :number, :buckets or :waves
    to choose the encoding, such as played_share:buckets."""
    session_gap_minutes: float = 30.0
    """For the event feature session: a pause longer than this starts a new session."""
    shuffled_event_features: tuple[str, ...] = ()
    """Event features to shuffle between events, as a placebo: a gain that survives shuffling is not due to the feature.
    """

    user_features: tuple[str, ...] = ()
    """User features to read: columns of the user feature files. Append :categories, :number, :buckets or :vector to
    choose the encoding."""
    user_feature_files: tuple[Path, ...] = ()
    """Files of user features: Parquet, CSV or JSON Lines with one row per user and a column user of their ids; or .npy
    with one vector per user."""
    shuffled_user_features: tuple[str, ...] = ()
    """User features to shuffle between users, as a placebo: a gain that survives shuffling is not due to the feature.
    """

    def __post_init__(self):
        check_fields(self)
        check_above(self, 0, "session_gap_minutes")
        check_names(self.event_features, self.shuffled_event_features, "event_features")
        check_names(self.user_features, self.shuffled_user_features, "user_features")
        if self.user_feature_files and not self.user_features:
            raise ValueError("user_feature_files, but no user_features; name the columns to read")

    @property
    def is_read(self) -> bool:
        return bool(self.event_features or self.user_features)

    @property
    def reads_times(self) -> bool:
        return any(name.partition(":")[0] in OF_TIMES for name in self.event_features)

    @property
    def columns(self) -> dict[str, str]:
        """The event columns that are read, with the kind that each name gives, or ""."""
        parts = (name.partition(":") for name in self.event_features)
        return {name: kind for name, _, kind in parts if name not in OF_TIMES}


def check_names(requested: Sequence[str], shuffled: Sequence[str], field: str) -> None:
    """Refuses a name that is requested twice, and one that is shuffled but not requested."""
    names = [name.partition(":")[0] for name in requested]
    if len(set(names)) < len(names):
        raise ValueError(f"{field} has a name twice: {' '.join(requested)}; give each once")
    if unknown := sorted(set(shuffled) - set(names)):
        raise ValueError(
            f"shuffled_{field} names {unknown[0]}, which is not in {field} ({' '.join(names) or 'empty'}); add it there"
        )


def position_features(
    config: EventFeatureConfig, store: SequenceStore, split: Split, *, seed: int = 0
) -> tuple[PositionFeature, ...]:
    """The features of events and users that the config names; `seed` shuffles the placebos."""
    return (*event_features(config, store, split, seed=seed), *user_features(config, store, split, seed=seed))


def user_features(
    config: EventFeatureConfig, store: SequenceStore, split: Split, *, seed: int = 0
) -> tuple[PositionFeature, ...]:
    """The features of users that the config names, the same at all of a user's events; see `read_user_features`.

    For a user without a row, or of another store, the features are unknown.
    """
    is_train_user = np.append(False, split.train_stop > store.offsets[:-1])
    features = []
    for feature in read_user_features(config.user_features, store, config.user_feature_files, trained=is_train_user):
        if feature.name in config.shuffled_user_features:
            feature = shuffled_feature(feature, trained=is_train_user, seed=seed)
        form: Form = "categories" if feature.categories else "numbers"
        values, size = feature.values, len(feature.categories)
        if not size:
            values, size = np.where(feature.known[:, None], values, np.float32(np.nan)), values.shape[1]
        features.append(PositionFeature(f"user {feature.name}", form, size, _of_users(store.user_keys, values)))
    return tuple(features)


def _of_users(keys: np.ndarray, values: Int32[np.ndarray, "n width"] | Float32[np.ndarray, "n width"]) -> Read:
    """Reads what the user of each event has: row i + 1 of `values` is that of `keys[i]`, row 0 that of other users."""

    def read(store: SequenceStore, places: Places) -> np.ndarray:
        users = rows_at(store.offsets, places)
        if store.user_keys is keys:
            return values[1 + users]
        # Another store has its users in other rows.
        rows = pc.index_in(pa.array(store.user_keys[users]), value_set=pa.array(keys))
        return values[1 + pc.fill_null(rows, -1).to_numpy()]

    return read


def features_hash(features: Sequence[PositionFeature], store: SequenceStore) -> str:
    """sha256 of the features of each user's first event, which differs if the user files differ."""
    digest = hashlib.sha256()
    first = np.asarray(store.offsets[:-1])[np.diff(store.offsets) > 0]
    for name, values in features_at(features, store, first).items():
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def event_features(
    config: EventFeatureConfig, store: SequenceStore, split: Split, *, seed: int = 0
) -> tuple[PositionFeature, ...]:
    """The event features that the config names: columns of the store's events, or computed from times.

    The type of a column gives its kind: 32-bit integers, in which text is stored, and booleans are categories, all
    other columns are numbers. The name may give another kind. A feature depends on one event and the event before it
    only, so it does not change with the batch or the window. Scales, deciles and categories are computed from the
    training events: a category that none of them has is unknown, as are NaN, a code below 0, and the gap before a
    user's first event.

    Raises:
      InputError: the store has no such column, or no times; a kind does not fit; or no event has a value.
    """
    if not config.event_features:
        return ()
    train_positions = ranges(store.offsets[:-1], split.train_stop - store.offsets[:-1])
    features = []
    for flag in config.event_features:
        name, kind = name_and_kind(flag, EVENT_KINDS, "event", likely="number")
        make = _of_times if name in OF_TIMES else _of_column
        feature = make(name, kind, config, store, train_positions)
        if name in config.shuffled_event_features:
            feature = feature._replace(read=_shuffled(feature.read, store.n_events, seed))
        what = f"{feature.size:,} categories" if feature.form == "categories" else feature.form
        logger.info("event       %s: %s%s", name, what, ", shuffled" * (name in config.shuffled_event_features))
        features.append(feature)
    return tuple(features)


def _shuffled(read: Read, n_events: int, seed: int) -> Read:
    """Reads the values of other events, by a fixed permutation."""
    order = np.random.default_rng(seed).permutation(n_events)
    return lambda store, places: read(store, order[places])


def _of_times(
    name: str, kind: str, config: EventFeatureConfig, store: SequenceStore, train_positions: Places
) -> PositionFeature:
    if "timestamp_us" not in store.columns:
        raise InputError(
            f"event feature {name!r} is computed from times, but the store has no timestamp_us; prepare it with times"
        )
    if name == "gap" and kind in ("", "buckets"):
        return PositionFeature("event gap", "categories", N_GAP_BUCKETS, gap_buckets)
    if name == "gap" and kind in ("number", "waves"):
        return _scaled("event gap", kind, _log_gaps, store, train_positions)
    if kind not in ("", "categories"):
        raise InputError(f"event feature {name}:{kind} is computed from times and has only categories; write {name}")
    if name == "session":

        def opens_session(store: SequenceStore, places: Places) -> Int32[np.ndarray, "n 1"]:
            """2 where an event opens a session, as a user's first one does, else 1."""
            gaps = seconds_since_previous(store, places)
            return np.where(gaps <= 60 * config.session_gap_minutes, 1, 2).astype(np.int32)[:, None]

        return PositionFeature("event session", "categories", 2, opens_session)
    # 1970 began on a Thursday: Monday is 1.
    unit, n, first = (HOUR, 24, 0) if name == "hour" else (DAY, 7, 3)

    def clock(store: SequenceStore, places: Places) -> Int32[np.ndarray, "n 1"]:
        """Hour of the day or day of the week of each event, UTC, from 1 to `n`."""
        return (1 + (store.columns["timestamp_us"][places] // unit + first) % n).astype(np.int32)[:, None]

    return PositionFeature(f"event {name}", "categories", n, clock)


def _log_gaps(store: SequenceStore, places: Places) -> Float[np.ndarray, " n"]:
    return np.log1p(seconds_since_previous(store, places))


def _of_column(
    name: str, kind: str, config: EventFeatureConfig, store: SequenceStore, train_positions: Places
) -> PositionFeature:
    if name not in store.columns:
        raise InputError(
            f"event feature {name!r} is neither a column of the store's events ({', '.join(store.columns) or 'none'}) "
            f"nor one of {', '.join(OF_TIMES)}; name one of these, or prepare a store with it"
        )

    def numbers(store: SequenceStore, places: Places) -> Float[np.ndarray, " n"]:
        return store.columns[name][places].astype(np.float64)

    dtype = store.columns[name].dtype
    kind = kind or ("categories" if dtype in (np.dtype(bool), np.dtype(np.int32)) else "number")
    if kind in ("number", "waves"):
        return _scaled(f"event {name}", kind, numbers, store, train_positions)
    train_values = _known(f"event {name}", numbers, store, train_positions)
    if kind == "buckets":
        edges = deciles(train_values)
        size = len(edges) + 1

        def codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
            return np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))

    else:
        categories = np.unique(train_values)
        if dtype == np.int32:  # codes of text, -1 for missing
            categories = categories[categories >= 0]
        size = len(categories)
        if size > MAX_CATEGORIES:
            raise InputError(
                f"event feature {name!r} has {size:,} categories, more than {MAX_CATEGORIES:,}; "
                f"write {name}:number or {name}:buckets"
            )

        def codes(values: Float[np.ndarray, " n"]) -> np.ndarray:
            rows = np.minimum(np.searchsorted(categories, values), size - 1)
            return np.where(categories[rows] == values, 1 + rows, 0)

    def read(store: SequenceStore, places: Places) -> Int32[np.ndarray, "n 1"]:
        return codes(numbers(store, places)).astype(np.int32)[:, None]

    return PositionFeature(f"event {name}", "categories", size, read)


def _known(name: str, numbers: Numbers, store: SequenceStore, places: Places) -> Float[np.ndarray, " n_known"]:
    values = numbers(store, places)
    values = values[~np.isnan(values)]
    if not values.size:
        raise InputError(f"no training event has a {name.removeprefix('event ')}; leave the event feature out")
    return values


def _scaled(name: str, kind: str, numbers: Numbers, store: SequenceStore, train_positions: Places) -> PositionFeature:
    train_values = _known(name, numbers, store, train_positions)
    if np.isinf(train_values).any():
        raise InputError(f"{name} holds a number that is infinite; correct it or leave it empty")
    centre, scale = train_values.mean(), train_values.std() or 1.0

    def read(store: SequenceStore, places: Places) -> Float32[np.ndarray, "n 1"]:
        return ((numbers(store, places) - centre) / scale).astype(np.float32)[:, None]

    return PositionFeature(name, "waves" if kind == "waves" else "numbers", 1, read)
