"""A backtest in words and as an HTML page: what refreshing gains and costs, day by day."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from seqrec.pages import html, plots
from seqrec.report.backtest_figures import ANEW, ARMS, NEVER, WARM
from seqrec.report.comparison_page import figure_cell
from seqrec.report.comparison_text import interval_text, metric_label, text_table

PRIMARY = "ndcg@10"
_LEARNS_FROM = {"active": "the newest windows of users with new events", "all": "all events"}
NAMES = {WARM: "refreshed warm", ANEW: "trained anew", NEVER: "never refreshed"}


def sentences(backtest: Mapping[str, Any]) -> list[str]:
    """What a warm refresh gains and costs, in words.

    >>> ends = {"warm - anew": {"ndcg@10": [-0.001, -0.004, 0.002]}, "warm - never": {"ndcg@10": [0.02, 0.01, 0.03]}}
    >>> costs = {"warm": {"share_of_anew": 0.2, "cpu_seconds": 12.0}, "anew": {"cpu_seconds": 60.0}}
    >>> for sentence in sentences({"differences": ends, "costs": costs, "periods": [0] * 3}): print(sentence)
    refreshed warm against trained anew: no difference shown in NDCG@10 (-.0010 [-.0040, .0020])
    refreshed warm against never refreshed: NDCG@10 is higher by .0200 [.0100, .0300]
    a warm refresh takes 6.0 s of CPU, 20% of the 30.0 s of training anew
    """
    costs, n_refreshes = backtest["costs"], len(backtest["periods"]) - 1
    differences = [
        _difference(WARM, other, backtest["differences"][f"{WARM} - {other}"][PRIMARY]) for other in (ANEW, NEVER)
    ]
    warm, anew = (costs[arm]["cpu_seconds"] / n_refreshes for arm in (WARM, ANEW))
    share = f"{100 * costs[WARM]['share_of_anew']:.0f}%"
    return [*differences, f"a warm refresh takes {warm:.1f} s of CPU, {share} of the {anew:.1f} s of training anew"]


def _difference(one: str, other: str, ends: Sequence[float]) -> str:
    _, lower, upper = ends
    head, label = f"{NAMES[one]} against {NAMES[other]}", metric_label(PRIMARY)
    if lower <= 0 <= upper:
        return f"{head}: no difference shown in {label} ({interval_text(ends)})"
    kind = "higher" if lower > 0 else "lower"
    return f"{head}: {label} is {kind} by {interval_text(ends, sign=1 if lower > 0 else -1)}"


def as_text(backtest: Mapping[str, Any]) -> str:
    """The printed end of a backtest: a line for each period, the means, and what they show."""
    rows = [["period", "targets", *(NAMES[arm] for arm in ARMS), "CPU s, warm", "CPU s, anew"]]
    for period, quality in zip(backtest["periods"], backtest["quality"], strict=True):
        cells = ["" if quality is None else interval_text(quality[arm][PRIMARY]) for arm in ARMS]
        spent = [_seconds(period["costs"][arm]) for arm in (WARM, ANEW)]
        rows.append([_moment(period["start"]), f"{period['n_targets']:,}", *cells, *spent])
    overall = [interval_text(backtest["overall"][arm][PRIMARY]) for arm in ARMS]
    n_targets = sum(period["n_targets"] for period in backtest["periods"][1:])
    rows.append(["from the second on", f"{n_targets:,}", *overall, *(_seconds(backtest["costs"][a]) for a in ARMS[:2])])
    return "\n".join([f"{metric_label(PRIMARY)} [95% interval]", *text_table(rows), *sentences(backtest)])


def page(backtest: Mapping[str, Any]) -> str:
    """The page of a backtest, as backtest.json has it."""
    data, config, label = backtest["data"], backtest["backtest"], metric_label(PRIMARY)
    keeps_up, gains, cost = sentences(backtest)
    protocol = backtest["protocol"]
    parts = [
        html.faint(
            f"{data['n_events']:,} events of {data['n_users']:,} users and {data['n_items']:,} items, replayed in "
            f"{config['n_periods']} periods of {config['period_days']:g} days."
        ),
        html.verdict_box(f"{keeps_up}.", f"{cost}.", kind=_kind(backtest, ANEW)),
        html.verdict_box(f"{gains}.", kind=_kind(backtest, NEVER)),
        html.heading("Quality"),
        html.picture(plot_quality(backtest), f"{label} by period for each way to refresh"),
        _quality(backtest),
        html.heading("Time"),
        html.picture(plot_time(backtest), "CPU seconds of each refresh"),
        _costs(backtest),
        html.heading("All metrics, from the second period on"),
        _overall(backtest),
        html.details(
            "Protocol", html.table(["", ""], [[name, str(value)] for name, value in protocol.items()], words=(1,))
        ),
        html.details("Command", html.paragraph(html.code(shlex.join(backtest["command"])))),
        html.details(
            "How to read this",
            html.paragraph(
                "All three models are the same in the first period. Before each later one two of them learn. The one "
                f"refreshed warm starts from its last weights and takes {config['refresh_epochs']} epochs over "
                f"{_LEARNS_FROM[config['refresh_on']]}; the one trained anew starts from random weights and takes "
                f"{backtest['max_epochs']} over all events so far. They are then tested on the period: "
                f"{protocol['targets']}. Candidates are {protocol['candidates']}; {protocol['new_targets']}. Intervals "
                "are for other users; one seed was trained, so that another one may differ by more."
            ),
            is_open=True,
        ),
    ]
    return html.document(f"How often should {backtest['experiment']} be refreshed?", parts)


def _kind(backtest: Mapping[str, Any], other: str) -> str:
    _, lower, upper = backtest["differences"][f"{WARM} - {other}"][PRIMARY]
    return "bad" if upper < 0 else "good" if lower > 0 or other == ANEW else ""


def plot_quality(backtest: Mapping[str, Any]) -> Figure:
    """The primary metric by period: a line for each way to refresh, with intervals."""
    figure, axes = plots.new_axes(4.0)
    shown = [
        (_date(period["start"]), quality)
        for period, quality in zip(backtest["periods"], backtest["quality"], strict=True)
        if quality is not None
    ]
    width = (shown[-1][0] - shown[0][0]) / max(1, len(shown) - 1)
    for number, arm in enumerate(ARMS):
        colour, marker = plots.look(number)
        value, lower, upper = np.array([quality[arm][PRIMARY] for _, quality in shown]).T
        axes.errorbar(
            [moment + (number - 1) * 0.06 * width for moment, _ in shown],
            value,
            yerr=np.maximum([value - lower, upper - value], 0.0),
            fmt=f"-{marker}",
            markersize=4.5,
            linewidth=1.2,
            elinewidth=0.8,
            color=colour,
            label=NAMES[arm],
        )
    _dates(axes)
    axes.set_ylim(bottom=0.0)
    plots.finish(axes, x="start of the period", y=metric_label(PRIMARY))
    plots.add_legend(figure)
    return figure


def plot_time(backtest: Mapping[str, Any]) -> Figure:
    """CPU seconds of each refresh by period."""
    figure, axes = plots.new_axes(2.8)
    periods = backtest["periods"][1:]
    for number, arm in enumerate((WARM, ANEW)):
        colour, marker = plots.look(number)
        seconds = [period["costs"][arm].get("cpu_seconds", 0.0) for period in periods]
        axes.plot([_date(period["start"]) for period in periods], seconds, f"-{marker}", color=colour, label=NAMES[arm])
    _dates(axes)
    axes.set_ylim(bottom=0.0)
    plots.finish(axes, x="start of the period", y="CPU seconds of the refresh")
    plots.add_legend(figure)
    return figure


def _dates(axes: Any) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _date(moment: str) -> Any:
    return np.datetime64(moment.removesuffix("Z")).astype(datetime)


def _moment(moment: str) -> str:
    return moment.removesuffix("T00:00:00Z").removesuffix("Z")


def _seconds(cost: Mapping[str, Any]) -> str:
    return f"{cost['cpu_seconds']:.1f}" if "cpu_seconds" in cost else ""


def _quality(backtest: Mapping[str, Any]) -> str:
    rows = [
        [
            _moment(period["start"]),
            f"{period['n_targets']:,}",
            f"{period['n_new_targets']:,}",
            *([None] * len(ARMS) if quality is None else [figure_cell(quality[arm][PRIMARY]) for arm in ARMS]),
        ]
        for period, quality in zip(backtest["periods"], backtest["quality"], strict=True)
    ]
    return html.table(["period from", "targets", "of these new items", *(NAMES[arm] for arm in ARMS)], rows)


def _costs(backtest: Mapping[str, Any]) -> str:
    rows = [
        [
            _moment(period["start"]),
            f"{period['n_events_before']:,}",
            f"{period['n_items_before']:,}",
            *(
                f"{period['costs'][arm].get(name, 0):,.1f}"
                for arm in (WARM, ANEW)
                for name in ("cpu_seconds", "seconds")
            ),
        ]
        for period in backtest["periods"][1:]
    ]
    heads = [f"{NAMES[arm]}, {unit}" for arm in (WARM, ANEW) for unit in ("CPU s", "s")]
    return html.table(["period from", "events before it", "items", *heads], rows) + html.faint(
        f"On {backtest['versions']['device']}. The times include making batches and starting new items; programs are "
        f"compiled in the training before the first period, which took {backtest['base']['cpu_seconds']:.1f} s of CPU."
    )


def _overall(backtest: Mapping[str, Any]) -> str:
    differences = backtest["differences"]
    rows = [
        [
            metric_label(metric),
            *(figure_cell(backtest["overall"][arm][metric]) for arm in ARMS),
            *(figure_cell(each[metric]) for each in differences.values()),
        ]
        for metric in differences[f"{WARM} - {ANEW}"]
    ]
    names = [" less ".join(NAMES[arm] for arm in pair.split(" - ")) for pair in differences]
    return html.table(["", *(NAMES[arm] for arm in ARMS), *names], rows)
