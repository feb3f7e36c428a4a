"""A store's profile as one HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqrec.data.moments import iso_moment
from seqrec.data.split_config import SplitConfig, split_store
from seqrec.data.store import open_store, read_preparation
from seqrec.files import write_text
from seqrec.report.data_profile import data_profile
from seqrec.report.page_parts import document, svg, table, text
from seqrec.report.slices import COLOURS, plain

_NOTHING = "\N{EN DASH}"


def write_profile(directory: Path) -> Path:
    """Writes profile.html into a prepared store, of the split that it was prepared with; returns its path."""
    store, preparation = open_store(directory), read_preparation(directory)
    known = {field.name for field in fields(SplitConfig)}
    config = SplitConfig(**{name: value for name, value in preparation["split"].items() if name in known})
    found = data_profile(
        store, split_store(store, config), steps=preparation["counts"], name=Path(directory).resolve().name
    )
    path = Path(directory) / "profile.html"
    write_text(path, page(found))
    return path


def page(profile: Mapping[str, Any]) -> str:
    """The page of a profile, as `data_profile` returns it."""
    title = f"Profile of {profile['name'] or 'a store'}"
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="faint">{profile["n_events"]:,} events of {profile["n_users"]:,} users and '
        f"{profile['n_items']:,} items.</p>",
        table(
            ["", ""],
            [
                ["median history", f"{profile['median_history_length']:,.1f} events"],
                ["pairs of user and item", f"{profile['n_pairs']:,}"],
                ["sparsity (pairs that never met)", _percent(profile["sparsity"], 4)],
                ["repeat share (events of an item the user had before)", _percent(profile["repeat_share"])],
            ],
            words=(0,),
        ),
        _steps(profile["steps"]),
        "<h2>Histories and popularity</h2>",
        svg(_doubling_plot(profile["history_lengths"], "events of a user", "users"), "history lengths"),
        svg(_doubling_plot(profile["popularity"], "events of an item", "items"), "popularity of items"),
        _curve(profile["popularity_curve"]),
        _over_time(profile),
        "<h2>Split</h2>",
        f"<p>{text(profile['split'])}</p>",
        _parts(profile["parts"]),
        "<h2>Drift from training</h2>",
        _drift(profile["drift"]),
    ]
    return document(title, "\n".join(part for part in parts if part))


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    if not steps:
        return ""
    rows = [
        [
            text(step["step"]),
            *(f"{step[name]:,}" for name in ("n_events", "n_users", "n_items")),
            f"{step['n_removed']:,}" if step["n_removed"] else _NOTHING,
            _percent(step["n_removed"] / (step["n_events"] + step["n_removed"]), 2) if step["n_removed"] else _NOTHING,
        ]
        for step in steps
    ]
    return "<h2>Steps</h2>" + table(["", "events", "users", "items", "events removed", ""], rows, words=(0,))


def _curve(curve: Sequence[Mapping[str, float]]) -> str:
    rows = [[_percent(each["share_of_items"]), _percent(each["share_of_events"])] for each in curve]
    return table(["the most popular … of items", "have … of events"], rows) if rows else ""


def _over_time(profile: Mapping[str, Any]) -> str:
    found = profile.get("over_time")
    if found is None:
        return ""
    last = found["start_us"] + len(found["counts"]) * found["span_us"]
    hours = found["span_us"] // 3_600_000_000
    span = f"{hours} h" if hours < 24 else f"{hours // 24} d"
    caption = f"{iso_moment(found['start_us'])} to {iso_moment(last)}, by {span}"
    return f'<h2>Events over time</h2>{svg(_time_plot(found), "events over time")}<p class="faint">{caption}</p>'


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    shares = ("repeat_share", "cold_item_share", "cold_event_share", "cold_target_share")
    rows = [
        [
            text(part["part"]),
            *(f"{part[name]:,}" for name in ("n_events", "n_items", "n_targets")),
            *(_percent(part[name]) for name in shares),
        ]
        for part in parts
    ]
    heads = ["", "events", "items", "targets", "repeats", "cold items", "events of those", "targets of those"]
    return table(heads, rows) + (
        '<p class="faint">A cold item has no event in training; no model of ids alone can have learnt of it.</p>'
    )


def _drift(drifts: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [text(each["variable"]), *(cell for part in ("validation", "test") for cell in _drift_cells(each[part]))]
        for each in drifts
    ]
    heads = ["", "PSI, validation", "KS, validation", "PSI, test", "KS, test"]
    return table(heads, rows, words=(0,)) + (
        '<p class="faint">Each value is of an event. PSI, the population stability index, compares shares in up to ten '
        "bins of about equal counts in training: by a rule of thumb, under .1 is little, over .25 is a large shift. "
        "KS is the largest distance between the two cumulative distributions, 0 to 1. Events of the item count "
        "training events, to which training events themselves belong, and histories grow by themselves: some drift "
        "of either is in the nature of the split.</p>"
    )


def _drift_cells(found: Mapping[str, float] | None) -> list[str]:
    return [_NOTHING, _NOTHING] if found is None else [f"{found['psi']:.3f}", f"{found['ks']:.3f}"]


def _doubling_plot(histogram: Sequence[Mapping[str, int]], values: str, counts: str) -> Figure:
    """A bar for each doubling, on a logarithmic scale of counts."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    labels = [_span(each["low"], each["high"]) for each in histogram]
    axes.bar(range(len(histogram)), [each["n"] for each in histogram], width=0.85, color=COLOURS[0])
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    return _finished(figure, plain(values), plain(counts))


def _time_plot(found: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    starts = found["start_us"] + np.arange(len(found["counts"])) * found["span_us"]
    span = np.timedelta64(found["span_us"], "us")
    axes.bar(starts.astype("datetime64[us]"), found["counts"], width=span, align="edge", color=COLOURS[0])
    figure.autofmt_xdate(rotation=35)
    return _finished(figure, "", "events")


def _finished(figure: Figure, x: str, y: str) -> Figure:
    axes = figure.axes[0]
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _span(low: int, high: int) -> str:
    def short(number: int) -> str:
        return f"{number}" if number < 10_000 else f"{number / 1000:.0f}k" if number < 10**6 else f"{number / 1e6:.1f}M"

    return short(low) if low == high else f"{short(low)}\N{EN DASH}{short(high)}"


def _percent(share: float | None, n_digits: int = 1) -> str:
    return _NOTHING if share is None else f"{100 * share:.{n_digits}f}%"
