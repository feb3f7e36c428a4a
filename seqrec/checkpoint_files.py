"""Files of a checkpoint: which are whole, and, where a bucket joins the processes, which of them sends and fetches."""

import itertools
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seqrec.data.bucket_files import OF_A_PART, PARTS
from seqrec.data.buckets import fetch_chunks, fetch_descriptions, is_copy, is_in_parts, write_back
from seqrec.files import sha256_of
from seqrec.sharding import agree_on_highest, is_first, on_first
from seqrec.types import InputError

log = logging.getLogger("seqrec")

DIGESTS = "digests.json"
"""In each checkpoint: name of each of its files -> sha256 of what was saved."""


def is_private(directory: Path) -> bool:
    """Whether there are other processes that do not see this directory of a run's checkpoints."""
    return jax.process_count() > 1 and is_copy(directory.parent)


def completed(directory: Path) -> Callable[[], None]:
    """What to call before a checkpoint gets its final name: it writes the digests of its files into it."""
    if not is_in_parts(directory.parent):
        return lambda: _write_digests(directory) if is_first() else None
    # All processes save as often as one another: a name for each time tells their parts from those of other times.
    start, numbers = on_first(lambda: secrets.token_hex(4)), itertools.count()
    return lambda: _write_digests_of_part(directory, f"digests-{start}-{next(numbers)}")


def _write_digests(directory: Path) -> None:
    for checkpoint in directory.glob("*.orbax-checkpoint-tmp*"):
        (checkpoint / DIGESTS).write_text(json.dumps(_digests(checkpoint)))


def _write_digests_of_part(directory: Path, name: str) -> None:
    """The digests of what this process adds to a checkpoint, to which all others add their parts."""
    if is_first():
        others = [f"{name}-{number}.json" for number in range(1, jax.process_count())]
        for checkpoint in directory.glob("*.orbax-checkpoint-tmp*"):
            (checkpoint / PARTS).write_text(json.dumps(others))
        _write_digests(directory)
        return
    for checkpoint in directory.glob("*.orbax-checkpoint-tmp*"):
        digests = {
            file: digest
            for file, digest in _digests(checkpoint).items()
            if OF_A_PART.fullmatch(f"checkpoints/0/{file}")
        }
        (checkpoint / f"{name}-{jax.process_index()}.json").write_text(json.dumps(digests))


def _digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        # orbax writes the others later, and reads nothing from them.
        is_other = path.match("digests*.json") or path.name in (PARTS, "commit_success.txt", "_CHECKPOINT_METADATA")
        if path.is_file() and not is_other:
            digests[path.relative_to(checkpoint).as_posix()] = sha256_of(path)
    return digests


def damage(checkpoint: Path) -> str | None:
    """Which file is missing or not as it was saved; None where all are, and of a checkpoint without digests.

    tensorstore does not notice changed bytes inside an array.
    """
    if not (checkpoint / DIGESTS).is_file():
        return None
    saved: dict[str, str] = {}
    try:
        others = json.loads((checkpoint / PARTS).read_text()) if (checkpoint / PARTS).is_file() else []
        for name in (DIGESTS, *others):
            if not (checkpoint / name).is_file():
                return f"{name} is missing or changed"
            saved |= json.loads((checkpoint / name).read_text())
    except (ValueError, TypeError):
        return f"{DIGESTS} is damaged"
    now = _digests(checkpoint)
    # A process has no more of the others' parts than it needs.
    expected = saved.keys() & now.keys() if is_in_parts(checkpoint.parent.parent) else saved
    return next((f"{name} is missing or changed" for name in expected if now.get(name) != saved[name]), None)


def remove_damaged(directory: Path) -> None:
    """Removes the checkpoints that are damaged, with a warning."""
    for checkpoint in directory.glob("[0-9]*"):
        reason = damage(checkpoint)
        if reason is None and (metrics := checkpoint / "metrics" / "metrics").is_file():
            # A checkpoint of an earlier version has no digests, and orbax opens none if one has damaged metrics.
            try:
                json.loads(metrics.read_text())
            except ValueError:
                reason = "metrics is damaged"
        if reason is not None:
            log.warning(
                "damaged     the checkpoint of step %s cannot be read (%s); it is removed", checkpoint.name, reason
            )
            shutil.rmtree(checkpoint, ignore_errors=True)


def exchange_parts(directory: Path) -> None:
    """Completes in the bucket what all processes have saved, and fetches its descriptions, where each has its parts.

    Raises:
      InputError: in all processes, if the bucket cannot be written or read in one.
    """
    run = directory.parent
    if not is_in_parts(run):
        return
    # The first one last, since it marks a checkpoint complete when it has the parts of all others.
    _in_all(lambda: None if is_first() else write_back(run))
    _in_all(lambda: write_back(run) if is_first() else None)
    _in_all(lambda: fetch_descriptions(run))


def _in_all(action: Callable[[], None]) -> None:
    failure: InputError | None = None
    try:
        action()
    except InputError as error:
        failure = error
    if agree_on_highest(int(failure is not None)):
        raise failure or InputError("another process stopped; see its message")


def fetch_parts(checkpoint: Path, arrays: Mapping[str, Any]) -> None:
    """Fetches the parts of arrays, by their names, that this process's devices hold, where each has its parts.

    Raises:
      ValueError: in all processes, if a part is missing or damaged in one.
    """
    if not is_in_parts(checkpoint.parent.parent):
        return
    names = []
    for name, array in arrays.items():
        description = checkpoint / "state" / name / ".zarray"
        if description.is_file():  # otherwise one process has saved the whole array
            places = _shard_places(array, json.loads(description.read_text())["chunks"])
            names += [f"checkpoints/{checkpoint.name}/state/{name}/{place}" for place in places]
    reason: str | None = None
    try:
        if fetch_chunks(checkpoint.parent.parent, names):
            reason = damage(checkpoint)
    except InputError as error:
        reason = str(error)
    if agree_on_highest(int(reason is not None)):
        raise ValueError(reason or "another process cannot read its part")


def _shard_places(array: Any, chunks: Sequence[int]) -> set[str]:
    """Places, in the grid of `chunks` that an array is stored in, of what lies on this process's devices.

    >>> import numpy as np
    >>> sorted(_shard_places(np.zeros((4, 6)), [2, 6])), _shard_places(np.zeros(()), [])
    (['0.0', '1.0'], {'0'})
    """
    shape, sharding = array.shape, getattr(array, "sharding", None)
    parts = (
        [(slice(None),) * len(shape)] if sharding is None else sharding.addressable_devices_indices_map(shape).values()
    )
    places = set()
    for part in parts:
        ranges = [
            range((cut.start or 0) // chunk, -(-(size if cut.stop is None else cut.stop) // chunk))
            for cut, size, chunk in zip(part, shape, chunks, strict=True)
        ]
        places |= {".".join(map(str, place)) or "0" for place in itertools.product(*ranges)}
    return places
