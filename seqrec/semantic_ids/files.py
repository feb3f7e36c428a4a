"""Codes on disk: a directory of our own, whole or not at all, and files that others wrote."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqrec.data.directories import Kind
from seqrec.data.paths import as_input_error, check_file, open_bytes
from seqrec.data.store_files import key_column, keys_of
from seqrec.files import JsonObject, read_object, sha256_of, write_json
from seqrec.semantic_ids.codes import SemanticIds, semantic_ids
from seqrec.types import InputError

CODES = "codes.parquet"
MANIFEST, N_CODES = "manifest.json", "n_codes"
SEMANTIC_IDS = Kind("directory of semantic ids", (CODES,), others=("weights.safetensors", "top_k.stablehlo"))
"""A bundle has codes too."""
FORMAT_VERSION = 1
REMEDY = "make the codes again with experiments/semantic_ids.py"
CODE_COLUMN = re.compile(r"code_(\d+)")
CODE_TOKEN = re.compile(r"[^\d-]*(\d+)\D*")
"""A code as a text, such as <a_183>."""

logger = logging.getLogger(__name__)


def write_semantic_ids(directory: Path, ids: SemanticIds, item_keys: np.ndarray, facts: JsonObject) -> None:
    """Writes codes.parquet (item, code_0, code_1, …) and manifest.json, which also says `facts`: how they were made.

    Into a directory that is there; `replacing_directory(directory, SEMANTIC_IDS)` gives one that takes another's place.
    """
    write_codes(directory / CODES, ids, item_keys)
    manifest = {
        "format_version": FORMAT_VERSION,
        "n_items": ids.n_items,
        "n_codes": list(ids.n_codes),
        "codes_sha256": sha256_of(directory / CODES),
        **facts,
    }
    write_json(directory / MANIFEST, manifest)


def write_codes(file: Path, ids: SemanticIds, item_keys: np.ndarray) -> None:
    """Writes item, code_0, code_1, … as Parquet, which says in its metadata how large each codebook is."""
    columns = {f"code_{level}": pa.array(ids.codes[1:, level]) for level in range(ids.n_levels)}
    sizes = {N_CODES: json.dumps(ids.n_codes)}
    table = pa.table({"item": key_column(item_keys), **columns}).replace_schema_metadata(sizes)
    pq.write_table(table, file, write_page_checksum=True)


def read_semantic_ids(path: Path | str, item_keys: np.ndarray, *, split_hash: str | None = None) -> SemanticIds:
    """The codes of the items with these keys, in their order; those of other items are passed over.

    With the `split_hash` of a run, a warning says where the directory's codes were made of another split.

    `path` is a directory that `experiments/semantic_ids.py` wrote, or a file of others: Parquet with a column `item`
    or `item_id` and one `code_0`, `code_1`, … a level; or JSON, which may be compressed, with the codes of each item
    by its key, `{"b0017": [12, 7, 201]}` or `["<a_12>", "<b_7>", "<c_201>"]`, or a list of the items' codes in the
    order of their keys, which are then integers. JSON that numbers items from 0 where the data numbers them from 1 is
    read as what it is. A file of others says no size of its codebooks: each is 1 more than the largest code.

    Raises:
      InputError: the path holds no codes, an item lacks them, or they are none that `semantic_ids` takes.
    """
    path = Path(path)
    if path.is_dir():
        manifest = read_object(path / MANIFEST, format_version=int, n_codes=list, codes_sha256=str)
        if manifest["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path} has format version {manifest['format_version']}; this seqrec reads {FORMAT_VERSION}; {REMEDY}"
            )
        n_codes = _checked_sizes(manifest["n_codes"], path / MANIFEST)
        check_file(path / CODES)
        if sha256_of(path / CODES) != manifest["codes_sha256"]:
            raise InputError(f"{path / CODES} is damaged: it does not have the hash in {MANIFEST}; {REMEDY}")
        if split_hash is not None and manifest.get("method") != "file":
            warn_of_other_split(f"{path} was", manifest.get("split_hash"), split_hash)
        return _aligned(path / CODES, *_read_parquet(path / CODES), item_keys, n_codes)
    keys, codes = _read_file(path, item_keys)
    return _aligned(path, keys, codes, item_keys, _sizes(path))


def warn_of_other_split(what_was: str, theirs: str | None, ours: str) -> None:
    """Warns of what was made of another split than that of this run, whose test events it may therefore know."""
    if theirs not in (None, ours):
        logger.warning(
            "other split %s made of the split %.8s, and this one is %.8s: unless both hold out the same events, what "
            "is tested here may be known there; make both of one store and split",
            what_was,
            theirs,
            ours,
        )


def read_item_keys(path: Path | str, like: np.ndarray) -> np.ndarray:
    """The keys of all items whose codes a path holds that `read_semantic_ids` takes, as the type of the keys `like`.

    Raises:
      InputError: the path holds no codes, or its keys are of another type.
    """
    path = Path(path)
    keys, _ = _read_file(path / CODES if path.is_dir() else path, like)
    store_keys = key_column(like)
    misfit = f"{path} has items such as {keys[0].as_py()!r}, the data has {store_keys[0].as_py()!r}"
    with as_input_error(f"{misfit}; write the data's own keys", pa.ArrowException):
        return keys_of(pa.chunked_array([keys.cast(store_keys.type)]))


def _read_file(path: Path, item_keys: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    return _read_parquet(path) if check_file(path).startswith(b"PAR1") else _read_json(path, item_keys)


def _sizes(path: Path) -> list[int] | None:
    """The sizes of the codebooks, of a file that `write_codes` wrote."""
    if not check_file(path).startswith(b"PAR1"):
        return None
    sizes = (pq.read_schema(path).metadata or {}).get(N_CODES.encode())
    return None if sizes is None else _checked_sizes(json.loads(sizes), path)


def _checked_sizes(n_codes: Any, path: Path) -> list[int]:
    if not isinstance(n_codes, list) or not all(isinstance(n, int) and n > 0 for n in n_codes):
        raise InputError(f"{path}: n_codes={n_codes} are no sizes of codebooks; {REMEDY}")
    return n_codes


def _aligned(
    path: Path, keys: pa.Array, codes: np.ndarray, item_keys: np.ndarray, n_codes: Sequence[int] | None
) -> SemanticIds:
    store_keys = key_column(item_keys)
    misfit = f"{path} has items such as {keys[0].as_py()!r}, the data has {store_keys[0].as_py()!r}"
    with as_input_error(f"{misfit}; write the data's own keys", pa.ArrowException):
        keys = keys.cast(store_keys.type)
    if len(keys.unique()) < len(keys):
        raise InputError(f"{path} has {len(keys) - len(keys.unique()):,} items more than once; give each one row")
    rows = _rows(store_keys, keys)
    if (
        (rows < 0).any()
        and pa.types.is_integer(store_keys.type)
        and keys.to_numpy().min() == 0
        and item_keys.min() == 1
    ):
        shifted = _rows(store_keys, pa.array(keys.to_numpy() + 1))
        if (shifted >= 0).all():
            logger.info("codes       %s numbers items from 0, the data from 1: read as such", path)
            rows = shifted
    if (missing := np.flatnonzero(rows < 0)).size:
        raise InputError(
            f"{path} lacks the codes of {len(missing):,} of {len(rows):,} items, the first "
            f"{store_keys[int(missing[0])].as_py()!r}; give each item of the data its codes"
        )
    n_others = len(keys) - len(rows)
    if n_others:
        logger.info("codes       %s: %s items that the data does not have are passed over", path, f"{n_others:,}")
    chosen = codes[rows]
    sizes = (codes.max(axis=0) + 1).tolist() if n_codes is None else n_codes
    with as_input_error(f"{path}: {{error}}", InputError):
        return semantic_ids(np.concatenate([np.zeros_like(chosen[:1]), chosen]), sizes, item_keys=item_keys)


def _rows(store_keys: pa.Array, keys: pa.Array) -> np.ndarray:
    """The place of each of our keys among `keys`; -1 where it is not there."""
    return pc.index_in(store_keys, value_set=keys).fill_null(-1).to_numpy()


def _read_parquet(path: Path) -> tuple[pa.Array, np.ndarray]:
    with as_input_error(f"{path} is no Parquet file that can be read ({{error}}); write it again", OSError, ValueError):
        table = pq.read_table(path, page_checksum_verification=True)
    key = next((name for name in ("item", "item_id") if name in table.column_names), None)
    levels = sorted(
        (int(match[1]), name) for name in table.column_names if (match := CODE_COLUMN.fullmatch(name)) is not None
    )
    if key is None or [level for level, _ in levels] != list(range(len(levels))) or not levels:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; codes are a column item, and code_0, code_1, … "
            "for each level"
        )
    columns = [table[name].combine_chunks() for _, name in levels]
    for (_, name), column in zip(levels, columns, strict=True):
        if not pa.types.is_integer(column.type) or column.null_count:
            raise InputError(f"{path}: {name} is {column.type} with {column.null_count:,} missing; give integers")
    if not len(table):
        raise InputError(f"{path} has no rows; give each item one, with its codes")
    if n_missing := table[key].null_count:
        raise InputError(f"{path} has {len(table):,} rows, {n_missing:,} without an item; give each its key")
    return table[key].combine_chunks(), np.stack([column.to_numpy() for column in columns], axis=1).astype(np.int64)


def _read_json(path: Path, item_keys: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    with (
        as_input_error(f"{path} is no JSON that can be read ({{error}}); write it again", ValueError, RecursionError),
        open_bytes(path) as stream,
    ):
        content = json.loads(stream.read(), object_pairs_hook=_once_each)
    if isinstance(content, list):
        if item_keys.dtype.kind not in "iu":
            raise InputError(
                f"{path} is a list, and the data's items have keys such as {item_keys[0]!r}; give an object"
            )
        if len(content) != len(item_keys):
            raise InputError(f"{path} lists the codes of {len(content):,} items, the data has {len(item_keys):,}")
        content = dict(zip(map(str, np.sort(item_keys).tolist()), content, strict=True))
    if not isinstance(content, dict) or not content:
        raise InputError(f'{path} holds no codes; give an object {{"item": [codes]}}')
    n_levels = len(first) if isinstance(first := next(iter(content.values())), list) else 0
    if first == []:
        raise InputError(f"{path}: item {next(iter(content))!r:.40} has no codes; give each item a list of them")
    rows = []
    for item, values in content.items():
        if not isinstance(values, list) or len(values) != n_levels or not values:
            what = f"{len(values)} codes" if isinstance(values, list) else f"{values!r:.40}"
            raise InputError(f"{path}: item {item!r:.40} has {what}, the first has {n_levels} codes; give each as many")
        rows.append([_code(value, path, item) for value in values])
    return pa.array(list(content)), np.array(rows, np.int64)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs by name, of which JSON keeps only the last where a name stands there twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"{len(pairs) - len(content):,} items stand there more than once")
    return content


def _code(value: Any, path: Path, item: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31:
        return value
    match = CODE_TOKEN.fullmatch(value) if isinstance(value, str) and len(value) < 40 else None
    if match is None or int(match[1]) >= 2**31:
        raise InputError(f"{path}: item {item!r:.40} has the code {value!r:.40}; codes are whole numbers below 2^31")
    return int(match[1])
