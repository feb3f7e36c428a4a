"""The engines that run table expressions: how each computes a table once and holds it, and how a table gets there."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import uuid
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import narwhals as nw
import pyarrow as pa

from seqrec.data.event_tables import Source
from seqrec.data.paths import as_input_error
from seqrec.data.shard_writing import ShardPlan, write_batches, write_sorted
from seqrec.data.shards import Shard
from seqrec.data.tables.rows import literal_path, quoted, text_literal, without_nan
from seqrec.data.user_ranges import UserRange, events_of, number_of, place_users, ranges_of
from seqrec.types import InputError

EngineName = Literal["duckdb", "polars", "pyspark"]
ROWS_PER_BATCH = 122_880
"""DuckDB's own portion of a table."""
BYTES_PER_VALUE = 20
"""Memory that DuckDB takes, in several copies, for a value of a row that it sorts."""
PARTS_AT_ONCE = 6
"""Parts of a table that together could be sorted in memory: smaller ones are faster, and some memory is taken."""
ID_COLUMNS = ("user_id", "item_id", "event_index")
"""The integers that users' events are sorted by, besides times."""


class Parts(NamedTuple):
    """A table of events, and the same rows in parts: those of consecutive ranges of users, or all in one."""

    whole: nw.LazyFrame
    parts: Sequence[nw.LazyFrame]

    def map(self, change: Callable[[nw.LazyFrame], nw.LazyFrame]) -> "Parts":
        """Each after a change that needs no rows of other users."""
        return Parts(change(self.whole), [change(part) for part in self.parts])


def one_part(table: nw.LazyFrame) -> Parts:
    """The table as its own only part."""
    return Parts(table, [table])


class SortedEvents(NamedTuple):
    """Events, and how they are to be sorted."""

    events: Parts
    """user_id, item, event columns and those of the order."""
    order: list[str]
    users: nw.LazyFrame
    """The ranges of `place_users`."""
    keys: nw.LazyFrame | None
    """Each user_id and its `key`, where user_id is a number that stands for a text."""


class Engine(NamedTuple):
    """What an expression cannot say for itself: where a chain of them is cut, and its tables held."""

    keep: Callable[[nw.LazyFrame], nw.LazyFrame]
    """The same table, computed: whatever is built on it does not compute it again."""
    keep_parts: Callable[[Sequence[nw.LazyFrame]], Parts]
    """The parts, computed one after another: several are too large to be kept in memory."""
    partition: Callable[[nw.LazyFrame, int], Parts]
    """The parts of so many events that can be sorted in memory, computed in one pass; one where all of them can be."""
    forget: Callable[[nw.LazyFrame], None]
    """Lets go of a table that was kept; other tables are left alone."""
    close: Callable[[], None]
    """Lets go of all tables that were kept."""
    write_shards: Callable[[SortedEvents, Sequence[UserRange], ShardPlan], list[Shard]]
    """Writes a shard of the events of each range of users, part by part; never all of them in memory where the engine
    can help it."""


def duckdb_engine(connection: duckdb.DuckDBPyConnection) -> Engine:
    """Tables are held in the connection's database, which spills what exceeds its memory limit.

    Tables in several parts are held as Parquet files beside what is spilt. They go with the connection. Each part is
    read from its own file: then DuckDB knows how large its ids are, and sorts narrow integers in a quarter of the time.
    """
    prefix = f"kept_{uuid.uuid4().hex}"
    folders: dict[str, Path] = {}
    kept: set[str] = set()
    weakref.finalize(connection, _remove_folders, folders)

    def new_name() -> str:
        name = f"{prefix}_{uuid.uuid4().hex}"
        kept.add(name)
        return name

    def keep(table: nw.LazyFrame) -> nw.LazyFrame:
        name = new_name()
        with _duckdb_explained():
            table.to_native().create(name)
        return nw.from_native(connection.table(name))

    def keep_parts(parts: Sequence[nw.LazyFrame]) -> Parts:
        if len(parts) == 1:
            return one_part(keep(parts[0]))
        name, folder = new_name(), _spill_folder(connection)
        folders[name] = folder
        files = [folder / f"{number}.parquet" for number in range(len(parts))]
        for part, file in zip(parts, files, strict=True):
            _write_parquet(part, file)
        return read_parts(name, [literal_path(file) for file in files])

    def partition(events: nw.LazyFrame, n_events: int) -> Parts:
        n_values = n_bytes_at_once(connection) / BYTES_PER_VALUE
        n_at_once = int(n_values / len(events.collect_schema().names()))
        n_per_part = max(1, n_at_once // PARTS_AT_ONCE)
        ranges = [] if n_events <= n_at_once else ranges_of(place_users(events, n_per_part))
        if len(ranges) < 2:
            return one_part(events)
        name, folder = new_name(), _spill_folder(connection)
        folders[name] = folder
        _write_parquet(_narrow(events).with_columns(_part=number_of(ranges)), folder, ", PARTITION_BY (_part)")
        return read_parts(name, [f"{literal_path(folder)}/_part={number}/*.parquet" for number in range(len(ranges))])

    def read_parts(name: str, paths: Sequence[str]) -> Parts:
        parts = [f"FROM read_parquet({text_literal(path)}, hive_partitioning = false)" for path in paths]
        tables = [nw.from_native(connection.sql(part)) for part in parts]
        # What is not sorted part by part has the types of the source.
        schema = tables[0].collect_schema()
        widened = [f"CAST({column} AS BIGINT) AS {column}" for column in ID_COLUMNS if schema.get(column) == nw.Int32]
        columns = f"* REPLACE ({', '.join(widened)})" if widened else "*"
        # Not a list of files, for DuckDB knows what ids there are in one, and not in a list of them.
        rows = " UNION ALL ".join(f"SELECT {columns} {part}" for part in parts)
        connection.execute(f"CREATE TEMP VIEW {name} AS {rows}")
        return Parts(nw.from_native(connection.table(name)), tables)

    def forget_named(name: str) -> None:
        kept.discard(name)
        connection.execute(f"DROP {'VIEW' if name in folders else 'TABLE'} IF EXISTS {name}")
        if name in folders:
            shutil.rmtree(folders.pop(name), ignore_errors=True)

    def forget(table: nw.LazyFrame) -> None:
        name = table.to_native().alias
        if name in kept:
            forget_named(name)

    def close() -> None:
        # After an error that made the database unusable, that error is the one to tell.
        with contextlib.suppress(duckdb.Error):
            for name in list(kept):
                forget_named(name)

    def write_shards(sorted_events: SortedEvents, ranges: Sequence[UserRange], plan: ShardPlan) -> list[Shard]:
        return _shards_here(sorted_events, ranges, plan, batches)

    def batches(table: nw.LazyFrame) -> Iterator[pa.RecordBatch]:
        with _duckdb_explained():
            relation = table.to_native()
            # DuckDB 1 calls it by another name, which 2 deprecates.
            read = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
            with read(ROWS_PER_BATCH) as reader:
                yield from reader

    return Engine(keep, keep_parts, partition, forget, close, write_shards)


def _spill_folder(connection: duckdb.DuckDBPyConnection) -> Path:
    [(parent,)] = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    # DuckDB makes and removes its own folder as it likes.
    where = Path(parent).absolute().parent if parent else None
    with as_input_error(f"{where} cannot be written ({{error}}); give another spill_directory", OSError):
        return Path(tempfile.mkdtemp(prefix="seqrec-parts-", dir=where))


def _write_parquet(rows: nw.LazyFrame, path: Path, option: str = "") -> None:
    # To look for a dictionary in ids and times takes half the time of writing them.
    options = f"FORMAT parquet, PARQUET_VERSION v2, COMPRESSION lz4_raw, DICTIONARY_SIZE_LIMIT 1{option}"
    with _duckdb_explained():
        rows.to_native().query("rows_of_events", f"COPY rows_of_events TO {text_literal(str(path))} ({options})")


def _narrow(events: nw.LazyFrame) -> nw.LazyFrame:
    """The events with integers of `ID_COLUMNS` as int32 where they fit: sorts by them take three fifths of the time."""
    schema = events.collect_schema()
    names = [name for name in ID_COLUMNS if schema.get(name) == nw.Int64]
    within = [nw.col(name).is_between(-(2**31), 2**31 - 1).all() for name in names]
    fits = collect(events.select(*within)).to_pylist()[0] if names else {}
    return events.with_columns(nw.col(name).cast(nw.Int32) for name in names if fits[name])


def _remove_folders(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)


def n_bytes_at_once(connection: duckdb.DuckDBPyConnection) -> float:
    """The memory limit of a database."""
    [(limit,)] = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    number, unit = limit.split()
    return float(number) * 1024 ** ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"].index(unit)


@contextlib.contextmanager
def _duckdb_explained() -> Iterator[None]:
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException):
        # An expression of ours is wrong, not the events.
        raise
    except duckdb.OutOfMemoryException as error:
        raise InputError(
            f"DuckDB ran out of memory, or of disk to spill to ({str(error).splitlines()[0]}); "
            "give a larger memory_limit or a spill_directory with more room"
        ) from error
    except duckdb.Error as error:
        raise InputError(
            f"the events cannot be read ({str(error).splitlines()[0]}); check that their file is whole and still there"
        ) from error


def polars_engine() -> Engine:
    """Tables are held in memory until nothing refers to them."""
    return _simple_engine(lambda table: table.collect("polars").lazy(), _shards_from_memory)


def spark_engine() -> Engine:
    """Tables are held by the executors until nothing refers to them; without a lineage, which a loop would pile up.

    The executors write shards, too, so the store's directory must be one that all machines share.
    """
    return _simple_engine(lambda table: nw.from_native(table.to_native().localCheckpoint()), _shards_by_executors)


def _simple_engine(keep: Callable[[nw.LazyFrame], nw.LazyFrame], write_shards: Any) -> Engine:
    return Engine(
        keep=keep,
        keep_parts=lambda parts: one_part(keep(nw.concat(list(parts)))),
        partition=lambda events, n_events: one_part(events),
        forget=lambda table: None,
        close=lambda: None,
        write_shards=write_shards,
    )


def _shards_from_memory(table: SortedEvents, ranges: Sequence[UserRange], plan: ShardPlan) -> list[Shard]:
    return _shards_here(table, ranges, plan, lambda part: iter(collect(part).to_batches(ROWS_PER_BATCH)))


def _shards_here(
    table: SortedEvents,
    ranges: Sequence[UserRange],
    plan: ShardPlan,
    batches: Callable[[nw.LazyFrame], Iterator[pa.RecordBatch]],
) -> list[Shard]:
    """The shards, written by this process, a part of the events at a time."""
    user_keys = None
    if table.keys is not None:
        user_keys = collect(table.keys.sort("user_id"))["key"].cast(pa.large_string()).combine_chunks()
    names = ["user_id", "item", *plan.columns]

    def sorted_batches(users: UserRange) -> Generator[pa.RecordBatch, None, None]:
        for part in table.events.parts:
            events = part if len(ranges) == 1 else events_of(part, users)
            yield from batches(events.sort(table.order).select(names))

    shards = []
    for number, users in enumerate(ranges):
        # Closed, where writing fails, before tables are dropped, which an open result would forbid.
        with contextlib.closing(sorted_batches(users)) as rows:
            shards.append(write_batches(plan, number, rows, user_keys))
    return shards


def _shards_by_executors(table: SortedEvents, ranges: Sequence[UserRange], plan: ShardPlan) -> list[Shard]:
    """The shards, each written by the executor that sorts it; what they hold comes to the driver."""
    from pyspark.errors import PySparkException

    events, user = table.events.whole, "user_id"
    if len(ranges) == 1:
        events = events.with_columns(_place=nw.lit(ranges[0].place, nw.Int64))
    else:
        events = events.join(table.users.select("user_id", "_place"), on="user_id", how="inner")
    if table.keys is not None:
        events, user = events.join(table.keys, on="user_id", how="inner"), "key"
    # Under names of ours, for Spark takes a name for an expression.
    order = {f"_order_{place}": nw.col(name) for place, name in enumerate(table.order)}
    rows = events.select("_place", nw.col(user).alias("user_id"), "item", *plan.columns, **order).to_native()
    rows = rows.repartition(len(ranges), "_place").sortWithinPartitions("_place", *order).drop(*order)
    numbers = {users.place: number for number, users in enumerate(ranges)}
    try:
        results = rows.mapInArrow(lambda batches: write_sorted(plan, numbers, batches), "number long, shard string")
        written = {row.number: row.shard for row in results.collect()}
    except PySparkException as error:
        raise InputError(of_executors(str(error))) from error
    shards = [Shard(**json.loads(written[number])) for number in range(len(ranges))]
    for shard in shards:
        if not (Path(plan.store) / shard.directory).is_dir():
            raise InputError(
                f"{Path(plan.store) / shard.directory}, which an executor wrote, is not here; "
                "name a directory that all machines share"
            )
    return shards


def of_executors(message: str) -> str:
    """What an executor complained of."""
    lines = [line for line in message.splitlines() if "Error: " in line]
    if lines and "InputError: " in lines[-1]:
        return lines[-1].split("InputError: ", 1)[1]
    reason = (lines or message.splitlines() or [""])[-1].strip()
    return (
        f"Spark's executors cannot write the store ({reason}); install seqrec[spark] for the Python of each machine "
        "(PYSPARK_PYTHON), and name a directory that all machines share"
    )


def engine_of(source: Source) -> Engine:
    """The engine that the events of `source` are a table of."""
    kind = source.events.implementation
    if kind.is_duckdb():
        if source.connection is None:
            raise InputError(f"{source.name}: a DuckDB table without its connection; set connection in Source")
        return duckdb_engine(source.connection)
    if kind.is_polars():
        return polars_engine()
    if kind.is_pyspark() or kind.is_pyspark_connect():
        return spark_engine()
    raise InputError(f"{source.name}: events are a table of {kind.value}; give one of DuckDB, Polars or PySpark")


def null_for_nan(table: nw.LazyFrame, columns: Sequence[str]) -> nw.LazyFrame:
    """The table with null for NaN in those of `columns` that are floats."""
    schema = table.collect_schema()
    floats = [name for name in dict.fromkeys(columns) if schema[name].is_float()]
    if table.implementation.is_duckdb() and floats:
        # Where the table is a Parquet file, DuckDB takes nw.col(name).is_nan() for false.
        named = ", ".join(f"{without_nan(quoted(name), 'DOUBLE')} AS {quoted(name)}" for name in floats)
        return nw.from_native(table.to_native().project(f"* REPLACE ({named})"))
    return table.with_columns(nw.when(~nw.col(name).is_nan()).then(nw.col(name)).alias(name) for name in floats)


def collect(table: nw.LazyFrame) -> pa.Table:
    """The rows, here."""
    with _duckdb_explained():
        return table.collect(backend="pyarrow").to_native()


def n_rows(table: nw.LazyFrame) -> int:
    """The number of rows."""
    return int(table.select(n=nw.len()).collect("pyarrow")["n"][0])


@contextlib.contextmanager
def move(source: Source, engine: EngineName, *, spark: Any = None, directory: Path | None = None) -> Iterator[Source]:
    """The same source with its events in another engine, by way of a Parquet file in `directory` that goes in the end.

    `spark` is the session to use; by default the running one, or a local one.
    """
    if engine == "duckdb":
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="seqrec-events-", dir=directory) as folder:
        path = Path(folder) / "events.parquet"
        source.events.sink_parquet(path)
        with as_input_error(f"{engine} is not installed; run pip install {engine}, or take duckdb", ImportError):
            if engine == "polars":
                import polars

                events: Any = polars.scan_parquet(path, glob=False)
            else:
                from pyspark.sql import SparkSession

                os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
                session = spark or SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
                events = session.read.parquet(str(path))
        yield source._replace(events=nw.from_native(events), connection=None, parts=())
