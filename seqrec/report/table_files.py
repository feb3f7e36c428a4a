"""A user's CSV, TSV or Parquet file of keys and values -> the columns asked for, in a database."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from seqrec.data.columns import free_id
from seqrec.data.files import Found, load_parquet, load_text, parquet_columns
from seqrec.data.paths import check_file
from seqrec.data.text_files import TextFile, fields_of, first_line_of
from seqrec.types import InputError

USER_NAMES = ("user", "user_id")
ITEM_NAMES = ("item", "item_id")
"""Names under which a column of keys is looked for, the first choice first."""


class TableFile(NamedTuple):
    """A file whose columns are known and whose rows are not read yet."""

    path: Path
    names: tuple[str, ...]
    """The columns' names, in the file's order."""
    text: TextFile | None
    """How the file is laid out; None for Parquet."""

    def found(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a column, upper or lower case alike; None where none is.

        >>> TableFile(Path("lists.csv"), ("User_ID", "item"), None).found(("user", "user_id"))
        'User_ID'
        """
        known = {name.lower(): name for name in reversed(self.names)}
        return next((known[name.lower()] for name in names if name.lower() in known), None)

    def required(self, names: Sequence[str]) -> str:
        """As `found`, for a column that must be there."""
        name = self.found(names)
        if name is None:
            near = difflib.get_close_matches(names[0], self.names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{self.path} has no column {' or '.join(map(repr, names))}; {hint}it has "
                f"{', '.join(map(repr, self.names))}; name the columns in the file's first line"
            )
        return name


def open_table(path: Path) -> TableFile:
    """The columns of a file, told from its content: Parquet, or text with commas, tabs, semicolons or bars."""
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty; give a file with a line of column names and at least one row")
    if check_file(path).startswith(b"PAR1"):
        names, text = parquet_columns([path]), None
    else:
        line = first_line_of(path)
        headers = {delimiter: fields_of(line, delimiter, path) for delimiter in ",\t;|"}
        delimiter = max(headers, key=lambda key: len(headers[key]))
        names, text = headers[delimiter], TextFile(path, delimiter=delimiter, quote='"', header=True)
    names = [name.strip() for name in names] if text else names
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{path} has {names.count(repeated)} columns {repeated!r}; rename all but one")
    return TableFile(path, tuple(names), text)


def load_columns(table: TableFile, take: dict[str, str]) -> Found:
    """A database with a view `found`: event_index, the row's number from 0, and our name -> the file's column."""
    try:
        if table.text is None:
            return load_parquet([table.path], take=take)
        positions = {ours: table.names.index(name) for ours, name in take.items()}
        return load_text([table.text], n_fields=len(table.names), take=positions)
    except InputError as error:
        # What the reader of event files says of a file with a header alone.
        raise InputError(str(error).replace("holds no events", "holds no rows")) from error


def key_expression(found: Found, column: str) -> str:
    """The SQL expression of a column of keys, none of which may be missing: int64 where that loses nothing, or text."""
    expression = free_id(found, column)
    bad = found.refused(column, f"{expression} IS NULL")
    if bad:
        raise InputError(f"{bad[0]}: the {column} is missing; fill it in or remove the line")
    return expression


def number_expression(found: Found, column: str, name: str) -> str:
    """The SQL expression of a column of numbers, as doubles; missing and NaN are NULL."""
    text = f"nullif(trim(CAST({column} AS VARCHAR)), '')"
    number = f"TRY_CAST({text} AS DOUBLE)"
    bad = found.refused(column, f"{text} IS NOT NULL AND {number} IS NULL")
    if bad:
        raise InputError(f"{bad[0]}: {name} {bad[1].strip()[:40]!r} is not a number; correct the line")
    return f"CASE WHEN NOT isnan({number}) THEN {number} END"


def is_text(keys: np.ndarray) -> bool:
    """Whether keys are text; those that are not are int64."""
    return keys.dtype.kind not in "iu"


def as_text(keys: np.ndarray) -> np.ndarray:
    """Keys as an object array of str.

    >>> as_text(np.array([7, 10])).tolist()
    ['7', '10']
    """
    return np.array([str(key) for key in keys.tolist()], dtype=object)


def arrow_keys(keys: np.ndarray, *, text: bool) -> pa.Array:
    """Keys as an arrow column that joins to a file's."""
    return pa.array(as_text(keys).tolist() if text else keys.tolist(), pa.string() if text else pa.int64())
