"""A store's directory is replaced as a whole or not at all, whenever the process that replaces it is killed."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest

from seqrec.data.store import open_store, store_from_sequences, write_store
from seqrec.types import InputError

OLDER = store_from_sequences([[1, 2], [2]])


class KilledError(BaseException):
    pass


def killed_write(directory, store, monkeypatch, *, n_renames):
    """A write that is killed before its rename of this number, or after the last; it does not clean up."""
    rename, done = os.rename, []

    def kill(source, target):
        if len(done) == n_renames:
            raise KilledError
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
        patch.setattr(os, "rename", kill)
        with pytest.raises(KilledError) if n_renames < 2 else contextlib.nullcontext():
            write_store(directory, store)


@pytest.mark.parametrize("n_renames", [0, 1, 2])
def test_after_a_write_killed_at_a_rename_the_store_opens(tmp_path, monkeypatch, n_renames):
    directory = tmp_path / "st[o]re"
    older = write_store(directory, OLDER)
    newer = store_from_sequences([[1, 2, 3]])
    killed_write(directory, newer, monkeypatch, n_renames=n_renames)
    assert directory.exists() == (n_renames != 1)
    expected = newer if n_renames == 2 else older
    assert open_store(directory).content_hash == expected.content_hash


@pytest.mark.parametrize("n_renames", [0, 1, 2])
def test_the_next_write_clears_away_what_a_killed_one_left(tmp_path, monkeypatch, n_renames):
    directory = tmp_path / "store"
    write_store(directory, OLDER)
    killed_write(directory, store_from_sequences([[1, 2, 3]]), monkeypatch, n_renames=n_renames)
    assert len(os.listdir(tmp_path)) == 1 + (n_renames != 1)
    newest = store_from_sequences([[1]])
    assert write_store(directory, newest).content_hash == newest.content_hash
    assert os.listdir(tmp_path) == ["store"]


def test_a_killed_process_leaves_a_store_that_opens_and_a_running_one_is_left_alone(tmp_path):
    directory = tmp_path / "store"
    older = write_store(directory, OLDER)
    program = f"""
import os, signal
from seqrec.data import store
rename = os.rename
def last_but_one(source, target):
    rename(source, target)
    print("renamed", flush=True)
    signal.pause()
os.rename = last_but_one
store.write_store({str(directory)!r}, store.store_from_sequences([[1, 2, 3]]))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "renamed\n"
        # Between the two renames of a process that runs nothing may be moved under its hands.
        with pytest.raises(InputError, match="does not exist"):
            open_store(directory)
        process.kill()
        process.wait()
    assert open_store(directory).content_hash == older.content_hash
    assert os.listdir(tmp_path) == ["store"]
