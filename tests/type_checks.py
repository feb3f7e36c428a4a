"""Checks of types in less time: each is made once, and done once for values that it cannot tell apart."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Hashable
from typing import Any

import jax
import numpy as np

BY_VALUE = (int, str, bool, type(None))
"""Literals name values of these types."""
N_MEMBERS = {tuple: 8, list: 1, dict: 1}
"""How many members are compared: of a container beartype looks at one, drawn at random, and of a tuple at each."""
ARRAYS = (np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct)


class Unknown(Exception):
    """There is more that a check may ask of a value."""


def share_type_checks() -> None:
    """Lets jaxtyping make a check once a signature, and do it once for arguments of the same types and shapes.

    A function that is defined in another, as in every step of a loop and every trace of a loss, asks for a new check of
    the same signature each time, which takes 2 ms to make. Where its functions have moved, jaxtyping goes on so.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jaxtyping import _decorator

        make, check = _decorator._make_fn_with_signature, _decorator._apply_typechecker
        made = functools.cache(make)

        def make_once(*args, **kwargs):
            try:
                return made(*args, **kwargs)
            except TypeError:  # a default value, such as an array, that cannot be looked up
                return make(*args, **kwargs)

        _decorator._make_fn_with_signature = make_once
        _decorator._apply_typechecker = functools.cache(lambda *given: checked_once(check(*given)))


def checked_once(check: Callable) -> Callable:
    """The check, which is left out for what has passed it before: values with the same `checked_of`."""
    passed: set[Hashable] = set()

    def check_once(*args, **kwargs):
        try:
            key = tuple(map(checked_of, args)), tuple((name, checked_of(value)) for name, value in kwargs.items())
        except Unknown:
            check(*args, **kwargs)
        else:
            if key not in passed:
                check(*args, **kwargs)
                passed.add(key)

    return check_once


def checked_of(value: Any) -> Hashable:
    """All that an annotation asks of a value: the type, and by it the value, shape and dtype, or members."""
    kind = type(value)
    if kind in BY_VALUE:
        return kind, value
    if kind in N_MEMBERS:
        members = itertools.islice(value.items() if kind is dict else value, N_MEMBERS[kind])
        return kind, len(value), *map(checked_of, members)
    if kind not in _FORMS:
        _FORMS[kind] = form_of(value)
    form = _FORMS[kind]
    if form == "array":
        return kind, value.shape, value.dtype
    if form == "collection":
        raise Unknown
    return value if form == "type" else kind


_FORMS: dict[type, str] = {}


def form_of(value: Any) -> str:
    """What kind of thing all values of its type are."""
    if isinstance(value, type):
        return "type"
    if isinstance(value, ARRAYS):
        return "array"
    is_record = isinstance(value, tuple) and hasattr(value, "_fields")
    return "collection" if isinstance(value, Collection) and not is_record else "object"
