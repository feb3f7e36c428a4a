"""Models that differ in numbers alone, trained together by one compiled step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from seqrec.training import StepMetrics, TrainState, TrainStep
from seqrec.types import Batch

Scalars = dict[str, Float[Any, "*members"]]
"""Dotted name of a config's field -> its value, or one for each member."""

MakeStep = Callable[[Scalars], TrainStep]
"""Traced values of one member -> its `step(state, batch)`."""


class Members(NamedTuple):
    """A population: states with one entry a member in front of every axis, all after as many steps."""

    state: TrainState
    """Its `step` is one number for all: what depends on it, such as dropout's bits, is then computed once."""
    scalars: Scalars
    """What the members differ in."""


def members(first: TrainState, scalars: Scalars, *, n_members: int) -> Members:
    """A population in which each member starts from the same state."""
    # Copied, since a step takes the memory of what it is given.
    scalars = jax.tree.map(jnp.copy, scalars)
    spread = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], n_members, axis=0), _parts(first))
    names = ("step", "constants", "cooldown")
    shared = {name: jax.tree.map(jnp.copy, getattr(first, name)) for name in names}
    return Members(replace(first, **shared, **spread), scalars)


def member(population: Members, place: int) -> TrainState:
    """The state of one member, as if it had been trained alone."""
    return replace(population.state, **jax.tree.map(lambda leaf: leaf[place], _parts(population.state)))


def keep(population: Members, places: Sequence[int]) -> Members:
    """A smaller population of the members at these places."""
    chosen = np.asarray(places)
    parts, scalars = jax.tree.map(lambda leaf: leaf[chosen], (_parts(population.state), population.scalars))
    return Members(replace(population.state, **parts), scalars)


def _parts(state: TrainState) -> dict[str, Any]:
    """All of a state that members have of their own."""
    return {name: getattr(state, name) for name in ("params", "opt_state", "averaged")}


def make_population_step(
    make_step: MakeStep, *, side_by_side: bool = True
) -> Callable[[Members, Batch], tuple[Members, StepMetrics]]:
    """A jitted `step(members, batch)`, compiled once for each number of members; it takes the members' memory.

    All members read the same batch and, at equal seeds, draw the same numbers. They are trained `side_by_side`, or one
    after another inside the step, whose inner arrays then serve all of them in turn.
    """

    def step(population: Members, batch: Batch) -> tuple[Members, StepMetrics]:
        before = population.state

        def one(parts, scalars):
            after, metrics = make_step(scalars)(replace(before, **parts), batch)
            return _parts(after), metrics

        of_all = _parts(before), population.scalars
        # Alone in a batch of one, a member would take 1.3 times as long on a CPU: batched gathers and products.
        if side_by_side and len(jax.tree.leaves(of_all)[0]) > 1:
            after, metrics = jax.vmap(one)(*of_all)
        else:
            after, metrics = jax.lax.map(lambda each: one(*each), of_all)
        return Members(replace(before, step=before.step + 1, **after), population.scalars), metrics

    return jax.jit(step, donate_argnums=0)
