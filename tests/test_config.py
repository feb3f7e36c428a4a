"""Configs refuse values that are not of their fields' types, and come back from JSON as they were."""

import contextlib
import dataclasses
import importlib
import math
import pkgutil
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

import seqrec
from seqrec.abtest.plan import ExperimentPlan, Metric
from seqrec.config import (
    TRACED,
    check_above,
    check_at_least,
    check_between,
    check_fields,
    check_share,
    from_json,
    leaves,
    to_json,
)
from seqrec.encoders.transformer import TransformerConfig
from seqrec.types import InputError


@dataclass(frozen=True)
class Part:
    rate: Annotated[float, TRACED] = 0.1
    norm: Literal["rms", "layer"] = "rms"

    def __post_init__(self):
        check_fields(self)
        check_share(self, "rate", one=False)


@dataclass(frozen=True)
class Whole:
    n: int = 1
    flag: bool = False
    name: str = ""
    limit: int | None = None
    file: Path | None = None
    files: tuple[Path, ...] = ()
    columns: tuple[str, str] = ("a", "b")
    day: date = date(2026, 1, 2)
    part: Annotated[Part, "a mark"] = field(default_factory=Part)
    parts: tuple[Part, ...] = ()

    def __post_init__(self):
        check_fields(self)


FITTING = [
    ("n", np.int64(3)),
    ("limit", None),
    ("limit", 3),
    ("file", Path("a")),
    ("files", (Path("a"),)),
    ("parts", (Part(), Part(0.2))),
]
MISFITS = [
    ("n", True, "n=True is not a whole number"),
    ("n", 1.0, "n=1.0 is not a whole number"),
    ("n", "1", "n='1' is not a whole number"),
    ("n", 2**63, "is not a whole number of 64 bits"),
    ("n", None, "n=None is not a whole number"),
    ("flag", 1, "flag=1 is not true or false"),
    ("name", None, "name=None is not a text"),
    ("limit", "3", "limit='3' is not a whole number"),
    ("file", 3, "file=3 is not a path"),
    ("files", [], r"files=\[\] is not a list of values"),
    ("columns", ("a", "b", "c"), "has 3 values, not 2"),
    ("columns", ("a", 1), "holds 1, which is not a text"),
    ("day", 3, "day=3 is not a date"),
    ("part", None, "part=None is not a Part"),
]


@pytest.mark.parametrize(("name", "value"), FITTING)
def test_a_value_of_the_fields_type_is_taken(name, value):
    assert getattr(Whole(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value", "message"), MISFITS)
def test_a_value_of_another_type_is_refused_by_name(name, value, message):
    with pytest.raises(InputError, match=message):
        Whole(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.1", None, 10**400])
def test_only_finite_numbers_are_numbers(value):
    with pytest.raises(InputError, match="is not a finite number"):
        Part(rate=value)


def test_a_literal_is_refused_with_its_choices():
    with pytest.raises(InputError, match="norm='banana' is not one of rms, layer; choose one"):
        Part(norm="banana")


@dataclass(frozen=True)
class Bounded:
    value: float | None = 0.5


@pytest.mark.parametrize(
    ("check", "accepted", "refused", "message"),
    [
        (lambda c: check_at_least(c, 1, "value"), (1, 2, None), (0.9, 0), "is below 1; try value=1"),
        (lambda c: check_above(c, 0, "value"), (0.1, None), (0, -1), "is not above 0; try value=0.5"),
        (lambda c: check_between(c, 0, 2, "value"), (0, 2, None), (-1, 3), "is outside 0 to 2; try value=0.5"),
        (lambda c: check_share(c, "value"), (0, 1, None), (-0.1, 1.1), r"is not a share in \[0, 1\]; try value=0.5"),
        (lambda c: check_share(c, "value", one=False), (0, 0.9), (1,), r"is not a share in \[0, 1\)"),
        (lambda c: check_share(c, "value", zero=False, one=False), (0.1,), (0, 1), r"is not a share in \(0, 1\)"),
    ],
)
def test_bounds_are_named_with_a_value_that_holds_them(check, accepted, refused, message):
    for value in accepted:
        check(Bounded(value))
    for value in refused:
        with pytest.raises(InputError, match=f"value={value} {message}"):
            check(Bounded(value))


def test_a_config_comes_back_from_json():
    config = Whole(
        3,
        True,
        "x",
        4,
        Path("s3://bucket/a"),
        (Path("b"),),
        ("c", "d"),
        part=Part(0.2, "layer"),
        parts=(Part(), Part(0.3)),
    )
    described = to_json(config)
    assert described["file"] == "s3://bucket/a"
    assert from_json(Whole, described) == config
    assert from_json(Whole, {}) == Whole()


@dataclass(frozen=True)
class Renamed:
    part: Part = field(default_factory=Part, metadata={"formerly": "piece"})


def test_a_renamed_field_is_read_by_its_former_name_too():
    assert (
        from_json(Renamed, {"piece": {"rate": 0.2}})
        == from_json(Renamed, {"part": {"rate": 0.2}})
        == Renamed(Part(0.2))
    )
    assert to_json(Renamed()) == {"part": to_json(Part())}
    with pytest.raises(InputError, match="piece is an unknown field; those of the config are part"):
        from_json(Renamed, {"part": {}, "piece": {}})


def test_leaves_have_dotted_names():
    assert dict(leaves({"a": {"b": 1, "c": {"d": [2]}}, "e": None})) == {"a.b": 1, "a.c.d": [2], "e": None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the config is None; give its fields"),
        ([], r"the config is \[\]; give its fields"),
        ({"part": 3}, "part is 3; give its fields"),
        ({"part": {"norm": "banana"}}, "part.norm='banana' is not one of rms, layer"),
        ({"part": {"rate": None}}, "part.rate=None is not a finite number"),
        ({"part": {"rate": 1}}, r"part: rate=1.0 is not a share in \[0, 1\)"),
        ({"part": {"rates": 1}}, "part.rates is an unknown field; those of part are rate, norm"),
        ({"parts": [{"rate": "x"}]}, r"parts\[0\].rate='x' is not a finite number"),
        ({"parts": 5}, "parts=5 is not a list"),
        ({"columns": "ab"}, "columns='ab' is not a list"),
        ({"columns": ["a"]}, "has 1 values, not 2"),
        ({"files": [3]}, r"files\[0\]=3 is not a path"),
        ({"n": "x" * 1000}, r"n='x{76}\.\.\. is not a whole number"),
    ],
)
def test_json_that_is_no_config_is_refused_by_its_fields_name(content, message):
    with pytest.raises(InputError, match=message) as refusal:
        from_json(Whole, content)
    assert "\n" not in str(refusal.value)


def test_a_field_without_default_that_is_missing_is_named():
    with pytest.raises(InputError, match="name is missing; add it"):
        from_json(ExperimentPlan, {"start": date(2026, 1, 2), "n_days": 7, "primary": to_json(Metric("plays"))})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@examples(200)
@given(name=st.sampled_from(sorted(to_json(TransformerConfig()))), value=JSON)
def test_whatever_stands_in_a_field_is_taken_as_it_is_or_refused(name, value):
    with contextlib.suppress(InputError):
        assert getattr(from_json(TransformerConfig, {name: value}), name) == value


def configs() -> list[type]:
    """All configs of the package whose fields all have defaults."""
    kinds = set()
    for module in pkgutil.walk_packages(seqrec.__path__, "seqrec."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__.startswith("seqrec."):
                is_config = value.__name__.endswith("Config") or value.__name__ in ("Simulation", "Sizing")
                if is_config and all(
                    each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
                    for each in dataclasses.fields(value)
                ):
                    kinds.add(value)
    return sorted(kinds, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", configs(), ids=lambda kind: kind.__name__)
def test_every_config_refuses_fields_of_another_type(kind):
    for each in dataclasses.fields(kind):
        config = object.__new__(kind)
        for other in dataclasses.fields(kind):
            default = other.default_factory() if other.default is dataclasses.MISSING else other.default
            object.__setattr__(config, other.name, default)
        object.__setattr__(config, each.name, object())
        with pytest.raises(InputError, match=f"^{each.name}=<object"):
            config.__post_init__()
