"""Directories that one process at a time may change, and that are replaced as a whole or not at all."""

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from seqrec.data.paths import as_input_error, is_in_bucket
from seqrec.files import address_of
from seqrec.types import InputError


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Inside, no other block of this kind holds `directory`, in any process of this machine.

    The system releases it with the process, however that ends. Where the file system has no locks, nothing is checked.

    Raises:
      InputError: another block holds the directory, or replaced it in this moment.
    """
    in_use = f"{directory} is in use by another process; start again when that has ended"
    with as_input_error(f"{directory} cannot be opened ({{error}}); correct the path or its rights", OSError):
        descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(in_use) from error
        except OSError:
            pass
        if not directory.exists() or not os.path.samestat(os.fstat(descriptor), directory.stat()):
            raise InputError(in_use)
        yield
    finally:
        os.close(descriptor)


class Kind(NamedTuple):
    """What a directory with a manifest.json holds; only another of its kind may replace it."""

    name: str
    files: tuple[str, ...]
    """By one of them it is known, so that one that is damaged can be made again."""
    others: tuple[str, ...] = ()
    """Files that it never has, where directories of other kinds have some of `files` too."""


STORE = Kind("sequence store", ("items.npy", "offsets.npy", "shards"))


@contextlib.contextmanager
def replacing_directory(directory: Path | str, kind: Kind = STORE) -> Iterator[Path]:
    """An empty directory for the files of a store, which take the place of `directory` when the block ends well.

    Whatever else happens, `directory` is left as it was. What a killed process left of its own is cleared away first.
    A store that is there is `exclusive` to the block, so what is read of it inside is what is replaced. Directories of
    another `kind`, such as bundles, are written likewise.

    Raises:
      InputError: the directory holds something else, is in use, or cannot be written.
    """
    directory = Path(directory)
    settle(directory)
    _refuse_foreign(directory, kind)
    with exclusive(directory) if directory.exists() else contextlib.nullcontext():
        with as_input_error(f"{directory} cannot be made ({{error}}); choose a directory you may write to", OSError):
            directory.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, because a rename is atomic only inside one file system.
            scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        remedy = "free space or choose another directory"
        try:
            with (
                as_input_error(f"{directory} cannot be written ({{error}}); {remedy}", OSError),
                (scratch / "lock").open("wb") as lock,
            ):
                # The system lets go of it with the process, however that ends.
                fcntl.flock(lock, fcntl.LOCK_EX)
                (scratch / "fresh").mkdir()
                yield scratch / "fresh"
                move_into_place(scratch / "fresh", directory, aside=scratch / "old")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def extending_directory(directory: Path | str, kind: Kind = STORE) -> Iterator[None]:
    """Inside, files may be added to the store that is there, which is `exclusive` to the block.

    Raises:
      InputError: the directory holds no store, is in use, or cannot be written.
    """
    directory = Path(directory)
    settle(directory)
    _refuse_foreign(directory, kind)
    complaint = f"{directory} cannot be written ({{error}}); free space or make it yours to write to"
    with exclusive(directory), as_input_error(complaint, OSError):
        yield


def _refuse_foreign(directory: Path, kind: Kind) -> None:
    if is_in_bucket(directory):
        raise InputError(f"{address_of(directory)} is in a bucket; write the store to a buckets.working_copy of it")
    is_empty = directory.is_dir() and not any(directory.iterdir())
    is_own = (directory / "manifest.json").is_file() and any((directory / name).exists() for name in kind.files)
    is_own &= not any((directory / name).exists() for name in kind.others)
    if directory.exists() and not is_empty and not is_own:
        raise InputError(f"{directory} is there and is not a {kind.name}; choose another directory")


def move_into_place(fresh: Path, directory: Path, *, aside: Path | None = None) -> None:
    """Renames the directory of a store, after what is there has been moved `aside`."""
    if aside is not None and directory.exists():
        os.rename(directory, aside)
    try:
        os.rename(fresh, directory)
    except OSError as error:
        # Another process that made the same store may have come first; its store is as good as ours.
        if not (directory / "manifest.json").is_file():
            if aside is not None and aside.exists():
                os.rename(aside, directory)
            raise InputError(f"{directory} cannot be written ({error.strerror}); free the path") from error


def settle(directory: Path) -> None:
    """Undoes what a `replacing_directory` block of a killed process had begun; blocks that are going on are left alone.

    Killed between its two renames, of the old store and of the new one, it left the old one in its scratch directory.
    """
    if not directory.parent.is_dir():
        return
    for scratch in directory.parent.glob(f".{glob.escape(directory.name)}.????????"):
        try:
            with (scratch / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not directory.exists() and (scratch / "old" / "manifest.json").is_file():
                    os.rename(scratch / "old", directory)
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError:
            # No scratch directory, one that another process is about to lock, or one whose process runs.
            continue
