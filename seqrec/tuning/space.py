"""What tuning searches: the ranges declared with a config's fields, and those from the command line."""

import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seqrec.config import Choices, Range, Tunable, flag_name, tunable_fields, with_values
from seqrec.files import JsonObject
from seqrec.types import InputError

Space = dict[str, Range | Choices]
"""Dotted name of a field, such as optimizer.learning_rate -> what it may be."""


def search_space(config: Any, *, given: Sequence[str] = (), hold: Sequence[str] = ()) -> Space:
    """What is searched: the fields that have a range, without those in `hold`, and `given`, each `name=range`.

    A range is `low..high`, `low..high:log` or `a,b,c`. A name is a flag's, without its dashes. Default
    ranges that the config refuses are left out, such as the label smoothing of a loss that has none.

    Raises:
      InputError: a name is not a field, a range cannot be read or is refused by the config, or nothing is left.
    """
    fields = tunable_fields(config)
    held_names = {_field_name(name, fields) for name in hold}
    space: Space = {
        name: field.range
        for name, field in fields.items()
        if field.range is not None and name not in held_names and _refusal(config, name, field.range) is None
    }
    for argument in given:
        flag, equals, text = argument.partition("=")
        name = _field_name(flag, fields)
        if name in held_names:
            raise InputError(f"{flag} is both held and searched; leave it out of one of the two")
        if not equals:
            raise InputError(f"{argument} has no range; write {argument}=low..high or {argument}=a,b,c")
        space[name] = _parse(flag, text, fields[name].kind)
        if refusal := _refusal(config, name, space[name]):
            raise InputError(f"{argument} is outside of what the field accepts: {refusal}")
    if not space:
        raise InputError("nothing is searched; name a field and its range, such as learning-rate=1e-4..1e-2:log")
    return space


def _field_name(flag: str, fields: Mapping[str, Tunable]) -> str:
    by_flag = {flag_name(name): name for name in fields}
    if flag not in by_flag:
        near = difflib.get_close_matches(flag, by_flag, n=1) or ["learning-rate"]
        raise InputError(f"{flag!r} cannot be searched; perhaps you meant {near[0]}")
    return by_flag[flag]


def _parse(flag: str, text: str, kind: Any) -> Range | Choices:
    if ".." not in text:
        values = tuple(_value(flag, each, kind) for each in text.split(","))
        if len(set(values)) != len(values) or len(values) < 2:
            raise InputError(
                f"{flag}={text} is not a choice; give two or more values, such as {flag}=a,b, or low..high"
            )
        return Choices(values)
    if kind not in (int, float):
        raise InputError(f"{flag}={text}: {flag} is not a number; give its choices with commas")
    ends, colon, scale = text.partition(":")
    low, _, high = ends.partition("..")
    if colon and scale != "log":
        raise InputError(f"{flag}={text} ends in :{scale}; the only scale that can be named is :log")
    return Range(_value(flag, low, kind), _value(flag, high, kind), log=scale == "log")


def _value(flag: str, text: str, kind: Any) -> Any:
    choices: JsonObject = {"true": True, "false": False}
    if typing.get_origin(kind) is Literal:
        choices = {str(value): value for value in typing.get_args(kind)}
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise InputError(
                f"{flag}: {text!r} is not a {'whole ' if kind is int else ''}number; write {flag}=low..high, "
                f"{flag}=low..high:log or {flag}=a,b,c"
            ) from None
    if text not in choices:
        raise InputError(f"{flag}: {text!r} is not one of {', '.join(choices)}")
    return choices[text]


def _refusal(config: Any, name: str, of: Range | Choices) -> str | None:
    """Why the config refuses an end of the range, or one of the choices; None if it accepts them."""
    try:
        for value in of.values if isinstance(of, Choices) else (of.low, of.high):
            with_values(config, {name: value})
    except ValueError as error:
        return str(error)
    return None
