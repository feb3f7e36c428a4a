"""Directories in a bucket, s3:// or gs://: a local copy is changed and written back to the bucket."""

import contextlib
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seqrec.data.bucket_files import (
    CHECKPOINT,
    CHECKPOINT_MARKER,
    OF_A_PART,
    PARTS,
    STORE_MARKER,
    UNIT,
    Bucket,
    explained,
    get,
    is_chunk,
    is_marker,
    is_remains,
    open_bucket,
)
from seqrec.data.paths import is_in_bucket
from seqrec.types import InputError, Part

COPY_OF = "copy-of"
"""Name of the file beside a copy that says what it is a copy of."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_FOR_PARTS = 120.0
"""How long the first process waits while nothing more of a checkpoint arrives from the others."""

logger = logging.getLogger("seqrec")


Stamp = tuple[int, int]
"""A file's size in bytes and the time of its last change in nanoseconds."""


@dataclass(frozen=True)
class _Copy:
    """A working copy that is open."""

    bucket: Bucket
    directory: Path
    part: Part
    """Of the processes that write the directory together."""
    synced: dict[str, Stamp | None] = field(default_factory=dict)
    """Stamp of each file as the bucket has it; None for files that are not here."""
    lock: threading.RLock = field(default_factory=threading.RLock)


_OPEN: dict[Path, _Copy] = {}
"""Working copies of this process that are written back."""


@contextlib.contextmanager
def working_copy(
    path: Path,
    *,
    read_only: bool = False,
    follow: bool = False,
    fetch: str | tuple[str, ...] = "",
    part: Part | None = None,
) -> Iterator[Path]:
    """`path` itself, or a copy of a directory in a bucket, in the system's temporary directory.

    It has the files whose names begin with `fetch`. Changes to a `read_only` copy have no effect.

    Changes are written to the bucket when the block ends, however it ends; with `follow`, also while it runs. A store
    and a checkpoint in the bucket are complete or absent: the file that marks them complete is written last. If the
    bucket cannot be written the copy stays, and the error names it.

    Several processes write one directory if each names its `part`: the first writes all that is in its copy, the others
    add their parts of checkpoints, which the first marks complete once all have arrived. Of checkpoints their copies
    have no arrays but those that were written here or fetched with `fetch_chunks`.

    Raises:
      InputError: the bucket cannot be read or written.
    """
    if not is_in_bucket(path):
        yield path
        return
    bucket = open_bucket(path)
    scratch = Path(tempfile.mkdtemp(prefix="seqrec-"))
    directory = scratch / path.name
    directory.mkdir()
    (scratch / COPY_OF).write_text(bucket.address)
    copy = _Copy(bucket, directory, part or Part())
    try:
        _fetch(copy, fetch)
        if not read_only and copy.part.n_parts > 1 and copy.part.number == 0:
            _remove_remains(copy)  # now, while no other process sends parts of the same names
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    try:
        if not read_only:
            _OPEN[directory] = copy
        with _write_back_during(copy) if follow and not read_only else contextlib.nullcontext():
            yield directory
    except InputError as error:
        raise InputError(str(error).replace(str(directory), bucket.address)) from error
    finally:
        if not read_only:
            del _OPEN[directory]
            try:
                _write_back_all(copy)
            except InputError as error:
                raise InputError(f"{error}; all of it lies in {directory}, copy it from there") from error
        shutil.rmtree(scratch, ignore_errors=True)


def is_in_parts(directory: Path) -> bool:
    """Whether `directory` is a working copy of several processes, each with its own part of the checkpoints."""
    return directory in _OPEN and _OPEN[directory].part.n_parts > 1


def write_back(directory: Path) -> None:
    """Writes to the bucket at once what has changed in a working copy that is open for writing.

    Raises:
      InputError: the bucket cannot be written, or the part of another process does not arrive.
    """
    _write_back_all(_OPEN[directory])


def fetch_descriptions(directory: Path) -> None:
    """Fetches what the first process has written of whole checkpoints, except for arrays.

    What this process has written of the same is replaced: times differ, for instance.

    Raises:
      InputError: the bucket cannot be read.
    """
    copy = _OPEN[directory]
    with explained(copy.bucket.address):
        names = copy.bucket.sizes("checkpoints")
        whole = {name for name in names if not is_chunk(name, names) and not is_remains(name, names)}
        _fetch_more(copy, {name for name in whole if not copy.synced.get(name)})


def fetch_chunks(directory: Path, names: Collection[str]) -> bool:
    """Fetches the files of these names that a working copy does not have, and says whether there were any.

    Raises:
      InputError: the bucket cannot be read, or has no such file.
    """
    missing = {name for name in names if not (directory / name).is_file()}
    _fetch_more(_OPEN[directory], missing)
    return bool(missing)


def original(path: Path) -> str:
    """The address that `path` is a working copy of, or `path` itself."""
    return (path.parent / COPY_OF).read_text() if is_copy(path) else str(path)


def is_copy(path: Path) -> bool:
    """Whether `path` is a working copy, which no other process sees."""
    return (path.parent / COPY_OF).is_file()


# From the bucket, and back


def _fetch(copy: _Copy, prefix: str | tuple[str, ...]) -> None:
    """Fetches the complete files that begin with `prefix`."""
    with explained(copy.bucket.address):
        sizes = {name: size for name, size in copy.bucket.sizes().items() if name.startswith(prefix)}
        whole = {name: size for name, size in sizes.items() if not is_remains(name, sizes)}
        if copy.part.n_parts > 1:
            whole = {name: size for name, size in whole.items() if not is_chunk(name, sizes)}
        get(copy.bucket, copy.directory, whole)
    stamps = _stamps(copy)
    copy.synced.update({name: stamps.get(name) for name in sizes})


def _fetch_more(copy: _Copy, names: Collection[str]) -> None:
    # Under the lock, or what has just been fetched would be sent back.
    with copy.lock, explained(copy.bucket.address):
        units = {unit[0] for name in names if (unit := UNIT.match(name))}
        sizes = {name: size for unit in units for name, size in copy.bucket.sizes(unit).items()}
        if absent := set(names) - sizes.keys():
            raise InputError(f"{copy.bucket.place(min(absent))} is missing")
        get(copy.bucket, copy.directory, {name: sizes[name] for name in names})
        stamps = _stamps(copy)
        copy.synced.update({name: stamps.get(name) for name in names})


def _stamps(copy: _Copy) -> dict[str, Stamp]:
    """Name of each file that is not being written -> its stamp."""
    stamps = {}
    for file in copy.directory.rglob("*"):
        name = file.relative_to(copy.directory)
        unfinished = any(
            (part.startswith(".") and part != ".zarray") or "orbax-checkpoint-tmp" in part for part in name.parts
        )
        if file.is_file() and not unfinished and file.suffix != ".partial":
            stat = file.stat()
            stamps[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return stamps


def _changed(copy: _Copy, stamps: dict[str, Stamp]) -> set[str]:
    """The files that this process writes to the bucket and that have changed since."""
    changed = {name for name, stamp in stamps.items() if copy.synced.get(name) != stamp}
    return changed if copy.part.number == 0 else set(filter(OF_A_PART.fullmatch, changed))


def _write_back_all(copy: _Copy) -> None:
    """As `_write_back`, waiting for the parts of the other processes."""
    n_here, deadline = -1, 0.0
    while waits_for := _write_back(copy):
        with explained(copy.bucket.address):
            n_before, n_here = n_here, len(copy.bucket.sizes("checkpoints"))
        if n_here != n_before:
            deadline = time.monotonic() + SECONDS_FOR_PARTS
        elif time.monotonic() > deadline:
            raise InputError(f"{copy.bucket.place(waits_for)} does not arrive; see the messages of the other processes")
        time.sleep(min(SECONDS_BETWEEN_LOOKS, 0.2))


def _write_back(copy: _Copy) -> str | None:
    """Writes to the bucket what has changed in the copy; returns the file of another process that a checkpoint lacks.

    The bucket is complete at every moment: new files are written before the marker of their directory, and a
    checkpoint is removed only once the one that replaces it is there.
    """
    bucket, synced = copy.bucket, copy.synced
    with copy.lock, explained(bucket.address):
        stamps = _stamps(copy)
        changed = _changed(copy, stamps)
        if copy.part.number == 0:
            rewritten = {marker for marker in synced if is_marker(marker) and _is_rewritten(marker, changed, synced)}
            _remove(bucket, synced, rewritten)
            changed |= rewritten & stamps.keys()
        markers = {name for name in changed if is_marker(name)}
        _put(copy, {name: stamps[name] for name in changed - markers})
        current = _stamps(copy)
        # A checkpoint that was removed here meanwhile may have been sent in part.
        markers = {name for name in markers if all(current.get(each) for each in _in_directory_of(name, stamps))}
        waits_for = {name: missing for name in markers if (missing := _missing_part(copy, name))}
        _put(copy, {name: stamps[name] for name in markers - waits_for.keys()})
        gone = {name for name in synced if name not in current and not _is_going(name, current)}
        if copy.part.number:
            for name in gone:
                del synced[name]
        elif not waits_for:
            _remove(bucket, synced, {name for name in gone if is_marker(name)})
            _remove(bucket, synced, gone & synced.keys())
        return min(waits_for.values(), default=None)


def _missing_part(copy: _Copy, marker: str) -> str | None:
    """The file by which another process completes the checkpoint of a marker, as long as the bucket lacks it."""
    unit = marker.removesuffix(CHECKPOINT_MARKER)
    parts = copy.directory / unit / PARTS
    if not marker.endswith(CHECKPOINT_MARKER) or copy.part.n_parts == 1 or not parts.is_file():
        return None
    sizes = copy.bucket.sizes(unit)
    for name in json.loads(parts.read_text()):
        if unit + name not in sizes:
            return unit + name
    # The first process removes a checkpoint for all.
    copy.synced.update({name: None for name in sizes if name not in copy.synced})
    return None


def _is_rewritten(marker: str, changed: set[str], synced: Mapping[str, Stamp | None]) -> bool:
    """Whether what the marker calls complete is not so while these files are sent.

    A store to which an append brings new files is complete as it was, until the manifest names them.
    """
    names = _in_directory_of(marker, changed)
    if marker.endswith(STORE_MARKER):
        names = [name for name in names if name in synced and name != marker and not name.endswith(".html")]
    return bool(names)


def _in_directory_of(marker: str, names: Iterable[str]) -> list[str]:
    """The names in and under the directory of a marker."""
    return [name for name in names if name.startswith(marker[: marker.rfind("/") + 1])]


def _is_going(name: str, stamps: dict[str, Stamp]) -> bool:
    """Whether a file is not here because its checkpoint is being removed, as a whole then, or is another process's."""
    unit = CHECKPOINT.match(name)
    return unit is not None and unit[0] + CHECKPOINT_MARKER in stamps


def _put(copy: _Copy, stamps: dict[str, Stamp]) -> None:
    names = sorted(stamps)
    if names:
        copy.bucket.files.put(
            [str(copy.directory / name) for name in names], [copy.bucket.place(name) for name in names]
        )
        copy.synced.update(stamps)


def _remove_remains(copy: _Copy) -> None:
    with explained(copy.bucket.address):
        _remove(copy.bucket, copy.synced, {name for name in copy.synced if is_remains(name, copy.synced)})


def _remove(bucket: Bucket, synced: dict[str, Stamp | None], names: set[str]) -> None:
    if names:
        bucket.files.rm([bucket.place(name) for name in sorted(names)])
    for name in names:
        del synced[name]


@contextlib.contextmanager
def _write_back_during(copy: _Copy) -> Iterator[None]:
    """Inside, a thread writes back what has changed, unless that is only another line of metrics."""
    done = threading.Event()
    last_warning = ""

    def follow() -> None:
        nonlocal last_warning
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            try:
                if _changed(copy, _stamps(copy)) - {"metrics.jsonl"}:
                    _write_back(copy)
                last_warning = ""
            except (FileNotFoundError, InputError) as error:
                # A file of a checkpoint may go between being found and being sent.
                if not is_local(error) and last_warning != str(error):
                    last_warning = str(error)
                    logger.warning("bucket      %s; training goes on, and this is tried again", error)

    def is_local(error: Exception) -> bool:
        cause = error.__cause__ or error
        return isinstance(cause, FileNotFoundError) and str(cause.filename).startswith(str(copy.directory))

    thread = threading.Thread(target=follow, name="bucket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
