"""What tuning may set a config's fields to: ranges that stand beside the fields, or come from the command line.

A range is part of a field's annotation, which nothing but tuning reads:

    learning_rate: Annotated[float, TRACED, Range(3e-4, 1e-2, log=True)] = 2e-3
"""

import copy
import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from seqrec.types import InputError

Config = TypeVar("Config")


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included; with `log` each order of magnitude is as likely."""

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


class _Traced:
    """What `TRACED` is."""


TRACED = _Traced()
"""Marks a number that no shape depends on: a traced array may stand in its place, so that one program serves all."""

Space = dict[str, Range | Choices]
"""Dotted name of a field, such as optimizer.learning_rate -> what it may be."""

Values = dict[str, Any]
"""Dotted name of a field -> its value."""


class Tunable(NamedTuple):
    """A field that tuning may set."""

    kind: Any
    """Its type: int, float, bool or a Literal."""
    traced: bool
    range: Range | None
    """What is searched where nothing else is said; None leaves the field as it is."""


_SHARED = ("data", "run", "fit", "mesh", "processes")
"""Parts of a script's config that all trials share: the data, how long is trained, and where."""


def tunable_fields(config: Any) -> dict[str, Tunable]:
    """The fields of a script's config that trials may differ in, by dotted name; data and devices are none."""
    found: dict[str, Tunable] = {}

    def walk(part: Any, prefix: str) -> None:
        for name, hint in typing.get_type_hints(type(part), include_extras=True).items():
            kind, *marks = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
            if not prefix and name in _SHARED:
                continue
            if dataclasses.is_dataclass(kind):
                walk(getattr(part, name), f"{prefix}{name}.")
            elif kind in (int, float, bool) or typing.get_origin(kind) is Literal:
                ranges = [mark for mark in marks if isinstance(mark, Range)]
                found[prefix + name] = Tunable(kind, TRACED in marks, ranges[0] if ranges else None)

    walk(config, "")
    return found


def search_space(config: Any, *, given: Sequence[str] = (), hold: Sequence[str] = ()) -> Space:
    """What is searched: the fields that have a range, less `hold`, and what is `given` as `name=range`.

    A range is `low..high`, `low..high:log` or `a,b,c`. A name is a flag's, without its dashes. Of the fields' own
    ranges those are left out that the config refuses, such as the label smoothing of a loss that has none.

    Raises:
      InputError: a name that is no field, a range that cannot be read or that the config refuses, or nothing left.
    """
    fields = tunable_fields(config)
    held = {_field_name(name, fields) for name in hold}
    space: Space = {
        name: field.range
        for name, field in fields.items()
        if field.range is not None and name not in held and _refusal(config, name, field.range) is None
    }
    for argument in given:
        flag, equals, text = argument.partition("=")
        name = _field_name(flag, fields)
        if name in held:
            raise InputError(f"{flag} is both held and searched; leave it out of one of the two")
        if not equals:
            raise InputError(f"{argument} has no range; write {argument}=low..high or {argument}=a,b,c")
        space[name] = _parse(flag, text, fields[name].kind)
        if refusal := _refusal(config, name, space[name]):
            raise InputError(f"{argument} leaves what the field takes: {refusal}")
    if not space:
        raise InputError("nothing is searched; name a field and its range, such as learning-rate=1e-4..1e-2:log")
    return space


def flag_name(name: str) -> str:
    """The flag of a field, without its dashes: `optimizer.learning_rate` is set by `--learning-rate`."""
    return name.rpartition(".")[2].replace("_", "-")


def _field_name(flag: str, fields: Mapping[str, Tunable]) -> str:
    by_flag = {flag_name(name): name for name in fields}
    if flag not in by_flag:
        near = difflib.get_close_matches(flag, by_flag, n=1) or ["learning-rate"]
        raise InputError(f"{flag!r} is no field that can be searched; perhaps you meant {near[0]}")
    return by_flag[flag]


def _parse(flag: str, text: str, kind: Any) -> Range | Choices:
    if ".." not in text:
        values = tuple(_value(flag, each, kind) for each in text.split(","))
        if len(set(values)) != len(values) or len(values) < 2:
            raise InputError(f"{flag}={text} is no choice; give two or more values, such as {flag}=a,b, or low..high")
        return Choices(values)
    if kind not in (int, float):
        raise InputError(f"{flag}={text}: {flag} is no number; give its choices with commas")
    ends, colon, scale = text.partition(":")
    low, _, high = ends.partition("..")
    if colon and scale != "log":
        raise InputError(f"{flag}={text} ends in :{scale}; the only scale that can be named is :log")
    return Range(_value(flag, low, kind), _value(flag, high, kind), log=scale == "log")


def _value(flag: str, text: str, kind: Any) -> Any:
    known: dict[str, Any] = {"true": True, "false": False}
    if typing.get_origin(kind) is Literal:
        known = {str(value): value for value in typing.get_args(kind)}
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise InputError(
                f"{flag}: {text!r} is no {'whole ' if kind is int else ''}number; write {flag}=low..high, "
                f"{flag}=low..high:log or {flag}=a,b,c"
            ) from None
    if text not in known:
        raise InputError(f"{flag}: {text!r} is not one of {', '.join(known)}")
    return known[text]


def _refusal(config: Any, name: str, of: Range | Choices) -> str | None:
    """Why the config cannot take a value of the range; None where it takes its ends, or all of its choices."""
    try:
        for value in of.values if isinstance(of, Choices) else (of.low, of.high):
            with_values(config, {name: value})
    except ValueError as error:
        return str(error)
    return None


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
    own: Values = {}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(head, {})[rest] = value
        else:
            own[head] = value
    own |= {head: with_values(getattr(config, head), rest) for head, rest in inner.items()}
    return dataclasses.replace(config, **own)  # type: ignore[type-var]


def with_traced(config: Config, scalars: Mapping[str, Any]) -> Config:
    """The config with traced arrays in place of numbers; unchecked, since its checks would ask for their values."""
    changed = copy.copy(config)
    for name, value in scalars.items():
        head, dot, rest = name.partition(".")
        object.__setattr__(changed, head, with_traced(getattr(changed, head), {rest: value}) if dot else value)
    return changed
