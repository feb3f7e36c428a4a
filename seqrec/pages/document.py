"""What pages are made of: a document, tables, verdicts, lists, commands and numbers with intervals, as HTML."""

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

from seqrec.pages.plots import svg
from seqrec.pages.style import STYLE

DASH = "\N{EN DASH}"
"""Stands for a number that is not known."""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page: the title, escaped here, and below it the parts, which are HTML; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def text(value: Any) -> str:
    """The value as escaped HTML."""
    return html.escape(str(value))


def faint(sentence: str) -> str:
    """A paragraph in small print; `sentence` is HTML."""
    return f'<p class="faint">{sentence}</p>'


def verdict_box(*sentences: str, title: str = "", kind: str = "") -> str:
    """A box of sentences, escaped here, marked by `kind`: good, bad, or neither."""
    head = f"<strong>{text(title)}</strong>" if title else ""
    lines = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    return f'<div class="verdict {kind}">{head}{lines}</div>'


def bullets(sentences: Iterable[str]) -> str:
    """The sentences, escaped here, as a list; nothing where there are none."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def folded(summary: str, content: str, *, is_open: bool = False) -> str:
    """HTML that is shown on a click on its summary, which is escaped here."""
    return f"<details{' open' if is_open else ''}><summary>{text(summary)}</summary>{content}</details>"


def code(command: str) -> str:
    """A command, escaped here, that breaks its line between words only and not at the hyphens of a flag."""
    return f"<code>{' '.join(f'<span>{text(word)}</span>' for word in command.split(' '))}</code>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int] = ()) -> str:
    """Heads are escaped here, cells are HTML already; columns in `words` may break their lines.

    A table that is wider than the screen scrolls, and a shadow says that it goes on. Without any head there is no row
    of heads.
    """
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    head = f"<thead><tr>{names}</tr></thead>" if any(heads) else ""
    lines = []
    for row in rows:
        cells = [f"<td{' class=words' if i in words else ''}>{cell}</td>" for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def picture(figure: Figure, alternative: str) -> str:
    """The figure as inline SVG; on a narrow screen it scrolls, so that its letters stay legible."""
    width = 4.5 * figure.get_figwidth()
    return f'<div class="scroll"><div style="min-width:{width:.0f}rem">{svg(figure, alternative)}</div></div>'


def interval_cell(ends: Sequence[float | None], write: Callable[[float], str]) -> str:
    """A cell from [value, lower, upper], each as `write` has it; a dash stands for what is not known.

    >>> interval_cell([0.5, 0.25, None], "{:.2f}".format)
    '0.50 <small>[0.25, –]</small>'
    >>> interval_cell([None, None, None], "{:.2f}".format)
    '–'
    """  # noqa: RUF002
    value, lower, upper = (DASH if end is None else write(end) for end in ends)
    return DASH if ends[0] is None else f"{value} <small>[{lower}, {upper}]</small>"
