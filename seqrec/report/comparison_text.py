"""A comparison in words: verdicts, printed tables, and how metrics and numbers are written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqrec.report.figures import format_table


def headline_metric(metrics: Sequence[str]) -> str:
    """The metric to show where there is room for one: NDCG@10, or the first NDCG, or the first.

    >>> headline_metric(["recall@5", "ndcg@5", "mrr@5"])
    'ndcg@5'
    """
    ndcgs = [name for name in metrics if name.startswith("ndcg@")]
    return "ndcg@10" if "ndcg@10" in ndcgs else [*ndcgs, *metrics][0]


def metric_label(name: str) -> str:
    """The metric's name as written in prose.

    >>> [metric_label(name) for name in ("ndcg@10", "recall@5", "mrr")]
    ['NDCG@10', 'Recall@5', 'MRR']
    """
    stem, *cut_off = name.split("@")
    return "@".join([stem.upper() if stem in ("ndcg", "mrr", "map", "auc") else stem.capitalize(), *cut_off])


def verdict(run: str, metric: str, difference: Mapping[str, Any], *, level: float) -> str:
    """One sentence on a run's paired difference from the reference: a difference, or what could have been detected.

    >>> shown = {"difference": 0.0123, "interval": [0.0051, 0.0194], "p": 0.001, "p_holm": 0.002, "detectable": 0.0101}
    >>> verdict("B", "ndcg@10", shown, level=0.95)
    'B is better on NDCG@10 by .0123 [.0051, .0194]'
    >>> verdict("B", "ndcg@10", {**shown, "p_holm": 0.2, "p": 0.1}, level=0.95)
    'B: no difference shown on NDCG@10 (.0123 [.0051, .0194]); this test set could have shown .0101'
    """
    label, ends = metric_label(metric), difference_ends(difference)
    if difference["difference"] is None:
        return f"{run}: {label} is not known for every user, so nothing is compared"
    if difference["p_holm"] <= 1.0 - level:
        is_better = difference["difference"] > 0
        by = interval_text(ends, sign=1 if is_better else -1)
        return f"{run} is {'better' if is_better else 'worse'} on {label} by {by}"
    corrected = ""
    if decided_by_correction(difference, level=level):
        corrected = (
            f"; p = {decimal(difference['p'], 3)} alone, but {decimal(difference['p_holm'], 3)} "
            "after correction for several comparisons"
        )
    detectable = difference["detectable"]
    could = "" if detectable is None else f"; this test set could have shown {decimal(detectable)}"
    return f"{run}: no difference shown on {label} ({interval_text(ends)}{corrected}){could}"


def difference_ends(difference: Mapping[str, Any]) -> list[float | None]:
    """[value, lower, upper] of a difference."""
    return [difference["difference"], *difference["interval"]]


def interval_text(ends: Sequence[Any], *, sign: int = 1) -> str:
    """[value, lower, upper] in words; with `sign` -1 those of minus the value.

    >>> interval_text([0.0123, -0.002, 0.0194]), interval_text([-0.02, -0.03, -0.01], sign=-1)
    ('.0123 [-.0020, .0194]', '.0200 [.0100, .0300]')
    """
    value, *limits = (decimal(sign * end) for end in ends)
    lower, upper = limits[::sign]
    return f"{value} [{lower}, {upper}]"


def decided_by_correction(difference: Mapping[str, Any], *, level: float) -> bool:
    """Whether the difference would count as shown if it were the only one that is tested.

    >>> decided_by_correction({"p": 0.03, "p_holm": 0.09}, level=0.95)
    True
    """
    return difference["p"] <= 1.0 - level < difference["p_holm"]


def decimal(value: float, n_digits: int = 4) -> str:
    """The number as metrics are written: without a leading zero.

    >>> decimal(0.01234), decimal(-0.5, 2), decimal(1.25, 2), decimal(-0.00001)
    ('.0123', '-.50', '1.25', '.0000')
    """
    text = f"{value:.{n_digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def as_text(comparison: Mapping[str, Any]) -> str:
    """The printed comparison: metrics with intervals, a sentence for each difference, slices of one metric, notes."""
    columns = {
        run: {
            **{name: by_metric[name][0] for name in comparison["metrics"]},
            "intervals": {name: by_metric[name][1:] for name in comparison["metrics"]},
        }
        for run, by_metric in comparison["runs"].items()
    }
    level = f"{100 * comparison['level']:g}%"
    lines = [format_table(columns), f"{comparison['n_users']:,} users; mean over users [{level} interval]"]
    for run, by_metric in comparison["comparisons"].items():
        lines += ["", f"{run} against {comparison['reference']}"]
        lines += [f"  {verdict(run, name, each, level=comparison['level'])}" for name, each in by_metric.items()]
    metric = headline_metric(comparison["metrics"])
    for figures in comparison["slices"]:
        lines += ["", f"{metric_label(metric)} by {figures['name']}", *_slice_lines(figures, metric)]
    lines += ["", *(f"note: {note}" for note in comparison["notes"])] if comparison.get("notes") else []
    return "\n".join(lines)


def _slice_lines(figures: Mapping[str, Any], metric: str) -> list[str]:
    runs, others = list(figures["slices"][0]["runs"]), list(figures["slices"][0]["differences"])
    rows = [["", "users", *runs, *(f"{run}, difference" for run in others)]]
    for each in figures["slices"]:
        means = [decimal(each["runs"][run][metric][0]) for run in runs]
        gains = [interval_text(each["differences"][run][metric]) for run in others]
        rows.append([each["label"][:40], f"{each['n_users']:,}", *means, *gains])
    return [f"  {line}" for line in text_table(rows)]


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, alignment: Sequence[str] | None = None
) -> list[str]:
    """The lines of a Markdown table, the last of them empty; `alignment` is that of each column, such as ---:.

    >>> markdown_table(["", "users"], [["all", "7"]])
    ['| | users |', '| --- | --- |', '| all | 7 |', '']
    """
    lines = [heads, alignment or ["---"] * len(heads), *rows]
    return [*("|".join(["", *(f" {cell} " if cell else " " for cell in line), ""]) for line in lines), ""]


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row: its first cell flush left, the others flush right.

    >>> text_table([["", "users"], ["all", "7"]])
    ['     users', 'all      7']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]))
    return lines
