"""Samplers of items to score a target against: (ids, log_q), q being the chance of each draw."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def uniform(
    key: Array, *, n_negatives: int, n_items: int
) -> tuple[Int[Array, " negatives"], Float[Array, " negatives"]]:
    """Item ids 1..n_items drawn with replacement, all with the same chance."""
    ids = jax.random.randint(key, (n_negatives,), 1, n_items + 1)
    return ids, jnp.full((n_negatives,), -jnp.log(n_items))
