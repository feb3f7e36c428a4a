"""Metrics by slices of the users."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Real

from seqrec.data.tables.columns import present_text, required_id
from seqrec.data.tables.rows import Destination, connect
from seqrec.data.tables.user_table import open_table
from seqrec.files import JsonObject
from seqrec.report.rank_tables import ITEM_NAMES, USER_NAMES, RankTableFile, comparable_keys, no_common_key
from seqrec.stats.bootstrap import bootstrap_intervals
from seqrec.stats.paired import difference_intervals
from seqrec.types import InputError

UNKNOWN = "unknown"
"""Label of the users whose value is not known."""
OTHER = "other"
"""Label of the users whose value is not among the most frequent."""

_BUILT_IN = {"history_length": "history length", "target_events": "target popularity", "user_events": "user activity"}


class Slicing(NamedTuple):
    """A partition of the users."""

    name: str
    """Displayed name, such as "history length"."""
    column: str
    """Column that it is computed from, such as history_length."""
    labels: tuple[str, ...]
    """Names of the slices in display order; no slice is empty."""
    slice_of_user: Int[np.ndarray, " n_users"]
    """Each user's place among the labels."""


def quantile_slices(values: Real[np.ndarray, " n_users"], *, name: str, column: str, n_bins: int = 4) -> Slicing:
    """Users in bins of about equal size by a number; users with NaN form the last slice.

    Equal numbers share a bin, so there may be fewer bins, and bins differ in size. A label is the smallest and
    the largest number in the bin, to the fewest digits (two or more) that keep the labels distinct.

    >>> slicing = quantile_slices(np.array([5.0, 7.0, 12.0, 31.0]), name="n", column="n", n_bins=2)
    >>> slicing.labels, slicing.slice_of_user.tolist()
    (('5–7', '12–31'), [0, 0, 1, 1])
    """  # noqa: RUF002
    values = values.astype(np.float64)
    is_known = ~np.isnan(values)
    index = np.zeros(len(values), np.int64)
    labels: list[str] = []
    if is_known.any():
        # Upper ends of the bins are numbers that occur, so no bin is empty.
        edges = np.unique(np.quantile(values[is_known], np.arange(1, n_bins + 1) / n_bins, method="inverted_cdf"))
        index[is_known] = np.searchsorted(edges, values[is_known])
        bins = [values[is_known & (index == place)] for place in range(len(edges))]
        labels = _range_labels([(float(each.min()), float(each.max())) for each in bins])
    return _with_unknown(Slicing(name, column, tuple(labels), index), is_known)


def _range_labels(ranges: Sequence[tuple[float, float]]) -> list[str]:
    for n_digits in range(2, 18):
        ends = [tuple(_number(end, n_digits) for end in each) for each in ranges]
        texts = [text for pair in ends for text in dict.fromkeys(pair)]
        if len(set(texts)) == len(texts):
            break
    return [low if low == high else f"{low}\N{EN DASH}{high}" for low, high in ends]


def _number(value: float, n_digits: int) -> str:
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"  # 1996 may be a year
    return f"{value:.{n_digits}g}"


def value_slices(values: Sequence[str | None], *, name: str, column: str, n_most: int = 10) -> Slicing:
    """Users by a text: the most frequent texts (ties by alphabet), then `OTHER`, then those with none.

    >>> value_slices(["b", "a", "b", None, "c", "d"], name="x", column="x", n_most=2).labels
    ('b', 'a', 'other', 'unknown')
    """
    is_known = np.array([bool(value) for value in values], bool)
    texts = np.array([value or "" for value in values], dtype=object)
    distinct, index, n_each = np.unique(texts[is_known], return_inverse=True, return_counts=True)
    order = np.argsort(-n_each, kind="stable")
    # If a single text remains, it keeps its name.
    n_shown = len(order) if len(order) <= n_most + 1 else n_most
    place = np.empty(len(order), np.int64)
    place[order] = np.minimum(np.arange(len(order)), n_shown)
    labels = tuple(distinct[order[:n_shown]].tolist()) + (OTHER,) * (n_shown < len(order))
    slice_of_user = np.zeros(len(texts), np.int64)
    slice_of_user[is_known] = place[index]
    return _with_unknown(Slicing(name, column, labels, slice_of_user), is_known)


def _with_unknown(slicing: Slicing, is_known: np.ndarray) -> Slicing:
    if is_known.all():
        return slicing
    index = np.where(is_known, slicing.slice_of_user, len(slicing.labels))
    return slicing._replace(labels=(*slicing.labels, UNKNOWN), slice_of_user=index)


def standard_slicings(table: RankTableFile, *, n_bins: int = 4) -> list[Slicing]:
    """By history length, target popularity and user activity (events in training), and cold targets.

    A column that the table does not have is left out, and so is one that puts all users in one slice.
    """
    slicings = [
        quantile_slices(table.columns[column], name=name, column=column, n_bins=n_bins)
        for column, name in _BUILT_IN.items()
        if column in table.columns
    ]
    if "target_events" in table.columns:
        cold = cold_slicing(table.columns["target_events"])
        slicings += [cold] if len(np.unique(cold.slice_of_user)) == len(cold.labels) else []
    return [slicing for slicing in slicings if len(slicing.labels) > 1]


def cold_slicing(target_events: Real[np.ndarray, " n_users"]) -> Slicing:
    """By whether the target is in training; unlike in other slicings, one of the two slices may be empty.

    >>> cold_slicing(np.array([0, 3])).slice_of_user.tolist()
    [0, 1]
    """
    labels = ("cold: not in training", "warm")
    return Slicing("cold targets", "target_events", labels, (target_events > 0).astype(np.int64))


def joined_slicings(
    table: RankTableFile, path: Path, *, keys_of: Literal["user", "item"] | None = None, n_bins: int = 4
) -> list[Slicing]:
    """By the columns of a CSV, TSV or Parquet file with one row a user, or one row an item (the held-out one's).

    The column of keys is named user or user_id, or item or item_id; where `keys_of` says whose keys there are,
    it may have another name and be the first one. A column of numbers makes quantile bins, any other is taken
    by its values. Users who are not in the file, or have no value there, are `UNKNOWN`.
    """
    file = open_table(Path(path))
    names_of = {"user": USER_NAMES, "item": ITEM_NAMES}
    kinds = [kind for kind in names_of if file.find(names_of[kind])]
    if keys_of is None and len(kinds) != 1:
        raise InputError(
            f"{path} has {'both a user and an' if kinds else 'neither a user nor an'} item column among "
            f"{', '.join(map(repr, file.columns))}; say whose keys it holds: user={path} or item={path}"
        )
    kind = keys_of or kinds[0]
    key_name = file.find(names_of[kind]) or file.columns[0]
    names = [name for name in file.columns if name != key_name]
    if not names:
        raise InputError(f"{path} has no column but {key_name!r}; add a column to slice by")
    take = {kind: key_name, **{f"value_{i}": name for i, name in enumerate(names)}}
    rows = file.load(take, Destination(connect()))
    expression = required_id(rows, kind)
    repeated = rows.first_bad(
        kind, f"event_index IN (SELECT max(event_index) FROM {rows.view} GROUP BY {expression} HAVING count(*) > 1)"
    )
    if repeated:
        raise InputError(f"{repeated[0]}: the {kind} occurs a second time; give one row for each {kind}")
    values = {name: f"trim({present_text(rows, f'value_{i}', name)})" for i, name in enumerate(names)}
    own_keys = {"user": table.user, "item": table.item}[kind]
    keys = comparable_keys(rows, expression, own_keys)
    rows.connection.register("own", pa.table({"place": np.arange(len(own_keys)), "key": keys.table_keys}))
    joined = rows.connection.execute(
        f"SELECT place, {', '.join(values.values())} FROM own JOIN {rows.view} ON key = {keys.file_keys}"
    ).fetchall()
    if not joined:
        raise no_common_key(path, kind, rows.one(f"arg_min({expression}, event_index)")[0], own_keys)
    places, *columns = zip(*joined, strict=True)
    slicings = []
    for name, column in zip(names, columns, strict=True):
        of_user = dict(zip(places, column, strict=True))
        slicings.append(_slicing_of([of_user.get(place) for place in range(len(own_keys))], name=name, n_bins=n_bins))
    return [slicing for slicing in slicings if len(slicing.labels) > 1]


def _slicing_of(values: Sequence[str | None], *, name: str, n_bins: int) -> Slicing:
    try:
        numbers = np.array([float("nan" if value is None else value) for value in values])
    except ValueError:
        return value_slices(values, name=name, column=name)
    return quantile_slices(numbers, name=name, column=name, n_bins=n_bins)


def select_slicings(slicings: Sequence[Slicing], columns: Sequence[str]) -> list[Slicing]:
    """The slicings of `columns`; without `columns` all, except those in which 90% of users are "other"."""
    available = {slicing.column for slicing in slicings}
    for column in columns:
        if column not in available:
            near = difflib.get_close_matches(column, sorted(available), n=1, cutoff=0.5)
            raise InputError(
                f"cannot slice by {column!r}; {f'did you mean {near[0]!r}? ' if near else ''}"
                f"there are {', '.join(sorted(available)) or 'no columns to slice by'}"
            )
    if columns:
        return [slicing for slicing in slicings if slicing.column in columns]
    return [slicing for slicing in slicings if _share_of_other(slicing) <= 0.9]


def _share_of_other(slicing: Slicing) -> float:
    others = [place for place, label in enumerate(slicing.labels) if label == OTHER]
    return float(np.isin(slicing.slice_of_user, others).mean())


def mean_figures(
    names: Sequence[str],
    values: Float[np.ndarray, "n_users n_metrics"],
    ends: tuple[Float[np.ndarray, " n_metrics"], Float[np.ndarray, " n_metrics"]],
) -> dict[str, list[float]]:
    """[mean, lower, upper] by metric, from the ends of the intervals."""
    return dict(zip(names, np.stack([values.mean(axis=0), *ends], axis=1).tolist(), strict=True))


def slice_figures(
    slicing: Slicing,
    values: Mapping[str, Mapping[str, Float[np.ndarray, " n_users"]]],
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> JsonObject:
    """The slices, each with its label and `n_users`, and two tables of [mean, lower, upper] by run and metric.

    `values` are by run and metric. `runs` has the metrics themselves, `differences` those less the first run's,
    user by user, for each run but the first. Intervals are not adjusted for the number of slices.
    """
    first, *others = values
    names = list(values[first])
    options: dict[str, Any] = {"level": level, "n_resamples": n_resamples, "seed": seed}
    tables = {run: np.stack([each[name] for name in names], axis=1) for run, each in values.items()}
    slices = []
    for place, label in enumerate(slicing.labels):
        inside = {run: table[slicing.slice_of_user == place] for run, table in tables.items()}
        gains = {run: inside[run] - inside[first] for run in others}
        slices.append(
            {
                "label": label,
                "n_users": len(inside[first]),
                "runs": {run: mean_figures(names, v, bootstrap_intervals(v, **options)) for run, v in inside.items()},
                "differences": {
                    run: mean_figures(names, v, difference_intervals(v, **options)) for run, v in gains.items()
                },
            }
        )
    return {"name": slicing.name, "column": slicing.column, "slices": slices}
