"""A process's own shards of a store, opened as a store of their own, and what it must know of the others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from seqrec.data.manifest import Contents
from seqrec.data.shards import Shard, shards_of
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
    first_users: Int64[np.ndarray, " shards"]
    """Row in the whole store of each shard's first user."""
    first_events: Int64[np.ndarray, " shards"]
    """Place in the whole store of each shard's first event."""

    def whole_rows(self, rows: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The rows of users in the whole store, from their rows here."""
        starts = _starts([shard.n_users for shard in self.shards])
        shard = np.searchsorted(starts, rows, side="right") - 1
        return rows - starts[shard] + self.first_users[shard]

    def own_places(self, places: Int64[np.ndarray, " n_users"]) -> Int64[np.ndarray, " own_users"]:
        """Of places of events in the whole store, one a user, those of the users here, as places here; -1 stays."""
        parts = []
        starts = _starts([shard.n_events for shard in self.shards])
        for shard, user, event, start in zip(self.shards, self.first_users, self.first_events, starts, strict=True):
            theirs = places[user : user + shard.n_users]
            parts.append(np.where(theirs < 0, -1, theirs - event + start))
        return np.concatenate(parts)


def _starts(sizes: Sequence[int]) -> Int64[np.ndarray, " n"]:
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


def own_contents(contents: Contents, part: Part, directory: Path) -> tuple[Contents, OwnShards]:
    """The contents of a part's own shards alone, and where they stand in the whole store.

    Raises:
      InputError: there are fewer shards than parts, or users lie in several shards.
    """
    n_shards, n_appended = len(contents.shards), sum(shard.is_appended for shard in contents.shards)
    if n_appended:
        raise InputError(
            f"{directory}: appends have replaced histories of other shards ({n_appended} of {n_shards} shards are "
            "appended); use --shards all, or prepare the whole log again"
        )
    if n_shards < part.n_parts:
        raise InputError(
            f"{directory} has {n_shards} shard{'s' * (n_shards > 1)} for {part.n_parts} processes to read alone; use "
            f"--shards all, or prepare the data with --events-per-shard {max(1, contents.n_events // part.n_parts)}"
        )
    first_users = _starts([shard.n_users for shard in contents.shards])[shards_of(part)]
    first_events = _starts([shard.n_events for shard in contents.shards])[shards_of(part)]
    shards = contents.shards[shards_of(part)]
    n_users, n_events = sum(shard.n_users for shard in shards), sum(shard.n_events for shard in shards)
    own = OwnShards(shards, contents.n_users, contents.n_events, first_users, first_events)
    return contents._replace(n_users=n_users, n_events=n_events, shards=shards), own


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
