"""Values of features once they are read: of items and users in the store's order, and of each position of a batch."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from seqrec.data.store import SequenceStore
from seqrec.types import InputError

Form = Literal["categories", "numbers", "waves"]

Places = Int[np.ndarray, " n"]
"""Indices of events in `store.items`."""
Read = Callable[[SequenceStore, Places], Int32[np.ndarray, "n width"] | Float32[np.ndarray, "n width"]]


class Feature(NamedTuple):
    """A property of items, or of users, in the store's order; row 0 is padding, and not known."""

    name: str
    values: Int32[np.ndarray, "n_plus_1 width"] | Float32[np.ndarray, "n_plus_1 width"]
    """Codes 1, 2, … of its categories, 0 after the last; or numbers, 0 where they are not known."""
    known: Bool[np.ndarray, " n_plus_1"]
    categories: tuple[str, ...] = ()
    """The text of each code, from 1; empty where values are numbers."""


class PositionFeature(NamedTuple):
    """A property of the event at each position of a batch."""

    name: str
    form: Form
    """Codes 1, 2, …, where 0 is none or not known; numbers; or one number, to be encoded as waves."""
    size: int
    """Number of categories, or of numbers at a position."""
    read: Read
    """`read(store, places)`: the codes, int32, or the numbers, float32 and NaN where they are not known."""


def features_at(features: Sequence[PositionFeature], store: SequenceStore, places: Places) -> dict[str, np.ndarray]:
    """The features' values at these events of the store, by the features' names."""
    return {feature.name: feature.read(store, places) for feature in features}


def name_and_kind(flag: str, kinds: Sequence[str], noun: str, *, likely: str) -> tuple[str, str]:
    """The name of a feature and the kind that is asked of it, "" where none is: name:kind, or the name alone."""
    name, _, kind = flag.partition(":")
    if kind and kind not in kinds:
        raise InputError(f"{noun} feature {flag!r}: {kind!r} is not one of {', '.join(kinds)}; write {name}:{likely}")
    return name, kind
