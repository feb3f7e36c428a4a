"""What the pages of reports are made of: one HTML document that opens offline, tables, and plots as inline SVG."""

import html
import io
import re
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# A colour that nothing else has; it becomes the page's text colour, light or dark.
_INK = "#010203"

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --faint: #5d636e; --line: #d9dce2; --page: #fff; --mark: #f3f5f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ed; --faint: #a3a9b5; --line: #3b3f48; --page: #16181c; --mark: #22262d; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p, ul { max-width: 44rem; }
.faint, caption, summary { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4rem 0 .8rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td.words { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
td small { color: var(--faint); }
.verdict { background: var(--mark); border-left: 4px solid var(--line); padding: .5rem .9rem; margin: .4rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--mark); padding: .6rem .9rem; }
.better { border-left-color: #009e73; } .worse { border-left-color: #d55e00; }
svg { max-width: 100%; height: auto; color: var(--ink); }
details { margin: .3rem 0 1rem; } summary { cursor: pointer; }
"""


def document(title: str, body: str) -> str:
    """The whole page; `body` is HTML, `title` is escaped here."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(heads: Iterable[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """Heads are escaped here, cells are HTML already; columns in `words` may break their lines."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    lines = []
    for row in rows:
        cells = [f"<td{' class=words' if i in words else ''}>{cell}</td>" for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def text(value: Any) -> str:
    """The value as escaped HTML."""
    return html.escape(str(value))


def svg(figure: Figure, alternative: str) -> str:
    """The figure as inline SVG whose lines and letters take the page's colour."""
    stream = io.StringIO()
    # The same figure gives the same bytes, and letters stay letters: found, copied and in the page's colour.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seqrec"}), warnings.catch_warnings():
        # The letters are drawn by the browser, which has more fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for axes in figure.axes:
            axes.tick_params(color=_INK, labelcolor=_INK)
            axes.patch.set_visible(False)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set_color(_INK)
            for spine in axes.spines.values():
                spine.set_color(_INK)
        for legend in figure.legends:
            for text in legend.get_texts():
                text.set_color(_INK)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    picture = stream.getvalue()
    picture = picture[picture.index("<svg") :].replace(_INK, "currentColor")
    # Several pictures share the page, and their parts must not share names.
    mark = f"f{zlib.crc32(picture.encode()):x}-"
    picture = re.sub(r'(\bid="|url\(#|href="#)', lambda found: found.group(1) + mark, picture)
    return picture.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1)
