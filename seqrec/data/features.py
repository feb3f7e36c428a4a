"""Features of items and users: categories, numbers and vectors, read from tables and aligned to a store."""

import itertools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from seqrec.data.feature_values import Feature, name_and_kind
from seqrec.data.paths import as_input_error, check_file
from seqrec.data.store import SequenceStore
from seqrec.data.store_files import key_column
from seqrec.data.tables.columns import number, present_text, required_id
from seqrec.data.tables.json_lines import json_value
from seqrec.data.tables.rows import Destination, RawRows, connect
from seqrec.data.tables.user_table import open_table
from seqrec.types import InputError

FeatureKind = Literal["categories", "number", "buckets", "vector"]
KINDS: tuple[str, ...] = get_args(FeatureKind)
YEAR_IN_TITLE = r"\((?P<year>[0-9]{4})\)\s*$"
N_BUCKETS = 10
MOST_VALUES = 256
"""Most categories of one item or user; a longer list is probably text, or ids of events."""

logger = logging.getLogger(__name__)


Noun = Literal["item", "user"]


class FeatureTable(NamedTuple):
    """A file with one row an item or user."""

    path: Path
    names: tuple[str, ...]
    """Names of all its features."""
    keys: pa.Array | None
    """Keys in the data; None if row i belongs to the store's number i + 1."""
    columns: dict[str, pa.Array | np.ndarray]
    """The requested columns."""


def read_item_features(
    names: Sequence[str],
    store: SequenceStore,
    files: Sequence[Path] = (),
    *,
    trained: Bool[np.ndarray, " n_items_plus_1"] | None = None,
) -> list[Feature]:
    """The features `names`, each a column of one of `files` or the store's own.

    A store's own are `attributes`, such as genres, and `year`, where titles end with one in parentheses.

    A file of Parquet, CSV or JSON lines has a column `item` or `item_id` with the data's own keys, and its types say
    what each other column is: text or a list of texts are categories, a number is a number (in CSV where all values of
    the column are numbers), a list of numbers a vector. A name may say otherwise: `year:buckets` cuts a number at the
    deciles of its values, `genre:categories` takes numbers for names. A file `audio.npy` is the vector `audio`, one row
    for each of the store's items in their order.

    Items without a row, and rows with null, are not known. Numbers are standardised; vectors are centred and scaled
    to a mean square of 1. Both, and the deciles, are taken over the known items among `trained` ones, and a category
    that no trained item has is unknown too, because nothing can be learned about it.

    Raises:
      InputError: no table, or more than one, has a column; keys repeat or meet no item; vectors are not of one
        length, or hold a number that is not finite.
    """
    stored = {} if store.attributes is None else {"attributes": store.attributes}
    if store.titles is not None:
        years = pc.struct_field(pc.extract_regex(pa.array(store.titles, pa.large_string()), YEAR_IN_TITLE), "year")
        if years.null_count < len(years):
            stored["year"] = years.cast(pa.int64())
    tables = [FeatureTable(Path("the store"), tuple(stored), None, stored)] if stored else []
    return _read_features(names, "item", store.item_keys, files, tables, trained)


def read_user_features(
    names: Sequence[str],
    store: SequenceStore,
    files: Sequence[Path] = (),
    *,
    trained: Bool[np.ndarray, " n_users_plus_1"] | None = None,
) -> list[Feature]:
    """The features `names` of the store's users, each a column of one of `files`.

    As `read_item_features`, of tables with a column `user` or `user_id`; a store has none of its own.
    """
    return _read_features(names, "user", store.user_keys, files, [], trained)


def _read_features(
    names: Sequence[str],
    noun: Noun,
    keys: np.ndarray,
    files: Sequence[Path],
    own_tables: Sequence[FeatureTable],
    trained: Bool[np.ndarray, " n_plus_1"] | None,
) -> list[Feature]:
    if trained is None:
        trained = np.arange(len(keys) + 1) > 0
    columns = {name.partition(":")[0] for name in names}
    flag_of_files = "--feature-files" if noun == "item" else "--user-feature-files"
    tables = [*(_read_table(Path(file), noun, columns) for file in files), *own_tables]
    features = []
    for flag in names:
        name, kind = name_and_kind(flag, KINDS, noun, likely="categories")
        holders = [table for table in tables if name in table.names]
        if len(holders) != 1:
            there = sorted({column for table in tables for column in table.names})
            raise InputError(
                f"{noun} feature {name!r} is in {len(holders) or 'none'} of the tables, which have "
                f"{', '.join(there) or 'no columns'}; name one of these or add a file to {flag_of_files}"
            )
        [table] = holders
        feature = _feature(name, kind, table, _rows(table, noun, keys), trained, noun)
        n_known = int(feature.known[trained].sum())
        if not n_known:
            raise InputError(f"{table.path}: no {noun} that is trained on has a {name}; leave the feature out")
        logger.info(
            "feature     %s: %s of %s trained %ss, %s of %s others; %s",
            name,
            *(f"{count:,}" for count in (n_known, trained.sum())),
            noun,
            *(f"{count:,}" for count in (feature.known.sum() - n_known, len(keys) - trained.sum())),
            f"{len(feature.categories):,} categories" if feature.categories else f"{feature.values.shape[1]} numbers",
        )
        features.append(feature)
    return features


def shuffled_feature(feature: Feature, *, trained: Bool[np.ndarray, " n_plus_1"], seed: int) -> Feature:
    """The feature shuffled between the items, or users: the same values, unrelated to their item.

    Trained and other items are shuffled separately, so the numbers of known values do not change.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(trained))
    for group in (np.flatnonzero(trained[1:]) + 1, np.flatnonzero(~trained[1:]) + 1):
        rows[group] = rng.permutation(group)
    return feature._replace(values=feature.values[rows], known=feature.known[rows])


def _read_table(path: Path, noun: str, names: Collection[str]) -> FeatureTable:
    """The columns `names` of a file, as far as it has them."""
    if path.suffix == ".npy":
        check_file(path)
        with as_input_error(f"{path} cannot be read ({{error}}); write it again", OSError, ValueError):
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
            raise InputError(
                f"{path} holds {vectors.shape} of {vectors.dtype}; vectors are a matrix, a row for each {noun}"
            )
        return FeatureTable(path, (path.stem,), None, {path.stem: vectors})
    table = open_table(path)
    key = table.required(noun, f"{noun}_id", any_case=True, remedy=f"add the column {noun}")
    features = tuple(name for name in table.columns if name != key)
    values = {f"value_{place}": name for place, name in enumerate(features) if name in names}
    rows = table.load({"key": key, **values}, Destination(connect()), as_json=list(values))
    typed = {"key": required_id(rows, "key", noun)}
    for column, name in values.items():
        typed[column] = _typed_expression(rows, column, name) if table.kind in ("text", "json") else column
    expressions = ", ".join(f"{expression} AS {column}" for column, expression in typed.items())
    # An Arrow table outlives the connection, a relation does not.
    arrow = rows.connection.sql(f"SELECT {expressions} FROM {rows.view} ORDER BY event_index").to_arrow_table()
    columns = {name: arrow[column].combine_chunks() for column, name in values.items()}
    return FeatureTable(path, features, arrow["key"].combine_chunks(), columns)


def _typed_expression(rows: RawRows, column: str, name: str) -> str:
    """The SQL expression of a column of a file without types: a number if all values are numbers."""
    if rows.type_of(column) == "JSON":
        return json_value(rows, column)
    text = present_text(rows, column, name)
    n_values, n_numbers = rows.one(f"count({text}), count(TRY_CAST({text} AS DOUBLE))")
    return number(rows, column, name, booleans=False) if n_values == n_numbers > 0 else text


def _rows(table: FeatureTable, noun: Noun, own_keys: np.ndarray) -> np.ndarray:
    """The table's row of each item, or user, in the store's order; -1 if there is none."""
    if table.keys is None:
        n_rows = {len(column) for column in table.columns.values()}
        if n_rows != {len(own_keys)}:
            raise InputError(
                f"{table.path} has {n_rows.pop():,} rows for n_{noun}s={len(own_keys):,}; "
                f"give one for each of the store's {noun}s, in their order, or a table with a column {noun}"
            )
        return np.arange(len(own_keys))
    store_keys, example = key_column(own_keys), table.keys[0].as_py()
    misfit = f"{table.path} has {noun}s such as {example!r}, the data has integers such as "
    with as_input_error(lambda _: f"{misfit}{own_keys[0]}; write the data's own keys", pa.ArrowInvalid):
        keys = table.keys.cast(store_keys.type)
    counts = pc.value_counts(keys)
    if len(counts) < len(keys):
        twice = next(count["values"] for count in counts.to_pylist() if count["counts"] > 1)
        raise InputError(f"{table.path} has {noun} {twice!r} more than once; give one row for each {noun}")
    rows = pc.fill_null(pc.index_in(store_keys, value_set=keys), -1).to_numpy()
    if np.all(rows < 0):
        raise InputError(
            f"{table.path} has {noun}s such as {example!r}, none of which is in the data, "
            f"which has {store_keys[0].as_py()!r}; write the data's own keys"
        )
    return rows


def _feature(name: str, kind: str, table: FeatureTable, rows: np.ndarray, trained: np.ndarray, noun: str) -> Feature:
    column = table.columns[name]
    place = f"{table.path}: {name}"
    if isinstance(column, np.ndarray):
        return _vector(name, place, column[rows], np.ones(len(rows), bool), trained, noun)
    aligned = column.take(pa.array(rows, pa.int64(), mask=rows < 0))
    is_list = pa.types.is_list(aligned.type) or pa.types.is_large_list(aligned.type)
    is_list = is_list or pa.types.is_fixed_size_list(aligned.type)
    inner = aligned.type.value_type if is_list or pa.types.is_dictionary(aligned.type) else aligned.type
    is_number = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    fitting = {
        "vector": is_list and is_number,
        "number": is_number and not is_list,
        "buckets": is_number and not is_list,
        "categories": not pa.types.is_nested(inner),
    }
    kind = kind or next(kind for kind in ("vector", "number", "categories", "") if fitting.get(kind, True))
    if not fitting.get(kind):
        raise InputError(f"{place} is {aligned.type}, which makes no {kind or 'feature'}; cast the column")
    if kind == "categories":
        return _categories(name, place, aligned, is_list, trained, noun)
    is_known = aligned.is_valid().to_numpy(zero_copy_only=False)
    if kind == "vector":
        lengths = pc.list_value_length(aligned.filter(pa.array(is_known))).to_numpy()
        if len(np.unique(lengths)) > 1:
            number = int(np.flatnonzero(is_known)[np.argmax(lengths != lengths[0])]) + 1
            raise InputError(
                f"{place}: vectors of {lengths[0]} and of {lengths[lengths != lengths[0]][0]} numbers (row of the "
                f"store's {noun} {number}); give all the same length"
            )
        values = np.zeros((len(is_known), int(lengths[0]) if len(lengths) else 1))
        values[is_known] = _numbers(pc.list_flatten(aligned)).reshape(int(is_known.sum()), -1)
        return _vector(name, place, values, is_known, trained, noun)
    numbers = _numbers(aligned)
    is_known &= ~np.isnan(numbers)
    if np.isinf(numbers[is_known]).any():
        raise InputError(f"{place} holds a number that is infinite; correct it or leave it empty")
    train_values = numbers[is_known & trained[1:]]
    if kind == "number":
        centre, scale = (train_values.mean(), train_values.std() or 1.0) if len(train_values) else (0.0, 1.0)
        values = np.where(is_known, (np.nan_to_num(numbers) - centre) / scale, 0.0)[:, None]
        return _padded(name, values.astype(np.float32), is_known)
    edges = deciles(train_values)
    codes = np.where(is_known, 1 + np.searchsorted(edges, numbers, side="right"), 0)
    bounds = ["-inf", *(f"{edge:g}" for edge in edges), "inf"]
    names = tuple(f"{low} to {high}" for low, high in itertools.pairwise(bounds))
    return _padded(name, codes[:, None].astype(np.int32), is_known, names)


def deciles(numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n_edges"]:
    """The deciles of the numbers, without repeats."""
    return np.unique(np.quantile(numbers, np.arange(1, N_BUCKETS) / N_BUCKETS)) if len(numbers) else np.zeros(0)


def _vector(name: str, place: str, values: np.ndarray, is_known: np.ndarray, trained: np.ndarray, noun: str) -> Feature:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(
            f"{place}: {int(bad.sum()):,} vectors hold a number that is not finite, the first that of the store's "
            f"{noun} {int(np.argmax(bad)) + 1}; correct them or leave them empty"
        )
    train_values = values[is_known & trained[1:]].astype(np.float64)
    centre = train_values.mean(axis=0) if len(train_values) else 0.0
    scale = np.sqrt(np.mean(np.square(train_values - centre))) or 1.0 if len(train_values) else 1.0
    scaled = np.where(is_known[:, None], (values - centre) / scale, 0.0)
    return _padded(name, scaled.astype(np.float32), is_known)


def _categories(name: str, place: str, column: pa.Array, is_list: bool, trained: np.ndarray, noun: str) -> Feature:
    if is_list:
        texts, lengths = pc.list_flatten(column), pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    else:
        texts, lengths = column.drop_null(), column.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.max(initial=0) > MOST_VALUES:
        raise InputError(
            f"{place}: the store's {noun} {int(np.argmax(lengths)) + 1} has {lengths.max()} categories, "
            f"the limit is {MOST_VALUES}; keep the informative ones"
        )
    encoded = texts.cast(pa.large_string()).dictionary_encode()
    owner = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    code = pc.fill_null(encoded.indices, -1).to_numpy()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    # A text that no trained item has, a null and an empty text are not categories.
    useful = np.bincount(code[trained[owner] & (code >= 0)], minlength=len(names)) > 0
    useful &= names != ""
    order = np.argsort(names[useful], kind="stable")
    new_code = np.zeros(len(names) + 1, np.int64)  # the last entry is for -1
    new_code[np.flatnonzero(useful)[order]] = 1 + np.arange(len(order))
    pairs = np.unique(np.stack([owner, new_code[code]], axis=1)[new_code[code] > 0], axis=0)
    n_each = np.bincount(pairs[:, 0], minlength=len(lengths) + 1)
    codes = np.zeros((len(lengths) + 1, max(1, int(n_each.max(initial=0)))), np.int32)
    codes[np.arange(codes.shape[1]) < n_each[:, None]] = pairs[:, 1]
    return Feature(name, codes, n_each > 0, tuple(names[useful][order].tolist()))


def _numbers(column: pa.Array) -> np.ndarray:
    """As float64, NaN where null."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _padded(name: str, values: np.ndarray, is_known: np.ndarray, categories: tuple[str, ...] = ()) -> Feature:
    """The feature with an empty row 0 for padding."""
    values, known = (np.concatenate([np.zeros_like(rows[:1]), rows]) for rows in (values, is_known))
    return Feature(name, values, known, categories)
