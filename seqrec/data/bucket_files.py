"""Files of a directory in a bucket: listed and fetched with errors of one line, and what their names tell."""

import errno
import functools
import logging
import os
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from seqrec.data.paths import as_input_error, first_line
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
CHUNK = re.compile(rf"({CHECKPOINT.pattern}state/[^/]+/)\d+(\.\d+)*")
"""A part of an array in a checkpoint that several processes have written, each its own parts."""
PARTS = "parts.json"
"""In such a checkpoint: the names of the files by which each process but the first says that its part is whole."""
OF_A_PART = re.compile(rf"{CHUNK.pattern}|{CHECKPOINT.pattern}(state/array_metadatas/.+|digests-.+)")
"""Files that a process but the first adds to a checkpoint."""


class Bucket(NamedTuple):
    """A directory in a bucket."""

    address: str
    files: Any
    """fsspec's file system of its protocol."""

    def place(self, name: str) -> str:
        return f"{self.address}/{name}"

    def sizes(self, under: str = "") -> dict[str, int]:
        """Name of each file in the directory, or `under` one of it -> its size in bytes; empty if there is none."""
        self.files.invalidate_cache()
        root = self.files._strip_protocol(self.address).rstrip("/") + "/"
        infos = self.files.find(self.place(under).rstrip("/"), detail=True)
        # An object whose name ends in a slash is a folder that a console made.
        return {name.removeprefix(root): info["size"] for name, info in infos.items() if name.startswith(root)}


def open_bucket(path: Path) -> Bucket:
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
    with explained(address), as_input_error(needs, ImportError):
        import fsspec

        return Bucket(address, fsspec.filesystem(protocol))


def explained(address: str) -> AbstractContextManager[None]:
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


def get(bucket: Bucket, directory: Path, sizes: dict[str, int]) -> None:
    names = [name for name in sizes if not name.endswith("/") and ".." not in name.split("/")]
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
    if names:
        bucket.files.get([bucket.place(name) for name in names], [str(directory / name) for name in names])
    for name in names:
        if (directory / name).stat().st_size != sizes[name]:
            raise InputError(f"{bucket.place(name)} changed while it was read; start again")


def is_chunk(name: str, names: Collection[str]) -> bool:
    """Whether a file has a part of an array, and only that; such an array has a description beside them."""
    chunk = CHUNK.fullmatch(name)
    return chunk is not None and f"{chunk[1]}.zarray" in names


def is_remains(name: str, names: Collection[str]) -> bool:
    unit = UNIT.match(name)
    return unit is not None and not any(unit[0] + marker in names for marker in (CHECKPOINT_MARKER, STORE_MARKER))


def is_marker(name: str) -> bool:
    """Whether a file says that its directory, or a process's part of it, is complete."""
    file = name.rpartition("/")[2]
    return file in (STORE_MARKER, CHECKPOINT_MARKER) or file.startswith("digests-")
