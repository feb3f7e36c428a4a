"""The one place that walks a config: its checks, its JSON and flags, and the fields that tuning may set.

A config is a frozen dataclass of numbers, texts, literals, paths, tuples of these, None, and other configs. Its
`__post_init__` begins with `check_fields(self)`, and then checks bounds.

What tuning may set stands in a field's annotation, which nothing else reads:

    learning_rate: Annotated[float, TRACED, Range(3e-4, 1e-2, log=True)] = 2e-3
"""

import copy
import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from seqrec.files import JsonObject, address_of
from seqrec.types import InputError

Config = TypeVar("Config")

# Checks


def check_fields(config: Any) -> None:
    """Refuses a field whose value is not of its type: another literal, a bool for a number, NaN or infinity."""
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        if wrong := _misfit(hint, getattr(config, name)):
            raise InputError(f"{name}={_short_repr(getattr(config, name))} {wrong}")


def check_at_least(config: Any, low: float | int, *names: str) -> None:
    """Refuses fields below `low`; None passes, as it does below."""
    _check(config, names, lambda value: value >= low, f"is below {low:g}", low)


def check_above(config: Any, low: float | int, *names: str) -> None:
    """Refuses fields that are not above `low`."""
    _check(config, names, lambda value: value > low, f"is not above {low:g}", low + 1)


def check_between(config: Any, low: float | int, high: float | int, *names: str) -> None:
    """Refuses fields outside `low` to `high`, both included."""
    _check(config, names, lambda value: low <= value <= high, f"is outside {low:g} to {high:g}", low)


def check_share(config: Any, *names: str, zero: bool = True, one: bool = True) -> None:
    """Refuses fields that are no share from 0 to 1; `zero` and `one` say whether these two are taken."""
    bounds = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
    _check(
        config,
        names,
        lambda value: 0 <= value <= 1 and (zero or value > 0) and (one or value < 1),
        f"is not a share in {bounds}",
        0.1,
    )


def _check(config: Any, names: Iterable[str], holds: Callable[[Any], bool], wrong: str, remedy: float | int) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            default = getattr(type(config), name, None)
            remedy = default if default is not None and holds(default) else remedy
            raise InputError(f"{name}={value} {wrong}; try {name}={remedy:g}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The fields of a config and their types, with what is annotated."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _without_marks(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one that there is."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


_SIMPLE: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "is not true or false"),
    int: (
        lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool) and abs(int(value)) < 2**63,
        "is not a whole number of 64 bits",
    ),
    float: (lambda value: _is_number(value), "is not a finite number"),
    str: (lambda value: isinstance(value, str), "is not a text"),
    Path: (lambda value: isinstance(value, Path), "is not a path"),
    date: (lambda value: isinstance(value, date) and not isinstance(value, datetime), "is not a date without a time"),
    types.NoneType: (lambda value: value is None, "is not None"),
}


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _misfit(hint: Any, value: Any) -> str | None:
    """What is wrong with a value as one of this type; None where nothing is."""
    options = _options(_without_marks(hint))
    if len(options) > 1:
        misfits = [_misfit(option, value) for option in options if option is not types.NoneType]
        return None if None in misfits or (value is None and types.NoneType in options) else misfits[0]
    kind = options[0]
    if kind is Any:
        return None
    of, inner = typing.get_origin(kind), typing.get_args(kind)
    if of is Literal:
        known = any(value == each and type(value) is type(each) for each in inner)
        return None if known else f"is not one of {', '.join(map(str, inner))}; choose one of them"
    if of is tuple:
        if not isinstance(value, tuple):
            return "is not a list of values"
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(value) != len(kinds):
            return f"has {len(value)} values, not {len(kinds)}"
        complaints = ((each, _misfit(of, each)) for of, each in zip(kinds, value, strict=True))
        return next((f"holds {_short_repr(each)}, which {wrong}" for each, wrong in complaints if wrong), None)
    if kind in _SIMPLE:
        fits, wrong = _SIMPLE[kind]
        return None if fits(value) else wrong
    return None if not isinstance(kind, type) or isinstance(value, kind) else f"is not a {kind.__name__}"


def _short_repr(value: Any) -> str:
    """The value on one line, and no longer than a name of a file."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# JSON, flags


def to_json(config: Any, *, path: Callable[[Path], str] = address_of) -> Any:
    """A config as nested dicts of JSON values; `path` says what stands for a path."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_json(getattr(config, field.name), path=path) for field in dataclasses.fields(config)}
    if isinstance(config, Path):
        return path(config)
    return [to_json(each, path=path) for each in config] if isinstance(config, tuple) else config


def from_json(kind: Any, value: Any, *, name: str = "") -> Any:
    """The config, or the value of another type, of which `to_json` made this; `name` is that of its field.

    Fields that are missing have their defaults, and a field may have the name that its metadata holds as `formerly`.

    Raises:
      InputError: a field is unknown, or it or its value cannot be; the message names the field.
    """
    kind = _without_marks(kind)
    if not dataclasses.is_dataclass(kind):
        parsed = _of_json(kind, value, name)
        if wrong := _misfit(kind, parsed):
            raise InputError(f"{name}={_short_repr(value)} {wrong}")
        return parsed
    assert isinstance(kind, type)
    if not isinstance(value, dict):
        raise InputError(f"{name or 'the config'} is {_short_repr(value)}; give its fields by their names")
    prefix = f"{name}." if name else ""
    formerly = {
        field.metadata["formerly"]: field.name
        for field in dataclasses.fields(kind)
        if "formerly" in field.metadata and field.name not in value
    }
    value = {formerly.get(each, each): item for each, item in value.items()}
    if unknown := sorted(value.keys() - _hints(kind).keys()):
        raise InputError(
            f"{prefix}{unknown[0]} is an unknown field; those of {name or 'the config'} are {', '.join(_hints(kind))}"
        )
    fields = {each: from_json(_hints(kind)[each], item, name=prefix + each) for each, item in value.items()}
    for field in dataclasses.fields(kind):
        if field.name not in fields and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{prefix}{field.name} is missing; add it")
    try:
        return kind(**fields)
    except ValueError as error:
        raise InputError(f"{name}: {error}" if name else str(error)) from error


def _of_json(kind: Any, value: Any, name: str) -> Any:
    """A list as a tuple, a text as a path and a whole number as a float, where these are due; others as they are."""
    for option in _options(kind):
        option = _without_marks(option)
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and type(value) is int and _is_number(value):
            return float(value)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            inner = typing.get_args(option)
            kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
            if len(kinds) == len(value):
                each = enumerate(zip(kinds, value, strict=True))
                return tuple(from_json(of, item, name=f"{name}[{place}]") for place, (of, item) in each)
            return tuple(value)
    return value


def leaves(tree: JsonObject, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested dicts."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def flag_name(name: str) -> str:
    """The flag of a field, without its dashes; that of the mesh has its full name.

    >>> flag_name("training.optimizer.learning_rate"), flag_name("training.mesh.data")
    ('learning-rate', 'mesh.data')
    """
    name = name.removeprefix("training.")
    return (name if name.startswith("mesh.") else name.rpartition(".")[2]).replace("_", "-")


def changed_flags(config: JsonObject, usual: JsonObject, *, leave_out: Collection[str] = ()) -> list[str]:
    """The words of a command line that make `config` of `usual`, both as `to_json` has them, but for some fields.

    >>> changed_flags({"fit": {"patience": 3, "validate_raw": False}}, {"fit": {"patience": 5, "validate_raw": True}})
    ['--patience', '3', '--no-validate-raw']
    """
    words, known = [], dict(leaves(usual))
    for name, value in leaves(config):
        if name not in known or value == known[name] or name in leave_out:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag_name(name)}" if value else f"--no-{flag_name(name)}")
        else:
            words += [f"--{flag_name(name)}", *map(str, value if isinstance(value, list) else [value])]
    return words


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config, by name, whose value is not the default.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Config:
    ...     rate: float = 0.1
    ...     n_steps: int = 3
    >>> changed_fields(Config(n_steps=4))
    {'n_steps': 4}
    """
    usual = type(config)()
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def without_flags(config_type: type[Config]) -> Config:
    """The config of a command line without flags, where a class may differ from its defaults by `WITHOUT_FLAGS`."""
    return with_values(config_type(), getattr(config_type, "WITHOUT_FLAGS", {}))


# What tuning may set


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; with `log` each order of magnitude is equally likely."""

    low: float | int
    high: float | int
    log: bool = False

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"{self} is empty; give low..high with low below high, such as 0.1..0.5")
        if self.log and self.low <= 0:
            raise InputError(f"{self} holds 0, which has no logarithm; begin above 0 or leave :log out")

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + (":log" if self.log else "")


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


TRACED = object()
"""Marks a number that no shape depends on: a traced array may stand in its place, so that one program serves all."""

Values = dict[str, Any]
"""Dotted name of a field, such as optimizer.learning_rate -> its value."""


class Tunable(NamedTuple):
    """A field that tuning may set."""

    kind: Any
    """Its type: int, float, bool or a Literal."""
    traced: bool
    range: Range | None
    """What is searched by default; None leaves the field as it is."""


_SHARED = ("recipe", *(f"training.{name}" for name in ("data", "run", "fit", "mesh", "processes")))
"""Parts of a script's config that all trials share: the data, how long is trained, and where."""


def tunable_fields(config: Any) -> dict[str, Tunable]:
    """The fields of a script's config that trials may differ in, by dotted name; not those of data and devices."""
    tunable: dict[str, Tunable] = {}

    def walk(part: Any, prefix: str) -> None:
        of: Any = type(part)
        for name, hint in _hints(of).items():
            kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
            if prefix + name in _SHARED:
                continue
            if dataclasses.is_dataclass(kind):
                walk(getattr(part, name), f"{prefix}{name}.")
            elif kind in (int, float, bool) or typing.get_origin(kind) is Literal:
                ranges = [mark for mark in marks if isinstance(mark, Range)]
                tunable[prefix + name] = Tunable(kind, TRACED in marks, ranges[0] if ranges else None)

    walk(config, "")
    return tunable


def values_of(config: Any, names: Iterable[str]) -> Values:
    """The values that fields of the config have now.

    >>> from seqrec.training import OptimizerConfig
    >>> values_of(OptimizerConfig(), ["warmup_steps"])
    {'warmup_steps': 100}
    """
    return {name: functools.reduce(getattr, name.split("."), config) for name in names}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with some fields set.

    >>> from seqrec.training import OptimizerConfig
    >>> with_values(OptimizerConfig(), {"learning_rate": 0.1}).learning_rate
    0.1

    Raises:
      ValueError: the config refuses the values, alone or together.
    """
    inner: dict[str, Values] = {}
    outer: Values = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(head, {})[rest] = value
        else:
            outer[head] = tuple(value) if isinstance(value, list) else value  # a list is what JSON has for it
    outer |= {head: with_values(getattr(config, head), rest) for head, rest in inner.items()}
    return dataclasses.replace(config, **outer)  # type: ignore[type-var]


def with_traced(config: Config, scalars: Mapping[str, Any]) -> Config:
    """The config with traced arrays in place of numbers; unchecked, since checks would need their values."""
    changed = copy.copy(config)
    for name, value in scalars.items():
        head, dot, rest = name.partition(".")
        object.__setattr__(changed, head, with_traced(getattr(changed, head), {rest: value}) if dot else value)
    return changed
