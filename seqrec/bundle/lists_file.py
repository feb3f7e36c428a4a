"""Lists for all users of a file, written part by part, so that a restart goes on where a killed process was."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqrec.bundle.histories import consecutive_rows
from seqrec.bundle.histories_file import HistoriesFile, UserPart
from seqrec.bundle.loading import Bundle
from seqrec.data.paths import is_in_bucket
from seqrec.data.store_files import key_column
from seqrec.files import address_of, make_directory, read_object, replacing, write_json
from seqrec.report.list_files import list_table, table_writer, vectors_writer
from seqrec.types import InputError

USERS_PER_PART = 4096

log = logging.getLogger("seqrec")


class ListOptions(NamedTuple):
    """What lists are wanted."""

    k: int = 50
    mask_seen: bool | None = None
    """None is as the bundle's run was tested."""
    at_seconds: int | None = None
    """Moment of the query, since 1970; for a model that reads it."""


class Summary(NamedTuple):
    """What was written."""

    n_users: int = 0
    n_rows: int = 0
    """Of the file of lists."""
    n_popular: int = 0
    """Users none of whose items is known, who get the most popular ones."""
    n_unknown: int = 0
    """Events whose item is not known."""
    n_without: int = 0
    """Users who get no list, since no candidate is left."""
    n_vectors: int = 0
    """Users whose vector was written."""

    def __str__(self) -> str:
        """One line.

        >>> print(Summary(n_users=400, n_rows=1200, n_popular=3))
        1,200 rows for 400 users; popular items for 3 users of no known item
        >>> print(Summary(n_users=400, n_vectors=397))
        397 vectors for 400 users
        """
        written = {"{:,} rows": self.n_rows, "{:,} vectors": self.n_vectors}
        more = {
            "popular items for {:,} users of no known item": self.n_popular,
            "{:,} events of unknown items skipped": self.n_unknown,
            "{:,} users without a list": self.n_without,
        }
        what, details = ([text.format(n) for text, n in each.items() if n] for each in (written, more))
        return "; ".join([f"{' and '.join(what) or 'nothing'} for {self.n_users:,} users", *details])


def write_lists(
    bundle: Bundle,
    histories: HistoriesFile,
    options: ListOptions,
    *,
    output: Path | None,
    user_vectors: Path | None = None,
    report: Callable[[int], None] = lambda n_users: None,
    users_per_part: int = USERS_PER_PART,
) -> Summary:
    """Writes one row for each user and place, by the keys of user and item, with rank, score and whether it is popular.

    `output` ends in .csv or .parquet. The vectors of users, in the directory `user_vectors`, are `vectors.npy` with a
    row for each key of `keys.parquet`: users of whom an item is known. Parts are kept beside the output until it is
    complete; a call with the same bundle, histories and options goes on after the last of them, and leaves the same
    files. `report` is told of each part how many users it has.

    Raises:
      InputError: an option cannot be met, or a file cannot be written.
    """
    _check(bundle, histories, options, output, user_vectors)
    kept = Path(f"{output or user_vectors}.parts")
    n_done = _begin(kept, bundle, histories, options, users_per_part, has_vectors=user_vectors is not None)
    item_keys = key_column(bundle.vocabulary.keys) if output is not None else None
    report(min(n_done * users_per_part, histories.n_users))
    for number, part in enumerate(histories.parts(users_per_part=users_per_part, first_part=n_done), start=n_done):
        _write_part(kept, number, bundle, part, options, item_keys=item_keys, vectors=user_vectors is not None)
        report(len(part.users))
    parts = [read_object(kept / f"{number:06}.json") for number in range(-(-histories.n_users // users_per_part))]
    if output is not None:
        _join_lists(kept, len(parts), output)
    if user_vectors is not None:
        _join_vectors(kept, [each["n_vectors"] for each in parts], user_vectors, bundle.facts.d_model)
    shutil.rmtree(kept)
    return Summary(*(sum(each[name] for each in parts) for name in Summary._fields))


def write_item_vectors(bundle: Bundle, directory: Path) -> None:
    """Writes `vectors.npy`, a row an item in float32, and `keys.parquet`, whose column `key` names each row."""
    vectors = bundle.item_vectors()
    with vectors_writer(directory, n_rows=len(vectors), d_model=vectors.shape[1]) as write:
        write(key_column(bundle.vocabulary.keys), vectors)


def _check(
    bundle: Bundle, histories: HistoriesFile, options: ListOptions, output: Path | None, user_vectors: Path | None
) -> None:
    facts = bundle.facts
    if not 1 <= options.k <= facts.n_items:
        raise InputError(f"k={options.k} is not in 1..{facts.n_items}, the number of items of {bundle.path}; lower k")
    if facts.times != "none" and not histories.has_times:
        raise InputError(f"{bundle.path} reads times, and the histories have none; name their time column")
    if facts.times == "query":
        if options.at_seconds is None:
            raise InputError(f"{bundle.path} reads the time of the query; give it by --at, such as --at 2026-01-31")
        if options.at_seconds < histories.last_seconds:
            at, last = (np.datetime64(each, "s") for each in (options.at_seconds, histories.last_seconds))
            raise InputError(f"--at {at} is before the newest event, of {last}; give a later moment, or fewer events")
    for path in (output, user_vectors):
        if path is not None and is_in_bucket(path):
            raise InputError(f"{address_of(path)} is in a bucket; write to a local path and copy it there")
    if output is not None and output.suffix not in (".csv", ".parquet"):
        raise InputError(f"{output} ends neither in .csv nor in .parquet; give it one of these endings")


def _begin(
    kept: Path,
    bundle: Bundle,
    histories: HistoriesFile,
    options: ListOptions,
    users_per_part: int,
    *,
    has_vectors: bool,
) -> int:
    """How many parts of the same request are there; those of another are removed."""
    settings = [
        bundle.facts.content_hash,
        bundle.search,
        histories.fingerprint,
        list(options),
        users_per_part,
        has_vectors,
    ]
    request = {"request": hashlib.sha256(json.dumps(settings).encode()).hexdigest()}
    file = kept / "request.json"
    if kept.exists() and not file.is_file() and (not kept.is_dir() or any(kept.iterdir())):
        raise InputError(f"{kept} is there and has no parts of lists; move it away, for parts are kept there")
    if file.is_file() and read_object(file, request=str) != request:
        log.info("removed     %s: parts of lists for other histories or options", kept)
        shutil.rmtree(kept)
    make_directory(kept)
    write_json(file, request)
    n_done = 0
    while (kept / f"{n_done:06}.json").is_file():
        n_done += 1
    if n_done:
        log.info("goes on     after %s users", f"{min(n_done * users_per_part, histories.n_users):,}")
    return n_done


def _write_part(
    kept: Path,
    number: int,
    bundle: Bundle,
    part: UserPart,
    options: ListOptions,
    *,
    item_keys: pa.Array | None,
    vectors: bool,
) -> None:
    is_known = part.items.values > 0
    items = part.items.keep(is_known)
    seconds = None if bundle.facts.times == "none" or part.seconds is None else part.seconds.keep(is_known)
    if seconds is not None and bundle.facts.times == "query":
        assert options.at_seconds is not None
        ends = np.cumsum(seconds.lengths)
        seconds = consecutive_rows(np.insert(seconds.values, ends, options.at_seconds), seconds.lengths + 1)
    has_history = items.lengths > 0
    counts: dict[str, Any] = {
        "n_users": len(part.users),
        "n_rows": 0,
        "n_popular": 0 if item_keys is None else int(np.sum(~has_history)),
        "n_unknown": int(np.sum(~is_known)),
        "n_without": 0,
        "n_vectors": int(np.sum(has_history)) * vectors,
    }
    if item_keys is not None:
        ids, scores = bundle.top_ids(
            items, options.k, allow=part.allow, exclude=part.exclude, seconds=seconds, mask_seen=options.mask_seen
        )
        table = list_table(part.users, item_keys, ids, scores)
        is_popular = np.repeat(~has_history, np.count_nonzero(ids, axis=1))
        table = table.append_column("popular", pa.array(is_popular))
        counts |= {"n_rows": table.num_rows, "n_without": int(np.sum(ids[:, 0] == 0))}
        with replacing(kept / f"{number:06}.parquet") as partial:
            pq.write_table(table, partial)
    if vectors:
        rows = np.flatnonzero(has_history)
        states = bundle.states(items.take(rows), seconds=None if seconds is None else seconds.take(rows))
        with replacing(kept / f"{number:06}.npy") as partial, partial.open("wb") as stream:
            np.save(stream, states, allow_pickle=False)
        with replacing(kept / f"{number:06}.keys.parquet") as partial:
            pq.write_table(pa.table({"key": part.users.take(pa.array(rows))}), partial)
    # The last of a part's files: a part that has it is complete.
    write_json(kept / f"{number:06}.json", counts)


def _join_lists(kept: Path, n_parts: int, output: Path) -> None:
    make_directory(output.parent)
    with table_writer(output) as write:
        for number in range(n_parts):
            write(pq.read_table(kept / f"{number:06}.parquet"))


def _join_vectors(kept: Path, sizes: list[int], directory: Path, d_model: int) -> None:
    with vectors_writer(directory, n_rows=sum(sizes), d_model=d_model) as write:
        for number in range(len(sizes)):
            keys = pq.read_table(kept / f"{number:06}.keys.parquet")["key"]
            write(keys, np.load(kept / f"{number:06}.npy", allow_pickle=False))
