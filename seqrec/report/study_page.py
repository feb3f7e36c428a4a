"""A study in words and as an HTML page: verdicts first, then the figures behind them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqrec.pages import html, plots
from seqrec.report.comparison_page import figure_cell, slice_sections
from seqrec.report.comparison_text import (
    decided_by_correction,
    decimal,
    difference_ends,
    interval_text,
    metric_label,
)
from seqrec.report.placebos import placebo_sentences

_LOOKS = {
    "helps": (plots.GOOD, "^", "helps"),
    "hurts": (plots.BAD, "v", "hurts"),
    "none": (plots.NEUTRAL, "o", "no difference shown"),
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
    ends, verdict = difference_ends(variation[primary]), variation["verdict"]
    if verdict["size"] is None:
        return f"{name}: a single user is too few for a verdict"
    these = " in these very runs" if len(study["seeds"]) == 1 else ""
    if verdict["kind"] == "none":
        corrected = f"; {change}" if (change := correction(name, study)) else ""
        return f"{name}: no difference larger than {decimal(verdict['size'])}{these} ({interval_text(ends)}{corrected})"
    base = study["systems"][study["base"]]["metrics"][primary][0]
    share = f" ({100 * verdict['size'] / base:.0f}% of {decimal(base)})" if base else ""
    by = interval_text(ends, sign=1 if verdict["kind"] == "helps" else -1)
    return f"{name} {verdict['kind']} by {by}{these}{share}"


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
    base, variations = study["base"], study["variations"]
    parts = [
        html.faint(
            f"{label} on {study['n_users']:,} users, {_seeds(study)}; against {base}, with "
            f"{100 * study['level']:g}% intervals for other users{' and other seeds' * (len(study['seeds']) > 1)}."
        ),
        *(
            html.verdict_box(f"{sentence(name, study)}.", kind=_BOXES[variation["verdict"]["kind"]])
            for name, variation in variations.items()
        ),
        html.bullets([*placebo_sentences(study), *study["notes"]]),
        html.picture(plot_variations(study), f"differences in {label} from {base}"),
        _arms(study),
        html.heading("Costs"),
        _costs(study),
        *slice_sections(
            study["slices"],
            study["primary"],
            list(variations),
            note=f"Left: each system. Right: its difference from {base}. Intervals include users and seeds, and",
        ),
        html.heading("All metrics"),
        _metrics(study),
        html.heading("Trainings"),
        html.picture(plot_curves(study), f"{label} on validation by epoch"),
        _runs(study),
        html.details(
            "Commands that repeat each training",
            html.Html("".join(html.paragraph(html.code(run["command"])) for run in study["runs"])),
        ),
        _how_to_read(study),
    ]
    return html.document(f"What helps {study['study']['experiment']} on {data.get('name') or data['dataset']}?", parts)


def _seeds(study: Mapping[str, Any]) -> str:
    seeds = study["seeds"]
    return f"seed {seeds[0]} alone" if len(seeds) == 1 else f"means of {len(seeds)} seeds"


def plot_variations(study: Mapping[str, Any]) -> Figure:
    """A row for each variation: its difference; the thick bar is for other users, the thin one for other seeds too."""
    differences = [each[study["primary"]] for each in study["variations"].values()]
    kinds = [each["verdict"]["kind"] for each in study["variations"].values()]
    figure, axes = plots.new_axes(plots.row_height(len(kinds), 1))
    series = []
    for kind, look in _LOOKS.items():
        ends = [
            difference_ends(each) if of == kind else [None] * 3 for each, of in zip(differences, kinds, strict=True)
        ]
        if any(value is not None for value, *_ in ends):
            series.append(plots.Series(ends, *look))
    plots.draw_intervals(axes, list(study["variations"]), series, side_by_side=False)
    for row, (each, kind) in enumerate(zip(differences, kinds, strict=True)):
        if each["seeds_error"] is not None and each["users_error"]:
            low, high = each["interval"]
            half = (high - low) / 2 * each["users_error"] / np.hypot(each["users_error"], each["seeds_error"])
            bar = [each["difference"] - half, each["difference"] + half]
            axes.plot(bar, [row, row], color=_LOOKS[kind][0], linewidth=7, alpha=0.4, solid_capstyle="butt")
    plots.draw_zero(axes)
    plots.finish(axes, x=f"difference in {metric_label(study['primary'])}; right of 0 is better", grid="x")
    plots.add_legend(figure)
    return figure


def plot_curves(study: Mapping[str, Any]) -> Figure:
    """The primary metric on validation by epoch: a line for each training, a colour for each system."""
    figure, axes = plots.new_axes(4.0)
    for number, (name, by_seed) in enumerate(study["curves"].items()):
        colour, marker = plots.look(number)
        for place, values in enumerate(by_seed.values()):
            label = None if place else plots.plain(name)
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, f"-{marker}", color=colour, markersize=3.5, linewidth=1, alpha=0.75, label=label)
    plots.whole_numbers(axes)
    plots.finish(axes, x="epoch", y=f"{metric_label(study['primary'])} on validation")
    plots.add_legend(figure)
    return figure


def _arms(study: Mapping[str, Any]) -> str:
    primary = study["primary"]
    rows = []
    for name, system in study["systems"].items():
        each = study["variations"].get(name, {}).get(primary)
        differs = (
            [figure_cell(difference_ends(each)), *(_p_value(each[p]) for p in ("p", "p_holm"))] if each else [""] * 3
        )
        rows.append([name, figure_cell(system["metrics"][primary]), *differs, html.code(study["arms"][name])])
    heads = ["", metric_label(primary), "difference", "p", "p (Holm)", "flags, in addition to those of the base"]
    return html.table(heads, rows, words=(5,))


def _costs(study: Mapping[str, Any]) -> str:
    def cell(cost: Mapping[str, Any], name: str, write: str, scale: float | int = 1) -> str:
        value, share = cost[name], cost["of_base"][name]
        times = "" if share is None else f" <small>({share:.2f})</small>"
        return html.Html(html.number(value, lambda number: write.format(scale * number) + times))

    rows = [
        [
            name,
            cell(cost, "n_parameters", "{:,}"),
            cell(cost, "state_bytes", "{:,.1f} MB", 1e-6),
            cell(cost, "step_seconds", "{:,.1f} ms", 1000),
            f"{cost['train_minutes']:.1f}",
        ]
        for name, cost in study["costs"].items()
    ]
    return html.table(["", "parameters", "training state", "step time", "minutes per training"], rows) + html.faint(
        "In brackets: relative to the base. The training state is what a step keeps: parameters, the optimizer's "
        "moments, averaged weights and the tables that features are read from. A step's time is the median over "
        f"intervals of all trainings, on {study['versions']['device']}; other work on the machine changes it."
    )


def _metrics(study: Mapping[str, Any]) -> str:
    rows = [
        [
            metric_label(metric),
            figure_cell(study["systems"][study["base"]]["metrics"][metric]),
            *(figure_cell(difference_ends(each[metric])) for each in study["variations"].values()),
        ]
        for metric in study["metrics"]
    ]
    heads = ["", study["base"], *(f"{name}, difference" for name in study["variations"])]
    return html.table(heads, rows) + html.faint(
        f"Verdicts are about {metric_label(study['primary'])} alone; these intervals are not adjusted for the number "
        "of metrics."
    )


def _runs(study: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            *map(decimal, system["values"]),
            html.number(system["seeds_sd"], decimal),
            ", ".join(map(str, study["costs"][name]["best_epochs"])),
        ]
        for name, system in study["systems"].items()
    ]
    heads = ["", *(f"seed {seed}" for seed in study["seeds"]), "standard deviation over seeds", "best epochs"]
    unfinished = [
        [run["name"], run["seed"], run["failure"] or "not run: no time was left"]
        for run in study["runs"]
        if run["state"] != "done"
    ]
    missing = html.heading("Not finished", level=3) + html.table(["", "seed", ""], unfinished, words=(2,))
    return html.table(heads, rows) + (missing if unfinished else "")


def _how_to_read(study: Mapping[str, Any]) -> str:
    n = len(study["variations"])
    family = "" if n == 1 else f", corrected for the {n} variations (Holm)"
    return html.details(
        "How to read this",
        html.paragraph(
            "All systems rank the same held-out items of the same users. A difference is the mean over users and seeds "
            "of the variation's value minus the base's. Its variance has two parts: other users could have been "
            "tested, and other seeds trained; the seeds' part is pooled over all systems. In the plot the thick bar is "
            "the users' part and the thin one both. A variation helps or hurts if the p-value of its "
            f"difference{family} is at most {decimal(1 - study['level'], 2)}. Otherwise no difference is shown, and "
            "the end of the interval that is farther from 0 says how large one may still be. Intervals are not "
            "corrected, so that one may leave out 0 where no difference is shown. If shuffling a feature keeps its "
            "gain, the gain is not due to what the feature says."
        ),
        is_open=True,
    )


def _p_value(value: float | None) -> str | None:
    return "< .0001" if value is not None and value < 0.0001 else html.number(value, decimal)
