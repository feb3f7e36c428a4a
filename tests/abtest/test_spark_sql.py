"""Every statement gives the same table on Spark as on DuckDB, so that it can be run where the logs are.

The quick tests let Spark read every statement, and ask for the tables that are made of the most others, and so for
these too; the slow tests ask for each.
"""

from datetime import date
from importlib import resources

import numpy as np
import pytest
from examples import at_night

from seqrec.abtest import tables
from seqrec.abtest.logs import Logs, load_logs, set_period
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.abtest.simulate import Simulation, simulate, write_logs

PLAN = ExperimentPlan(
    name="p", start=date(2026, 3, 2), n_days=5, primary=Metric("skips", "plays"), days_before=4, segments=("country",)
)
LOADED = ("assignments", "exposures", "events", "segment_values", "settings")
"""What every engine must be given, beside the weights that Python fits."""
TABLES = (*tables.STEPS, "metric_values", "user_folds", "cupac_values")
"""In an order in which each is made of those before it."""
FIGURES = ("moments", "segment_moments", "new_users_by_day", "increments_by_day", "cupac_moments", "cupac_predictions")
FIGURES += (
    "user_values",
    "check_arms",
    "check_days",
    "check_segments",
    "check_logging",
    "check_repeated",
    "check_resent",
    "check_left_out",
)
QUICK = ("segment_moments", "cupac_predictions", "increments_by_day", "check_left_out")
"""Every one of TABLES is a part of these."""


def statement(name: str) -> str:
    """The file's text with this plan's metric in it."""
    metric = PLAN.primary
    return tables.sql_text(name).replace("{numerator}", metric.numerator).replace("{denominator}", metric.denominator)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """Logs with all faults, in DuckDB, with all tables."""
    directory = tmp_path_factory.mktemp("logs")
    faults = {"bot_share": 0.02, "two_arm_share": 0.05, "lost_share": 0.05, "exposed_share": 0.8, "missing_share": 0.1}
    files = write_logs([simulate(PLAN, Simulation(n_users=200, sessions_per_day=1.0, **faults))], directory)
    connection = load_logs(Logs(files["assignments"], files["events"], files["exposures"]), PLAN)
    set_period(connection, PLAN, n_days=PLAN.n_days)
    tables.build_tables(connection)
    tables.predict_metric(connection, PLAN.primary)
    tables.choose_metric(connection, PLAN.primary)
    return connection


@pytest.fixture(scope="module")
def elsewhere(spark, embedded, tmp_path_factory):
    """The same tables, made by Spark from what is loaded."""
    directory = tmp_path_factory.mktemp("tables")
    for name in (*LOADED, "cupac_weights"):
        file = directory / f"{name}.parquet"
        embedded.sql(f"SELECT * FROM {name}").write_parquet(str(file))
        spark.read.parquet(str(file)).createOrReplaceTempView(name)
    for name in TABLES:
        # A view would be computed anew in each of those that are made of it.
        spark.sql(statement(name)).cache().createOrReplaceTempView(name)
    return spark


def ordered(rows) -> list[tuple]:
    # None has no order beside numbers.
    return sorted(map(tuple, rows), key=lambda row: [(value is not None, value or 0) for value in row])


def test_no_statement_is_left_out():
    files = {file.name.removesuffix(".sql") for file in resources.files("seqrec.abtest").joinpath("sql").iterdir()}
    assert files == {*TABLES, *FIGURES}


def test_spark_reads_every_statement_and_gives_the_same_columns(embedded, elsewhere):
    for name in (*TABLES, *FIGURES):
        assert elsewhere.sql(statement(name)).columns == embedded.sql(statement(name)).columns, name


@pytest.mark.parametrize("name", at_night((*TABLES, *FIGURES), quick=QUICK))
def test_spark_gives_the_same_table(embedded, elsewhere, name):
    table = elsewhere.sql(statement(name))
    expected = embedded.sql(statement(name))
    assert table.columns == expected.columns
    rows, expected_rows = ordered(table.collect()), ordered(expected.fetchall())
    assert len(rows) == len(expected_rows) > 0
    for values, expected_values in zip(zip(*rows, strict=True), zip(*expected_rows, strict=True), strict=True):
        if any(isinstance(value, float) for value in expected_values):
            # Sums of the same numbers in another order.
            np.testing.assert_allclose(np.array(values, float), np.array(expected_values, float), rtol=1e-9, atol=1e-9)
        else:
            assert values == expected_values
