"""Weights of events as training targets, from a column of the store, and skipped events, which are not targets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from seqrec.config import check_at_least, check_fields
from seqrec.data.feature_values import Places
from seqrec.data.gaps import N_GAP_BUCKETS, gap_buckets
from seqrec.data.ragged import ranges
from seqrec.data.splits import Split
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

NO_CATEGORIES: Mapping[str, Sequence[str]] = MappingProxyType({})
HEADS = {"skip": ("next_skips", 0, 2), "gap": ("next_gaps", 1, N_GAP_BUCKETS)}
"""Side task -> the field of a batch that holds its labels, the smallest label, and how many there are."""
_BLOCK = 2**22
"""Events that are checked at a time."""


@dataclass(frozen=True)
class EngagementConfig:
    """How training weighs events by their outcome; evaluation treats all held-out events alike."""

    loss_weight: str = ""
    """Column of the events with each event's weight as a training target, such as played_share."""
    loss_weight_values: tuple[str, ...] = ()
    """If the column of loss-weight holds categories: VALUE=WEIGHT for each value, such as 0=1 1=3."""
    half_life: float = 0.0
    """Share of the data's time span after which the weight of a training target halves, so that recent events count
    more; 0 weighs old and new alike. Without times the order of the data is used."""
    skips: tuple[str, ...] = ()
    """COLUMN=VALUE that marks an event as skipped, such as skipped=1 or event_type=skip. Skipped events stay in the
    history but are not training targets. Several marks may be given."""
    skip_head: float = 0.0
    """Weight of the loss of a side task that predicts whether the next event is skipped, as named by --skips; 0 leaves
    it out."""
    gap_head: float = 0.0
    """Weight of the loss of a side task that predicts the time until the next event, in buckets that double from one
    second; 0 leaves it out."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 0, "half_life", "skip_head", "gap_head")
        if self.skip_head and not self.skips:
            raise ValueError(f"skip_head={self.skip_head} predicts skips; name them, as in skips skipped=1")
        if self.loss_weight_values and not self.loss_weight:
            raise ValueError("loss_weight_values, but no loss_weight; name the column that holds the values")
        for value, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"loss_weight_values={value:g}={weight:g} is not a weight of 0 or above; try 1")
        _pairs("skips", self.skips)  # refuses what it cannot read

    @property
    def heads(self) -> dict[str, float]:
        """The loss weight of each side task that is on."""
        return {name: weight for name, weight in (("skip", self.skip_head), ("gap", self.gap_head)) if weight}

    @property
    def weights(self) -> dict[float, float]:
        """The weight of each value of a column with categories."""
        return {
            _number("loss_weight_values", value): _number("loss_weight_values", weight)
            for value, weight in _pairs("loss_weight_values", self.loss_weight_values)
        }

    @property
    def columns(self) -> list[str]:
        """The event columns that are read."""
        return sorted({*filter(None, [self.loss_weight]), *(column for column, _ in _pairs("skips", self.skips))})

    @property
    def texts(self) -> set[str]:
        """The columns in which text marks a skip."""
        return {column for column, value in _pairs("skips", self.skips) if _as_number(value) is None}


class Engagement(NamedTuple):
    """Weights, skips and side tasks' labels of the events to predict."""

    config: EngagementConfig
    skips: tuple[tuple[str, float], ...]
    """Columns and the values that mark a skip there."""
    moments: Float[np.ndarray, " n_moments"] | None = None
    """Times that cut the log into parts of equal numbers of events; None without times or decay."""

    @property
    def head_sizes(self) -> dict[str, int]:
        """Number of labels of each side task."""
        return {name: HEADS[name][2] for name in self.config.heads}

    def fields_at(self, store: SequenceStore, places: Places) -> dict[str, np.ndarray]:
        """The fields of a batch that describe these next events."""
        fields, half_life = {}, self.config.half_life
        if self.config.loss_weight:
            fields["next_weights"] = self.weights_at(store, places)
        if half_life:
            # The share of the log that is as old as each of these events, or older.
            older = (
                np.interp(store.columns["timestamp_us"][places], self.moments, np.linspace(0, 1, len(self.moments)))
                if self.moments is not None
                else (places + 1) / store.n_events
            )
            of_age = np.exp2(-(1.0 - older) / half_life)
            fields["next_weights"] = (fields.get("next_weights", 1.0) * of_age).astype(np.float32)
        if self.skips:
            fields["next_skips"] = self.skips_at(store, places)
        if self.config.gap_head:
            fields["next_gaps"] = gap_buckets(store, places)[:, 0]
        return fields

    def weights_at(self, store: SequenceStore, places: Places) -> Float32[np.ndarray, " n"]:
        """The weight of each of these events as a target."""
        values = np.asarray(store.columns[self.config.loss_weight][places], np.float64)
        if not self.config.weights:
            return values.astype(np.float32)
        categories, weights = (np.array(column) for column in zip(*sorted(self.config.weights.items()), strict=True))
        rows = np.minimum(np.searchsorted(categories, values), len(categories) - 1)
        return np.where(categories[rows] == values, weights[rows], np.nan).astype(np.float32)

    def skips_at(self, store: SequenceStore, places: Places) -> Bool[np.ndarray, " n"]:
        """Which of these events are skips."""
        return np.any([store.columns[column][places] == value for column, value in self.skips], axis=0)


def engagement(
    config: EngagementConfig, store: SequenceStore, *, categories: Mapping[str, Sequence[str]] = NO_CATEGORIES
) -> Engagement | None:
    """The config checked against the store's columns; None if the config leaves everything at its default.

    `categories` has the text of each code, for columns that hold text as codes.
    """
    if not config.columns and not config.heads and not config.half_life:
        return None
    for column in config.columns:
        if column not in store.columns:
            columns = ", ".join(sorted(store.columns)) or "none"
            raise InputError(f"the store's events have no column {column!r}, but {columns}; prepare the data with it")
    skips = tuple((column, _mark(column, value, categories)) for column, value in _pairs("skips", config.skips))
    moments = None
    if config.half_life and "timestamp_us" in store.columns:
        # A log may not fit into memory; an even sample of this size gives the shares to a thousandth.
        sample = store.columns["timestamp_us"][:: max(1, store.n_events // _BLOCK)]
        moments = np.quantile(np.asarray(sample), np.linspace(0, 1, 1 + 1000))
    plan = Engagement(config, skips, moments)
    if config.gap_head and "timestamp_us" not in store.columns:
        raise InputError("gap_head predicts times, but the store has no timestamp_us; prepare it with times")
    if config.loss_weight:
        _check_weights(plan, store)
    n_skips = sum(int(plan.skips_at(store, places).sum()) for places in _blocks(store)) if config.skips else None
    if n_skips == store.n_events:
        raise InputError(
            f"skips={' '.join(config.skips)} leaves no target, because every event is a skip; name other values"
        )
    if n_skips == 0:
        raise InputError(f"skips={' '.join(config.skips)}: no event of the store is a skip; check the values")
    return plan


def _check_weights(engagement: Engagement, store: SequenceStore) -> None:
    column, highest = engagement.config.loss_weight, 0.0
    is_named = bool(engagement.config.weights)
    for places in _blocks(store):
        values, weights = store.columns[column][places], engagement.weights_at(store, places)
        bad = ~(np.isfinite(weights) & (weights >= 0))
        if np.any(bad):
            value = values[bad][0].item()
            reason = "has no weight among loss_weight_values" if is_named else "is not a weight of 0 or above"
            raise InputError(
                f"event column {column!r}: {value} of event {places[bad][0]} {reason}; "
                + ("name one for it" if is_named else "prepare other values, or give loss_weight_values")
            )
        highest = max(highest, float(weights.max(initial=0.0)))
    if highest == 0:
        raise InputError(
            f"event column {column!r} has weight 0 for every event, so there is nothing to learn; use another column"
        )


def _blocks(store: SequenceStore) -> Iterator[Places]:
    for start in range(0, store.n_events, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, store.n_events))


def _mark(column: str, value: str, categories: Mapping[str, Sequence[str]]) -> float:
    """The number that stands for the value in a store's column."""
    if column in categories:
        if value not in categories[column]:
            texts = ", ".join(categories[column][:10]) + ", …" * (len(categories[column]) > 10)
            raise InputError(f"skips={column}={value}: no event is {value!r}, but {texts}; name one of them")
        return float(categories[column].index(value))
    number = _as_number(value)
    if number is None:
        raise InputError(f"skips={column}={value}: the store holds {column} as numbers, without their texts; name one")
    return number


def _pairs(field: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and value of each NAME=VALUE."""
    parts = [text.rpartition("=") for text in texts]
    for (name, _, _), text in zip(parts, texts, strict=True):
        if not name:
            raise ValueError(f"{field}={text} is not of the form NAME=VALUE; try {text}=1")
    return [(name, value) for name, _, value in parts]


def _number(field: str, text: str) -> float:
    number = _as_number(text)
    if number is None:
        raise ValueError(f"{field}: {text!r} is not a number; a store holds kinds of events as numbers")
    return number


def _as_number(text: str) -> float | None:
    """A number, or true or false; None of other text."""
    try:
        return float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        return None


def log_base_rates(
    engagement: Engagement, store: SequenceStore, split: Split
) -> dict[str, Float[np.ndarray, " n_answers"]]:
    """For each side task, the log of each label's frequency among the targets of the training part.

    One is added to each count, so that no label is impossible.
    """
    # Training predicts each event of the training part except a user's first.
    targets = ranges(store.offsets[:-1] + 1, np.maximum(split.train_stop - store.offsets[:-1] - 1, 0))
    rates = {}
    for name, labels in _answers(engagement, store, targets).items():
        counts = 1 + np.bincount(labels, minlength=engagement.head_sizes[name])
        rates[name] = np.log(counts) - np.log(counts.sum())
    return rates


def base_rate_losses(
    engagement: Engagement, store: SequenceStore, split: Split, *, positions: Places
) -> dict[str, Float[np.ndarray, " n"]]:
    """Of each head, the loss in nats at the events `asked` if `log_base_rates` is all that is known."""
    rates = log_base_rates(engagement, store, split)
    return {name: -rates[name][labels] for name, labels in _answers(engagement, store, positions).items()}


def _answers(engagement: Engagement, store: SequenceStore, places: Places) -> dict[str, Int[np.ndarray, " n"]]:
    """The label of each side task for these events, counted from 0."""
    fields = engagement.fields_at(store, places)
    heads = {name: HEADS[name] for name in engagement.head_sizes}
    return {name: fields[field].astype(np.int64) - first for name, (field, first, _) in heads.items()}
