"""Directories in a bucket, s3:// or gs://: a local copy is changed and written back to the bucket."""

import contextlib
import errno
import functools
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from seqrec.data.directories import move_into_place
from seqrec.data.paths import as_input_error, first_line, is_in_bucket
from seqrec.files import address_of
from seqrec.types import InputError

PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "memory": ("fsspec", "s3")}
"""Protocol -> its package and the extra that installs it. memory:// exists only in this process, for tests."""
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "run `gcloud auth application-default login`, or give the machine a service account",
}
ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}
STORE_MARKER = "manifest.json"
CHECKPOINT_MARKER = "_CHECKPOINT_METADATA"
CHECKPOINT = re.compile(r"checkpoints/\d+/")
UNIT = re.compile(rf"{CHECKPOINT.pattern}|store/")
"""Directories of a run that are complete or absent; one is complete while it holds its marker."""
SHARED = (".npy", ".parquet")
"""Ends of the names of a store's files that appends leave as they are."""
COPY_OF = "copy-of"
"""Name of the file beside a copy that says what it is a copy of."""
SECONDS_BETWEEN_LOOKS = 1.0

logger = logging.getLogger("seqrec")


class Bucket(NamedTuple):
    """A directory in a bucket."""

    address: str
    files: Any
    """fsspec's file system of its protocol."""

    def place(self, name: str) -> str:
        return f"{self.address}/{name}"

    def sizes(self) -> dict[str, int]:
        """Name of each file under the directory -> its size in bytes; empty if there is none."""
        self.files.invalidate_cache()
        root = self.files._strip_protocol(self.address).rstrip("/") + "/"
        infos = self.files.find(self.address, detail=True)
        # An object whose name ends in a slash is a folder that a console made.
        return {name.removeprefix(root): info["size"] for name, info in infos.items() if name.startswith(root)}


Stamp = tuple[int, int]
"""A file's size in bytes and the time of its last change in nanoseconds."""


@contextlib.contextmanager
def working_copy(
    path: Path, *, read_only: bool = False, follow: bool = False, fetch: str | tuple[str, ...] = ""
) -> Iterator[Path]:
    """`path` itself, or a copy of a directory in a bucket, in the system's temporary directory.

    It has the files whose names begin with `fetch`. Changes to a `read_only` copy have no effect.

    Changes to the copy are written to the bucket when the block ends, however it ends; with `follow`, also while it
    runs. A store and a checkpoint in the bucket are complete or absent: the file that marks them complete is written
    last. If the bucket cannot be written the copy stays, and the error names it.

    Raises:
      InputError: the bucket cannot be read or written.
    """
    if not is_in_bucket(path):
        yield path
        return
    bucket = _open_bucket(path)
    scratch = Path(tempfile.mkdtemp(prefix="seqrec-"))
    copy = scratch / path.name
    copy.mkdir()
    (scratch / COPY_OF).write_text(bucket.address)
    try:
        synced = _fetch(bucket, copy, fetch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    try:
        with _write_back_during(bucket, copy, synced) if follow and not read_only else contextlib.nullcontext():
            yield copy
    except InputError as error:
        raise InputError(str(error).replace(str(copy), bucket.address)) from error
    finally:
        if not read_only:
            try:
                _write_back(bucket, copy, synced)
            except InputError as error:
                raise InputError(f"{error}; all of it lies in {copy}, copy it from there") from error
        shutil.rmtree(scratch, ignore_errors=True)


def original(path: Path) -> str:
    """The address that `path` is a working copy of, or `path` itself."""
    return (path.parent / COPY_OF).read_text() if is_copy(path) else str(path)


def is_copy(path: Path) -> bool:
    """Whether `path` is a working copy, which no other process sees."""
    return (path.parent / COPY_OF).is_file()


def local_store(directory: Path) -> Path:
    """The local directory of a store: a store in a bucket is fetched once, and kept by its hash.

    It is kept under stores/ in SEQREC_CACHE, or in ~/.cache/seqrec.

    Raises:
      InputError: the bucket cannot be read or holds no store there.
    """
    if not is_in_bucket(directory):
        return directory
    bucket = _open_bucket(directory)
    with _explained(bucket.address):
        sizes = bucket.sizes()
        if STORE_MARKER not in sizes:
            raise InputError(f"{bucket.address} holds no {STORE_MARKER}, so no whole store; name the directory of one")
        manifest = bucket.files.cat_file(bucket.place(STORE_MARKER))
    hashes, directories = [""], {""}
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        facts = json.loads(manifest)
        directories |= {str(shard["directory"]) for shard in facts.get("shards", [])}
        hashes = [str(each["content_hash"]) for each in (facts, *reversed(facts.get("versions", [])))]
    # They name directories, so they must be what hashes are.
    content_hash, *earlier = hashes
    if not all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes):
        raise InputError(f"{bucket.place(STORE_MARKER)} is not a sequence store's manifest; prepare the data again")
    cache = Path(os.environ.get("SEQREC_CACHE") or Path.home() / ".cache" / "seqrec")
    cached = cache / "stores" / content_hash
    if (cached / STORE_MARKER).is_file():
        return cached
    logger.info("fetching    %s into %s", bucket.address, cached)
    with as_input_error(f"{cached.parent} cannot be made ({{error}}); set SEQREC_CACHE to a directory", OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, because a rename is atomic only inside one file system.
        scratch = Path(tempfile.mkdtemp(prefix=".", dir=cached.parent))
    try:
        # Other files are of an append that has not ended, or splits of what the store was before.
        directories |= {name.rpartition("/")[0] for name in sizes if name.startswith(f"splits/{content_hash}/")}
        wanted = {name: size for name, size in sizes.items() if name.rpartition("/")[0] in directories}
        with _explained(bucket.address):
            _get(bucket, scratch, _not_linked(scratch, wanted, [cached.with_name(each) for each in earlier]))
            # Who replaces a store takes its manifest away first; who appends to one replaces it last.
            manifest_after = bucket.files.cat_file(bucket.place(STORE_MARKER))
        if manifest_after != manifest:
            raise InputError(f"{bucket.address} was replaced while it was read; start again")
        move_into_place(scratch, cached)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return cached


def _not_linked(fresh: Path, sizes: Mapping[str, int], earlier: Sequence[Path]) -> dict[str, int]:
    """Links what copies of the store before appends hold, since these leave arrays and tables as they are; the rest."""
    left = dict(sizes)
    for name, size in sizes.items():
        file = next((copy / name for copy in earlier if (copy / name).is_file()), None)
        if file is None or ".." in name.split("/") or not name.endswith(SHARED) or file.stat().st_size != size:
            continue
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(file, fresh / name)
            del left[name]
    return left


def _open_bucket(path: Path) -> Bucket:
    address = address_of(path).rstrip("/")
    protocol, _, rest = address.partition("://")
    if protocol not in PACKAGES:
        raise InputError(f"{address} has the protocol {protocol!r}; known are s3:// and gs://")
    if "/" not in rest:
        raise InputError(f"{address} names a whole bucket; name a directory in it, such as {address}/run-1")
    package, extra = PACKAGES[protocol]
    # What it would log is in the error, in one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    needs = f'{address} needs the package {package}; pip install "seqrec[{extra}]"'
    # Its own libraries may refuse credentials as soon as it starts.
    with _explained(address), as_input_error(needs, ImportError):
        import fsspec

        return Bucket(address, fsspec.filesystem(protocol))


def _explained(address: str) -> AbstractContextManager[None]:
    """Inside, an error of any library below is an `InputError` of one line."""
    return as_input_error(functools.partial(_message_of, address), Exception)


def _message_of(address: str, error: Exception) -> str:
    protocol = address.partition("://")[0]
    kind, message = type(error).__name__, first_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{address} cannot be copied (no space left); free some, or set TMPDIR and SEQREC_CACHE elsewhere"
    if "Credential" in kind or "Refresh" in kind:
        return f"{address}: no credentials that serve ({message}); {CREDENTIALS.get(protocol, 'give some')}"
    if isinstance(error, PermissionError):
        return (
            f"{address}: access is refused ({message}); ask for the right to it, or {CREDENTIALS.get(protocol, 'give')}"
        )
    if isinstance(error, FileNotFoundError):
        return f"{address} cannot be found ({message}); make the bucket first, or correct the address"
    endpoint = ENDPOINTS.get(protocol, "")
    about = f" and {endpoint}={os.environ[endpoint]}" if os.environ.get(endpoint) else ""
    return f"{address} cannot be reached ({kind}: {message}); check the network{about}"


# From the bucket, and back


def _fetch(bucket: Bucket, copy: Path, prefix: str | tuple[str, ...]) -> dict[str, Stamp | None]:
    """Fetches the complete files that begin with `prefix`; returns each file's stamp, None for incomplete ones."""
    with _explained(bucket.address):
        sizes = {name: size for name, size in bucket.sizes().items() if name.startswith(prefix)}
        whole = {name: size for name, size in sizes.items() if not _is_remains(name, sizes)}
        _get(bucket, copy, whole)
    stamps = _stamps(copy)
    return {name: stamps.get(name) for name in sizes}


def _is_remains(name: str, names: dict[str, int]) -> bool:
    unit = UNIT.match(name)
    return unit is not None and not any(unit[0] + marker in names for marker in (CHECKPOINT_MARKER, STORE_MARKER))


def _get(bucket: Bucket, directory: Path, sizes: dict[str, int]) -> None:
    names = [name for name in sizes if not name.endswith("/") and ".." not in name.split("/")]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        bucket.files.get([bucket.place(name) for name in names], [str(directory / name) for name in names])
    for name in names:
        if (directory / name).stat().st_size != sizes[name]:
            raise InputError(f"{bucket.place(name)} changed while it was read; start again")


def _stamps(copy: Path) -> dict[str, Stamp]:
    """Name of each file that is not being written -> its stamp."""
    stamps = {}
    for file in copy.rglob("*"):
        name = file.relative_to(copy)
        unfinished = any(part.startswith(".") or "orbax-checkpoint-tmp" in part for part in name.parts)
        if file.is_file() and not unfinished and file.suffix != ".partial":
            stat = file.stat()
            stamps[name.as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return stamps


def _is_marker(name: str) -> bool:
    return name.rpartition("/")[2] in (STORE_MARKER, CHECKPOINT_MARKER)


def _write_back(bucket: Bucket, copy: Path, synced: dict[str, Stamp | None]) -> None:
    """Writes to the bucket what has changed in the copy since `known`, and updates `known`.

    The bucket is complete at every moment: new files are written before the marker of their directory, and a
    checkpoint is removed only once the one that replaces it is there.
    """
    with _explained(bucket.address):
        stamps = _stamps(copy)
        changed = {name for name, stamp in stamps.items() if synced.get(name) != stamp}
        rewritten = {marker for marker in synced if _is_marker(marker) and _is_rewritten(marker, changed, synced)}
        _remove(bucket, synced, rewritten)
        changed |= rewritten & stamps.keys()
        markers = {name for name in changed if _is_marker(name)}
        _put(bucket, copy, synced, {name: stamps[name] for name in changed - markers})
        current = _stamps(copy)
        # A checkpoint that was removed here meanwhile may have been sent in part.
        markers = {name for name in markers if all(current.get(each) for each in _in_directory_of(name, stamps))}
        _put(bucket, copy, synced, {name: stamps[name] for name in markers})
        gone = {name for name in synced if name not in current and not _is_going(name, current)}
        _remove(bucket, synced, {name for name in gone if _is_marker(name)})
        _remove(bucket, synced, gone & synced.keys())


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
    directory = marker.removesuffix(marker.rpartition("/")[2])
    return [name for name in names if name.startswith(directory)]


def _is_going(name: str, stamps: dict[str, Stamp]) -> bool:
    """Whether a file is missing because its checkpoint is being removed, which is then removed as a whole."""
    unit = CHECKPOINT.match(name)
    return unit is not None and unit[0] + CHECKPOINT_MARKER in stamps


def _put(bucket: Bucket, copy: Path, synced: dict[str, Stamp | None], stamps: dict[str, Stamp]) -> None:
    names = sorted(stamps)
    if names:
        bucket.files.put([str(copy / name) for name in names], [bucket.place(name) for name in names])
        synced |= stamps


def _remove(bucket: Bucket, synced: dict[str, Stamp | None], names: set[str]) -> None:
    if names:
        bucket.files.rm([bucket.place(name) for name in sorted(names)])
    for name in names:
        del synced[name]


@contextlib.contextmanager
def _write_back_during(bucket: Bucket, copy: Path, synced: dict[str, Stamp | None]) -> Iterator[None]:
    """Inside, a thread writes back what has changed, unless that is only another line of metrics."""
    done = threading.Event()
    last_warning = ""

    def follow() -> None:
        nonlocal last_warning
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            try:
                changed = {name for name, stamp in _stamps(copy).items() if synced.get(name) != stamp}
                if changed - {"metrics.jsonl"}:
                    _write_back(bucket, copy, synced)
                last_warning = ""
            except (FileNotFoundError, InputError) as error:
                # A file of a checkpoint may go between being found and being sent.
                if not is_local(error) and last_warning != str(error):
                    last_warning = str(error)
                    logger.warning("bucket      %s; training goes on, and this is tried again", error)

    def is_local(error: Exception) -> bool:
        cause = error.__cause__ or error
        return isinstance(cause, FileNotFoundError) and str(cause.filename).startswith(str(copy))

    thread = threading.Thread(target=follow, name="bucket", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
