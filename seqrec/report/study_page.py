"""A study in words, and as one HTML page that opens offline: verdicts first, then what they rest on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seqrec.report.comparison_page import bullets, decimal_cell, figure_cell, slice_section
from seqrec.report.comparison_text import decimal, metric_label
from seqrec.report.page_parts import document, svg, table, text
from seqrec.report.slices import COLOURS, MARKERS, plain

_KINDS = {"helps": ("#009E73", "^", "better"), "hurts": ("#D55E00", "v", "worse"), "none": ("#7F7F7F", "o", "")}
"""Colour, marker and style of each kind of verdict."""


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """The verdict on one variation.

    >>> difference = {"difference": 0.0123, "interval": [0.0051, 0.0194], "p": 0.001, "p_holm": 0.002}
    >>> found = {"systems": {"ids": {"metrics": {"ndcg@10": [0.1, 0.09, 0.11]}}}, "base": "ids", "primary": "ndcg@10",
    ...     "level": 0.95, "seeds": [0, 1], "variations": {
    ...         "genres": {"ndcg@10": difference, "verdict": {"kind": "helps", "size": 0.0123}},
    ...         "year": {"ndcg@10": difference, "verdict": {"kind": "none", "size": 0.0194}}}}
    >>> sentence("genres", found)
    'genres helps by .0123 [.0051, .0194] (12% of .1000)'
    >>> sentence("year", found)  # its own p-value is small, the adjusted one is not
    'year: no difference larger than .0194 (.0123 [.0051, .0194]; alone it would count, but it is one of 2)'
    """
    variation, primary = found["variations"][name], found["primary"]
    each, verdict = variation[primary], variation["verdict"]
    if verdict["size"] is None:
        return f"{name}: a single user tells nothing"
    low, high = each["interval"]
    these = " in these very runs" if len(found["seeds"]) == 1 else ""
    if verdict["kind"] == "none":
        alone = ""
        if each["p"] <= 1.0 - found["level"]:
            alone = f"; alone it would count, but it is one of {len(found['variations'])}"
        ends = f"{decimal(each['difference'])} [{decimal(low)}, {decimal(high)}]"
        return f"{name}: no difference larger than {decimal(verdict['size'])}{these} ({ends}{alone})"
    base = found["systems"][found["base"]]["metrics"][primary][0]
    low, high = (low, high) if verdict["kind"] == "helps" else (-high, -low)
    share = f" ({100 * verdict['size'] / base:.0f}% of {decimal(base)})" if base else ""
    return f"{name} {verdict['kind']} by {decimal(verdict['size'])} [{decimal(low)}, {decimal(high)}]{these}{share}"


def as_text(found: Mapping[str, Any]) -> str:
    """What is printed at the end of a study."""
    label = metric_label(found["primary"])
    lines = [f"{label} against {found['base']}, {found['n_users']:,} users, {_seeds(found)}"]
    lines += [f"  {sentence(name, found)}" for name in found["variations"]]
    failed = [f"{run['name']}, seed {run['seed']} failed: {run['failure']}" for run in found["runs"] if run["failure"]]
    return "\n".join([*lines, *(f"note: {note}" for note in [*found["notes"], *failed])])


def page(found: Mapping[str, Any]) -> str:
    """The page of a study, as study.json has it."""
    study, label = found["study"], metric_label(found["primary"])
    title = f"What helps {study['experiment']} on {found['data']['dataset']}?"
    others = list(found["variations"])
    rest = [run for run in found["runs"] if run["state"] != "done"]
    parts = [
        f"<h1>{text(title)}</h1>",
        f'<p class="faint">{label} on {found["n_users"]:,} users, {text(_seeds(found))}; against '
        f"{text(found['base'])}, with {100 * found['level']:g}% intervals for other users"
        f"{' and other seeds' if len(found['seeds']) > 1 else ''}.</p>",
        *(
            f'<p class="verdict {_KINDS[variation["verdict"]["kind"]][2]}">{text(sentence(name, found))}.</p>'
            for name, variation in found["variations"].items()
        ),
        bullets(found["notes"]),
        svg(plot_variations(found), f"differences in {label} from {found['base']}"),
        _arms(found),
        "<h2>What it costs</h2>",
        _costs(found),
        f"<h2>{label} by slices of the users</h2>",
        '<p class="faint">Left, each system; right, its difference from '
        f"{text(found['base'])}. Intervals count users and seeds, and are not adjusted for the number of slices: of "
        "twenty that hold no difference, about one will seem to show one.</p>",
        *(slice_section(slices, found["primary"], others) for slices in found["slices"]),
        "<h2>All metrics</h2>",
        _metrics(found),
        "<h2>Trainings</h2>",
        svg(plot_curves(found), f"{label} on validation by epoch"),
        _runs(found),
        _unfinished(rest),
        _commands(found),
        _how_to_read(found),
    ]
    return document(title, "\n".join(part for part in parts if part))


def _seeds(found: Mapping[str, Any]) -> str:
    seeds = found["seeds"]
    return f"seed {seeds[0]} alone" if len(seeds) == 1 else f"means of {len(seeds)} seeds"


def plot_variations(found: Mapping[str, Any]) -> Figure:
    """A row a variation: its difference, with a thick bar for other users and a thin one for other seeds too."""
    variations = found["variations"]
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(variations)), layout="constrained")
    axes = figure.subplots()
    for row, variation in enumerate(variations.values()):
        each = variation[found["primary"]]
        colour, marker, _ = _KINDS[variation["verdict"]["kind"]]
        low, high = np.array(each["interval"], float)
        axes.plot([low, high], [row, row], color=colour, linewidth=1.2, marker="|", markersize=9)
        if each["seeds_error"] is not None and each["users_error"]:
            whole = np.hypot(each["users_error"], each["seeds_error"])
            half = (high - low) / 2 * each["users_error"] / whole
            axes.plot([each["difference"] - half, each["difference"] + half], [row, row], color=colour, linewidth=4.5)
        axes.plot(each["difference"], row, marker, color=colour, markersize=9, markeredgecolor="white")
    axes.axvline(0.0, color="tab:gray", linewidth=1)
    axes.set_yticks(range(len(variations)), [plain(name) for name in variations])
    axes.set_ylim(len(variations) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {metric_label(found['primary'])} from {plain(found['base'])}; right of 0 is better")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_curves(found: Mapping[str, Any]) -> Figure:
    """The primary metric on validation by epoch: a line a training, a colour a system."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, by_seed) in enumerate(found["curves"].items()):
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
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{metric_label(found['primary'])} on validation")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _arms(found: Mapping[str, Any]) -> str:
    primary = found["primary"]
    rows = []
    for name, flags in found["arms"].items():
        if name not in found["systems"]:
            continue
        each = found["variations"].get(name, {}).get(primary)
        differs = ["", "", ""]
        if each:
            p_values = [each["p"], each["p_holm"]]
            differs = [figure_cell([each["difference"], *each["interval"]]), *map(_p_value, p_values)]
        system = found["systems"][name]
        rows.append([text(name), figure_cell(system["metrics"][primary]), *differs, f"<code>{text(flags)}</code>"])
    heads = ["", metric_label(primary), "difference", "p", "p (Holm)", "flags; those of the base hold for all"]
    return table(heads, rows, words=(5,))


def _costs(found: Mapping[str, Any]) -> str:
    rows = []
    for name, cost in found["costs"].items():
        share = cost["of_base"]
        seconds = cost["step_seconds"]
        rows.append(
            [
                text(name),
                f"{cost['n_parameters']:,} {_times(share['n_parameters'])}",
                f"{cost['state_bytes'] / 1e6:,.1f} MB {_times(share['state_bytes'])}",
                "\N{EN DASH}" if seconds is None else f"{1000 * seconds:,.1f} ms {_times(share['step_seconds'])}",
                f"{cost['train_minutes']:.1f}",
            ]
        )
    return table(["", "parameters", "training state", "a step", "minutes a training"], rows) + (
        '<p class="faint">Times of the base in brackets. The training state is what a step keeps: parameters, the '
        "optimizer's moments, averaged weights and what features are read from. A step's time is the median over "
        f"intervals of all trainings, on {text(found['versions']['device'])}; other work on the machine moves it.</p>"
    )


def _times(share: float | None) -> str:
    return "" if share is None else f"<small>({share:.2f})</small>"


def _metrics(found: Mapping[str, Any]) -> str:
    rows = [
        [
            text(metric_label(metric)),
            figure_cell(found["systems"][found["base"]]["metrics"][metric]),
            *(
                figure_cell([each[metric]["difference"], *each[metric]["interval"]])
                for each in found["variations"].values()
            ),
        ]
        for metric in found["metrics"]
    ]
    heads = ["", found["base"], *(f"{name}, difference" for name in found["variations"])]
    return table(heads, rows) + (
        f'<p class="faint">Verdicts are about {metric_label(found["primary"])} alone; these intervals are not adjusted '
        "for their number.</p>"
    )


def _runs(found: Mapping[str, Any]) -> str:
    rows = [
        [
            text(name),
            *(decimal(value) for value in system["values"]),
            decimal_cell(system["seeds_sd"]),
            ", ".join(map(str, found["costs"][name]["best_epochs"])),
        ]
        for name, system in found["systems"].items()
    ]
    heads = ["", *(f"seed {seed}" for seed in found["seeds"]), "deviation over seeds", "best epochs"]
    return table(heads, rows)


def _unfinished(runs: list[Mapping[str, Any]]) -> str:
    if not runs:
        return ""
    rows = [[text(run["name"]), str(run["seed"]), text(run["failure"] or "not run: it did not fit")] for run in runs]
    return "<h3>Not finished</h3>" + table(["", "seed", ""], rows, words=(2,))


def _commands(found: Mapping[str, Any]) -> str:
    lines = "\n".join(f"{run['command']}" for run in found["runs"])
    return (
        "<details><summary>Commands that repeat each training</summary>"
        f'<div class="scroll"><pre>{text(lines)}</pre></div></details>'
    )


def _how_to_read(found: Mapping[str, Any]) -> str:
    n = len(found["variations"])
    family = "" if n == 1 else f", adjusted for the {n} variations (Holm)"
    return (
        "<details open><summary>How to read this</summary><p>All systems rank the same held-out items of the same "
        "users. A difference is the mean over users and seeds of the variation's value less the base's. Its variance "
        "has two parts: other users would have been tested, and other seeds trained; the seeds' part is pooled over "
        "all systems. In the plot the thick bar is the users' part and the thin one both. A variation helps or hurts "
        f"where the p-value of its difference{family} is at most {decimal(1 - found['level'], 2)}. Otherwise no "
        "difference was shown, and the end of the interval that is farther from 0 says how large one may still be. "
        "A feature whose shuffled twin gains as much gains nothing by what it says.</p></details>"
    )


def _p_value(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return "&lt; .0001" if value < 0.0001 else decimal(value)
