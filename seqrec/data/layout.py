"""Stretches of a store laid out side by side in the rows of a batch."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from seqrec.data.engagement import Engagement
from seqrec.data.feature_values import PositionFeature, features_at
from seqrec.data.packing import PackedRows
from seqrec.data.ragged import ranges
from seqrec.data.store import SequenceStore
from seqrec.types import Batch, Times


class EventFields(NamedTuple):
    """What batches hold in addition to item ids and their order."""

    times: Times = "none"
    engagement: Engagement | None = None
    """Weights, skips and side tasks' labels of the events to predict."""
    features: tuple[PositionFeature, ...] = ()
    """Other features of events and users."""


def segments_of(
    packed: PackedRows, rows: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " segments"], Int[np.ndarray, " segments"]]:
    """The segments of the given rows, and which of these rows, counted from 0, holds each."""
    n_segments = packed.row_offsets[rows + 1] - packed.row_offsets[rows]
    return ranges(packed.row_offsets[rows], n_segments), np.repeat(np.arange(len(rows)), n_segments)


def lay_out(
    store: SequenceStore,
    row: Int[np.ndarray, " segments"],
    starts: Int[np.ndarray, " segments"],
    lengths: Int[np.ndarray, " segments"],
    *,
    shape: tuple[int, int],
    fields: EventFields,
) -> Batch:
    """Stretches of the store side by side in their rows, which count up from 0; rows without any are empty."""
    n_rows, length = shape
    n_segments = np.bincount(row, minlength=n_rows)
    segment_ids = ranges(np.ones_like(n_segments), n_segments)
    filled = np.arange(length) < np.bincount(row, lengths, minlength=n_rows)[:, None]
    positions = ranges(np.zeros_like(lengths), lengths)
    first = np.repeat(starts, lengths)
    source = first + positions
    following = np.minimum(source + 1, store.n_events - 1)
    values = [store.items[source], store.items[following], np.repeat(segment_ids, lengths), positions]
    if fields.times != "none":
        timestamps = store.columns["timestamp_us"]
        places = (source, following) if fields.times == "query" else (source,)
        # Whole seconds, of at most 68 years: what an accelerator's integers hold, and more than anybody's history.
        seconds = ((timestamps[place] - timestamps[first]) // 1_000_000 for place in places)
        values += [np.clip(each, 0, np.iinfo(np.int32).max) for each in seconds]
    arrays = np.zeros((len(values), n_rows, length), np.int32)
    for array, value in zip(arrays, values, strict=True):
        array[filled] = value  # not arrays[i, filled], which takes ten times as long

    def spread(values: np.ndarray) -> np.ndarray:
        rows = np.zeros((n_rows, length, *values.shape[1:]), values.dtype)
        rows[filled] = values
        return rows

    extra: dict[str, Any] = {}
    if fields.engagement is not None:
        extra = {name: spread(value) for name, value in fields.engagement.fields_at(store, following).items()}
    if fields.features:
        event_features = features_at(fields.features, store, source)
        extra["event_features"] = {name: spread(value) for name, value in event_features.items()}
    return Batch(*arrays, **extra)
