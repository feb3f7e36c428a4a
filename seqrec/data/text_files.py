"""Text files of rows and fields, walked in Python: slow, so for headers, small files and complaints."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from seqrec.data.paths import open_bytes
from seqrec.types import InputError

BAD_BYTES = re.compile("[\udc80-\udcff]")
"""What "surrogateescape" leaves of bytes that are not UTF-8."""


class TextFile(NamedTuple):
    """How a text file is laid out."""

    path: Path
    delimiter: str
    quote: str
    """The character around fields that hold delimiters or line ends, "" where there is none."""
    header: bool
    encoding: str = "utf-8-sig"

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, fields) of each row that is not empty, the header too; bad bytes as surrogates."""
        with open_bytes(self.path) as stream:
            lines = io.TextIOWrapper(stream, encoding=self.encoding, errors="surrogateescape", newline="")
            if not self.quote:
                for number, line in enumerate(lines, start=1):
                    if line := line.rstrip("\r\n"):
                        yield number, line.split(self.delimiter)
                return
            reader = csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote)
            first = 1
            for fields in reader:
                if fields:
                    yield first, fields
                first = reader.line_num + 1

    def records(self, names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """(file:line, the fields of these names) of each row of data, for small files with a header."""
        rows = self.rows()
        _, header = next(rows, (1, []))
        missing = [name for name in names if name not in header]
        if missing:
            raise InputError(
                f"{self.path} has no column {missing[0]!r}; it has {shown_names(header)}; correct its header"
            )
        places = [header.index(name) for name in names]
        for line, fields in rows:
            place = f"{self.path}:{line}"
            if len(fields) <= max(places):
                raise InputError(f"{place}: {len(fields)} fields, {len(header)} are due; correct or remove the line")
            refuse_bad_bytes(fields, place)
            yield place, [fields[index] for index in places]


def shown_names(names: Sequence[str]) -> str:
    """The names of a file's columns in a complaint, shortened where there are many.

    >>> print(shown_names(["user", "item"]))
    'user', 'item'
    """
    return ", ".join(repr(name[:60]) for name in names[:20]) + ", ..." * (len(names) > 20)


def refuse_bad_bytes(fields: Sequence[str], place: str) -> None:
    if any(BAD_BYTES.search(field) for field in fields):
        raise InputError(f"{place}: bytes that are not UTF-8; convert the file to UTF-8")


def place_in(texts: Sequence[TextFile]) -> Callable[[int], str]:
    """file:line of the row of data of a number, from 0, in these files one after another; walks them."""

    def place(row: int) -> str:
        places = (
            f"{text.path}:{line}" for text in texts for line, _ in itertools.islice(text.rows(), int(text.header), None)
        )
        try:
            return next(itertools.islice(places, row, None), str(texts[0].path))
        except csv.Error:
            return f"{texts[0].path}, row {row + 1}"

    return place


def bad_row(texts: Sequence[TextFile], n_fields: int, *, bytes_too: bool = True) -> str | None:
    """What is wrong with the first bad row, if it is found here too; columns not asked for may hold any bytes."""
    for text in texts:
        line = 0
        try:
            for line, fields in text.rows():
                place = f"{text.path}:{line}"
                if bytes_too and any(BAD_BYTES.search(field) for field in fields):
                    return f"{place}: bytes that are not UTF-8; convert the file to UTF-8"
                if len(fields) != n_fields:
                    row, plural = text.delimiter.join(fields), "s" * (len(fields) != 1)
                    return (
                        f"{place}: {row[:60]!r} has {len(fields)} field{plural}, {n_fields} are due; "
                        "correct or remove the line"
                    )
        except csv.Error as error:
            return f"{text.path}:{line + 1}: the line cannot be parted into fields ({error}); correct or remove it"
    return None


def first_line_of(path: Path) -> str:
    """The first line, which may not be empty, without byte order mark and line end."""
    with open_bytes(path) as stream:
        # A header is shorter than this; a binary file may not hold a line end at all.
        start = stream.read(1 << 20)
    try:
        line = re.split(b"[\r\n]", start, maxsplit=1)[0].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:1: byte {start[error.start]:#04x} is not UTF-8; convert the file to UTF-8") from error
    if not line:
        raise InputError(f"{path}:1: the first line is empty; remove it")
    return line


def fields_of(line: str, delimiter: str, path: Path, *, quote: str = '"') -> list[str]:
    """The fields of a file's first line."""
    if not quote:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote))
    except csv.Error as error:
        raise InputError(f"{path}:1: the first line is no header ({error}); give a file of text or Parquet") from error


def same_header(files: Sequence[Path], line: str) -> None:
    """Refuses files of which one begins otherwise than with `line`, the first one's header."""
    for path in files[1:]:
        other = first_line_of(path)
        if other != line:
            raise InputError(
                f"{path}:1: the header {other[:60]!r} is not that of {files[0]}, {line[:60]!r}; "
                "give files of one kind, or read them one by one"
            )
