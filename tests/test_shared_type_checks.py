"""The checks of types that inner functions share are those of their own signatures."""

import jax.numpy as jnp
import jaxtyping
import pytest
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped


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
