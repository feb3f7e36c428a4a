"""Shards of a store from sorted batches of events, a batch in memory at a time; runs where the batches are."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from seqrec.data.paths import as_input_error
from seqrec.data.ragged import session_numbers
from seqrec.data.shards import ROOT, Shard, files_hash, new_shard, shard_directory, user_blocks
from seqrec.data.store_files import array_files, column_dtype
from seqrec.types import InputError


class ShardPlan(NamedTuple):
    """What the writers of all shards of a store have to know; plain values, for it is sent to other machines."""

    store: str
    """Directory of the store."""
    columns: tuple[str, ...]
    """Event columns."""
    missing: frozenset[str]
    """Those of them that lack values somewhere in the store, so that all shards hold them in one type."""
    n_events: tuple[int, ...]
    """Events of each shard."""
    session_gap_us: int | None = None
    """A pause that parts sessions; their numbers are then one more event column, `session`."""


def write_batches(
    plan: ShardPlan, number: int, batches: Iterable[pa.RecordBatch], user_keys: pa.Array | None = None
) -> Shard:
    """Writes the shard of this number from batches with `user_id`, `item` and the event columns.

    They are sorted: the events of a user lie together, in time order. Users are the keys of the store's users or, with
    `user_keys`, places in it.

    Raises:
      InputError: there are not as many events as planned.
    """
    n_planned = plan.n_events[number]
    users = _Users([], [], 0)
    with new_shard(Path(plan.store), number) as fresh, contextlib.ExitStack() as stack:
        has_sessions = plan.session_gap_us is not None
        files = array_files(fresh, [*plan.columns, *["session"] * has_sessions])
        streams = {name: stack.enter_context(files[name].open("wb")) for name in ("item", *plan.columns)}
        types: dict[str, str] = {}
        for batch in batches:
            for name, stream in streams.items():
                values = event_column(name, pa.chunked_array([batch[name]]), has_missing=name in plan.missing)
                if name not in types:
                    types[name] = "<i4" if name == "item" else column_dtype(name, values.dtype)
                    _write_header(stream, types[name], n_planned)
                stream.write(np.ascontiguousarray(values, types[name]).data)
            users = _with_users(users, batch["user_id"])
        if users.n_events != n_planned:
            raise InputError(
                f"{users.n_events:,} events of {n_planned:,} came; keep the events unchanged while they are prepared"
            )
        offsets = np.append(np.concatenate(users.starts), n_planned)
        if plan.session_gap_us is not None:
            streams["timestamp_us"].flush()
            types["session"] = "<i4"
            _write_sessions(files["session"], files["timestamp_us"], offsets, gap_us=plan.session_gap_us)
        np.save(fresh / "offsets.npy", offsets.astype("<i8"), allow_pickle=False)
        keys = pa.concat_arrays(users.keys)
        keys = keys if user_keys is None else user_keys.take(keys)
        keys = keys.cast(pa.int64() if pa.types.is_integer(keys.type) else pa.large_string())
        pq.write_table(pa.table({"key": keys}), fresh / "users.parquet", write_page_checksum=True)
    types = {name: types[name] for name in files if name != "item"}
    directory = shard_directory(number)
    # The files of a store's only shard become those of the store, which its own hash covers.
    sha256 = files_hash(Path(plan.store) / directory) if len(plan.n_events) > 1 else ""
    return Shard(directory, len(offsets) - 1, n_planned, types, sha256)


def _write_header(stream: BinaryIO, dtype: str, n_events: int) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": (n_events,)}
    np.lib.format.write_array_header_1_0(stream, header)


def _write_sessions(file: Path, times_file: Path, offsets: Int64[np.ndarray, " n"], *, gap_us: int) -> None:
    """Writes the sessions of events whose times are written; in order they need no table, and no sort of one."""
    times = np.load(times_file, mmap_mode="r")
    with file.open("wb") as stream:
        _write_header(stream, "<i4", len(times))
        for users, [user_times] in user_blocks(offsets, times):
            starts = offsets[users.start : users.stop + 1] - offsets[users.start]
            stream.write(np.ascontiguousarray(session_numbers(user_times, starts, gap_us=gap_us), "<i4").data)


def at_root(store: Path, shard: Shard) -> Shard:
    """The only shard of a store, after its files were moved beside the store's manifest."""
    for file in (store / shard.directory).iterdir():
        os.rename(file, store / file.name)
    shutil.rmtree((store / shard.directory).parent)
    return shard._replace(directory=ROOT)


def write_sorted(
    plan: ShardPlan, numbers: Mapping[int, int], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Writes a shard of each stretch of rows with one `_place`; `numbers` has their numbers. Yields what it wrote."""
    for place, rows in itertools.groupby(_by_place(batches), key=lambda batch: batch["_place"][0].as_py()):
        shard = write_batches(plan, numbers[place], rows)
        facts = shard._asdict() | {"columns": dict(shard.columns)}
        yield pa.RecordBatch.from_pydict({"number": [numbers[place]], "shard": [json.dumps(facts)]})


def _by_place(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows in batches of one `_place`."""
    for batch in batches:
        ends = np.flatnonzero(np.diff(batch["_place"].to_numpy())) + 1
        for start, end in itertools.pairwise([0, *ends.tolist(), len(batch)]):
            if start < end:
                yield batch.slice(start, end - start)


class _Users(NamedTuple):
    """The users of the batches so far."""

    keys: list[pa.Array]
    starts: list[Int64[np.ndarray, " n"]]
    """The first event of each."""
    n_events: int


def _with_users(users: _Users, column: pa.Array) -> _Users:
    if not len(column):
        return users
    starts_here = np.ones(len(column), bool)
    starts_here[1:] = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    starts_here[0] = not users.n_events or column[0].as_py() != users.keys[-1][-1].as_py()
    places = np.flatnonzero(starts_here)
    if not len(places):
        return users._replace(n_events=users.n_events + len(column))
    users.keys.append(column.take(pa.array(places)))
    users.starts.append(places + users.n_events)
    return users._replace(n_events=users.n_events + len(column))


def event_column(name: str, values: pa.ChunkedArray, *, has_missing: bool = False) -> np.ndarray:
    """The column as a store holds it: where values are missing, here or elsewhere, float64 with NaN for them."""
    if has_missing or values.null_count:
        if not (
            pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
        ):
            raise InputError(f"event column {name!r} is {values.type}, a store holds numbers; leave the column out")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        with as_input_error(
            f"event column {name!r} has missing values and integers beyond 2^53; fill in what is missing",
            pa.ArrowInvalid,
        ):
            return values.cast(pa.float64()).to_numpy()
    return values.to_numpy()
