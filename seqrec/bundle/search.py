"""Faster searches of large catalogues: candidates by int8 rows or by an index, ranked by their exact scores.

Neither needs the item table in memory: its rows are read from the bundle's file as they are wanted.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int8, Int32

from seqrec.bundle.files import INDEX, REMEDY, WEIGHTS, Search
from seqrec.bundle.histories import Ragged, power_of_two
from seqrec.bundle.weights import CONSTANTS, ITEM_TABLE, StoredRows, map_item_table, quantise_rows
from seqrec.data.paths import as_input_error
from seqrec.types import InputError, Params

MIN_CANDIDATES = 200
"""Items, at least, whose exact scores are compared, besides those that a request excludes."""
ROWS_PER_PRODUCT, ROWS_PER_BLOCK = 1 << 14, 32
"""Rows that are scored at a time, which stay in a CPU's cache, and rows of which only the best score is kept."""
EXPANSION_OF_BUILD = 128
"""Candidates among which a new item of an index chooses its neighbours (efConstruction of Malkov and Yashunin 2018)."""

FindCandidates = Callable[[Float32[np.ndarray, "users d_model"], int], Int[np.ndarray, "users n"]]
"""`find(states, n)` -> ids of about the n best items of each state, in any order; 0 where there is none."""


class Int8Table(NamedTuple):
    """The vectors of the items 1 to n_items, by blocks that are scored at a time."""

    rows: Int8[Array, "blocks rows d_model"]
    scale: Float[Array, "blocks rows"]
    """Multiplies each row; 0 in rows that only fill the last block."""


class Searcher(NamedTuple):
    """A search of a catalogue that ranks some candidates exactly, and not all items."""

    rows: StoredRows
    """The item table, row 0 being padding."""
    n_items: int
    find: FindCandidates

    def best(
        self, states: Float32[np.ndarray, "users d_model"], k: int, *, allow: Ragged | None, exclude: Ragged
    ) -> tuple[Int32[np.ndarray, "users k"], Float32[np.ndarray, "users k"]]:
        """Ids and scores of the best items of each state, as `Bundle.top_ids`, by lists with a row for each state.

        With `allow` these items are ranked and no others are searched for. Of excluded items as many more candidates
        are found. A state for which too few are found ranks all items.
        """
        ids, scores = np.zeros((len(states), k), np.int32), np.full((len(states), k), -np.inf, np.float32)
        n = max(MIN_CANDIDATES, 2 * k) + int(exclude.lengths.max(initial=0))
        candidate_ids = None if allow is not None or n >= self.n_items else self.find(states, n)
        for user, state in enumerate(states):
            excluded = exclude.row(user)
            candidates = None if candidate_ids is None else candidate_ids[user]
            listed = self._rank(state, k, candidates if allow is None else allow.row(user), excluded)
            if candidates is not None and len(listed[0]) < k:
                listed = self._rank(state, k, None, excluded)
            for all_rows, row in zip((ids, scores), listed, strict=True):
                all_rows[user, : len(row)] = row
        return ids, scores

    def _rank(
        self, state: np.ndarray, k: int, candidates: np.ndarray | None, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best of these candidates, or of all items, less the excluded ones, whose ids rise."""
        if candidates is None:
            ids = np.arange(1, self.n_items + 1)
            vectors = self.rows.read(slice(1, self.n_items + 1))
        else:
            ids = np.sort(candidates)  # np.unique and np.isin take longer than all else together
            ids = ids[np.diff(ids, prepend=0) > 0]
            vectors = self.rows.read(ids)
        scores = vectors @ state
        is_excluded = np.append(excluded, 0)[np.searchsorted(excluded, ids)] == ids
        scores[is_excluded | np.isnan(scores)] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[scores[order] > -np.inf]
        return ids[order], scores[order]

    def with_own_rows(
        self, params: Params, histories: Mapping[str, np.ndarray]
    ) -> tuple[Params, dict[str, np.ndarray]]:
        """The parameters with an item table of the histories' items alone, and the histories by its rows."""
        ids, places = np.unique(np.append(histories["items"], 0), return_inverse=True)
        # As many rows as there may be, so that a number of histories has one shape.
        n_rows = min(len(places), len(self.rows.values))
        table = np.zeros((n_rows, self.rows.values.shape[1]), np.float32)
        table[: len(ids)] = self.rows.read(ids)
        items = places[:-1].reshape(histories["items"].shape).astype(np.int32)
        return {**params, ITEM_TABLE: table}, {**histories, "items": items}


def open_searcher(directory: Path, n_items: int, params: Params, search: Search, *, path: str) -> Searcher | None:
    """What searches the catalogue of the bundle in a local directory, which messages call `path`; None is exact search.

    Raises:
      InputError: the bundle's model or its files do not allow this search.
    """
    if search == "exact":
        return None
    check_products(params, f"{path} with search={search!r}")
    rows = map_item_table(directory / WEIGHTS)
    if search == "ann":
        return Searcher(rows, n_items, open_index(directory / INDEX, n_items, path=path))
    table = int8_table(rows, n_items)

    def find(states: np.ndarray, n: int) -> np.ndarray:
        # Powers of two, so that few programs are compiled.
        padded = np.pad(states, ((0, power_of_two(len(states)) - len(states)), (0, 0)))
        candidates = int8_candidates(table, padded, n=min(power_of_two(n), n_items), n_items=n_items)
        return np.asarray(candidates)[: len(states)]

    return Searcher(rows, n_items, find)


def scores_are_products(params: Mapping[str, Any]) -> bool:
    """Whether an item's score is the product of its vector with a state.

    It is not in a repeat mixture, nor with item-to-item tables, nor where parameters are composed for each call, as of
    codes of items.
    """
    return not params.keys() & {"repeats", "neighbours", CONSTANTS}


def check_products(params: Mapping[str, Any], name: str) -> None:
    """Refuses models whose scores are more than products of a state with the items' vectors.

    Raises:
      InputError: the parameters are those of another model.
    """
    if not scores_are_products(params):
        kinds = {
            CONSTANTS: ("writes codes of items", "another model"),
            "repeats": ("is a repeat mixture", "with --no-repeat-mixture"),
            "neighbours": ("has item-to-item tables", "with --fuse that names none"),
        }
        present = [kinds[part] for part in kinds if part in params]
        raise InputError(
            f"{name}: the model {' and '.join(kind for kind, _ in present)}, whose scores are no products of one state "
            f"with the items' vectors; search exactly, or train {' and '.join(remedy for _, remedy in present)}"
        )


def int8_table(rows: StoredRows, n_items: int) -> Int8Table:
    """The items' rows as int8 with a scale each, on the device; rows of a bundle that stores int8 are as they are."""
    n_rows = min(ROWS_PER_PRODUCT, -(-n_items // ROWS_PER_BLOCK) * ROWS_PER_BLOCK)
    n_blocks = -(-n_items // n_rows)
    table = np.zeros((n_blocks, n_rows, rows.values.shape[1]), np.int8)
    scale = np.zeros((n_blocks, n_rows), np.float32)
    for block in range(n_blocks):  # so that the table in float32 is never whole in memory
        wanted = slice(1 + block * n_rows, 1 + min((block + 1) * n_rows, n_items))
        n = wanted.stop - wanted.start
        if rows.scale is not None:
            table[block, :n], scale[block, :n] = rows.values[wanted], rows.scale[wanted]
        else:
            table[block, :n], scale[block, :n] = quantise_rows(rows.read(wanted))
    return Int8Table(jax.device_put(table), jax.device_put(scale))


@functools.partial(jax.jit, static_argnames=("n", "n_items"))
def int8_candidates(
    table: Int8Table, states: Float[Array, "users d_model"], *, n: int, n_items: int
) -> Int[Array, "users n"]:
    """Ids of the items whose int8 rows have the largest products with each state, best first.

    Each block of rows is converted to float32 as it is scored, and only the best score of every few rows is kept: the
    n best items lie in the n parts with the best of these, whose rows are scored again.
    """
    d_model = states.shape[1]

    def maxima(block: tuple[Array, Array, Array]) -> Array:
        rows, scale, first = block
        scores = (states @ rows.astype(jnp.float32).T) * scale
        scores = jnp.where(first + jnp.arange(len(scale)) < n_items, scores, -jnp.inf)
        return jnp.max(scores.reshape(len(states), -1, ROWS_PER_BLOCK), axis=2)

    n_blocks, n_rows = table.scale.shape
    best = jax.lax.map(maxima, (table.rows, table.scale, n_rows * jnp.arange(n_blocks)))
    best = jnp.swapaxes(best, 0, 1).reshape(len(states), -1)
    _, parts = jax.lax.top_k(best, min(n, best.shape[1]))
    rows, scale = table.rows.reshape(-1, ROWS_PER_BLOCK, d_model), table.scale.reshape(-1, ROWS_PER_BLOCK)

    def candidates(user: tuple[Array, Array]) -> Array:
        state, block_ids = user
        scores = (rows[block_ids].astype(jnp.float32) @ state) * scale[block_ids]
        places = block_ids[:, None] * ROWS_PER_BLOCK + jnp.arange(ROWS_PER_BLOCK)
        scores = jnp.where(places < n_items, scores, -jnp.inf).reshape(-1)
        _, order = jax.lax.top_k(scores, min(n, len(scores)))
        return 1 + places.reshape(-1)[order]

    # A user at a time, for the scores of all would not stay in the cache.
    return jax.lax.map(candidates, (states, parts))


def write_index(file: Path, rows: StoredRows, n_items: int) -> None:
    """Writes an HNSW index of the items' vectors (Malkov and Yashunin 2018) by their inner product, in bfloat16.

    Items are added by several threads, in no fixed order, so two indexes of the same items are not equal to the byte.
    """
    index = _usearch().index.Index(
        ndim=rows.values.shape[1], metric="ip", dtype="bf16", expansion_add=EXPANSION_OF_BUILD
    )
    for start in range(1, n_items + 1, ROWS_PER_PRODUCT):
        ids = np.arange(start, min(start + ROWS_PER_PRODUCT, n_items + 1))
        index.add(ids.astype(np.uint64), rows.read(ids))
    index.save(file)


def open_index(file: Path, n_items: int, *, path: str) -> FindCandidates:
    """What finds candidates by the index in a file, which is mapped into memory.

    Raises:
      InputError: there is no index, or it does not fit the bundle `path`.
    """
    if not file.is_file():
        raise InputError(f"{path} has no index; write one by experiments/export.py RUN --index, or search otherwise")
    usearch = _usearch()
    with as_input_error(f"{file} is no index of items ({{error}}); {REMEDY}", ValueError, RuntimeError):
        index = usearch.index.Index.restore(file, view=True)
    if index is None or len(index) != n_items:
        raise InputError(f"{file} is no index of the {n_items} items of {path}; {REMEDY} with --index")

    def find(states: np.ndarray, n: int) -> np.ndarray:
        matches = index.search(states, n)
        # Of one state the result has a dimension less.
        keys, n_found = np.atleast_2d(matches.keys), np.atleast_1d(matches.counts if len(states) > 1 else len(matches))
        ids = np.zeros((len(states), n), np.int64)
        ids[:, : keys.shape[1]] = keys
        return np.where(np.arange(n) < n_found[:, None], ids, 0)

    return find


def _usearch() -> Any:
    """The package, which the other extras lack."""
    try:
        import usearch.index
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is missing; run pip install "seqrec[ann]"') from error
    return usearch
