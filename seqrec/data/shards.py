"""The shards of a sequence store: directories of flat arrays, which are read as if all events lay in one array."""

import contextlib
import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int32, Int64

from seqrec.data.ragged import blocks
from seqrec.data.store_files import REMEDY, array_files, check_offsets, key_column, open_array, rises, write_arrays
from seqrec.files import sha256_of
from seqrec.types import InputError, Part

ROOT = "."
"""Directory of the one shard of a store whose arrays lie beside its manifest."""
ROWS_FILE = "rows.npy"
INDEX_FILES = ("manifest.json", "offsets.npy", ROWS_FILE, "users.parquet", "items.parquet")
"""Files over users and items, and none over events: what a part reads of other parts' shards, where some are appended.
"""
EVENTS_PER_BLOCK = 1 << 18
"""Events that are in memory at once where all of a store are passed through: few enough for a processor's cache."""
PLACES_PER_BLOCK = 1 << 14
"""Places that are read at once where they are scattered, each on a page of memory of its own."""
NO_COLUMNS: Mapping[str, np.ndarray] = MappingProxyType({})


class Shard(NamedTuple):
    """What a store's manifest says of one of its shards."""

    directory: str
    """Relative to the store."""
    n_users: int
    """Users whose histories lie here."""
    n_events: int
    columns: Mapping[str, str] = MappingProxyType({})
    """The type of each event column here; in the whole store it is one that holds all of them."""
    sha256: str = ""
    """Over the names and hashes of its files; empty for the root, whose files the store's content hash covers."""
    is_appended: bool = False
    """Whether an append wrote it: rows.npy says whose histories these are, which no longer count in earlier shards.
    The users of another shard follow those of the shard before it."""
    n_new_users: int = 0
    """Users that an append added; their keys are in the shard's users.parquet."""
    n_new_items: int = 0
    """Items that an append added; they are in the shard's items.parquet."""

    @property
    def n_keys(self) -> int:
        """Users in the shard's users.parquet."""
        return self.n_new_users if self.is_appended else self.n_users


def shard_directory(number: int) -> str:
    """Where the shard of this number, from 0, lies in a store."""
    return f"shards/{number:06d}"


def shards_of(part: Part) -> slice:
    """Which of a store's shards a part of the processes reads: every `n_parts`-th from its number on.

    >>> list("abcde")[shards_of(Part(1, 2))]
    ['b', 'd']
    """
    return slice(part.number, None, part.n_parts)


def write_shard(
    store: Path,
    number: int,
    *,
    items: Int[np.ndarray, " n_events"],
    offsets: Int[np.ndarray, " n_users_plus_1"],
    user_keys: np.ndarray,
    columns: Mapping[str, np.ndarray] = NO_COLUMNS,
) -> Shard:
    """Writes the shard of this number below the directory of a store: the histories of the next users in its order.

    `offsets` count from 0 in each shard, and items have the ids of the whole store. The shard is written whole or not
    at all, so that a task which is tried again, or twice at once, does no harm.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as store:
    ...     write_shard(
    ...         Path(store), 0, items=np.array([2, 1, 2]), offsets=np.array([0, 1, 3]), user_keys=np.array([5, 7])
    ...     )[:3]
    ('shards/000000', 2, 3)
    """
    check_offsets(offsets, len(items))
    with new_shard(store, number) as fresh:
        types = write_arrays(fresh, items, offsets, columns)
        pq.write_table(pa.table({"key": key_column(user_keys)}), fresh / "users.parquet", write_page_checksum=True)
    directory = shard_directory(number)
    return Shard(directory, len(offsets) - 1, len(items), types, files_hash(store / directory))


@contextlib.contextmanager
def new_shard(store: Path, number: int) -> Iterator[Path]:
    """An empty directory that becomes the shard of this number when the block ends well, if there is none by then."""
    directory = store / shard_directory(number)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        # A directory that mkdtemp makes is closed to others, who are to read the store.
        (scratch / "fresh").mkdir()
        yield scratch / "fresh"
        try:
            os.rename(scratch / "fresh", directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def files_hash(directory: Path) -> str:
    """The hash of a shard: sha256 over a line for each of its files, with the file's hash and name."""
    lines = [f"{sha256_of(file)} {file.name}\n" for file in sorted(directory.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def changed_shards(store: Path, shards: Sequence[Shard]) -> list[str]:
    """The directories of those shards whose files do not have the hash that was taken when they were written."""
    return [each.directory for each in shards if each.sha256 and files_hash(store / each.directory) != each.sha256]


class Pieces(NamedTuple):
    """The stretches of shards that make up the events of a store, in its order."""

    starts: Int64[np.ndarray, " pieces_plus_1"]
    """First event of each piece in the store's order, and the number of events."""
    shards: Int32[np.ndarray, " pieces"]
    places: Int64[np.ndarray, " pieces"]
    """Place of each piece's first event in the arrays of its shard."""


class ShardedArray:
    """Values of a store's events that lie in several shards; read like a NumPy array of one dimension.

    >>> pieces = Pieces(np.array([0, 2, 3, 5]), np.array([0, 1, 0]), np.array([0, 0, 3]))
    >>> array = ShardedArray(pieces, [np.array([1, 2, 3, 4, 5]), np.array([9])], "<i4")
    >>> array[:].tolist(), array[[-1, 2]].tolist(), int(array[0])
    ([1, 2, 9, 4, 5], [5, 9], 1)
    """

    ndim = 1

    def __init__(self, pieces: Pieces, parts: Sequence[np.ndarray], dtype: Any):
        self.pieces, self.parts, self.dtype = pieces, parts, np.dtype(dtype)
        self._arrays = [np.asarray(part) for part in parts]  # slices of a memmap cost three times as much

    def __len__(self) -> int:
        return int(self.pieces.starts[-1])

    @property
    def size(self) -> int:
        return len(self)

    @property
    def shape(self) -> tuple[int]:
        return (len(self),)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._stretch(start, stop) if step == 1 else self[np.arange(start, stop, step)]
        places = np.asarray(key)
        if places.dtype == bool:
            if places.shape != self.shape:
                raise IndexError(f"a mask of shape {places.shape} for {len(self)} events")
            places = np.flatnonzero(places)
        places = places.astype(np.int64, copy=False)
        if places.size and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"places {places.min()} to {places.max()} of {len(self)} events")
        return self._gathered(np.where(places < 0, places + len(self), places).ravel()).reshape(places.shape)[()]

    def _gathered(self, places: Int64[np.ndarray, " n"]) -> np.ndarray:
        piece = np.searchsorted(self.pieces.starts, places, side="right") - 1
        shards = self.pieces.shards[piece]
        places = places + (self.pieces.places - self.pieces.starts[:-1])[piece]
        values = np.empty(len(places), self.dtype)
        for shard in np.flatnonzero(np.bincount(shards)):
            is_here = shards == shard
            values[is_here] = self._arrays[shard][places[is_here]]
        return values

    def _stretch(self, start: int, stop: int) -> np.ndarray:
        if stop <= start:
            return np.empty(0, self.dtype)
        starts, shards, places = self.pieces
        first, last = np.searchsorted(starts, (start, stop - 1), side="right") - 1
        bounds = np.clip(starts[first : last + 2], start, stop)
        begins = places[first : last + 1] + bounds[:-1] - starts[first : last + 1]
        pieces = np.stack([shards[first : last + 1], begins, begins + np.diff(bounds)], axis=1).tolist()
        parts = [self._arrays[shard][begin:end] for shard, begin, end in pieces]
        if any(array.dtype != self.dtype for array in self._arrays):
            return np.concatenate(parts, dtype=self.dtype)
        # In two thirds of the time, and copied outside the interpreter's lock.
        return np.frombuffer(bytearray().join(parts), self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def __iter__(self) -> Iterator[Any]:
        for block in event_blocks(self):
            yield from block

    def tolist(self) -> list[Any]:
        return self[:].tolist()

    def copy(self) -> np.ndarray:
        return self[:]

    def astype(self, dtype: Any, copy: bool = True) -> np.ndarray:
        return self[:].astype(dtype, copy=False)

    def min(self, **options: Any) -> Any:
        return np.min([block.min() for block in event_blocks(self)], **options)

    def max(self, **options: Any) -> Any:
        return np.max([block.max() for block in event_blocks(self)], **options)

    def release(self) -> None:
        for part in self.parts:
            release(part)


def release(array: Any) -> None:
    """Takes the pages of a memory-mapped array out of this process's memory; they are mapped again when read."""
    if isinstance(array, ShardedArray):
        array.release()
    elif isinstance(getattr(array, "base", None), mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def event_blocks(array: Any) -> Iterator[np.ndarray]:
    """An array over events in blocks, of which one is in memory at a time, however many events there are."""
    for start in range(0, len(array), EVENTS_PER_BLOCK):
        yield array[start : start + EVENTS_PER_BLOCK]
        release(array)


def user_blocks(offsets: Int[np.ndarray, " n_users_plus_1"], *arrays: Any) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """The users in blocks, each with what arrays over events hold of its users' events; one block is in memory."""
    for users in blocks(np.diff(offsets), EVENTS_PER_BLOCK):
        yield users, [array[offsets[users.start] : offsets[users.stop]] for array in arrays]
        for array in arrays:
            release(array)


def values_at(array: Any, places: Int[np.ndarray, " n"]) -> np.ndarray:
    """`array[places]`, without a trace in memory of the pages that were read; for many places, in order."""
    values = np.empty(len(places), array.dtype)
    for start in range(0, len(places), PLACES_PER_BLOCK):
        values[start : start + PLACES_PER_BLOCK] = array[places[start : start + PLACES_PER_BLOCK]]
        release(array)
    return values


class EventArrays(NamedTuple):
    """The arrays of a store over its events."""

    items: Int32[np.ndarray, " n_events"]
    offsets: Int64[np.ndarray, " n_users_plus_1"]
    columns: dict[str, np.ndarray]


class Histories(NamedTuple):
    """Where the events of each user lie."""

    shards: Int32[np.ndarray, " n_users"]
    """Place of the user's shard among the shards."""
    starts: Int64[np.ndarray, " n_users"]
    """Place of the user's first event in the arrays of that shard."""
    lengths: Int64[np.ndarray, " n_users"]


def open_shards(
    store: Path, shards: Sequence[Shard], dtypes: Mapping[str, str], histories: Histories | None = None
) -> EventArrays:
    """The arrays of these shards as one, memory-mapped; `dtypes` are those of the event columns.

    They are the events of the users of `histories`, of all in the shards if not given.

    Raises:
      InputError: a file is missing or damaged.
    """
    places = [store / shard.directory for shard in shards]
    files = [array_files(place, dtypes) for place in places]
    parts = {
        "item": [open_array(file["item"], "<i4", shard.n_events) for file, shard in zip(files, shards, strict=True)]
    }
    for name in dtypes:
        parts[name] = [
            open_array(file[name], shard.columns[name], shard.n_events)
            for file, shard in zip(files, shards, strict=True)
        ]
    if histories is None and len(shards) == 1 and not shards[0].is_appended:
        arrays = {name: part for name, [part] in parts.items()}
        return EventArrays(arrays.pop("item"), _open_offsets(places[0], shards[0]), arrays)
    pieces, joined = _join(find_histories(store, shards) if histories is None else histories)
    # They are read as arrays are, though they are none; whoever calculates with all of one calls np.asarray.
    sharded: dict[str, Any] = {
        name: ShardedArray(pieces, parts[name], dtype) for name, dtype in {"item": "<i4", **dtypes}.items()
    }
    return EventArrays(sharded.pop("item"), joined, sharded)


def _open_offsets(directory: Path, shard: Shard) -> Int64[np.ndarray, " n_users_plus_1"]:
    offsets = open_array(directory / "offsets.npy", "<i8", shard.n_users + 1)
    # A wrong offset gives a user events of another user.
    if not rises(offsets, shard.n_events):
        raise InputError(f"{directory / 'offsets.npy'} does not rise from 0 to n_events={shard.n_events}; {REMEDY}")
    return offsets


def find_histories(store: Path, shards: Sequence[Shard]) -> Histories:
    """Where the events of each user of the shards lie: in the latest shard that has the user.

    Raises:
      InputError: offsets, or rows of an appended shard, are missing or damaged.
    """
    n_users = sum(shard.n_keys for shard in shards)
    starts, lengths, shard_of = np.zeros(n_users, np.int64), np.zeros(n_users, np.int64), np.zeros(n_users, np.int32)
    n_known = 0
    for number, shard in enumerate(shards):
        ends = _open_offsets(store / shard.directory, shard)
        rows: Any = slice(n_known, n_known + shard.n_users)
        if shard.is_appended:
            rows = _open_rows(store / shard.directory / ROWS_FILE, shard, n_known)
        n_known += shard.n_keys
        starts[rows], lengths[rows], shard_of[rows] = ends[:-1], np.diff(ends), number
    return Histories(shard_of, starts, lengths)


def _join(histories: Histories) -> tuple[Pieces, Int64[np.ndarray, " n_users_plus_1"]]:
    shard_of, starts, lengths = histories
    joined = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=joined[1:])
    has_events = lengths > 0
    starts, lengths, shard_of = starts[has_events], lengths[has_events], shard_of[has_events]
    goes_on = (shard_of[1:] == shard_of[:-1]) & (starts[1:] == (starts + lengths)[:-1])
    first = np.flatnonzero(np.append(np.ones(min(1, len(starts)), bool), ~goes_on))
    begins = joined[:-1][has_events][first]
    return Pieces(np.append(begins, joined[-1]), shard_of[first], starts[first]), joined


def _open_rows(file: Path, shard: Shard, n_known: int) -> Int64[np.ndarray, " n_users"]:
    rows = open_array(file, "<i8", shard.n_users)
    n_old = shard.n_users - shard.n_new_users
    news = np.arange(n_known, n_known + shard.n_new_users)
    is_right = np.all(np.diff(rows[:n_old], prepend=-1) > 0) and np.all(rows[:n_old] < n_known)
    if not is_right or not np.array_equal(rows[n_old:], news):
        raise InputError(f"{file} does not name {n_old} of {n_known} users and then new ones; {REMEDY}")
    return rows
