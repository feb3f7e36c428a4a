"""What an event is worth as a target: weights from a column of the store, and skips, which are no targets."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from seqrec.data.store import SequenceStore
from seqrec.types import InputError

_BLOCK = 2**22
"""Events that are checked at a time."""

Places = Int[np.ndarray, " n"]
"""Places of events in `store.items`."""


@dataclass(frozen=True)
class EngagementConfig:
    """What training learns from how events went; evaluation asks about all held-out events alike."""

    loss_weight: str = ""
    """Column of the store's events that says how much each counts as a target, such as played_share."""
    loss_weight_values: tuple[str, ...] = ()
    """VALUE=WEIGHT of each value, where the column of loss-weight holds kinds of events: 0=1 1=3."""
    skips: tuple[str, ...] = ()
    """COLUMN=VALUE of events that are read but are no targets: skipped=1; several are all left out."""

    def __post_init__(self):
        if self.loss_weight_values and not self.loss_weight:
            raise ValueError("loss_weight_values, but no loss_weight; name the column that holds the values")
        for value, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"loss_weight_values={value:g}={weight:g} is not a weight of 0 or above; try 1")
        _pairs("skips", self.skips)  # refuses what it cannot read

    @property
    def weights(self) -> dict[float, float]:
        """The weight of each value of the column, where it holds kinds of events."""
        return {
            _number("loss_weight_values", value): weight
            for value, weight in _pairs("loss_weight_values", self.loss_weight_values)
        }

    @property
    def columns(self) -> list[str]:
        """The columns of events that are read."""
        return sorted({*filter(None, [self.loss_weight]), *(column for column, _ in _pairs("skips", self.skips))})


class Engagement(NamedTuple):
    """What batches say of the events to predict."""

    loss_weight: str
    """The column of weights; "" where all count alike."""
    weights: dict[float, float]
    """Weight of each value of the column; empty where values are weights."""
    skips: tuple[tuple[str, float], ...]
    """Columns and the values that mark a skip there."""

    def fields_at(self, store: SequenceStore, places: Places) -> dict[str, np.ndarray]:
        """Of these events, each the next of its position, the fields of a batch that are asked for."""
        fields = {}
        if self.loss_weight:
            fields["next_weights"] = self.weights_at(store, places)
        if self.skips:
            fields["next_skips"] = self.skips_at(store, places)
        return fields

    def weights_at(self, store: SequenceStore, places: Places) -> Float32[np.ndarray, " n"]:
        """How much each of these events counts as a target."""
        values = np.asarray(store.columns[self.loss_weight][places], np.float64)
        if not self.weights:
            return values.astype(np.float32)
        known = np.array(sorted(self.weights))
        found = np.minimum(np.searchsorted(known, values), len(known) - 1)
        weights = np.array([self.weights[value] for value in known.tolist()])[found]
        return np.where(known[found] == values, weights, np.nan).astype(np.float32)

    def skips_at(self, store: SequenceStore, places: Places) -> Bool[np.ndarray, " n"]:
        """Which of these events are skips."""
        return np.any([store.columns[column][places] == value for column, value in self.skips], axis=0)


def engagement(config: EngagementConfig, store: SequenceStore) -> Engagement | None:
    """What the config asks for, once the store's columns are found to hold it; None where nothing is asked."""
    if not config.columns:
        return None
    found = Engagement(config.loss_weight, config.weights, tuple(_pairs("skips", config.skips)))
    for column in config.columns:
        if column not in store.columns:
            held = ", ".join(sorted(store.columns)) or "none"
            raise InputError(f"the store's events have no column {column!r}, but {held}; prepare the data with it")
    if config.loss_weight:
        _check_weights(found, store)
    if config.skips and not any(np.any(~found.skips_at(store, places)) for places in _blocks(store)):
        raise InputError(f"skips={' '.join(config.skips)} leaves no target, as every event is one; name other values")
    if config.skips and not any(np.any(found.skips_at(store, places)) for places in _blocks(store)):
        raise InputError(f"skips={' '.join(config.skips)}: no event of the store is one; check the values")
    return found


def _check_weights(found: Engagement, store: SequenceStore) -> None:
    column, highest = found.loss_weight, 0.0
    for places in _blocks(store):
        values, weights = store.columns[column][places], found.weights_at(store, places)
        bad = ~(np.isfinite(weights) & (weights >= 0))
        if np.any(bad):
            value = values[bad][0].item()
            reason = "has no weight among loss_weight_values" if found.weights else "is no weight, which is 0 or above"
            raise InputError(
                f"event column {column!r}: {value} of event {places[bad][0]} {reason}; "
                + ("name one for it" if found.weights else "prepare other values, or give loss_weight_values")
            )
        highest = max(highest, float(weights.max(initial=0.0)))
    if highest == 0:
        raise InputError(f"event column {column!r} weighs every event 0, so there is nothing to learn; take another")


def _blocks(store: SequenceStore) -> Iterator[Places]:
    for start in range(0, store.n_events, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, store.n_events))


def _pairs(field: str, texts: tuple[str, ...]) -> list[tuple[str, float]]:
    """Name and number of each NAME=NUMBER."""
    parts = [text.rpartition("=") for text in texts]
    for (name, _, _), text in zip(parts, texts, strict=True):
        if not name:
            raise ValueError(f"{field}={text} is not of the form NAME=NUMBER; try {text}=1")
    return [(name, _number(field, value)) for name, _, value in parts]


def _number(field: str, text: str) -> float:
    """A number, or true or false."""
    try:
        return float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        raise ValueError(f"{field}: {text!r} is not a number; a store holds kinds of events as numbers") from None
