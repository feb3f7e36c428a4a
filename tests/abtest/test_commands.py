"""Flags of the A/B commands refuse what cannot be computed with."""

import dataclasses
from pathlib import Path

import pytest

from seqrec.abtest.commands import AnalyzeFlags, PlanFlags, SimulateFlags, Sizing
from seqrec.abtest.logs import Logs
from seqrec.types import InputError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": 40.0}, "give both or neither"),
        ({"mean": 40.0, "standard_deviation": 1e300}, "standard_deviation=1e.300 is outside"),
        ({"mean": 1e300, "standard_deviation": 1.0}, "mean=1e.300 is outside"),
        ({"mean": 0.0, "standard_deviation": 1.0}, "mean=0.0 is outside"),
        ({"mean": 40.0, "standard_deviation": float("nan")}, "standard_deviation=nan is not a finite number"),
        ({"users_per_day": 1e-300}, "users_per_day=1e-300 is outside"),
        ({"lift": 0.0}, "lift=0.0 is not a relative effect"),
        ({"lift": 1e300}, "lift=1e.300 is not a relative effect"),
        ({"saved": 1.0}, "saved=1.0 is outside"),
    ],
)
def test_a_size_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Sizing(**fields)


LOGS = Logs(Path("assignments.parquet"), Path("events.parquet"))
PLAN_FILE = Path("plan.toml")


def made_of(kind: type, **fields: object) -> None:
    """Makes the flags as Python does, without the type checks that tests add to every signature."""
    flags = object.__new__(kind)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        object.__setattr__(flags, field.name, fields.get(field.name, default))
    flags.__post_init__()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PlanFlags, {"file": "banana"}, "file='banana' is not a path"),
        (PlanFlags, {"file": PLAN_FILE, "plan": "banana"}, "plan='banana' is not a ExperimentPlan"),
        (SimulateFlags, {"plan": PLAN_FILE, "simulation": "banana"}, "simulation='banana' is not a Simulation"),
        (Logs, {"assignments": "banana"}, "assignments='banana' is not a path"),
        (AnalyzeFlags, {"plan": PLAN_FILE, "logs": "banana"}, "logs='banana' is not a Logs"),
        (AnalyzeFlags, {"plan": PLAN_FILE, "logs": LOGS, "n_days": 0}, "n_days=0 is below 1"),
        (AnalyzeFlags, {"plan": PLAN_FILE, "logs": LOGS, "past": (Path("a.json"),)}, "give --offline too"),
    ],
)
def test_flags_made_in_python_are_refused_as_on_the_command_line(kind, fields, message):
    with pytest.raises(InputError, match=message):
        made_of(kind, **fields)
