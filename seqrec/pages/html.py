"""What pages are made of: a document, tables, verdicts, lists, commands and numbers with intervals, as HTML.

All text is escaped here; only `Html`, which these functions return, is taken as it is.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from seqrec.files import make_directory, write_json, write_text
from seqrec.pages.plots import svg

_STYLE = resources.files("seqrec.pages").joinpath("style.css").read_text(encoding="utf-8")
DASH = "\N{EN DASH}"
"""Stands for a number that is not known."""


class Html(str):
    """Text that is HTML already."""


def text(value: Any) -> Html:
    """The value as HTML: `Html` as it is, None, which is not known, as a dash, and anything else escaped."""
    return value if isinstance(value, Html) else Html(DASH if value is None else html.escape(str(value)))


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page: the title and below it the parts, which are HTML; empty parts are left out."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def write_report(numbers: Path, content: Any, page: str, *, page_name: str = "") -> None:
    """Writes a result as JSON and its page beside it, each whole or not at all, and prints where they are."""
    page_file = numbers.with_name(page_name) if page_name else numbers.with_suffix(".html")
    make_directory(numbers.parent)
    write_json(numbers, content)
    write_text(page_file, page)
    print(f"\nnumbers  {numbers}\npage     {page_file}")


def heading(words: str, *, level: int = 2) -> Html:
    """The heading of a section, or of a part of one where `level` is 3."""
    return Html(f"<h{level}>{text(words)}</h{level}>")


def paragraph(words: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{text(words)}</p>")


def faint(sentence: str) -> Html:
    """A paragraph in small print."""
    return Html(f'<p class="faint">{text(sentence)}</p>')


def bold(value: Any, kind: str = "") -> Html:
    """The value in bold letters, marked by `kind`: good, bad, or neither."""
    return Html(f"<b{f' class={kind}' if kind else ''}>{text(value)}</b>")


def verdict_box(*sentences: str, title: str = "", kind: str = "") -> Html:
    """A box of sentences, marked by `kind`: good, bad, or neither."""
    head = f"<strong>{text(title)}</strong>" if title else ""
    return Html(f'<div class="verdict {kind}">{head}{"".join(map(paragraph, sentences))}</div>')


def bullets(sentences: Iterable[str]) -> Html:
    """The sentences as a list; nothing where there are none."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return Html(f"<ul>{items}</ul>" if items else "")


def details(summary: str, content: str, *, is_open: bool = False) -> Html:
    """Content that is shown on a click on its summary."""
    return Html(f"<details{' open' if is_open else ''}><summary>{text(summary)}</summary>{text(content)}</details>")


def code(command: str) -> Html:
    """A command that breaks its line between words only and not at the hyphens of a flag."""
    return Html(f"<code>{' '.join(f'<span>{text(word)}</span>' for word in command.split(' '))}</code>")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, words: Sequence[int] = ()) -> Html:
    """A table of cells that are written as `text` has them; columns in `words` may break their lines.

    A table that is wider than the screen scrolls, and a shadow says that it goes on. Without any head there is no row
    of heads.
    """
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    head = f"<thead><tr>{names}</tr></thead>" if any(heads) else ""
    lines = []
    for row in rows:
        cells = [f"<td{' class=words' if i in words else ''}>{text(cell)}</td>" for i, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return Html(f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>')


def picture(figure: Figure, alternative: str) -> Html:
    """The figure as inline SVG; on a narrow screen it scrolls, so that its letters stay legible."""
    width = 4.5 * figure.get_figwidth()
    return Html(f'<div class="scroll"><div style="min-width:{width:.0f}rem">{svg(figure, alternative)}</div></div>')


def number(value: float | int | None, write: Callable[[float], str]) -> str:
    """A number as `write` has it; a dash where it is not known."""
    return DASH if value is None else write(value)


def interval_cell(ends: Sequence[float | None], write: Callable[[float], str]) -> Html:
    """A cell from [value, lower, upper], each as `number` has it; the dash of an unknown value stands alone.

    >>> interval_cell([0.5, 0.25, None], "{:.2f}".format)
    '0.50 <small>[0.25, –]</small>'
    >>> interval_cell([None, None, None], "{:.2f}".format)
    '–'
    """  # noqa: RUF002
    value, lower, upper = (text(number(end, write)) for end in ends)
    return Html(DASH if ends[0] is None else f"{value} <small>[{lower}, {upper}]</small>")
