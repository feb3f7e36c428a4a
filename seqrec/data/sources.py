"""Named data sets and the user's own files, read into one table of events."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from seqrec.config import check_fields
from seqrec.data.event_tables import (
    NO_CATEGORIES,
    Columns,
    ReadOptions,
    Request,
    Source,
    Ties,
    load_events,
    typed_source,
    unit_of,
)
from seqrec.data.event_values import MISSING_VALUES
from seqrec.data.readers.amazon import read_amazon
from seqrec.data.readers.clicks import read_yoochoose
from seqrec.data.readers.lists import read_lists, read_pairs, read_sessions
from seqrec.data.readers.movielens import read_movielens, read_movielens_demo
from seqrec.data.readers.music import read_lastfm_1k, read_yambda
from seqrec.data.readers.recbole import read_recbole
from seqrec.data.tables.columns import TIME_UNITS, TimeUnit
from seqrec.data.tables.rows import NO_LIMITS, BadRows, Limits
from seqrec.data.tables.user_table import open_table
from seqrec.data.ties import order_ties
from seqrec.types import InputError

__all__ = ["Columns", "Dataset", "Source", "SourceConfig", "Ties", "TimeUnit", "open_source", "read_source"]

Dataset = Literal[
    "movielens-demo",
    "ml-1m",
    "sasrec",
    "s3rec",
    "movielens",
    "recbole",
    "amazon",
    "lastfm-1k",
    "yoochoose",
    "yambda",
    "sessions",
    "events",
]
DATASETS: tuple[str, ...] = get_args(Dataset)
OUR_COLUMNS = ("user_id", "item_id", "timestamp_us", "event_index", "item", "reason", "session", "run_length")
"""Names that preparation gives to columns of its own."""


@dataclass(frozen=True)
class SourceConfig:
    """Which data to read, and which of its columns."""

    dataset: Dataset = "events"
    """Format of the data: a named public data set, or events for your own table. movielens-demo needs no file."""
    data_path: Path | None = None
    """File, directory or quoted glob pattern: CSV, TSV or JSON lines (may be compressed with gzip or zstd), Parquet, or
    a DuckDB file."""
    table: str | None = None
    """Table of events to read from the DuckDB file."""
    query: str | None = None
    """SQL query whose result is the events, run read-only on the DuckDB file."""
    columns: tuple[str, str, str] = Columns()
    """Names of the user, item and time columns of an events file; write none for the time if there is none, and the
    order of the file is used."""
    time_unit: TimeUnit = "auto"
    """Unit of a numeric time column; auto chooses the unit that gives dates from 1980 to 2100."""
    extra: tuple[str, ...] = ()
    """Further numeric columns to keep, such as rating."""
    categories: tuple[str, ...] = ()
    """Further text columns to keep, such as device; they are stored as integer codes, and the store's manifest lists
    the text of each code."""
    bad_rows: BadRows = "refuse"
    """What to do with rows or values that cannot be read: refuse stops with an error, drop skips them and counts them
    as invalid."""
    missing_values: tuple[str, ...] = MISSING_VALUES
    """Words in text columns that mean a missing value, in addition to empty or blank text."""
    ties: Ties = "auto"
    """Order of one user's events at equal times: that of the file; by a hash of user, time and item, which is as good
    as random; or auto: hash if these events are in the order of item ids far more often than by chance, as in files
    that were sorted by user and item."""

    def __post_init__(self):
        check_fields(self)


def open_source(
    config: SourceConfig,
    *,
    frame: Any = None,
    known: Mapping[str, Sequence[str]] = NO_CATEGORIES,
    limits: Limits = NO_LIMITS,
) -> Source:
    """`read_source` by a config, of a `frame` if one is given, else of the config's path.

    `known` has the texts of those categories whose codes are given already.
    """
    return read_source(
        config.dataset,
        config.data_path if frame is None else frame,
        columns=Columns(*config.columns),
        time_unit=config.time_unit,
        extra=config.extra,
        categories={name: known.get(name, ()) for name in config.categories},
        ties=config.ties,
        options=ReadOptions(config.bad_rows, config.missing_values, config.table, config.query, limits),
    )


def read_source(
    dataset: str,
    path: Any = None,
    *,
    columns: Columns = Columns(),  # noqa: B008 (a tuple: nobody can change the default)
    time_unit: str = "auto",
    extra: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] = NO_CATEGORIES,
    ties: Ties = "auto",
    options: ReadOptions = ReadOptions(),  # noqa: B008 (likewise)
) -> Source:
    """The events of a data set, read from `path` where it does not come from a package.

    For `events`, `path` may also be a pandas, Polars or Arrow table in memory. Ids of text are int64 where every one is
    written as int64 writes it, else text ("007" stays "007"). `columns` and `time_unit` (of numbers in
    the time column) are for `events` and `recbole` alone; "auto" takes the unit that gives plausible years, and logs
    it. `extra` names further columns of numbers, such as rating. `categories` names columns of text, such as a device,
    to be kept as int32 codes: each with the texts whose codes, 0, 1, ..., are known from before, or none. Where the
    times of a user tie, `ties` says which order the events have.

    >>> import pyarrow as pa
    >>> frame = pa.table({"user": ["ann", "ann"], "track": [7, 9], "at": [1_600_000_000, 1_600_000_060]})
    >>> source = read_source("events", frame, columns=Columns("user", "track", "at"))
    >>> source.events.select("user_id", "item_id", "timestamp_us").to_native().fetchall()
    [('ann', 7, 1600000000000000), ('ann', 9, 1600000060000000)]
    """
    if dataset not in DATASETS:
        raise InputError(f"dataset {dataset!r} is unknown; choose from {', '.join(DATASETS)}")
    if time_unit not in TIME_UNITS:
        raise InputError(f"time_unit {time_unit!r} is unknown; choose from {', '.join(TIME_UNITS)}")
    # Case does not tell columns apart in DuckDB and in Spark.
    lower = [name.lower() for name in (*extra, *categories)]
    reserved = [name for name in lower if name in OUR_COLUMNS or name.startswith("_") or lower.count(name) > 1]
    if reserved:
        raise InputError(
            f"the extra column {reserved[0]!r} is given twice, begins with _ or is one of {', '.join(OUR_COLUMNS)}; "
            "rename it in the file"
        )
    return order_ties(_read(dataset, path, Request(columns, time_unit, extra, categories, options)), ties)


def _read(dataset: str, path: Any, request: Request) -> Source:
    """The events in the order of their files."""
    options = request.options
    if dataset == "movielens-demo" and path is not None:
        raise InputError(
            f"movielens-demo comes from a package and reads no file, got {str(path)[:80]}; "
            "leave the data path out, or name the data set that the file holds"
        )
    if dataset == "movielens-demo":
        return read_movielens_demo(request)
    if path is None:
        raise InputError(f"{dataset} is read from a file; give its data path{' or a frame' * (dataset == 'events')}")
    if isinstance(path, str | Path):
        path = Path(path).expanduser()
    elif dataset != "events":
        raise InputError(f"{dataset} is read from files, got a {type(path).__name__}; take the data set events")
    if dataset == "events":
        # By the names of their columns, in the order of the files and of the rows in them.
        opened = open_table(
            path, likely=request.columns, table=options.table, query=options.query, limits=options.limits
        )
        rows = load_events(opened, request, request.columns)
        return typed_source("events", rows, request, time_unit=unit_of(request, request.columns))
    if options.table is not None or options.query is not None:
        raise InputError(f"{dataset} is read from files, not from a table or query; take the data set events")
    readers: dict[str, Callable[[Path, Request], Source]] = {
        "ml-1m": functools.partial(read_pairs, name="ml-1m"),
        "sasrec": read_pairs,
        "s3rec": read_lists,
        "movielens": read_movielens,
        "recbole": read_recbole,
        "amazon": read_amazon,
        "lastfm-1k": read_lastfm_1k,
        "yoochoose": read_yoochoose,
        "yambda": read_yambda,
        "sessions": read_sessions,
    }
    return readers[dataset](path, request)
