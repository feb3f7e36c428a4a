"""The checks of types that inner functions share, and those that are done once, are those of their own signatures."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped
from type_checks import Unknown, checked_of


def define(annotation):
    """A function inside another, as losses and steps have them."""

    @jaxtyped(typechecker=beartype)
    def double(x: annotation) -> annotation:
        return 2 * x

    return double


def test_a_function_that_is_defined_again_has_its_types_checked_again():
    row, table = Float[Array, " n"], Float[Array, "n n"]
    for annotation, right, wrong in ((row, (3,), (3, 3)), (table, (3, 3), (3,)), (row, (2,), (2, 2))):
        double = define(annotation)
        assert double(jnp.ones(right)).shape == right
        for bad in (jnp.ones(wrong), jnp.ones(right, int)):
            with pytest.raises(jaxtyping.TypeCheckError):
                double(bad)


@jaxtyped(typechecker=beartype)
def scaled(
    x: Float[Array, "rows columns"], *, by: Literal["rows", "columns"], names: Mapping[str, int] | None = None
) -> Float[Array, " rows"]:
    return x.sum(axis=1 if by == "rows" else 0)


def test_what_has_passed_once_is_checked_again_where_it_differs():
    square, wide = jnp.ones((3, 3)), jnp.ones((2, 3))
    for _ in range(2):
        assert scaled(square, by="rows").shape == (3,)
        assert jax.jit(lambda x: scaled(x, by="rows"))(wide).shape == (2,)
        assert scaled(square, by="columns", names={"a": 1}).shape == (3,)
        for bad in (
            lambda: scaled(wide, by="columns"),  # what comes back has another length
            lambda: scaled(wide[0], by="rows"),
            lambda: scaled(wide.astype(int), by="rows"),
            lambda: scaled(np.ones((3, 3), np.float32), by="rows"),
            lambda: scaled(square, by="cells"),
            lambda: scaled(square, by="rows", names={"a": "b"}),
            lambda: scaled(square, by="rows", names=[1]),
        ):
            with pytest.raises(jaxtyping.TypeCheckError):
                bad()


def test_values_that_a_check_can_tell_apart_are_not_taken_for_one_another():
    different = [1, True, "1", 1.0, None, (1,), (1, "1"), [1], ["1"], {"a": 1}, {"a": "1"}, int, str, jnp.ones(1)]
    different += [np.ones(1), np.ones(2), np.ones((1, 1)), np.ones(1, np.int32), len, pytest]
    assert len({checked_of(value) for value in different}) == len(different)
    with pytest.raises(Unknown):
        checked_of(Counter("a"))
