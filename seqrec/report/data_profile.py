"""Statistics of a store: histories, popularity, repeats, and the drift between the parts of its split.

Histograms are counted from the arrays over events, a block of users at a time where events must be sorted.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int8, Real

from seqrec.data.ragged import blocks
from seqrec.data.splits import Split, target_positions
from seqrec.data.store import SequenceStore
from seqrec.files import JsonObject

PARTS = ("training", "validation", "test")
MICROSECONDS_PER_HOUR = 3_600_000_000
N_BINS = 10
MOST_BARS = 150
NO_TIES: Mapping[str, Any] = MappingProxyType({})


class ValueCounts(NamedTuple):
    """Distinct values and how often each occurs."""

    values: Real[np.ndarray, " n"]
    """Distinct and ascending."""
    counts: Int[np.ndarray, " n"]


def value_counts(values: Real[np.ndarray, " n_events"]) -> ValueCounts:
    """The distinct values and their counts, without NaN, which stands for a missing value.

    >>> value_counts(np.array([3, 1, 3])).counts.tolist()
    [1, 2]
    """
    if values.dtype.kind == "f":
        values = values[~np.isnan(values)]
    if values.dtype.kind in "iu" and len(values) and values.min() >= 0 and values.max() < 2 * len(values) + 1000:
        # Without sorting, which takes ten times as long.
        counts = np.bincount(values)
        distinct = np.flatnonzero(counts)
        return ValueCounts(distinct, counts[distinct])
    return ValueCounts(*np.unique(values, return_counts=True))


def population_stability_index(reference: Int[np.ndarray, " bins"], observed: Int[np.ndarray, " bins"]) -> float:
    """Sum over bins of (o - r) ln(o / r) of the shares o and r; half a count is added to each bin, so it is finite.

    0 where the shares are equal. By a rule of thumb (Siddiqi 2006) below .1 is little, above .25 a large shift.

    >>> population_stability_index(np.array([5, 5]), np.array([50, 50]))
    0.0
    """
    shares = [(counts + 0.5) / (counts + 0.5).sum() for counts in (reference, observed)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def kolmogorov_smirnov(reference: ValueCounts, observed: ValueCounts) -> float:
    """The largest distance between the two cumulative distributions, 0 to 1.

    >>> one, other = value_counts(np.array([1, 2])), value_counts(np.array([2, 2, 3, 3]))
    >>> kolmogorov_smirnov(one, other)
    0.5
    """
    values = np.union1d(reference.values, observed.values)
    below = []
    for counts in (reference, observed):
        cumulative = np.concatenate([[0], np.cumsum(counts.counts)])
        below.append(cumulative[np.searchsorted(counts.values, values, side="right")] / cumulative[-1])
    return float(np.abs(below[0] - below[1]).max())


def quantile_bins(reference: ValueCounts, n_bins: int) -> Real[np.ndarray, " edges"]:
    """Lower edges of the second and later bins; up to `n_bins` bins have about equal counts of the reference.

    >>> quantile_bins(value_counts(np.array([1, 1, 1, 1, 2, 3, 4, 4])), 4).tolist()
    [2, 4]
    """
    cumulative = np.cumsum(reference.counts)
    targets = cumulative[-1] * np.arange(1, n_bins) / n_bins
    # The last value of each bin; the next value begins another.
    last = np.unique(np.searchsorted(cumulative, targets, side="left"))
    return reference.values[last[last < len(cumulative) - 1] + 1]


def drift(reference: ValueCounts, observed: ValueCounts, *, n_bins: int = N_BINS) -> dict[str, float] | None:
    """psi over bins of about equal reference counts, and ks; None if either has no values."""
    if not len(reference.values) or not len(observed.values):
        return None
    edges = quantile_bins(reference, n_bins)
    binned = [
        np.bincount(np.searchsorted(edges, sample.values, side="right"), sample.counts, minlength=len(edges) + 1)
        for sample in (reference, observed)
    ]
    psi = population_stability_index(*(counts.astype(np.int64) for counts in binned))
    return {"psi": psi, "ks": kolmogorov_smirnov(reference, observed)}


def part_of_events(store: SequenceStore, split: Split) -> Int8[np.ndarray, " n_events"]:
    """0 for each event of training, 1 of validation, 2 of the test."""
    starts, stops = np.asarray(store.offsets[:-1]), np.asarray(store.offsets[1:])
    test_start = stops if split.test_start is None else split.test_start
    lengths = np.stack([split.train_stop - starts, test_start - split.train_stop, stops - test_start], axis=1)
    return np.repeat(np.tile(np.arange(3, dtype=np.int8), store.n_users), lengths.ravel())


def is_repeat(store: SequenceStore) -> Bool[np.ndarray, " n_events"]:
    """Whether the user of an event had an earlier event with the same item."""
    repeats = np.zeros(store.n_events, bool)
    lengths = np.diff(store.offsets)
    for block in blocks(lengths):
        start, stop = store.offsets[block.start], store.offsets[block.stop]
        users = np.repeat(np.arange(block.stop - block.start), lengths[block])
        pairs = users * (store.n_items + 1) + store.items[start:stop]
        # Stable, so that the first of a pair is its first event.
        order = np.argsort(pairs, kind="stable")
        repeats[start + order[1:]] = np.diff(pairs[order]) == 0
    return repeats


def doubling_histogram(counts: Int[np.ndarray, " n"]) -> list[dict[str, int]]:
    """How many of the numbers are 1, 2 or 3, 4 to 7, and so on: low, high, n.

    >>> doubling_histogram(np.array([1, 2, 3, 3]))
    [{'low': 1, 'high': 1, 'n': 1}, {'low': 2, 'high': 3, 'n': 3}]
    """
    exponents = np.frexp(counts[counts > 0])[1] - 1
    return [
        {"low": 2**k, "high": 2 ** (k + 1) - 1, "n": int(n)}
        for k, n in enumerate(np.bincount(exponents).tolist() if len(exponents) else [])
    ]


def events_over_time(timestamp_us: Int[np.ndarray, " n_events"]) -> JsonObject:
    """Counts of events in equal spans of whole hours or days: start_us, span_us, counts."""
    low, high = int(timestamp_us.min()), int(timestamp_us.max())
    hours = [1, 3, 6, 12, 24, 7 * 24]
    while (high - low) // (hours[-1] * MICROSECONDS_PER_HOUR) > MOST_BARS:
        hours.append(2 * hours[-1])
    span = next(n for n in hours if (high - low) // (n * MICROSECONDS_PER_HOUR) <= MOST_BARS) * MICROSECONDS_PER_HOUR
    start = low - low % span
    return {"start_us": start, "span_us": span, "counts": np.bincount((timestamp_us - start) // span).tolist()}


def popularity_curve(counts: Int[np.ndarray, " n_items"]) -> list[dict[str, float]]:
    """The share of all events that the most popular items have: share_of_items, share_of_events."""
    falling = np.cumsum(np.sort(counts)[::-1])
    shares = [0.001, 0.01, 0.05, 0.1, 0.2, 0.5]
    tops = [max(1, round(share * len(counts))) for share in shares]
    return [
        {"share_of_items": share, "share_of_events": float(falling[top - 1] / falling[-1])}
        for share, top in zip(shares, tops, strict=True)
    ]


def data_profile(
    store: SequenceStore,
    split: Split,
    *,
    steps: Sequence[Mapping[str, Any]] = (),
    ties: Mapping[str, Any] = NO_TIES,
    name: str = "",
) -> JsonObject:
    """Statistics of a store and its split, as JSON values.

    `steps` are the counts of its preparation, `ties` what it says of events at equal times.
    """
    parts, repeats = part_of_events(store, split), is_repeat(store)
    n_events, n_pairs = store.n_events, int(store.n_events - repeats.sum())
    lengths = np.diff(store.offsets)
    popularity = np.bincount(store.items, minlength=store.n_items + 1)[1:]
    profile = {
        "name": name,
        "steps": [dict(step) for step in steps],
        "ties": dict(ties),
        "split": split.description,
        **{size: getattr(store, size) for size in ("n_events", "n_users", "n_items")},
        "n_pairs": n_pairs,
        "sparsity": 1.0 - n_pairs / max(1, store.n_users * store.n_items),
        "repeat_share": float(repeats.mean()) if n_events else 0.0,
        "history_lengths": doubling_histogram(lengths),
        "median_history_length": float(np.median(lengths)) if store.n_users else 0.0,
        "popularity": doubling_histogram(popularity),
        "popularity_curve": popularity_curve(popularity) if n_events else [],
        "parts": _parts(store, split, parts, repeats),
        "drift": _drifts(store, parts),
    }
    if "timestamp_us" in store.columns and n_events:
        profile["over_time"] = events_over_time(np.asarray(store.columns["timestamp_us"]))
    return profile


def _parts(
    store: SequenceStore, split: Split, parts: Int8[np.ndarray, " n_events"], repeats: Bool[np.ndarray, " n_events"]
) -> list[JsonObject]:
    def share(of: np.ndarray) -> float | None:
        return float(of.mean()) if len(of) else None

    items = np.asarray(store.items)
    is_cold = np.bincount(items[parts == 0], minlength=store.n_items + 1) == 0
    targets = (np.zeros(0, np.int64), *target_positions(store, split))
    rows = []
    for number, name in enumerate(PARTS):
        in_part = parts == number
        present = np.flatnonzero(np.bincount(items[in_part], minlength=store.n_items + 1))
        rows.append(
            {
                "part": name,
                "n_events": int(in_part.sum()),
                "n_items": len(present),
                "n_targets": len(targets[number]),
                "repeat_share": share(repeats[in_part]),
                "cold_item_share": share(is_cold[present]),
                "cold_event_share": share(is_cold[items[in_part]]),
                "cold_target_share": share(is_cold[items[targets[number]]]),
            }
        )
    return rows


def _drifts(store: SequenceStore, parts: Int8[np.ndarray, " n_events"]) -> list[JsonObject]:
    """The drift of each variable from training, for each part."""
    rows = []
    for variable, values in _variables(store, parts):
        training, *others = (value_counts(values[parts == number]) for number in range(3))
        drifts = {name: drift(training, other) for name, other in zip(PARTS[1:], others, strict=True)}
        rows.append({"variable": variable, **drifts})
    return rows


def _variables(store: SequenceStore, parts: Int8[np.ndarray, " n_events"]) -> Iterator[tuple[str, np.ndarray]]:
    items = np.asarray(store.items)
    trained = np.bincount(items[parts == 0], minlength=store.n_items + 1)
    yield "events of the item in training", trained[items]
    place = np.arange(store.n_events) - np.repeat(np.asarray(store.offsets[:-1]), np.diff(store.offsets))
    yield "earlier events of the user", place
    if "timestamp_us" in store.columns:
        hours = np.asarray(store.columns["timestamp_us"]) // MICROSECONDS_PER_HOUR
        yield "hour of the day (UTC)", hours % 24
        # 1970 began on a Thursday; Monday is 0.
        yield "day of the week (UTC)", (hours // 24 + 3) % 7
    for name, values in store.columns.items():
        if name not in ("timestamp_us", "session"):
            values = np.asarray(values)
            yield name, values.astype(np.int8) if values.dtype == bool else values
