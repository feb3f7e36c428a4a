"""The engines that run table expressions: how each computes a table once and holds it, and how a table gets there."""

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import narwhals as nw
import pyarrow as pa

from seqrec.data.event_tables import Source
from seqrec.data.paths import as_input_error
from seqrec.data.tables.rows import quoted, without_nan
from seqrec.types import InputError

EngineName = Literal["duckdb", "polars", "pyspark"]
ROWS_PER_BATCH = 122_880
"""DuckDB's own portion of a table."""


class Engine(NamedTuple):
    """What an expression cannot say for itself: where a chain of them is cut, and its tables held."""

    keep: Callable[[nw.LazyFrame], nw.LazyFrame]
    """The same table, computed: whatever is built on it does not compute it again."""
    forget: Callable[[nw.LazyFrame], None]
    """Lets go of a table that `keep` returned; other tables are left alone."""
    batches: Callable[[nw.LazyFrame], Iterator[pa.RecordBatch]]
    """The rows in their order, part by part; never all of them in memory where the engine can help it."""


def duckdb_engine(connection: duckdb.DuckDBPyConnection) -> Engine:
    """Tables are held in the connection's database, which spills what exceeds its memory limit."""
    prefix = f"kept_{uuid.uuid4().hex}"

    def keep(table: nw.LazyFrame) -> nw.LazyFrame:
        name = f"{prefix}_{uuid.uuid4().hex}"
        with _duckdb_explained():
            table.to_native().create(name)
        return nw.from_native(connection.table(name))

    def forget(table: nw.LazyFrame) -> None:
        name = table.to_native().alias
        if name.startswith(prefix):
            connection.execute(f"DROP TABLE IF EXISTS {name}")

    def batches(table: nw.LazyFrame) -> Iterator[pa.RecordBatch]:
        with _duckdb_explained():
            relation = table.to_native()
            # DuckDB 1 calls it by another name, which 2 deprecates.
            read = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
            yield from read(ROWS_PER_BATCH)

    return Engine(keep, forget, batches)


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
    return Engine(lambda table: table.collect("polars").lazy(), lambda table: None, _collected_batches)


def spark_engine() -> Engine:
    """Tables are held by the executors until nothing refers to them; without a lineage, which a loop would pile up."""
    return Engine(
        lambda table: nw.from_native(table.to_native().localCheckpoint()), lambda table: None, _collected_batches
    )


def _collected_batches(table: nw.LazyFrame) -> Iterator[pa.RecordBatch]:
    yield from collect(table).to_batches(ROWS_PER_BATCH)


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

                session = spark or SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
                events = session.read.parquet(str(path))
        yield source._replace(events=nw.from_native(events), connection=None)
