"""The profile of a sequence store as an HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from seqrec.data.moments import iso_moment
from seqrec.data.split_config import SplitConfig, split_store, stored_split
from seqrec.data.store import open_store, read_preparation
from seqrec.files import write_text
from seqrec.pages import html, plots
from seqrec.report.data_profile import data_profile


def write_profile(directory: Path) -> Path:
    """Writes profile.html into a prepared store, for the split that it was prepared with; returns its path."""
    store, preparation = open_store(directory), read_preparation(directory)
    profile = data_profile(
        store,
        split_store(store, stored_split(preparation) or SplitConfig()),
        steps=preparation["counts"],
        ties=preparation.get("ties", {}),
        name=Path(directory).resolve().name,
    )
    path = Path(directory) / "profile.html"
    write_text(path, page(profile))
    return path


def page(profile: Mapping[str, Any]) -> str:
    """The page of a profile, as `data_profile` returns it."""
    parts = [
        html.faint(f"{profile['n_events']:,} events of {profile['n_users']:,} users and {profile['n_items']:,} items."),
        html.table(
            [],
            [
                ["median history", f"{profile['median_history_length']:,.1f} events"],
                ["pairs of a user and an item", f"{profile['n_pairs']:,}"],
                ["sparsity (share of possible pairs without an event)", _percent(profile["sparsity"], 4)],
                ["repeat share (events on an item that the user had before)", _percent(profile["repeat_share"])],
                *_ties(profile["ties"]),
            ],
            words=(0,),
        ),
        _steps(profile["steps"]),
        html.heading("Histories and popularity"),
        html.picture(_doubling_plot(profile["history_lengths"], "events per user", "users"), "history lengths"),
        html.picture(_doubling_plot(profile["popularity"], "events per item", "items"), "popularity of items"),
        _curve(profile["popularity_curve"]),
        _over_time(profile),
        html.heading("Split"),
        html.paragraph(profile["split"]),
        _parts(profile["parts"]),
        html.heading("Drift from training"),
        _drift(profile["drift"]),
    ]
    return html.document(f"Profile of {profile['name'] or 'a store'}", parts)


def _ties(ties: Mapping[str, Any]) -> list[list[str]]:
    if not ties:
        return []
    return [
        ["neighbours in a history with equal times, as the events were found", _percent(ties["share_tied"])],
        ["of these, in the order of item ids (chance: 50%)", _percent(ties["share_rising"])],
        ["order of events at equal times", {"hash": "by hash"}.get(ties["order"], "as in the file")],
    ]


def _steps(steps: Sequence[Mapping[str, Any]]) -> str:
    if not steps:
        return ""
    rows = []
    for step in steps:
        removed: list[str | None] = [None, None]
        if n := step["n_removed"]:
            removed = [f"{n:,}", _percent(n / (step["n_events"] + n), 2)]
        rows.append([step["step"], *(f"{step[name]:,}" for name in ("n_events", "n_users", "n_items")), *removed])
    heads = ["", "events", "users", "items", "events removed", ""]
    return html.heading("Steps") + html.table(heads, rows, words=(0,))


def _curve(curve: Sequence[Mapping[str, float]]) -> str:
    rows = [[_percent(each["share_of_items"]), _percent(each["share_of_events"])] for each in curve]
    return html.table(["most popular items", "share of events"], rows) if rows else ""


def _over_time(profile: Mapping[str, Any]) -> str:
    counts = profile.get("over_time")
    if counts is None:
        return ""
    last = counts["start_us"] + len(counts["counts"]) * counts["span_us"]
    hours = counts["span_us"] // 3_600_000_000
    number, unit = (hours, "hour") if hours < 24 else (hours // 24, "day")
    caption = (
        f"{iso_moment(counts['start_us'])} to {iso_moment(last)}; each bar is {number} {unit}{'s' * (number > 1)}."
    )
    plot = html.picture(_time_plot(counts), "events over time")
    return html.heading("Events over time") + plot + html.faint(caption)


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    counts = ("n_events", "n_items", "n_targets")
    shares = ("repeat_share", "cold_item_share", "cold_event_share", "cold_target_share")
    rows = [
        [part["part"], *(f"{part[name]:,}" for name in counts), *(_percent(part[name]) for name in shares)]
        for part in parts
    ]
    heads = ["", "events", "items", "targets", "repeats", "cold items", "events on cold items", "cold targets"]
    note = "A cold item has no event in training: a model of ids alone cannot know it."
    return html.table(heads, rows) + html.faint(note)


def _drift(drifts: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for each in drifts:
        measures = ((each[part] or {}).get(name) for part in ("validation", "test") for name in ("psi", "ks"))
        rows.append([each["variable"], *(html.number(measure, "{:.3f}".format) for measure in measures)])
    heads = ["", "PSI, validation", "KS, validation", "PSI, test", "KS, test"]
    return html.table(heads, rows, words=(0,)) + html.faint(
        "Each variable has one value per event. PSI, the population stability index, compares shares in up to ten "
        "bins of about equal counts in training; as a rule of thumb, below .1 is little and above .25 is a large "
        "shift. KS is the largest distance between the two cumulative distributions, 0 to 1. Events of the item are "
        "training events, which include the training event itself, and histories grow with time, so the split alone "
        "causes some drift in both."
    )


def _doubling_plot(histogram: Sequence[Mapping[str, int]], values: str, counts: str) -> Figure:
    """A bar for each doubling, on a logarithmic scale of counts."""
    figure, axes = plots.new_axes(2.8)
    labels = [_span(each["low"], each["high"]) for each in histogram]
    axes.bar(range(len(histogram)), [each["n"] for each in histogram], width=0.85, color=plots.COLOURS[0])
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    plots.finish(axes, x=values, y=f"number of {counts}", grid="y")
    return figure


def _time_plot(over_time: Mapping[str, Any]) -> Figure:
    figure, axes = plots.new_axes(2.8)
    starts = over_time["start_us"] + np.arange(len(over_time["counts"])) * over_time["span_us"]
    span = np.timedelta64(over_time["span_us"], "us")
    axes.bar(starts.astype("datetime64[us]"), over_time["counts"], width=span, align="edge", color=plots.COLOURS[0])
    locator = AutoDateLocator(maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    plots.finish(axes, y="events", grid="y")
    return figure


def _span(low: int, high: int) -> str:
    def short(number: int) -> str:
        return f"{number}" if number < 10_000 else f"{number / 1000:.0f}k" if number < 10**6 else f"{number / 1e6:.1f}M"

    return short(low) if low == high else f"{short(low)}\N{EN DASH}{short(high)}"


def _percent(share: float | None, n_digits: int = 1) -> str:
    return html.number(share, lambda known: f"{100 * known:.{n_digits}f}%")
