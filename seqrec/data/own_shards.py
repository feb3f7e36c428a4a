"""A process's own shards of a store, opened as a store of their own, and what it must know of the others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from seqrec.data.key_tables import KeyTable
from seqrec.data.manifest import Contents
from seqrec.data.ragged import ranges
from seqrec.data.shards import EventArrays, Histories, Shard, find_histories, open_shards, shards_of
from seqrec.types import InputError, Part

Gather = Callable[[np.ndarray], list[np.ndarray]]
"""`gather(array)` -> the arrays of one axis that all parts give, in their order; all must ask at once."""


def alone(array: np.ndarray) -> list[np.ndarray]:
    """The `Gather` of one process."""
    return [array]


class OwnShards(NamedTuple):
    """Where the users and events of some of a store's shards stand in the whole store."""

    shards: tuple[Shard, ...]
    n_users: int
    """Of the whole store."""
    n_events: int
    """Of the whole store."""
    rows: Int64[np.ndarray, " own_users"]
    """Row in the whole store of each user here."""
    shifts: Int64[np.ndarray, " own_users"]
    """What the places of each user's events in the whole store are more than those here."""

    def own_places(self, places: Int64[np.ndarray, " n_users"]) -> Int64[np.ndarray, " own_users"]:
        """Of places of events in the whole store, one a user, those of the users here, as places here; -1 stays."""
        theirs = places[self.rows]
        return np.where(theirs < 0, -1, theirs - self.shifts)


def _starts(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    return np.cumsum(sizes) - sizes


def user_table_of(directory: Path, shards: Sequence[Shard]) -> KeyTable:
    """The keys of the users of these shards."""
    return KeyTable.of_files({directory / shard.directory / "users.parquet": shard.n_keys for shard in shards}, ["key"])


def open_own_shards(directory: Path, contents: Contents, part: Part) -> tuple[EventArrays, KeyTable, OwnShards]:
    """The events and the keys of the users whose histories lie in a part's own shards.

    Of other shards nothing is read; where some are appended, the files over users, which say whose histories count.

    Raises:
      InputError: there are fewer shards than parts, or a file is missing or damaged.
    """
    shards, columns = contents.shards, contents.columns
    if len(shards) < part.n_parts:
        raise InputError(
            f"{directory} has {len(shards)} shard{'s' * (len(shards) > 1)} for {part.n_parts} processes to read alone; "
            f"use --shards all, or prepare the data with --events-per-shard {max(1, contents.n_events // part.n_parts)}"
        )
    own = shards[shards_of(part)]
    if any(shard.is_appended for shard in shards):
        number, starts, lengths = find_histories(directory, shards)
        rows = np.flatnonzero(number % part.n_parts == part.number)
        histories = Histories(number[rows] // part.n_parts, starts[rows], lengths[rows])
        arrays = open_shards(directory, own, columns, histories)
        shifts = _starts(lengths)[rows] - arrays.offsets[:-1]
        keys = user_table_of(directory, shards).at(rows)
        return arrays, keys, OwnShards(own, len(lengths), int(lengths.sum()), rows, shifts)
    n_users, n_events = np.array([(shard.n_users, shard.n_events) for shard in shards], np.int64).T
    mine = shards_of(part)
    rows = ranges(_starts(n_users)[mine], n_users[mine])
    shifts = np.repeat(_starts(n_events)[mine] - _starts(n_events[mine]), n_users[mine])
    whole = OwnShards(own, int(n_users.sum()), int(n_events.sum()), rows, shifts)
    return open_shards(directory, own, columns), user_table_of(directory, own), whole


class AllQueries(NamedTuple):
    """The queries of all processes, in the order of the store, where each asks about the users of its own shards."""

    users: Int[np.ndarray, " queries"]
    """The user of each query, as a row of the whole store."""
    targets: Int[np.ndarray, " queries"]
    history_lengths: Int[np.ndarray, " queries"]
    is_miss: Bool[np.ndarray, " queries"] | None
    places: Int[np.ndarray, " own_queries"]
    """Places among them of this process's queries."""
    first_row: int
    """Place of this process's first row in a batch."""
    gathered: Callable[[np.ndarray], np.ndarray]
    """Of arrays with an entry for each query of a process, that of all queries; all processes must ask at once."""


def gather_queries(
    users: Int[np.ndarray, " own_queries"],
    targets: Int[np.ndarray, " own_queries"],
    history_lengths: Int[np.ndarray, " own_queries"],
    is_miss: Bool[np.ndarray, " own_queries"] | None,
    *,
    number: int,
    n_rows: int,
    gather: Gather,
) -> AllQueries:
    """The queries of all processes, from this process's own, which is of this number, with `n_rows` of each batch."""
    users_of_each = gather(users)
    users_of_all = np.concatenate(users_of_each)
    order = np.argsort(users_of_all, kind="stable")  # queries of one user are in order
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    first = sum(map(len, users_of_each[:number]))

    def gathered(array: np.ndarray) -> np.ndarray:
        return np.concatenate(gather(array))[order]

    return AllQueries(
        users_of_all[order],
        gathered(targets),
        gathered(history_lengths),
        None if is_miss is None else gathered(is_miss),
        places[first : first + len(users)],
        number * n_rows,
        gathered,
    )


def gather_keys(keys: np.ndarray, gathered: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`gathered(keys)` of keys that may be text.

    >>> gather_keys(np.array(["a", "ünï"], object), lambda array: array[::-1]).tolist()
    ['ünï', 'a']
    """
    if keys.dtype != object:
        return gathered(keys)
    texts = [key.encode() for key in keys.tolist()]
    lengths = gathered(np.array([len(text) for text in texts], np.int64))
    padded = gathered(np.array(texts, f"S{max(1, lengths.max(initial=0))}"))  # which lose zeros at their end
    pairs = zip(padded.tolist(), lengths.tolist(), strict=True)
    return np.array([text.ljust(n, b"\0").decode() for text, n in pairs], object)
