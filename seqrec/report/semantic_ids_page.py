"""The report of semantic ids, as text and as an HTML page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from seqrec.pages import html, plots

HEADS = ("level", "error", "codes used", "perplexity", "equal prefix in sessions", "chance", "lift", "lift, validation")


def as_text(report: Mapping[str, Any]) -> str:
    """A line a level: error, use of the codebook, and neighbours in sessions against chance."""
    rows = [HEADS, *_level_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, "", *_collision_sentences(report)])


def page(report: Mapping[str, Any]) -> str:
    """The page of a report, as `figures.report_figures` returns it with `facts`: how the codes were made."""
    facts = report["facts"]
    parts = [
        html.faint(
            f"Codes of {report['n_items']:,} items by {facts['method']}; seed {facts['seed']}; "
            f"data {facts['data_hash'][:12]}."
        ),
        html.verdict_box(*_collision_sentences(report)),
        html.heading("Levels"),
        html.table(HEADS, _level_rows(report)),
        html.faint(
            "error: mean squared error of the item vectors after this level, as a share of their variance. perplexity: "
            "the number of codes that would be as varied if each were used equally often. equal prefix in sessions: "
            "how often two different items that follow one another in a training history have equal codes up to this "
            "level; chance: the same of items that are drawn as often, but apart from each other; lift: their "
            "quotient; lift, validation: that of each validation target and the event before it, not seen in training."
        ),
        html.picture(plot_levels(report), "codes used and lift over chance by level"),
        html.heading("Examples"),
        html.paragraph("The most frequent items of some prefixes:"),
        html.table(
            ["prefix", "items", "most frequent"],
            [
                [" ".join(map(str, each["prefix"])), each["n_items"], "; ".join(each["items"])]
                for each in report["examples"]
            ],
            words=(2,),
        )
        if report["examples"]
        else html.faint("No prefix of two levels has three items."),
        html.heading("Command"),
        html.paragraph(html.code(facts["command"])),
    ]
    return html.document(f"Semantic ids by {facts['method']}", parts)


def _level_rows(report: Mapping[str, Any]) -> list[list[str]]:
    errors = report["errors"] or []
    rows = []
    by_level = zip(report["levels"], report["sessions"], report["validation"], strict=True)
    for level, (use, sessions, validation) in enumerate(by_level):
        rows.append(
            [
                str(level),
                f"{errors[level]:.4f}" if level < len(errors) else html.DASH,
                f"{use['used']:,} of {use['n_codes']:,}",
                f"{use['perplexity']:,.1f}",
                f"{sessions['share']:.2%}",
                f"{sessions['chance']:.2%}",
                *(html.number(each["lift"], "{:,.1f}".format) for each in (sessions, validation)),
            ]
        )
    return rows


def _collision_sentences(report: Mapping[str, Any]) -> list[str]:
    before, after = report["equal_codes"]["as_quantised"], report["equal_codes"]["final"]
    sentences = []
    if before is not None and before != after:
        sentences.append(f"As they were quantised, {_sharing(before)}.")
    return [*sentences, f"In the file, {_sharing(after)}."]


def _sharing(collisions: Mapping[str, int]) -> str:
    if not collisions["items"]:
        return "no two items share all their codes"
    return (
        f"{collisions['items']:,} items share all their codes with another, in {collisions['groups']:,} "
        f"group{'s' * (collisions['groups'] > 1)} of up to {collisions['largest']:,}"
    )


def plot_levels(report: Mapping[str, Any]) -> Figure:
    """Use of the codebooks, and how many times as often as by chance neighbours in sessions share a prefix."""
    figure = plots.new_figure(3.0)
    left, right = figure.subplots(1, 2)
    places = np.arange(len(report["levels"]))
    for shift, name, label, colour in ((-0.2, "used", "codes used", 0), (0.2, "perplexity", "perplexity", 1)):
        values = [level[name] for level in report["levels"]]
        left.bar(places + shift, values, width=0.38, label=label, color=plots.COLOURS[colour])
    lifts = [(place, level["lift"]) for place, level in enumerate(report["sessions"]) if level["lift"] is not None]
    if lifts:
        right.plot(*zip(*lifts, strict=True), marker="o", color=plots.COLOURS[2])
    right.axhline(1.0, color=plots.NEUTRAL, linewidth=1, zorder=0)
    for axes in (left, right):
        axes.set_xticks(places)
    if any(lift > 10 for _, lift in lifts):
        right.set_yscale("log")
    plots.finish(left, x="level", y="codes")
    plots.finish(right, x="level", y="lift over chance")
    plots.add_legend(figure)
    return figure
