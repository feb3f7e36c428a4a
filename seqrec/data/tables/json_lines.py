"""Files with a JSON object a line."""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from seqrec.data.paths import as_input_error, check_file, compression_of, first_line, open_bytes
from seqrec.data.tables.rows import Destination, RawRows, literal_path, quoted, rows_of_table, text_literal, unreadable
from seqrec.types import InputError

NO_OBJECT = (ValueError, TypeError, RecursionError)
"""What reading a line raises that is no JSON object."""
JSON_ROOT = "'$'"
JSON_NUMBERS = {"BIGINT", "UBIGINT", "DOUBLE"}
N_LINES_FOR_KEYS = 100
"""Lines of a file in which its keys are looked for."""

logger = logging.getLogger(__name__)


def load_json_lines(
    files: Sequence[Path], *, take: Mapping[str, str], to: Destination, as_json: Sequence[str] = ()
) -> RawRows:
    """The objects of the files, in their order: the values of the keys that `take` gives, as text.

    Those of our columns `as_json` stay JSON and may be lists; of the others none may be.
    """
    for path in files:
        check_file(path)
    connection, table = to.connection, f"{to.view}_table"
    keys = sorted(set(take.values()))
    columns = ", ".join(f"{text_literal(key)}: 'JSON'" for key in keys)
    kinds = {key: "JSON" if key in as_json else "VARCHAR" for key in take}
    chosen = ", ".join(
        f"{quoted(name) if key in as_json else f'json_extract_string({quoted(name)}, {JSON_ROOT})'} AS {key}"
        for key, name in take.items()
    )
    flat = [quoted(name) for key, name in take.items() if key not in as_json]
    nested = " OR ".join(f"coalesce(json_type({key}) IN ('OBJECT', 'ARRAY'), false)" for key in flat) or "false"
    connection.execute(f"CREATE TABLE {table} ({', '.join(f'{key} {kinds[key]}' for key in take)}, nested BOOLEAN)")
    with as_input_error(lambda _: _bad_json(files) or unreadable(files[0]), duckdb.Error):
        for compression, group in itertools.groupby(files, compression_of):
            name = "uncompressed" if compression == "none" else compression
            connection.execute(
                f"INSERT INTO {table} SELECT {chosen}, {nested} FROM read_json($paths, columns = {{{columns}}}, "
                f"format = 'newline_delimited', compression = '{name}', ignore_errors = {to.bad_rows == 'drop'})",
                {"paths": [literal_path(path) for path in group]},
            )

    def place(row: int) -> str:
        lines = (f"{path}:{number}" for path in files for number, line in json_lines(path))
        return next(itertools.islice(lines, row, None), str(files[0]))

    rows = rows_of_table(to, files[0], place)
    n_nested, nested_place, _ = rows.count("event_index", "nested")
    complaint = f"{nested_place}: one of {', '.join(keys)} is an object or a list; give text or numbers"
    if n_nested and to.bad_rows == "refuse":
        raise InputError(complaint)
    if n_nested:
        connection.execute(f"UPDATE {table} SET {', '.join(f'{key} = NULL' for key in take)} WHERE nested")
    if to.bad_rows == "drop":
        values = ", ".join(f"CAST({key} AS VARCHAR)" for key in take)
        (n_empty,) = rows.one(f"count(*) FILTER (coalesce({values}) IS NULL)")
        if n_empty and (example := _bad_json(files) or (complaint if n_nested else None)):
            logger.warning("%s rows cannot be read and are dropped, such as %s", f"{n_empty:,}", example)
    return rows


def json_value(rows: RawRows, column: str) -> str:
    """The SQL expression of a column that stayed JSON: numbers, text, or lists of either, as all its values are."""
    kinds = _json_types(rows, f"json_type({column})")
    if kinds and kinds <= JSON_NUMBERS:
        return f"CAST({column} AS {'DOUBLE' if 'DOUBLE' in kinds else 'BIGINT'})"
    if kinds != {"ARRAY"}:
        return f"json_extract_string({column}, {JSON_ROOT})"
    inner = _json_types(rows, f"unnest(json_type({column}, '$[*]'))")
    return f"from_json({column}, '[\"{'DOUBLE' if inner <= JSON_NUMBERS else 'VARCHAR'}\"]')"


def _json_types(rows: RawRows, expression: str) -> set[str]:
    types = rows.connection.execute(f"SELECT DISTINCT {expression} FROM {rows.view}").fetchall()
    return {kind for (kind,) in types} - {None, "NULL"}


def json_keys(path: Path) -> list[str]:
    """The keys of the first objects of a file of JSON lines."""
    keys: dict[str, None] = {}
    for _, line in itertools.islice(json_lines(path), N_LINES_FOR_KEYS):
        # A line that is no object is a complaint, or dropped, later on.
        with contextlib.suppress(*NO_OBJECT):
            keys |= json.loads(line)
    if not keys:
        raise InputError(_bad_json([path]) or f"{path} holds no rows; give a file with at least one object")
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
