"""Files that are written whole or not at all, and JSON that is read with one line for what is wrong with it."""

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqrec.types import InputError

JsonObject = dict[str, Any]
"""A JSON object, as the files of a run hold it."""

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def address_of(path: Path | str) -> str:
    """`path` as its user wrote it: pathlib folds the slashes of a bucket's address.

    >>> address_of(Path("s3://bucket/run")), address_of(Path("runs/a"))
    ('s3://bucket/run', 'runs/a')
    """
    return re.sub(r"^([a-z0-9]{2,}):/+(?=[^/])", r"\1://", str(path))


@contextlib.contextmanager
def replacing(file: Path | str) -> Iterator[Path]:
    """A path to write to; at the end it takes the place of `file`, and after an error it is removed.

    Raises:
      InputError: the file cannot be written, as where the disk is full.
    """
    file = Path(file)
    partial = file.with_name(f"{file.name}.partial")
    try:
        try:
            yield partial
            partial.replace(file)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(file, error) from error


def unwritable(file: Path | str, error: OSError) -> InputError:
    """What to tell somebody whose file cannot be written."""
    remedies = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room and start again, with --resume where a run had begun"),
        errno.EFBIG: "raise the limit on the size of files (ulimit -f) and start again",
    }
    remedy = remedies.get(error.errno or 0, "choose another place")
    return InputError(f"{address_of(file)} cannot be written ({error.strerror or error}); {remedy}")


def make_directory(directory: Path) -> Path:
    """Makes the directory, where there is none, and returns it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(directory, error) from error
    return directory


def write_text(file: Path | str, text: str) -> None:
    """Writes a file whole or not at all, in UTF-8."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path | str, content: Any) -> None:
    """Writes a file of JSON whole or not at all."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: Path) -> Any:
    """The content of a file of JSON."""
    return _parse(_read(file), str(file))


def read_json_lines(file: Path) -> list[Any]:
    """The content of each line of a file of JSON lines; a last line without its end was cut short, and is left out."""
    *lines, _ = _read(file).split("\n")
    return [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]


def read_object(file: Path, **kinds: type) -> JsonObject:
    """The object in a file of JSON, once it has these fields and each is of its type; other fields are not checked."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {_kind(content)}, not an object of JSON; restore the file")
    for name, kind in kinds.items():
        if name not in content:
            raise InputError(f"{file} has no field {name}; restore the file")
        value = content[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number if kind is float else isinstance(value, kind)):
            raise InputError(f"{file}: {name} is {_kind(value)}, not {_KINDS[kind]}; restore the file")
    return content


def sha256_of(file: Path) -> str:
    """The hash of a file's content, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "true or false")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); restore the file") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); correct the path") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = place if re.search(r":\d+$", place) else f"{place}:{error.lineno}"
        raise InputError(f"{place}: not JSON ({error.msg}); restore the file") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets as deep
        raise InputError(
            f"{place}: JSON that cannot be read ({str(error).partition(';')[0]}); restore the file"
        ) from None
