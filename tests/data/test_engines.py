"""The same steps on every engine: exactly equal tables."""

import gc
import re

import numpy as np
import pyarrow as pa
import pytest
from test_ties import DEFAULTS, RUNS, a_log, by_user_and_item, shuffled
from test_ties import read as read_log

from seqrec.data import engines, steps
from seqrec.data.engines import collect, engine_of, move
from seqrec.data.event_tables import ReadOptions
from seqrec.data.events import gathered_store
from seqrec.data.preparation import StepsConfig, clean_events, prepare_store
from seqrec.data.sources import Columns, read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.tables.rows import Limits
from seqrec.types import InputError

ENGINES = ("polars", "pyspark")  # beside DuckDB
USERS = ["Zoë", "zoë", "Zoe", "日本", "😀", "007", "7", "a'b", 'a"b', " a", "\u00e9", "e\u0301"]
"""Such that orders by locale, by case and by UTF-16 differ from that by code point, and two look alike."""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A file of events with ties, duplicates, missing values, fractional times and ids of many scripts."""
    random = np.random.default_rng(0)
    lines = ["who,what,when,rating"]
    for _ in range(1500):
        user = USERS[int(len(USERS) * random.random() ** 1.5)] if random.random() > 0.02 else ""
        item = f"item {random.integers(25)} ü" if random.random() > 0.02 else ""
        # Steps of a quarter of a microsecond, of which a float of seconds knows nothing; a few days, with ties.
        time = (
            f"{1_700_000_000 + random.integers(40) * 3600}.{random.integers(3) * 25:08d}"
            if random.random() > 0.02
            else ""
        )
        rating = random.choice(["", "nan", "1", "2.5", "3", "4"])
        lines += [f'"{user.replace(chr(34), 2 * chr(34))}",{item},{time},{rating}'] * random.choice([1, 1, 1, 2])
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(log):
    return read_source("events", log, columns=Columns("who", "what", "when"), time_unit="s", extra=("rating",))


CONFIGS = {
    "defaults": StepsConfig(),
    "all steps": StepsConfig(
        earliest="2023-11-14T23:00",
        latest="2023-11-16",
        duplicate_gap_seconds=3600.0,
        max_events_per_day=80,
        min_column="rating",
        min_value=2.5,
        collapse_repeats=True,
        min_user_events=5,
        min_item_events=12,
        session_gap_seconds=7200.0,
        item_order="count",
    ),
    "by first time": StepsConfig(drop_duplicates=False, collapse_repeats=True, item_order="first-time"),
    "sessions as users": StepsConfig(
        duplicate_gap_seconds=3600.0,
        session_gap_seconds=7200.0,
        sessions_as_users=True,
        min_user_events=2,
        min_item_events=5,
    ),
    "near duplicates alone, and a share": StepsConfig(
        drop_duplicates=False,
        duplicate_gap_seconds=3600.0,
        min_column="rating",
        min_value=1.0,
        min_share_of="rating",
        session_gap_seconds=0.000001,
    ),
}

ORDERS = {"defaults": DEFAULTS, "runs": RUNS}


def outcome(source, config, directory):
    """Everything that preparation finds: counts, tables in their order, the store's hash and its shards' files."""
    engine = engine_of(source)
    cleaned = clean_events(source.events, config, engine, parts=source.parts)
    columns = steps.column_names(cleaned.events)
    store = gathered_store(
        cleaned.parted,
        engine,
        source,
        columns=cleaned.columns,
        item_order=config.item_order,
        keys=cleaned.keys,
        directory=directory,
        events_per_shard=cleaned.counts[-1].n_events // 3,
    )
    assert 2 <= len(store.shards) <= 4
    return {
        "counts": cleaned.counts,
        "events": collect(cleaned.events.sort("event_index")).select(columns).to_pydict(),
        "rejected": collect(cleaned.rejected.sort("event_index")).to_pydict(),
        "content hash": store.content_hash,
        "shards": store.shards,
        "files": {str(file.relative_to(directory)): file.read_bytes() for file in sorted(directory.rglob("*.*"))},
    }


def same(left, right):
    # NaN is itself here.
    return repr(left) == repr(right)


def on_every_engine(configs, on_spark):
    """Each config on each engine; on Spark, which takes seconds to plan them, `on_spark` alone in the quick tests."""
    return pytest.mark.parametrize(
        ("engine", "config"),
        [
            pytest.param(engine, config, marks=[pytest.mark.slow] * (engine == "pyspark" and config != on_spark))
            for engine in ENGINES
            for config in configs
        ],
    )


@on_every_engine(CONFIGS, on_spark="all steps")
def test_engines_give_exactly_equal_tables(engine, config, log, request, tmp_path):
    pytest.importorskip(engine)
    spark = request.getfixturevalue("spark") if engine == "pyspark" else None
    for folder in ("expected", "actual"):
        (tmp_path / folder).mkdir()
    expected = outcome(read(log), CONFIGS[config], tmp_path / "expected")
    assert 0 < expected["counts"][-1].n_events < expected["counts"][0].n_events
    with move(read(log), engine, spark=spark) as source:
        tables = outcome(source, CONFIGS[config], tmp_path / "actual")
    for name in expected:
        assert same(tables[name], expected[name]), name


@pytest.mark.parametrize("config", ["all steps", "sessions as users"])
def test_ranges_of_users_that_fit_the_memory_give_exactly_equal_tables(config, log, tmp_path, monkeypatch):
    for folder in ("expected", "actual"):
        (tmp_path / folder).mkdir()
    expected = outcome(read(log), CONFIGS[config], tmp_path / "expected")
    source = read(log)
    # A memory in which ten events can be sorted.
    monkeypatch.setattr(engines, "n_bytes_at_once", lambda connection: 10 * 5 * engines.BYTES_PER_VALUE)
    n_events = expected["counts"][0].n_events
    assert len(engine_of(source).partition(source.events, n_events).parts) > 5
    tables = outcome(source, CONFIGS[config], tmp_path / "actual")
    for name in expected:
        assert same(tables[name], expected[name]), name


def test_what_is_held_in_parts_is_gone_after_the_preparation(log, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "n_bytes_at_once", lambda connection: 1000)
    limits = Limits(spill_directory=tmp_path / "spill")
    options = {"columns": Columns("who", "what", "when"), "time_unit": "s", "options": ReadOptions(limits=limits)}
    source = read_source("events", log, **options)
    seen = []

    def look(count):
        seen.append(len(list((tmp_path / "spill").glob("seqrec-parts-*"))))

    in_parts = prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig(), report=look).store
    assert seen == [1, 1, 2]  # found, valid, duplicates: those of the source, then those of the step too
    assert len(list((tmp_path / "spill").glob("seqrec-parts-*"))) == 1
    del source
    gc.collect()
    assert not list((tmp_path / "spill").glob("seqrec-parts-*"))
    monkeypatch.undo()
    whole = prepare_store(read_source("events", log, **options), tmp_path / "whole", StepsConfig(), SplitConfig()).store
    assert in_parts.content_hash == whole.content_hash
    # Small enough for one shard, which is the store itself.
    assert {file.name for file in (tmp_path / "store").iterdir()} == {
        file.name for file in (tmp_path / "whole").iterdir()
    }


@on_every_engine(ORDERS, on_spark=None)  # there are ties in the other test's log too
def test_engines_order_ties_alike(engine, config, request, tmp_path):
    pytest.importorskip(engine)
    spark = request.getfixturevalue("spark") if engine == "pyspark" else None
    config = ORDERS[config]
    expected = prepare_store(read_log(by_user_and_item(a_log(text=True))), tmp_path / "duckdb", config, SplitConfig())
    with move(read_log(shuffled(a_log(text=True), 1), "hash"), engine, spark=spark) as source:
        prepared = prepare_store(source, tmp_path / engine, config, SplitConfig())
    assert prepared.store.content_hash == expected.store.content_hash


def test_every_step_of_the_comparison_removes_something(log):
    source = read(log)
    counts = clean_events(source.events, CONFIGS["all steps"], engine_of(source)).counts
    assert all(count.n_removed > 0 for count in counts[1:-1]), counts


def test_the_source_moves_by_way_of_a_file_that_goes_in_the_end(log, tmp_path):
    pytest.importorskip("polars")
    source = read(log)
    with move(source, "polars", directory=tmp_path) as moved:
        assert len(list(tmp_path.iterdir())) == 1
        assert same(collect(moved.events).to_pydict(), collect(source.events).to_pydict())
    assert not list(tmp_path.iterdir())


def test_another_engine_is_refused_with_those_that_are_not():
    import narwhals as nw

    source = read_source("movielens-demo")
    table = nw.from_native(pa.table({"user_id": [1]})).lazy()
    refused = source._replace(events=table)
    with pytest.raises(InputError, match="give one of DuckDB, Polars or PySpark"):
        engine_of(refused)
    with pytest.raises(InputError, match="without its connection"):
        engine_of(source._replace(connection=None))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Traceback\n  ...\nseqrec.types.InputError: event column 'a' is string; leave it out\n",
            "event column 'a' is",
        ),
        (
            "Traceback\nPermissionError: [Errno 13] Permission denied: '/mnt/a'\n",
            "Permission denied.*all machines share",
        ),
        ("[PACKAGE_NOT_INSTALLED] pandas must be installed", "pandas must be installed.*PYSPARK_PYTHON"),
    ],
)
def test_what_an_executor_complains_of_is_told_in_a_line(message, expected):
    complaint = engines.of_executors(message)
    assert re.search(expected, complaint)
    assert "\n" not in complaint
