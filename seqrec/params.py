"""One table says a parameter's shape, layout, start and decay; parameters themselves are plain pytrees."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Params = dict[str, Any]
"""Nested dicts and lists of arrays, with the structure of the specs that they were made from."""


@dataclass(frozen=True)
class ParamSpec:
    """What one parameter is before it has values; `axes` are logical names that `sharding` maps to a mesh."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[..., Array]
    decay: bool = True

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length; name every axis")


def init_params(specs: Params, key: Array) -> Params:
    """Initial values; each depends on the key and its own path alone, so that adding one leaves the rest."""

    def init(path, spec: ParamSpec) -> Array:
        own_key = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return spec.init(own_key, spec.shape, jnp.float32)

    return jax.tree_util.tree_map_with_path(init, specs)


def decay_mask(specs: Params) -> Params:
    """True where weight decay applies, in the form that `optax.adamw(mask=...)` takes."""
    return jax.tree.map(lambda spec: spec.decay, specs)


def count_params(specs: Params) -> int:
    """Number of trainable scalars."""
    return sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs))
