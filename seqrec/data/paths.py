"""What a user's path names: files that are there, whole, and packed or not."""

import contextlib
import glob
import gzip
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from seqrec.files import address_of
from seqrec.types import InputError

Compression = Literal["gzip", "zstd", "none"]
MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

LINE_END = re.compile(b"[\r\n]")
LONG_LINE = 8 << 20
"""Bytes of a line that nobody wrote on purpose."""

logger = logging.getLogger(__name__)


def is_in_bucket(path: Path | str) -> bool:
    """True of s3://bucket/run, and of what else has a protocol."""
    return "://" in address_of(path)


def data_files(path: Path) -> list[Path]:
    """The files that `path` names, sorted: a file, all under a directory, or what a pattern such as *.csv matches.

    As Spark and Hive do, names that begin with _ or . are passed over, such as _SUCCESS; so are files without a byte,
    which is what an empty partition leaves in text.
    """
    _refuse_bucket(path)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = _files_under(path)
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        # A directory that a pattern matches stands for its files, once.
        files = sorted({file for match in matches for file in ([match] if match.is_file() else _files_under(match))})
        if not files:
            raise InputError(f"{path} matches no file; correct the pattern")
    else:
        raise InputError(f"{path} does not exist or is no file; correct the path")
    full = [file for file in files if file.stat().st_size]
    if not full:
        raise InputError(f"{path} holds no files with anything in them; name the directory that does")
    if len(full) < len(files):
        logger.warning("%s: %s empty files are passed over", path, len(files) - len(full))
    return full


def _files_under(directory: Path) -> list[Path]:
    return sorted(
        file
        for file in directory.rglob("*")
        if file.is_file() and not any(part.startswith(("_", ".")) for part in file.relative_to(directory).parts)
    )


def first_file(directory: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that the directory holds, as it is or with .gz or .zst behind it."""
    packed = [directory / f"{name}{suffix}" for name in names for suffix in ("", ".gz", ".zst")]
    return next((path for path in packed if path.is_file()), None)


def compression_of(path: Path) -> Compression:
    """How the file is packed: by content, for a browser may have unpacked a file and left its name."""
    with path.open("rb") as raw:
        head = raw.read(4)
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), "none")


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[Any]:
    """The file's content, unpacked: a stream of bytes, which says so where it is cut off."""

    def complaint(error: Exception) -> str:
        if isinstance(error, OSError) and error.strerror:  # not Arrow's of zstd, nor gzip's
            return f"{path} cannot be read ({{error}}); change its permissions"
        return f"{path} is cut short or damaged ({{error}}); fetch it again"

    with as_input_error(complaint, EOFError, zlib.error, OSError):
        compression = compression_of(path)
        if compression == "zstd":
            stream: Any = pa.CompressedInputStream(str(path), "zstd")
        else:
            stream = gzip.GzipFile(path) if compression == "gzip" else path.open("rb")
        with stream:
            yield stream


def check_file(path: Path) -> bytes:
    """The first bytes of the content, after checking that the file is complete."""
    _refuse_bucket(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory, a file is due; name the file in it")
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; correct the path")
    with open_bytes(path) as stream:
        head = stream.read(1 << 20)
        compression = compression_of(path)
        # DuckDB stops at a stream's end without asking whether it was all, so one that is cut off would pass.
        while compression != "none" and stream.read(1 << 20):
            pass
    if not head:
        raise InputError(f"{path} is empty; give a file that holds rows")
    if head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is a zip archive; unpack it and name the file inside")
    if head.startswith(b"PAR1") and compression != "none":
        raise InputError(f"{path} is a {compression}'d Parquet file; unpack it (Parquet is compressed inside)")
    return head[:16]


def has_long_line(path: Path) -> bool:
    """Whether a line of the file has twice `LONG_LINE` bytes, or more; perhaps from `LONG_LINE` on."""
    n_without_end = 0
    with open_bytes(path) as stream:
        if compression_of(path) == "none":
            # So long a line fills a whole block, and most blocks have a line end near their start.
            for start in range(0, path.stat().st_size, LONG_LINE):
                stream.seek(start)
                n_without_end = 0
                while n_without_end < LONG_LINE and (part := stream.read(1 << 16)) and not LINE_END.search(part):
                    n_without_end += len(part)
                if n_without_end >= LONG_LINE:
                    return True
            return False
        while part := stream.read(1 << 20):
            n_without_end = 0 if LINE_END.search(part) else n_without_end + len(part)
            if n_without_end >= LONG_LINE:
                return True
    return False


def _refuse_bucket(path: Path) -> None:
    if is_in_bucket(path):
        raise InputError(
            f"{address_of(path)} is in a bucket, from which only stores and runs are read; copy the file here first"
        )


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def as_input_error(message: str | Callable[[Exception], str], *kinds: type[Exception]) -> Iterator[None]:
    """Inside, an error of these kinds is an `InputError` with this message, {error} in it being what the error says.

    One that is an `InputError` already stays as it is, unless `kinds` names that.

    >>> with as_input_error("noon is no time ({error}); write a number", ValueError):
    ...     float("noon")
    Traceback (most recent call last):
    seqrec.types.InputError: noon is no time (could not convert string to float: 'noon'); write a number
    """
    try:
        yield
    except kinds as error:
        if isinstance(error, InputError) and InputError not in kinds:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise InputError(
            (message if isinstance(message, str) else message(error)).replace("{error}", reason)
        ) from error
