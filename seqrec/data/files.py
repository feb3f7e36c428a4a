"""Files of the user's, whole and well formed, as tables in a database; complaints say file and line."""

import contextlib
import itertools
import json
import logging
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec.config import check_at_least, check_fields
from seqrec.data.paths import check_file, compression_of, first_line, open_bytes
from seqrec.data.text_files import TextFile, bad_row, place_in
from seqrec.types import InputError

BadRows = Literal["refuse", "drop"]
PARQUET_PLACES = ("file_row_number", "file_index")
"""Names that DuckDB gives to the place of a row in Parquet files."""
NO_OBJECT = (ValueError, TypeError, RecursionError)
"""What reading a line raises that is no JSON object."""
N_LINES_FOR_KEYS = 100
"""Lines of a file of JSON lines in which its keys are looked for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Resources that the embedded database, DuckDB, may use."""

    memory_limit: str | None = None
    """Memory limit such as 4GB; more than that is written to disk. The default is 80% of the machine's memory."""
    spill_directory: Path | None = None
    """Directory for data that exceeds the memory limit; the default is the system's temporary directory."""
    n_threads: int | None = None
    """Number of threads; the default is one per core."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_threads")
        if self.memory_limit is not None and not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", self.memory_limit):
            raise ValueError(
                f"memory_limit={self.memory_limit} is no number with a unit of KB, MB, GB, TB, KiB, MiB, GiB or TiB; "
                "try memory_limit=4GB"
            )


NO_LIMITS = Limits()


class Found(NamedTuple):
    """A view `found` in a database: event_index, the place from 0, and columns as the files have them."""

    connection: duckdb.DuckDBPyConnection
    place: Callable[[int], str]
    """File and line of the row of an event_index; may be slow."""
    bad_rows: BadRows = "refuse"
    """Whether a value that cannot be read is refused, or null for the steps to drop and count."""
    held: str | None = None
    """The table in which the rows are held; None where the view reads them anew each time."""

    def refused(self, column: str, condition: str) -> tuple[str, str] | None:
        """(place, value as text) of the first row to refuse because it meets the condition."""
        if self.bad_rows == "drop":
            return None
        value = f"coalesce(CAST({column} AS VARCHAR), '')"
        # Not by ORDER BY and LIMIT, which DuckDB 1.3 cannot run on a table of Arrow's.
        [(row, text)] = self.connection.execute(
            f"SELECT min(event_index), arg_min({value}, event_index) FROM found WHERE {condition}"
        ).fetchall()
        return None if row is None else (self.place(row), text)

    def drop(self) -> None:
        """Lets go of the rows, where they are held."""
        self.connection.execute("DROP VIEW found")
        if self.held:
            self.connection.execute(f"DROP TABLE {self.held}")


def connect(limits: Limits = NO_LIMITS) -> duckdb.DuckDBPyConnection:
    """A database of its own, in memory; times without a zone are UTC in it."""
    connection = duckdb.connect()
    for name, value in settings_of(limits).items():
        connection.execute(f"SET {name} = $value", {"value": value})
    connection.execute("SET TimeZone = 'UTC'")
    # It would be drawn among the lines that a script prints.
    connection.execute("SET enable_progress_bar = false")
    return connection


def settings_of(limits: Limits) -> dict[str, Any]:
    """DuckDB's names for what is limited, and their values."""
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
    return {name: value for name, value in settings.items() if value is not None}


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """`text` as an SQL string, whatever it holds; for views, which take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def _literal_path(path: Path) -> str:
    """`path` for DuckDB, which would otherwise read *, ? and [ in it as a pattern over file names."""
    return re.sub(r"([*?\[])", r"[\1]", str(path.absolute()))


# Text


def load_text(
    texts: Sequence[TextFile],
    *,
    n_fields: int,
    take: Mapping[str, int],
    limits: Limits = NO_LIMITS,
    bad_rows: BadRows = "refuse",
) -> Found:
    """The rows of files of one layout, in their order: as text, the fields that `take` names by position.

    Where bad rows are dropped, each leaves an empty row at the end, so that it is counted with the invalid ones.
    """
    for text in texts:
        check_file(text.path)
    connection = connect(limits)
    # No name or value of the user's enters the statement: fields go by position, paths are a parameter.
    fields = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(n_fields))
    chosen = ", ".join(f"c{index} AS {key}" for key, index in take.items())
    connection.execute(f"CREATE TABLE rows_found ({', '.join(f'{key} VARCHAR' for key in take)})")
    first = texts[0]
    try:
        for compression, group in itertools.groupby(texts, lambda text: compression_of(text.path)):
            # Into a table and by its rowid: numbering rows by a window would read on one thread.
            connection.execute(
                f"""
                INSERT INTO rows_found SELECT {chosen}
                FROM read_csv($paths, columns = {{{fields}}}, auto_detect = false, header = {first.header},
                              delim = '{first.delimiter}', quote = '{first.quote}', escape = '{first.quote}',
                              compression = '{compression}', store_rejects = true,
                              rejects_limit = {int(bad_rows == "refuse")})
                """,
                {"paths": [_literal_path(text.path) for text in group]},
            )
        rejects = connection.execute(
            "SELECT file_path, line, error_type, error_message FROM reject_errors JOIN reject_scans "
            "USING (scan_id, file_id) ORDER BY ALL"
        ).fetchall()
    except duckdb.Error as error:
        raise InputError(bad_row(texts, n_fields) or unreadable(first.path, error)) from error
    if rejects and bad_rows == "refuse":
        path, line, kind, message = rejects[0]
        # DuckDB's own line numbers count a quoted line end as none, so they are the second choice.
        raise InputError(
            bad_row(texts, n_fields, bytes_too=kind == "INVALID ENCODING")
            or f"{path}:{line}: {message.splitlines()[0]}; correct the line"
        )
    n_bad = len({(path, line) for path, line, _, _ in rejects})
    if n_bad:
        path, line, _, message = rejects[0]
        logger.warning("%s rows cannot be read, such as %s:%s (%s)", n_bad, path, line, message.splitlines()[0])
        empty = ", ".join(["NULL"] * len(take))
        connection.execute(f"INSERT INTO rows_found SELECT {empty} FROM range({n_bad})")
    return held_rows(connection, first.path, place_in(texts), bad_rows)


def held_rows(
    connection: duckdb.DuckDBPyConnection, path: Path | str, place: Callable[[int], str], bad_rows: BadRows = "refuse"
) -> Found:
    """What is found in the table rows_found, in the order in which rows came into it."""
    connection.execute("CREATE TEMP VIEW found AS SELECT rowid AS event_index, * FROM rows_found")
    return _not_empty(Found(connection, place, bad_rows, "rows_found"), path)


def _not_empty(found: Found, path: Path | str) -> Found:
    if found.connection.execute("SELECT count(*) FROM found").fetchall() == [(0,)]:
        raise InputError(f"{path} holds no events; give a file with at least one row")
    return found


# JSON lines


def load_json_lines(
    files: Sequence[Path], *, take: Mapping[str, str], limits: Limits = NO_LIMITS, bad_rows: BadRows = "refuse"
) -> Found:
    """The same of files with a JSON object a line: as text, the values of the keys that `take` gives."""
    for path in files:
        check_file(path)
    connection = connect(limits)
    keys = sorted(set(take.values()))
    columns = ", ".join(f"{text_literal(key)}: 'JSON'" for key in keys)
    chosen = ", ".join(f"json_extract_string({quoted(name)}, '$') AS {key}" for key, name in take.items())
    nested = " OR ".join(f"coalesce(json_type({quoted(key)}) IN ('OBJECT', 'ARRAY'), false)" for key in keys)
    connection.execute(f"CREATE TABLE rows_found ({', '.join(f'{key} VARCHAR' for key in take)}, nested BOOLEAN)")
    try:
        for compression, group in itertools.groupby(files, compression_of):
            packed = "uncompressed" if compression == "none" else compression
            connection.execute(
                f"INSERT INTO rows_found SELECT {chosen}, {nested} FROM read_json($paths, columns = {{{columns}}}, "
                f"format = 'newline_delimited', compression = '{packed}', ignore_errors = {bad_rows == 'drop'})",
                {"paths": [_literal_path(path) for path in group]},
            )
    except duckdb.Error as error:
        raise InputError(_bad_json(files) or unreadable(files[0], error)) from error

    def place(row: int) -> str:
        lines = (f"{path}:{number}" for path in files for number, line in json_lines(path))
        return next(itertools.islice(lines, row, None), str(files[0]))

    found = held_rows(connection, files[0], place, bad_rows)
    bad = found.refused("event_index", "nested")
    if bad:
        raise InputError(f"{bad[0]}: one of {', '.join(keys)} is an object or a list; give text or numbers")
    if bad_rows == "drop":
        connection.execute(f"UPDATE rows_found SET {', '.join(f'{key} = NULL' for key in take)} WHERE nested")
    return found


def json_keys(path: Path) -> list[str]:
    """The keys of the first objects of a file of JSON lines."""
    keys: dict[str, None] = {}
    for _, line in itertools.islice(json_lines(path), N_LINES_FOR_KEYS):
        # A line that is no object is a complaint, or dropped, later on.
        with contextlib.suppress(*NO_OBJECT):
            keys |= json.loads(line)
    if not keys:
        raise InputError(_bad_json([path]) or f"{path} holds no events; give a file with at least one object")
    return list(keys)


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, line) of each line that is not blank."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line


def _bad_json(files: Sequence[Path]) -> str | None:
    for path in files:
        for number, line in json_lines(path):
            try:
                dict(**json.loads(line))
            except NO_OBJECT as error:
                return f"{path}:{number}: the line is no JSON object ({first_line(error)}); correct or remove it"
    return None


# Parquet


def parquet_columns(files: Sequence[Path]) -> list[str]:
    """The names of the columns of Parquet files, and of the key=value directories that they lie in."""
    try:
        names = pq.read_schema(files[0]).names
        # DuckDB may refuse what Arrow reads.
        with connect() as connection:
            described = connection.execute(
                f"DESCRIBE SELECT * FROM {_parquet(files)}", {"paths": [_literal_path(path) for path in files]}
            ).fetchall()
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise InputError(unreadable(files[0], error)) from error
    partitions = [name for name, *_ in described[len(names) :]]
    return [*names, *(name for name in partitions if name not in names)]


def _parquet(files: Sequence[Path], paths: str = "$paths") -> str:
    # Values of directories stay text: "007" is no 7.
    is_hive = any(re.fullmatch("[^=]+=.*", part) for path in files for part in path.parts[:-1])
    options = "hive_partitioning = true, hive_types_autocast = false" if is_hive else "hive_partitioning = false"
    return f"read_parquet({paths}, {options})"


def load_parquet(
    files: Sequence[Path], *, take: Mapping[str, str], limits: Limits = NO_LIMITS, bad_rows: BadRows = "refuse"
) -> Found:
    """The same of Parquet files, whose rows stay where they are; `take` gives their columns, which keep their types.

    Every value that is taken is read once, so that a damaged file is refused here.
    """
    lengths = []
    for path in files:
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(unreadable(path, error)) from error
        known = metadata.schema.to_arrow_schema().names
        lengths.append(metadata.num_rows)
        ours = [name.lower() for name in known]
        for name in PARQUET_PLACES:
            if name in ours:
                raise InputError(f"{path} has a column {name!r}, a name that DuckDB keeps for itself; rename it")
        for name in take.values():
            if ours.count(name.lower()) > 1:
                raise InputError(f"{path} has {ours.count(name.lower())} columns {name!r}, in any case; rename one")
    connection = connect(limits)
    chosen = ", ".join(f"{quoted(name)} AS {key}" for key, name in take.items())
    starts = list(itertools.accumulate([0, *lengths[:-1]]))
    paths = f"[{', '.join(text_literal(_literal_path(path)) for path in files)}]"
    start = "" if len(files) == 1 else f" + CAST({starts} AS BIGINT[])[CAST(file_index AS BIGINT) + 1]"
    try:
        connection.execute(
            f"CREATE TEMP VIEW found AS SELECT file_row_number{start} AS event_index, {chosen} "
            f"FROM {_parquet(files, paths)}"
        )
        connection.execute(f"SELECT bit_xor(hash({', '.join(take)})) FROM found")
    except duckdb.Error as error:
        raise InputError(unreadable(files[0] if len(files) == 1 else files[0].parent, error)) from error

    def place(row: int) -> str:
        index = max(index for index, start in enumerate(starts) if start <= row)
        return f"{files[index]}, row {row - starts[index] + 1}"

    return _not_empty(Found(connection, place, bad_rows), files[0])


# Tables in memory


def load_arrow(
    table: pa.Table, *, name: str, take: Mapping[str, str], limits: Limits = NO_LIMITS, bad_rows: BadRows = "refuse"
) -> Found:
    """The same of a table in memory, which stays where it is."""
    connection = connect(limits)
    columns = {key: table[table.column_names.index(column)] for key, column in take.items()}
    try:
        given = pa.table({"event_index": np.arange(table.num_rows), **columns})
        connection.register("found", given)
        connection.execute(f"SELECT bit_xor(hash({', '.join(take)})) FROM found")
    except (duckdb.Error, pa.ArrowException) as error:
        raise InputError(f"{name} cannot be read ({first_line(error)}); cast its columns") from error
    return _not_empty(Found(connection, lambda row: f"{name}, row {row + 1}", bad_rows), name)


def unreadable(path: Path, error: Exception) -> str:
    """The complaint about a file that its reader gave up."""
    return (
        f"{path} cannot be read ({first_line(error)}); "
        "check that it is whole, of one kind of line end, and CSV, TSV, JSON lines or Parquet"
    )
