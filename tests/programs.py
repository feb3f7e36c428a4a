"""What a traced program makes."""

import math

import jax


def array_sizes(jaxpr) -> list[int]:
    """Elements of every array that a program makes, in the loops and functions inside it too."""
    sizes = []
    for equation in jaxpr.eqns:
        sizes += [math.prod(out.aval.shape) for out in equation.outvars]
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                sizes += array_sizes(inner)
    return sizes
