"""Parquet files, one or the parts of one table."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec.data.paths import as_input_error
from seqrec.data.tables.rows import (
    Destination,
    RawRows,
    columns_without_nan,
    connect,
    literal_path,
    not_empty,
    quoted,
    text_literal,
    unreadable,
    without_nan,
)
from seqrec.types import InputError

PARQUET_PLACES = ("file_row_number", "file_index")
"""Names that DuckDB gives to the place of a row in Parquet files."""
DECIMAL_DIGITS = 38
"""Digits of DuckDB's longest decimal."""


def parquet_columns(files: Sequence[Path]) -> list[str]:
    """The names of the columns of Parquet files, and of the key=value directories that they lie in."""
    with as_input_error(unreadable(files[0]), duckdb.Error, pa.ArrowException, OSError):
        names = pq.read_schema(files[0]).names
        # DuckDB may refuse what Arrow reads.
        with connect() as connection:
            described = connection.execute(
                f"DESCRIBE SELECT * FROM {_parquet(files)}", {"paths": [literal_path(path) for path in files]}
            ).fetchall()
    partitions = [name for name, *_ in described[len(names) :]]
    return [*names, *(name for name in partitions if name not in names)]


def _parquet(files: Sequence[Path], paths: str = "$paths", *, widen: bool = False) -> str:
    # Values of directories stay text: "007" is no 7.
    is_hive = any(re.fullmatch("[^=]+=.*", part) for path in files for part in path.parts[:-1])
    options = "hive_partitioning = true, hive_types_autocast = false" if is_hive else "hive_partitioning = false"
    # Otherwise each file is cast to the types of the first.
    return f"read_parquet({paths}, {options}{', union_by_name = true' if widen else ''})"


def _have_one_type(files: Sequence[Path], schemas: Sequence[pa.Schema], names: Sequence[str]) -> bool:
    """Whether each column has the same type in all files; refuses types that no common type holds without loss."""
    lower = [{name.lower(): name for name in schema.names} for schema in schemas]
    is_uniform = True
    for name in names:
        if name.lower() not in lower[0]:
            # A directory's name gives its values.
            continue
        for path, known in zip(files, lower, strict=True):
            if name.lower() not in known:
                raise InputError(f"{path} has no column {name!r}, {files[0]} has one; give files with the same columns")
        types = [schema.field(known[name.lower()]).type for schema, known in zip(schemas, lower, strict=True)]
        if len(set(types)) > 1:
            _refuse_lossy(files, types, name)
            is_uniform = False
    return is_uniform


def _refuse_lossy(files: Sequence[Path], types: Sequence[pa.DataType], name: str) -> None:
    # A file without any value of a column may have the type null.
    examples = {kind: path for path, kind in zip(reversed(files), reversed(types), strict=True) if kind != pa.null()}
    kinds = list(reversed(examples))
    families = [{family for family, is_in in TYPE_FAMILIES.items() if is_in(kind)} or {kind} for kind in kinds]
    for kind, family in zip(kinds, families, strict=True):
        if not family & families[0]:
            raise _other_type(name, examples[kinds[0]], kinds[0], examples[kind], kind)
    if pa.types.is_decimal(kinds[0]):
        finest, longest = (
            max(kinds, key=lambda kind: kind.scale),
            max(kinds, key=lambda kind: kind.precision - kind.scale),
        )
        # DuckDB would round the digits that do not fit.
        if longest.precision - longest.scale + finest.scale > DECIMAL_DIGITS:
            raise _other_type(name, examples[finest], finest, examples[longest], longest)
    for path, kind in zip(files, types, strict=True):
        # An integer beyond 2^24 may have been rounded already when it was stored as a float32.
        bound = 2**24 if pa.types.is_float32(kind) else 2**53 if pa.types.is_integer(kind) else None
        other = next((k for k in kinds if k != kind and (bound == 2**24 or pa.types.is_floating(k))), None)
        if bound is None or other is None:
            continue
        value = without_nan(quoted(name), "FLOAT") if bound == 2**24 else f"CAST({quoted(name)} AS DOUBLE)"
        with connect() as connection:
            [(is_beyond,)] = connection.execute(
                f"SELECT coalesce(bool_or(abs({value}) >= {bound}), false) FROM {_parquet([path])}",
                {"paths": [literal_path(path)]},
            ).fetchall()
        if is_beyond:
            raise _other_type(name, path, kind, examples[other], other, f" with values from {bound:,} on")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


TYPE_FAMILIES: Mapping[str, Callable[[pa.DataType], bool]] = {
    "numbers": lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    "times": lambda kind: pa.types.is_date(kind) or pa.types.is_timestamp(kind),
    "decimals": pa.types.is_decimal,
    "lists": lambda kind: pa.types.is_list(kind) and pa.types.is_integer(kind.value_type),
    "text": _is_text,
}
"""Types of which one column may have several: there is a type that holds the values of all."""


def _other_type(
    name: str, path: Path, kind: pa.DataType, other: Path, other_kind: pa.DataType, more: str = ""
) -> InputError:
    return InputError(
        f"{path} has the column {name!r} as {kind}{more}, {other} as {other_kind}; "
        "write it with one type in all files, or read them one by one"
    )


def load_parquet(files: Sequence[Path], *, take: Mapping[str, str], to: Destination) -> RawRows:
    """The rows of the files, which are read anew each time; `take` gives their name of each column of ours.

    Columns whose types differ between files take a type that holds all values of both, if there is one: integers of
    any width, integers and floats up to 2^53, dates and times. Other differences are refused. NaN is null.

    Every value that is taken is read once, so that a damaged file is refused here.
    """
    lengths, schemas = [], []
    for path in files:
        with as_input_error(unreadable(path), pa.ArrowException, OSError):
            metadata = pq.read_metadata(path)
        schemas.append(metadata.schema.to_arrow_schema())
        lengths.append(metadata.num_rows)
        names = [name.lower() for name in schemas[-1].names]
        for name in PARQUET_PLACES:
            if name in names:
                raise InputError(f"{path} has a column {name!r}, a name that DuckDB keeps for itself; rename it")
        for name in take.values():
            if names.count(name.lower()) > 1:
                raise InputError(f"{path} has {names.count(name.lower())} columns {name!r}, in any case; rename one")
    starts = list(itertools.accumulate([0, *lengths[:-1]]))
    paths = f"[{', '.join(text_literal(literal_path(path)) for path in files)}]"
    start = "" if len(files) == 1 else f" + CAST({starts} AS BIGINT[])[CAST(file_index AS BIGINT) + 1]"
    with as_input_error(unreadable(files[0] if len(files) == 1 else files[0].parent), duckdb.Error):
        table = _parquet(files, paths, widen=not _have_one_type(files, schemas, list(take.values())))
        chosen = columns_without_nan(to.connection, take, table)
        to.connection.execute(
            f"CREATE TEMP VIEW {to.view} AS SELECT file_row_number{start} AS event_index, {chosen} FROM {table}"
        )
        to.connection.execute(f"SELECT bit_xor(hash({', '.join(take)})) FROM {to.view}")

    def place(row: int) -> str:
        index = max(index for index, start in enumerate(starts) if start <= row)
        return f"{files[index]}, row {row - starts[index] + 1}"

    return not_empty(RawRows(to.connection, to.view, place, to.bad_rows), files[0])
