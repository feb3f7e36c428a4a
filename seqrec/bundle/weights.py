"""Weights as safetensors, by the parameters' own names in their tree, with the item table in one of three types."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int8

from seqrec.bundle.files import REMEDY, ItemTableType
from seqrec.data.paths import as_input_error
from seqrec.params import Params, leaves_by_name
from seqrec.types import InputError

ITEM_TABLE = "item_table"
SCALE = "item_table.scale"
"""Name of the factors of int8 rows."""
CONSTANTS = "constants"
"""Name, among a bundle's parameters, of the arrays that its model composes parameters with."""


def write_weights(file: Path, params: Params, *, item_table: ItemTableType) -> None:
    """Writes each parameter under its path in the tree such as `blocks.0.attention.qkv`.

    Integers are int32, other numbers float32. Rows of an int8 item table have a scale each, which multiplies them when
    they are read.

    Raises:
      InputError: the table of which a type is asked is not there.
    """
    arrays: dict[str, np.ndarray] = {
        name: np.array(leaf, _kept_as(leaf), order="C") for name, leaf in leaves_by_name(params).items()
    }
    if item_table != "float32" and ITEM_TABLE not in arrays:
        raise InputError(f"the model has no item table to store as {item_table}; leave --item-table out")
    if item_table == "bfloat16":
        arrays[ITEM_TABLE] = arrays[ITEM_TABLE].astype(ml_dtypes.bfloat16)
    elif item_table == "int8":
        arrays[ITEM_TABLE], arrays[SCALE] = quantise_rows(arrays[ITEM_TABLE])
    file.write_bytes(_safetensors().numpy.save(arrays))


def _kept_as(values: Any) -> type:
    return np.int32 if values.dtype == np.int32 else np.float32


class StoredRows(NamedTuple):
    """The item table of a file, mapped into memory: a row is read when it is wanted."""

    values: np.ndarray
    """[rows, d_model] in the type in which it is stored."""
    scale: Float[np.ndarray, " rows"] | None = None
    """Multiplies each row of int8."""

    def read(self, rows: slice | np.ndarray) -> Float[np.ndarray, "n d_model"]:
        """Some rows in float32."""
        values = np.asarray(self.values[rows], np.float32)
        return values if self.scale is None else values * self.scale[rows, None]


def map_item_table(file: Path) -> StoredRows:
    """The item table of weights that `write_weights` wrote.

    Raises:
      InputError: the file is not as `write_weights` leaves it.
    """
    kinds = (KeyError, ValueError, TypeError, OSError)
    with as_input_error(f"{file} holds no weights of a bundle; {REMEDY}", *kinds):
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if start > file.stat().st_size:
                raise ValueError("its header ends behind the file")
            header = json.loads(stream.read(start - 8))

        def mapped(name: str) -> np.ndarray:
            dtype = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "I8": np.int8}[header[name]["dtype"]]
            offset = start + header[name]["data_offsets"][0]
            # As a plain array, whose rows are read in half the time.
            return np.asarray(np.memmap(file, dtype, "r", offset, tuple(header[name]["shape"])))

        return StoredRows(mapped(ITEM_TABLE), np.array(mapped(SCALE)) if SCALE in header else None)


def read_weights(file: Path, *, without: str | None = None) -> Params:
    """The tree of parameters in float32, but for integers; of the parameter `without` nothing is read.

    Raises:
      InputError: the file is not as `write_weights` leaves it.
    """
    safetensors = _safetensors()
    kinds = (safetensors.SafetensorError, KeyError, ValueError, IndexError, AttributeError)
    with as_input_error(f"{file} holds no weights of a bundle; {REMEDY}", *kinds):
        with safetensors.safe_open(file, framework="numpy") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys() if name != without}  # noqa: SIM118
        scale = arrays.pop(SCALE, None)
        if scale is not None and ITEM_TABLE in arrays:
            arrays[ITEM_TABLE] = arrays[ITEM_TABLE] * scale[:, None]
        return tree_from_names({name: np.asarray(leaf, _kept_as(leaf)) for name, leaf in arrays.items()})


def write_constants(file: Path, constants: Any) -> None:
    """Writes each array of a tree in its own type, under its path in the tree."""
    arrays = {name: np.array(leaf, order="C") for name, leaf in leaves_by_name(constants).items()}
    file.write_bytes(_safetensors().numpy.save(arrays))


def read_constants(file: Path) -> Params:
    """The arrays of `write_constants`, in nested dicts and lists.

    Raises:
      InputError: the file is not as `write_constants` leaves it.
    """
    safetensors = _safetensors()
    with as_input_error(f"{file} holds no constants of a bundle; {REMEDY}", safetensors.SafetensorError, ValueError):
        return tree_from_names(safetensors.numpy.load(file.read_bytes()))


def _safetensors() -> Any:
    """The package, which the core install lacks."""
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is missing; run pip install "seqrec[serve]"') from error
    return safetensors


def quantise_rows(table: Float[np.ndarray, "n d"]) -> tuple[Int8[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Each row as whole numbers from -127 to 127, and the scale that they are to be multiplied by.

    >>> rows, scale = quantise_rows(np.array([[127.0, -254.0], [0.0, 0.0]], np.float32))
    >>> rows.tolist(), scale.tolist()
    ([[64, -127], [0, 0]], [2.0, 1.0])
    """
    largest = np.max(np.abs(table), axis=1)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    return np.rint(table / scale[:, None]).astype(np.int8), scale


def tree_from_names(leaves: Mapping[str, Any]) -> Params:
    """The tree that `params.leaves_by_name` made these of: parts whose names are 0, 1, … are lists.

    >>> tree_from_names({"a.0.w": 1, "a.1.w": 2, "b": 3})
    {'a': [{'w': 1}, {'w': 2}], 'b': 3}
    """
    tree: Params = {}
    for path, leaf in leaves.items():
        *outer, last = path.split(".")
        part = tree
        for name in outer:
            part = part.setdefault(name, {})
        part[last] = leaf

    def with_lists(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        inner = {name: with_lists(each) for name, each in part.items()}
        return [inner[str(place)] for place in range(len(inner))] if "0" in inner else inner

    return with_lists(tree)
