"""Files of the user's, whole and well formed, as tables; complaints say file and line."""

import csv
import gzip
import io
import itertools
import re
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb

from seqrec.types import InputError

GZIP_MAGIC = b"\x1f\x8b"
BAD_BYTES = re.compile("[\udc80-\udcff]")
"""What "surrogateescape" leaves of bytes that are not UTF-8."""


@dataclass(frozen=True)
class Limits:
    """What the embedded database, DuckDB, may use."""

    memory_limit: str | None = None
    """Such as 4GB: what exceeds it is spilt to disk; by default 80% of the machine's memory."""
    spill_directory: Path | None = None
    """Where what exceeds the memory is kept meanwhile; by default the system's temporary directory."""
    n_threads: int | None = None
    """Threads; by default one a core."""

    def __post_init__(self):
        if self.memory_limit is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", self.memory_limit):
            raise ValueError(
                f"memory_limit={self.memory_limit} is no number with a unit of KB, MB, GB, TB, KiB, MiB, GiB or TiB; "
                "try memory_limit=4GB"
            )
        if self.n_threads is not None and self.n_threads < 1:
            raise ValueError(f"n_threads={self.n_threads} is below 1; try n_threads=1")


NO_LIMITS = Limits()


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
        with _open_bytes(self.path) as stream:
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

    def place(self, row: int) -> str:
        """file:line of the row of data of this number, from 0; walks the file, so only for complaints."""
        line, _ = next(itertools.islice(self.rows(), row + self.header, None))
        return f"{self.path}:{line}"


def check_file(path: Path) -> bytes:
    """The first bytes of the content, once the file is found to be whole."""
    if path.is_dir():
        raise InputError(f"{path} is a directory, a file is due; name the file in it")
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; correct the path")
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
        with _open_bytes(path) as stream:
            head = stream.read(1 << 20)
            # DuckDB stops at a stream's end without comparing its checksum, so a damaged one would pass.
            while magic.startswith(GZIP_MAGIC) and stream.read(1 << 20):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is cut short or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); change its permissions") from error
    if not head:
        raise InputError(f"{path} is empty; give a file that holds events")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is a zip archive; unpack it and name the file inside")
    if head.startswith(b"PAR1") and magic.startswith(GZIP_MAGIC):
        raise InputError(f"{path} is a gzip'd Parquet file; gunzip it (Parquet is compressed inside)")
    return head[:4]


def _open_bytes(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == GZIP_MAGIC
    # By content: a browser may have unpacked a file and left its name.
    return gzip.GzipFile(path) if is_gzip else path.open("rb")


def first_line_of(path: Path) -> str:
    """The first line, which may not be empty, without byte order mark and line end."""
    with _open_bytes(path) as stream:
        # A header is shorter than this; a binary file may not hold a line end at all.
        start = stream.read(1 << 20)
    try:
        line = re.split(b"[\r\n]", start, maxsplit=1)[0].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:1: byte {start[error.start]:#04x} is not UTF-8; convert the file to UTF-8") from error
    if not line:
        raise InputError(f"{path}:1: the first line is empty; remove it")
    return line


def connect(limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A database of its own, in memory; times without a zone are UTC in it."""
    connection = duckdb.connect()
    # What exceeds its memory limit is spilt, by default into the current directory. DuckDB removes the files.
    parent = Path(tempfile.gettempdir()) if limits.spill_directory is None else limits.spill_directory.absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"spill_directory {parent} cannot be made ({error.strerror}); name a directory you may write to"
        ) from error
    settings = {
        "temp_directory": str(parent / f"seqrec-duckdb-{uuid.uuid4().hex}"),
        "memory_limit": limits.memory_limit,
        "threads": limits.n_threads,
    }
    for name, value in settings.items():
        if value is not None:
            connection.execute(f"SET {name} = $value", {"value": value})
    connection.execute("SET TimeZone = 'UTC'")
    # It would be drawn among the lines that a script prints.
    connection.execute("SET enable_progress_bar = false")
    return connection


def _literal_path(path: Path) -> str:
    """`path` for DuckDB, which would otherwise read *, ? and [ in it as a pattern over file names."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


def load_text(
    text: TextFile, *, n_fields: int, take: dict[str, int], limits: Limits = NO_LIMITS
) -> duckdb.DuckDBPyConnection:
    """A database with a table `found`: event_index and, as text, the fields that `take` names by position."""
    check_file(text.path)
    connection = connect(limits)
    with text.path.open("rb") as raw:
        compression = "gzip" if raw.read(2) == GZIP_MAGIC else "none"
    # No name or value of the user's enters the statement: fields go by position, the path is a parameter.
    fields = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(n_fields))
    chosen = ", ".join(f"c{index} AS {key}" for key, index in take.items())
    try:
        connection.execute(
            f"""
            CREATE TABLE found AS
            SELECT row_number() OVER () - 1 AS event_index, {chosen}
            FROM read_csv($path, columns = {{{fields}}}, auto_detect = false, header = {text.header},
                          delim = '{text.delimiter}', quote = '{text.quote}', escape = '{text.quote}',
                          compression = '{compression}', store_rejects = true, rejects_limit = 1)
            """,
            {"path": _literal_path(text.path)},
        )
        rejects = connection.execute("SELECT line, error_type, error_message FROM reject_errors").fetchall()
    except duckdb.Error as error:
        raise InputError(_bad_row(text, n_fields) or _unreadable(text.path, error)) from error
    for line, kind, message in rejects:
        # DuckDB's own line numbers count a quoted line end as none, so they are the second choice.
        raise InputError(
            _bad_row(text, n_fields, bytes_too=kind == "INVALID ENCODING")
            or f"{text.path}:{line}: {message.splitlines()[0]}; correct the line"
        )
    return _not_empty(connection, text.path)


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a Parquet file."""
    try:
        return connect().read_parquet(_literal_path(path)).columns
    except duckdb.Error as error:
        raise InputError(_unreadable(path, error)) from error


def load_parquet(path: Path, *, take: dict[str, str], limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """The same for a Parquet file; `take` gives the file's names of the columns, which keep their types.

    `found` is a view where it can be: the file is read as it is asked for, by column, and not copied.
    """
    connection = connect(limits)
    chosen = ", ".join(f"{quoted(name)} AS {key}" for key, name in take.items())
    try:
        names = connection.read_parquet(_literal_path(path)).columns
        if "file_row_number" in map(str.lower, names):
            # Such a column keeps DuckDB from adding its own.
            found = connection.read_parquet(_literal_path(path))
            found.project(f"row_number() OVER () - 1 AS event_index, {chosen}").create("found")
        else:
            found = connection.read_parquet(_literal_path(path), file_row_number=True)
            found.project(f"file_row_number AS event_index, {chosen}").create_view("found")
    except duckdb.Error as error:
        raise InputError(_unreadable(path, error)) from error
    return _not_empty(connection, path)


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def _not_empty(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyConnection:
    if connection.execute("SELECT count(*) FROM found").fetchall() == [(0,)]:
        raise InputError(f"{path} holds no events; give a file with at least one row")
    return connection


def _bad_row(text: TextFile, n_fields: int, *, bytes_too: bool = True) -> str | None:
    """What is wrong with the first bad row, if we find it too; columns not asked for may hold any bytes."""
    try:
        for line, fields in text.rows():
            if bytes_too and any(BAD_BYTES.search(field) for field in fields):
                return f"{text.path}:{line}: bytes that are not UTF-8; convert the file to UTF-8"
            if len(fields) != n_fields:
                row, plural = text.delimiter.join(fields), "s" * (len(fields) != 1)
                return (
                    f"{text.path}:{line}: {row[:60]!r} has {len(fields)} field{plural}, {n_fields} are due; "
                    "correct or remove the line"
                )
    except csv.Error:
        pass  # DuckDB's message has to do.
    return None


def _unreadable(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({str(error).splitlines()[0]}); "
        "check that it is whole, of one kind of line end, and CSV, TSV or Parquet"
    )
