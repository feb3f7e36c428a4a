"""Files are written whole or not at all, and what cannot be written or read is told in one line."""

import contextlib
import errno
import resource

import pytest

from seqrec.files import read_json, read_json_lines, read_object, replacing, unwritable, write_json, write_text
from seqrec.types import InputError


def test_a_file_reads_as_it_was_written_and_nothing_is_left_beside_it(tmp_path):
    content = {"names": ["é", "\ud800"], "number": 0.1}
    write_json(tmp_path / "a.json", content)
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    write_text(tmp_path / "a.txt", "before")
    with contextlib.suppress(ZeroDivisionError), replacing(tmp_path / "a.txt") as partial:
        partial.write_text("after")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_above_the_limit_is_refused_in_one_line_and_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "a.txt", "before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(
            InputError, match=r"a\.txt cannot be written \(File too large\); raise the limit"
        ) as refusal:
            write_text(tmp_path / "a.txt", "x" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "choose another place")],
)
def test_the_remedy_is_that_of_the_error(code, remedy):
    assert remedy in str(unwritable("a.txt", OSError(code, "said by the system", "a.txt")))


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "file" / "a.txt", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"test": }', r"a\.json:2: not JSON"),
        (b"", r"a\.json:1: not JSON"),
        (b"\xff\xfe{}", r"a\.json: not UTF-8"),
        (b"[" * 100_000, r"a\.json: JSON that cannot be read"),
        (b"9" * 5000, r"a\.json: JSON that cannot be read"),
        (b"[]", "holds a list, not an object"),
        (b"null", "holds null, not an object"),
        (b"true", "holds true or false, not an object"),
        (b"{}", "has no field test"),
        (b'{"test": null, "seconds": 1}', "test is null, not an object"),
        (b'{"test": {}, "seconds": true}', "seconds is true or false, not a number"),
        (b'{"test": {}, "seconds": "1"}', "seconds is a text, not a number"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        read_object(tmp_path / "a.json", test=dict, seconds=float)
    assert "\n" not in str(refusal.value)


def test_a_whole_number_is_a_number(tmp_path):
    write_json(tmp_path / "a.json", {"seconds": 1})
    assert read_object(tmp_path / "a.json", seconds=float) == {"seconds": 1}


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: not JSON"):
        read_json_lines(tmp_path / "a.jsonl")


def test_a_line_that_was_cut_short_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"st')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("read", [read_json, read_json_lines])
def test_what_is_no_file_is_refused(tmp_path, read):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path)
