"""Exported functions read from a bundle's files, once they fit its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export

from seqrec.bundle.files import WEIGHTS, Facts, Search
from seqrec.bundle.weights import ITEM_TABLE
from seqrec.data.paths import as_input_error
from seqrec.types import InputError, Params


def read_program(file: Path, facts: Facts, params: Params, *, search: Search, path: str) -> jax.export.Exported:
    """The function in a file of the bundle that messages call `path`, which takes these parameters.

    Raises:
      InputError: this jax cannot read it, or it takes others.
    """
    complaint = (
        f"{path}: {file.name} was made by jax {facts.jax_version} and jax {jax.__version__} cannot read it "
        f"({{error}}); run experiments/export.py --refresh {path}"
    )
    with as_input_error(complaint, Exception):  # jax's reader has no error of its own
        exported = jax.export.deserialize(bytearray(file.read_bytes()))
        if facts.jax_version != jax.__version__:
            exported.mlir_module()  # else what is too new for this jax would fail in its first call alone
    _check_params(path, exported, params)
    if search != "exact" and not _takes_any_table(exported):
        raise InputError(
            f"{path}: {file.name} is of an older export and needs the whole item table, which search={search!r} leaves "
            f"on disk; run experiments/export.py --refresh {path}"
        )
    return exported


def _check_params(path: str, exported: jax.export.Exported, params: Params) -> None:
    """Refuses weights of other shapes than the program takes."""
    (expected, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    structures: list[Any] = [jax.tree.structure(each) for each in (expected, params)]
    same = structures[0] == structures[1] and all(
        _fits(spec.shape, leaf.shape) for spec, leaf in zip(*map(jax.tree.leaves, (expected, params)), strict=True)
    )
    if not same:
        raise InputError(f"{path}: {WEIGHTS} does not fit the programs; export the run again")


def _takes_any_table(exported: jax.export.Exported) -> bool:
    (expected, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return jax.export.is_symbolic_dim(expected[ITEM_TABLE].shape[0])


def _fits(expected: Sequence[Any], shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is what a program takes, which leaves some sizes open."""
    return len(expected) == len(shape) and all(
        jax.export.is_symbolic_dim(size) or size == own_size for size, own_size in zip(expected, shape, strict=True)
    )
