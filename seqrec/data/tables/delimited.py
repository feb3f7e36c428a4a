"""Text files of rows and fields, such as CSV and TSV. DuckDB reads them; headers and bad rows are looked up here."""

import csv
import io
import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from seqrec.data.paths import LONG_LINE, as_input_error, check_file, compression_of, has_long_line, open_bytes
from seqrec.data.tables.rows import BadRows, Destination, RawRows, literal_path, rows_of_table, unreadable
from seqrec.types import InputError

BAD_BYTES = re.compile("[\udc80-\udcff]")
"""What "surrogateescape" leaves of bytes that are not UTF-8."""

logger = logging.getLogger(__name__)


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
            if len(fields) != len(header):
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
    """What is wrong with the first bad row, None if all look right here; columns not asked for may hold any bytes."""
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


def load_text(texts: Sequence[TextFile], names: Sequence[str], *, take: Mapping[str, str], to: Destination) -> RawRows:
    """The rows of files with the same columns, `names`, in their order; `take` gives their name of each of ours.

    Where bad rows are dropped, each leaves an empty row at the end, so that it is counted with the invalid ones.
    """
    is_long = [has_long_line(text.path) for text in texts if check_file(text.path)]
    if to.bad_rows == "refuse" and any(is_long):
        raise InputError(_long_line(texts[is_long.index(True)].path))
    connection, table, n_fields = to.connection, f"{to.view}_table", len(names)
    chosen = ", ".join(f"c{list(names).index(name)} AS {key}" for key, name in take.items())
    connection.execute(f"CREATE TABLE {table} ({', '.join(f'{key} VARCHAR' for key in take)})")
    first = texts[0]
    with as_input_error(lambda _: bad_row(texts, n_fields) or unreadable(first.path), duckdb.Error):
        # Into a table and by its rowid: numbering rows by a window would read on one thread.
        _each_csv(connection, texts, n_fields, to.bad_rows, f"INSERT INTO {table} SELECT {chosen} FROM ")
        rejects = connection.execute(
            "SELECT file_path, line, error_type, error_message FROM reject_errors JOIN reject_scans "
            "USING (scan_id, file_id) ORDER BY ALL"
        ).fetchall()
        # Another file may be loaded into the same database.
        connection.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")
    if rejects and to.bad_rows == "refuse":
        path, line, kind, message = rejects[0]
        # DuckDB's own line numbers count a quoted line end as none, so they are the second choice.
        raise InputError(
            bad_row(texts, n_fields, bytes_too=kind == "INVALID ENCODING")
            or f"{path}:{line}: {message.splitlines()[0]}; correct the line"
        )
    n_bad = len({(path, line) for path, line, _, _ in rejects})
    example = f"{rejects[0][0]}:{rejects[0][1]} ({rejects[0][3].splitlines()[0]})" if rejects else ""
    # A reject may be of many rows, which a quote has swallowed, and lines that do not fit DuckDB's buffer are none.
    if any(is_long) or rejects:
        n_bad = max(n_bad, _n_lost(connection, texts, n_fields))
        example = example or _long_line(texts[is_long.index(True)].path)
    if n_bad:
        logger.warning("%s rows cannot be read and are dropped, such as %s", f"{n_bad:,}", example)
        empty = ", ".join(["NULL"] * len(take))
        connection.execute(f"INSERT INTO {table} SELECT {empty} FROM range({n_bad})")
    # Rows that are dropped move the numbers of those behind them.
    whole = str(first.path if len(texts) == 1 else first.path.parent)
    return rows_of_table(to, first.path, (lambda row: whole) if n_bad else place_in(texts))


def _each_csv(
    connection: duckdb.DuckDBPyConnection, texts: Sequence[TextFile], n_fields: int, bad_rows: BadRows, statement: str
) -> list[tuple]:
    """The rows of a statement that ends in FROM, over files of text with fields c0, c1, ..., all of one layout."""
    # No name or value of the user's enters the statement: fields go by position, paths are a parameter.
    fields = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(n_fields))
    first = texts[0]
    fetched = []
    for compression, group in itertools.groupby(texts, lambda text: compression_of(text.path)):
        connection.execute(
            f"""
            {statement} read_csv($paths, columns = {{{fields}}}, auto_detect = false, header = {first.header},
                                 delim = '{first.delimiter}', quote = '{first.quote}', escape = '{first.quote}',
                                 compression = '{compression}', store_rejects = true,
                                 rejects_limit = {int(bad_rows == "refuse")})
            """,
            {"paths": [literal_path(text.path) for text in group]},
        )
        fetched += connection.fetchall()
    return fetched


def _n_lost(connection: duckdb.DuckDBPyConnection, texts: Sequence[TextFile], n_fields: int) -> int:
    """Lines of the files that are neither blank, nor a header, nor part of a row that can be read."""
    n_lines = 0
    for text in texts:
        with open_bytes(text.path) as stream:
            n_lines += sum(1 for line in stream if not line.isspace()) - text.header
    whole = f"concat({', '.join(f'c{index}' for index in range(n_fields))})"
    # A row takes a line, and one more for each line end in its fields.
    parts = _each_csv(
        connection, texts, n_fields, "drop", f"SELECT count(*), sum(len(string_split({whole}, chr(10))) - 1) FROM "
    )
    return n_lines - sum(n_rows + int(n_ends or 0) for n_rows, n_ends in parts)


def _long_line(path: Path) -> str:
    with open_bytes(path) as stream:
        number = next((n for n, line in enumerate(stream, start=1) if len(line) > LONG_LINE), 1)
    return f"{path}:{number}: the line is longer than {LONG_LINE >> 20} MB; correct or remove it"


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
    with as_input_error(
        f"{path}:1: the first line is no header ({{error}}); give a file of text or Parquet", csv.Error
    ):
        return next(csv.reader([line], delimiter=delimiter, quotechar=quote))


def same_header(files: Sequence[Path], line: str) -> None:
    """Refuses files of which one begins otherwise than with `line`, the first one's header."""
    for path in files[1:]:
        other = first_line_of(path)
        if other != line:
            raise InputError(
                f"{path}:1: the header {other[:60]!r} is not that of {files[0]}, {line[:60]!r}; "
                "give files of one kind, or read them one by one"
            )
