"""Held-out items and recommendations in the file formats of TREC, so that other evaluators can check the metrics."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float32, Int

from seqrec.files import replacing
from seqrec.report.list_files import WriteLists
from seqrec.types import InputError

_TEXT = pa.large_string()
# What is white space to Python's str.split, by which the fields are read; RE2's \s is ASCII's alone.
_EMPTY_OR_SPACED = r"^$|[\s\v\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
_PAIRS_PER_PART = 1 << 18


def write_qrels(file: Path, users: pa.Array, items: pa.Array) -> None:
    """Writes one line `user 0 item 1` for each relevant item; a user may have several, each once.

    Keys are written as text. A key that is empty or contains white space is refused, because white space separates the
    fields.
    """
    pairs = pa.table({"user": users, "item": items})
    if pairs.group_by(["user", "item"]).aggregate([]).num_rows < len(pairs):
        seen: set[Any] = set()
        rows = zip(users.to_pylist(), items.to_pylist(), strict=True)
        user, item = next(row for row in rows if row in seen or seen.add(row))  # type: ignore[func-returns-value]
        raise InputError(f"user {user} has item {item} twice in qrels; keep one of the two")
    with replacing(file) as partial, partial.open("wb") as stream:
        for start in range(0, len(pairs), _PAIRS_PER_PART):
            part = [_checked(each.slice(start, _PAIRS_PER_PART)) for each in (users, items)]
            stream.write(_lines(part[0], "0", part[1], "1"))


@contextlib.contextmanager
def trec_run_writer(file: Path, item_keys: pa.Array, *, tag: str) -> Iterator[WriteLists]:
    """Writes one line `user Q0 item rank score tag` for each recommended item, each user's best first.

    `item_keys` are in the order of ids. Evaluators order a list by its scores, some in single precision, and break ties
    by the item's name. So the scores are written as 32-bit floats, each lowered to the next smaller float if it is not
    below the one before it: then every tool sees the order of the lists. A tied item's rank is its place in the list
    for these tools, and the mean of the tied places in seqrec.

    Scores must be finite and must not rise within a list; keys and `tag` are text without white space.
    """
    _checked(pa.array([tag]))
    items = item_keys.cast(_TEXT)
    is_bad = _is_bad(items)
    with replacing(file) as partial, partial.open("wb") as stream:

        def write(users: pa.Array, ids: np.ndarray, scores: np.ndarray) -> None:
            is_listed = ids > 0
            row, place = np.nonzero(is_listed)
            listed = pa.array(ids[is_listed] - 1)
            _check_lists(users, item_keys, ids, scores)
            if np.any(bad := is_bad[ids[is_listed] - 1]):
                _checked(items.take(listed.filter(pa.array(bad))))
            ranks = pa.array(np.arange(1, ids.shape[1] + 1)).cast(_TEXT)
            values = pa.array(falling_scores(scores)[is_listed]).cast(_TEXT)
            names = _checked(users).take(pa.array(row))
            stream.write(_lines(names, "Q0", items.take(listed), ranks.take(pa.array(place)), values, tag))

        yield write


def falling_scores(scores: Float[np.ndarray, "users k"]) -> Float32[np.ndarray, "users k"]:
    """The scores as 32-bit floats, each at most the next smaller float of the one before it.

    >>> falling_scores(np.array([[1.0, 1.0, 0.5]])).tolist()
    [[1.0, 0.9999999403953552, 0.5]]
    """
    bits = scores.astype(np.float32).view(np.int32).astype(np.int64)
    # The floats in their order, numbered from 0.0 on: a step down is one less.
    steps = np.arange(scores.shape[1])
    numbers = np.minimum.accumulate(_mirrored(bits) + steps, axis=1) - steps
    return _mirrored(numbers).astype(np.int32).view(np.float32)


def _mirrored(bits: Int[np.ndarray, "users k"]) -> Int[np.ndarray, "users k"]:
    """Of negative floats, whose bits without the sign rise as they fall, the order in place of the bits; and back."""
    return np.where(bits < 0, np.iinfo(np.int32).min - bits, bits)


def _check_lists(users: pa.Array, item_keys: pa.Array, ids: np.ndarray, scores: np.ndarray) -> None:
    is_listed = ids > 0
    in_order = np.sort(ids, axis=1)
    is_repeat = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] > 0)
    if (place := _first(is_repeat)) is not None:
        item = item_keys[int(in_order[place]) - 1]
        raise InputError(f"user {users[place[0]]} has item {item} twice in the list; keep one of the two")
    largest = float(np.finfo(np.float32).max)
    if (place := _first(~(np.abs(scores) < largest) & is_listed)) is not None:
        raise InputError(
            f"user {users[place[0]]}, place {place[1] + 1}: score {scores[place].item()} is not a finite 32-bit float; "
            "rescale it"
        )
    if (place := _first((scores[:, 1:] > scores[:, :-1]) & is_listed[:, 1:])) is not None:
        before, after = (scores[place[0], place[1] + each].item() for each in (0, 1))
        raise InputError(
            f"user {users[place[0]]}, place {place[1] + 2}: score {after} is above {before} before it; sort the list "
            "by score"
        )


def _first(where: Bool[np.ndarray, "users k"]) -> tuple[int, int] | None:
    """The row and column of the first True, row by row."""
    if not where.any():
        return None
    row, column = np.unravel_index(np.argmax(where), where.shape)
    return int(row), int(column)


def _is_bad(texts: pa.Array) -> Bool[np.ndarray, " n"]:
    return pc.match_substring_regex(texts, _EMPTY_OR_SPACED).to_numpy(zero_copy_only=False)


def _checked(keys: pa.Array) -> pa.Array:
    """The keys as text, once each can be a field."""
    texts = keys.cast(_TEXT)
    if (bad := _is_bad(texts)).any():
        raise InputError(
            f"key {texts[int(np.argmax(bad))].as_py()[:40]!r} is empty or contains white space, which separates the "
            "fields of TREC files; rename it"
        )
    return texts


def _lines(*fields: pa.Array | str) -> memoryview:
    """The bytes of one line for each row: its fields with spaces between them."""
    columns = [pa.scalar(each, _TEXT) if isinstance(each, str) else each for each in (*fields[:-1], f"{fields[-1]}\n")]
    lines = pc.binary_join_element_wise(*columns, pa.scalar(" ", _TEXT))
    if not len(lines):
        return memoryview(b"")
    # The content of an array of text lies in one piece: all lines, one after another.
    _, offsets, content = lines.buffers()
    ends = np.frombuffer(offsets, np.int64)
    return memoryview(content)[ends[0] : ends[len(lines)]]
