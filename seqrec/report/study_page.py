"""A study in words and as an HTML page: verdicts first, then the figures behind them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqrec.pages.document import (
    DASH,
    bullets,
    code,
    document,
    faint,
    folded,
    picture,
    table,
    text,
    verdict_box,
)
from seqrec.pages.plots import (
    BAD,
    COLOURS,
    GOOD,
    MARKERS,
    NEUTRAL,
    Series,
    add_legend,
    draw_intervals,
    draw_zero,
    finish,
    new_figure,
    plain,
    row_height,
    whole_numbers,
)
from seqrec.report.comparison_page import decimal_cell, figure_cell, slice_section
from seqrec.report.comparison_text import decided_by_correction, decimal, metric_label
from seqrec.report.placebos import placebo_sentences

_LOOKS = {
    "helps": (GOOD, "^", "helps"),
    "hurts": (BAD, "v", "hurts"),
    "none": (NEUTRAL, "o", "no difference shown"),
}
"""Colour, marker and name in the legend of each kind of verdict."""
_BOXES = {"helps": "good", "hurts": "bad", "none": ""}


def sentence(name: str, study: Mapping[str, Any]) -> str:
    """The verdict on one variation.

    >>> difference = {"difference": 0.0049, "interval": [0.0007, 0.0091], "p": 0.022, "p_holm": 0.088}
    >>> study = {"systems": {"ids": {"metrics": {"ndcg@10": [0.0409, 0.03, 0.05]}}}, "base": "ids",
    ...     "primary": "ndcg@10", "level": 0.95, "seeds": [0, 1], "variations": {
    ...         "genres": {"ndcg@10": difference, "verdict": {"kind": "helps", "size": 0.0049}},
    ...         "year": {"ndcg@10": difference, "verdict": {"kind": "none", "size": 0.0091}}}}
    >>> sentence("genres", study)
    'genres helps by .0049 [.0007, .0091] (12% of .0409)'
    >>> sentence("year", study)
    'year: no difference larger than .0091 (.0049 [.0007, .0091]; p = .022 alone, .088 corrected for 2)'
    """
    variation, primary = study["variations"][name], study["primary"]
    difference, verdict = variation[primary], variation["verdict"]
    if verdict["size"] is None:
        return f"{name}: a single user is too few for a verdict"
    low, high = difference["interval"]
    these = " in these very runs" if len(study["seeds"]) == 1 else ""
    if verdict["kind"] == "none":
        corrected = correction(name, study)
        ends = f"{decimal(difference['difference'])} [{decimal(low)}, {decimal(high)}]"
        return (
            f"{name}: no difference larger than {decimal(verdict['size'])}{these} "
            f"({ends}{f'; {corrected}' if corrected else ''})"
        )
    base = study["systems"][study["base"]]["metrics"][primary][0]
    low, high = (low, high) if verdict["kind"] == "helps" else (-high, -low)
    share = f" ({100 * verdict['size'] / base:.0f}% of {decimal(base)})" if base else ""
    return f"{name} {verdict['kind']} by {decimal(verdict['size'])} [{decimal(low)}, {decimal(high)}]{these}{share}"


def correction(name: str, study: Mapping[str, Any]) -> str:
    """What the correction for several variations changed, where the variation alone would have a verdict; else ""."""
    difference = study["variations"][name][study["primary"]]
    if not decided_by_correction(difference, level=study["level"]):
        return ""
    p, corrected = decimal(difference["p"], 3), decimal(difference["p_holm"], 3)
    return f"p = {p} alone, {corrected} corrected for {len(study['variations'])}"


def as_text(study: Mapping[str, Any]) -> str:
    """The printed end of a study: a line for each verdict and note."""
    label = metric_label(study["primary"])
    lines = [f"{label} against {study['base']}, {study['n_users']:,} users, {_seeds(study)}"]
    lines += [f"  {sentence(name, study)}" for name in study["variations"]]
    lines += [f"  {each}" for each in placebo_sentences(study)]
    failed = [f"{run['name']}, seed {run['seed']} failed: {run['failure']}" for run in study["runs"] if run["failure"]]
    return "\n".join([*lines, *(f"note: {note}" for note in [*study["notes"], *failed])])


def page(study: Mapping[str, Any]) -> str:
    """The page of a study, as study.json has it."""
    label, data = metric_label(study["primary"]), study["data"]
    others = list(study["variations"])
    parts = [
        faint(
            f"{label} on {study['n_users']:,} users, {text(_seeds(study))}; against {text(study['base'])}, with "
            f"{100 * study['level']:g}% intervals for other users{' and other seeds' * (len(study['seeds']) > 1)}."
        ),
        *(
            verdict_box(f"{sentence(name, study)}.", kind=_BOXES[variation["verdict"]["kind"]])
            for name, variation in study["variations"].items()
        ),
        bullets([*placebo_sentences(study), *study["notes"]]),
        picture(plot_variations(study), f"differences in {label} from {study['base']}"),
        _arms(study),
        "<h2>Costs</h2>",
        _costs(study),
        f"<h2>{label} by slices of the users</h2>",
        faint(
            "Left: each system. Right: its difference from "
            f"{text(study['base'])}. Intervals include users and seeds, and are not adjusted for the number of slices: "
            "of twenty slices without a difference, about one will seem to show one."
        ),
        *(slice_section(slices, study["primary"], others) for slices in study["slices"]),
        "<h2>All metrics</h2>",
        _metrics(study),
        "<h2>Trainings</h2>",
        picture(plot_curves(study), f"{label} on validation by epoch"),
        _runs(study),
        _unfinished([run for run in study["runs"] if run["state"] != "done"]),
        folded(
            "Commands that repeat each training", "".join(f"<p>{code(run['command'])}</p>" for run in study["runs"])
        ),
        _how_to_read(study),
    ]
    return document(f"What helps {study['study']['experiment']} on {data.get('name') or data['dataset']}?", parts)


def _seeds(study: Mapping[str, Any]) -> str:
    seeds = study["seeds"]
    return f"seed {seeds[0]} alone" if len(seeds) == 1 else f"means of {len(seeds)} seeds"


def plot_variations(study: Mapping[str, Any]) -> Figure:
    """A row for each variation: its difference; the thick bar is for other users, the thin one for other seeds too."""
    variations = study["variations"]
    figure = new_figure(row_height(len(variations), 1))
    axes = figure.subplots()
    series = []
    for kind, look in _LOOKS.items():
        ends = [
            [each[study["primary"]]["difference"], *each[study["primary"]]["interval"]]
            if each["verdict"]["kind"] == kind
            else [None] * 3
            for each in variations.values()
        ]
        if any(value is not None for value, *_ in ends):
            series.append(Series(ends, *look))
    draw_intervals(axes, list(variations), series, side_by_side=False)
    for row, variation in enumerate(variations.values()):
        each = variation[study["primary"]]
        if each["seeds_error"] is not None and each["users_error"]:
            low, high = each["interval"]
            half = (high - low) / 2 * each["users_error"] / np.hypot(each["users_error"], each["seeds_error"])
            axes.plot(
                [each["difference"] - half, each["difference"] + half],
                [row, row],
                color=_LOOKS[variation["verdict"]["kind"]][0],
                linewidth=7,
                alpha=0.4,
                solid_capstyle="butt",
            )
    draw_zero(axes)
    finish(axes, x=f"difference in {metric_label(study['primary'])}; right of 0 is better", grid="x")
    add_legend(figure)
    return figure


def plot_curves(study: Mapping[str, Any]) -> Figure:
    """The primary metric on validation by epoch: a line for each training, a colour for each system."""
    figure = new_figure(4.0)
    axes = figure.subplots()
    for number, (name, by_seed) in enumerate(study["curves"].items()):
        for place, values in enumerate(by_seed.values()):
            axes.plot(
                range(1, len(values) + 1),
                values,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3.5,
                linewidth=1,
                alpha=0.75,
                label=None if place else plain(name),
            )
    whole_numbers(axes)
    finish(axes, x="epoch", y=f"{metric_label(study['primary'])} on validation")
    add_legend(figure)
    return figure


def _arms(study: Mapping[str, Any]) -> str:
    primary = study["primary"]
    rows = []
    for name, flags in study["arms"].items():
        if name not in study["systems"]:
            continue
        each = study["variations"].get(name, {}).get(primary)
        differs = ["", "", ""]
        if each:
            p_values = [each["p"], each["p_holm"]]
            differs = [figure_cell([each["difference"], *each["interval"]]), *map(_p_value, p_values)]
        system = study["systems"][name]
        rows.append([text(name), figure_cell(system["metrics"][primary]), *differs, code(flags)])
    heads = ["", metric_label(primary), "difference", "p", "p (Holm)", "flags, in addition to those of the base"]
    return table(heads, rows, words=(5,))


def _costs(study: Mapping[str, Any]) -> str:
    rows = []
    for name, cost in study["costs"].items():
        share = cost["of_base"]
        seconds = cost["step_seconds"]
        rows.append(
            [
                text(name),
                f"{cost['n_parameters']:,} {_times(share['n_parameters'])}",
                f"{cost['state_bytes'] / 1e6:,.1f} MB {_times(share['state_bytes'])}",
                DASH if seconds is None else f"{1000 * seconds:,.1f} ms {_times(share['step_seconds'])}",
                f"{cost['train_minutes']:.1f}",
            ]
        )
    return table(["", "parameters", "training state", "step time", "minutes per training"], rows) + faint(
        "In brackets: relative to the base. The training state is what a step keeps: parameters, the optimizer's "
        "moments, averaged weights and the tables that features are read from. A step's time is the median over "
        f"intervals of all trainings, on {text(study['versions']['device'])}; other work on the machine changes it."
    )


def _times(share: float | None) -> str:
    return "" if share is None else f"<small>({share:.2f})</small>"


def _metrics(study: Mapping[str, Any]) -> str:
    rows = [
        [
            text(metric_label(metric)),
            figure_cell(study["systems"][study["base"]]["metrics"][metric]),
            *(
                figure_cell([each[metric]["difference"], *each[metric]["interval"]])
                for each in study["variations"].values()
            ),
        ]
        for metric in study["metrics"]
    ]
    heads = ["", study["base"], *(f"{name}, difference" for name in study["variations"])]
    return table(heads, rows) + faint(
        f"Verdicts are about {metric_label(study['primary'])} alone; these intervals are not adjusted for the number "
        "of metrics."
    )


def _runs(study: Mapping[str, Any]) -> str:
    rows = [
        [
            text(name),
            *(decimal(value) for value in system["values"]),
            decimal_cell(system["seeds_sd"]),
            ", ".join(map(str, study["costs"][name]["best_epochs"])),
        ]
        for name, system in study["systems"].items()
    ]
    heads = ["", *(f"seed {seed}" for seed in study["seeds"]), "standard deviation over seeds", "best epochs"]
    return table(heads, rows)


def _unfinished(runs: list[Mapping[str, Any]]) -> str:
    if not runs:
        return ""
    rows = [[text(run["name"]), str(run["seed"]), text(run["failure"] or "not run: no time was left")] for run in runs]
    return "<h3>Not finished</h3>" + table(["", "seed", ""], rows, words=(2,))


def _how_to_read(study: Mapping[str, Any]) -> str:
    n = len(study["variations"])
    family = "" if n == 1 else f", corrected for the {n} variations (Holm)"
    return folded(
        "How to read this",
        "<p>All systems rank the same held-out items of the same users. A difference is the mean over users and seeds "
        "of the variation's value minus the base's. Its variance has two parts: other users could have been tested, "
        "and other seeds trained; the seeds' part is pooled over all systems. In the plot the thick bar is the users' "
        f"part and the thin one both. A variation helps or hurts if the p-value of its difference{family} is at most "
        f"{decimal(1 - study['level'], 2)}. Otherwise no difference is shown, and the end of the interval that is "
        "farther from 0 says how large one may still be. Intervals are not corrected, so that one may leave out 0 "
        "where no difference is shown. If shuffling a feature keeps its gain, the gain is not due to what the feature "
        "says.</p>",
        is_open=True,
    )


def _p_value(value: float | None) -> str:
    if value is None:
        return DASH
    return "&lt; .0001" if value < 0.0001 else decimal(value)
