"""Small SVG pictures in the page's own colours, which follow its light or dark scheme."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard


class Bar(NamedTuple):
    """A point with its interval; NaN or None where there is none."""

    label: str
    value: float | None
    lower: float | None
    upper: float | None
    limit: float | None = None
    """The acceptable loss, where the row has one."""


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`.

    >>> ticks(-0.03, 0.11)
    [0.0, 0.05, 0.1]
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def forest(bars: Sequence[Bar], *, label: str) -> str:
    """A row a bar, under its label, over a common axis of relative differences."""
    known = [x for bar in bars for x in (bar.value, bar.lower, bar.upper, bar.limit) if _is_number(x)]
    if not known:
        return ""
    low, high = min([0.0, *known]), max([0.0, *known])
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad
    left, right, top, row = 24.0, 696.0, 8.0, 50.0
    bottom = top + row * len(bars)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    parts = [_line(x(tick), top, x(tick), bottom, "grid") for tick in ticks(low, high)]
    parts.append(_line(x(0.0), top, x(0.0), bottom, "zero"))
    for place, bar in enumerate(bars):
        # A label beside its bar would leave a telephone no room for either.
        y = top + row * (place + 0.7)
        parts.append(_text(0.0, y - 16, bar.label, "start"))
        if _is_number(bar.limit):
            parts.append(_line(x(bar.limit), y - 10, x(bar.limit), y + 10, "limit"))
        if _is_number(bar.value) and _is_number(bar.lower) and _is_number(bar.upper):
            kind = "up" if bar.lower > 0 else "down" if bar.upper < 0 else "flat"
            parts.append(_line(x(bar.lower), y, x(bar.upper), y, f"bar {kind}"))
            parts.append(f'<circle class="{kind}" cx="{x(bar.value):.1f}" cy="{y:.1f}" r="4"/>')
        else:
            parts.append(_text(x(0.0) + 8, y + 4, "not known", "start"))
    parts += [
        _text(x(tick), bottom + 22, f"{100 * tick:+.3g}%" if tick else "0%", "middle") for tick in ticks(low, high)
    ]
    return _svg(parts, 720, bottom + 32, label)


def daily(days: Sequence[Mapping[str, Any]], *, label: str) -> str:
    """The effect to date by day: a line, the confidence sequence as a band, the fixed interval as dashes."""
    known = [day for day in days if _is_number(day["difference"])]
    if not known:
        return ""
    # The first days' intervals are so wide that the rest would be a line: the axis is that of the later half.
    later = known[len(known) // 4 :]
    low, high = min(0.0, *(day["lower"] for day in later), 0.0), max(0.0, *(day["upper"] for day in later), 0.0)
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad
    left, right, top, bottom = 64.0, 705.0, 10.0, 250.0
    last = max(day["day"] for day in days)

    def x(day: int) -> float:
        return left + (day - 1) / max(last - 1, 1) * (right - left)

    def y(value: float) -> float:
        return bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - top)

    def path(name: str) -> str:
        return " ".join(f"{x(day['day']):.1f},{y(day[name]):.1f}" for day in known)

    upper_then_lower = path("upper") + " " + " ".join(reversed(path("lower").split(" ")))
    parts = [_line(left, y(tick), right, y(tick), "grid") for tick in ticks(low, high)]
    parts += [_text(left - 8, y(tick) + 4, f"{tick:g}", "end") for tick in ticks(low, high)]
    parts.append(f'<polygon class="band" points="{upper_then_lower}"/>')
    parts += [f'<polyline class="dashes" points="{path(name)}"/>' for name in ("fixed_lower", "fixed_upper")]
    parts.append(f'<polyline class="line" points="{path("difference")}"/>')
    parts.append(_line(left, y(0.0), right, y(0.0), "zero"))
    step = max(1, math.ceil(last / 14))
    parts += [_text(x(day), bottom + 20, str(day), "middle") for day in range(1, last + 1, step)]
    parts.append(_text(left - 20, bottom + 20, "day", "end"))
    return _svg(parts, 720, bottom + 30, label)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    cut = words if len(words) <= 50 else words[:49] + "\N{HORIZONTAL ELLIPSIS}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(cut)}</text>'


def _svg(parts: Sequence[str], width: int, height: float, label: str) -> str:
    body = "".join(parts)
    return f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width:g} {height:g}">{body}</svg>'
