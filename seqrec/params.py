"""One table says a parameter's shape, layout, start and decay; parameters themselves are plain pytrees."""

import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqrec.types import Params as Params


@dataclass(frozen=True)
class ParamSpec:
    """A parameter before it has values; `axes` are logical names that `sharding` maps to a mesh."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Callable[[Array, tuple[int, ...], Any], Array]
    """`init(key, shape, dtype)`, such as those of `jax.nn.initializers`."""
    decay: bool = True
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length; name every axis")


def init_params(specs: Params, key: Array) -> Params:
    """Initial values; each depends on the key and its own path alone, so that adding one leaves the rest."""

    def init(path: Any, spec: ParamSpec) -> Array:
        own_key = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return spec.init(own_key, spec.shape, spec.dtype)

    return jax.tree_util.tree_map_with_path(init, specs)


def decay_mask(specs: Params) -> Params:
    """True where weight decay applies, in the form that `optax.adamw(mask=...)` takes."""
    return jax.tree.map(lambda spec: spec.decay, specs)


def leaves_by_name(tree: Any) -> Params:
    """The leaves of a tree by their paths in it.

    >>> leaves_by_name({"blocks": [{"scale": 1}, {"scale": 2}], "bias": 3})
    {'bias': 3, 'blocks.0.scale': 1, 'blocks.1.scale': 2}
    """
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def hash_of(tree: Any) -> str:
    """SHA-256, in hex, of a tree's arrays with their paths, types and shapes.

    >>> hash_of({"a": np.zeros(2)}) == hash_of({"a": np.zeros(2)}) != hash_of({"a": np.zeros(2, np.int32)})
    True
    """
    digest = hashlib.sha256()
    for path, values in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def count_params(specs: Params) -> int:
    """Number of trainable scalars."""
    return sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs))
