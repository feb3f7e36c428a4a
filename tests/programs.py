"""What a traced program makes, and what a compiled one sends from device to device."""

import math
import re

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


def compiled(function, *arguments):
    return (function if hasattr(function, "lower") else jax.jit(function)).lower(*arguments).compile()


def messages(program) -> list[str]:
    """Kind and shape of each array that a collective of a compiled program yields."""
    collective = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    return [
        " ".join([kind, *shape.split(",")])
        for shapes, kind in re.findall(collective, program.as_text())
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]


def largest_message(program) -> int:
    """Elements of the largest of these arrays."""
    return max((math.prod(map(int, each.split()[1:])) for each in messages(program)), default=0)
