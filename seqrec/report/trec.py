"""Held-out items and recommendations in the file formats of TREC, so that other evaluators can check ours."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrec.files import write_text
from seqrec.types import InputError


def write_qrels(file: Path, users: Iterable[Any], items: Iterable[Any]) -> None:
    """One line `user 0 item 1` for each relevant item; a user may have several.

    Keys are written as text; one that is empty or holds white space is refused, for fields are split at it.
    """
    pairs = list(zip(users, items, strict=True))
    lines = [f"{_key(user)} 0 {_key(item)} 1\n" for user, item in pairs]
    _refuse_repeats(pairs, "qrels")
    write_text(file, "".join(lines))


def write_trec_run(
    file: Path, users: Iterable[Any], lists: Iterable[Iterable[Any]], scores: Iterable[Iterable[float]], tag: str
) -> None:
    """One line `user Q0 item rank score tag` for each recommended item, each user's best first.

    Evaluators order a list by its scores, at times in single precision, and break ties by the item's name. So
    the scores written are the given ones as floats of 32 bits, each lowered to the next smaller such float
    where it would not be below the one before it: the order of `lists` is the order that every tool sees. Where
    our own rank of a tied item is the mean of its places, the tools' is the place in the list.

    Scores may not rise within a list, and must be finite; keys and `tag` are text without white space.
    """
    lines = []
    largest = float(np.finfo(np.float32).max)
    for user, items, given in zip(users, lists, scores, strict=True):
        ranked = list(zip(items, given, strict=True))
        _refuse_repeats([(user, item) for item, _ in ranked], "the list")
        before = np.inf
        previous = np.float32(np.inf)
        for place, (item, score) in enumerate(ranked, start=1):
            if not abs(score) < largest:
                raise InputError(f"user {user}, place {place}: score {score} is no finite float of 32 bits; rescale it")
            if score > before:
                raise InputError(
                    f"user {user}, place {place}: score {score} is above {before} before it; sort the list by score"
                )
            before = score
            previous = min(np.float32(score), np.nextafter(previous, np.float32(-np.inf)))
            lines.append(f"{_key(user)} Q0 {_key(item)} {place} {previous:.9g} {_key(tag)}\n")
    write_text(file, "".join(lines))


def _key(key: Any) -> str:
    text = str(key)
    if not text or re.search(r"\s", text):
        raise InputError(f"key {text[:40]!r} is empty or holds white space, at which TREC's files are split; rename it")
    return text


def _refuse_repeats(pairs: Sequence[tuple[Any, Any]], where: str) -> None:
    if len(set(pairs)) < len(pairs):
        seen: set[tuple[Any, Any]] = set()
        user, item = next(pair for pair in pairs if pair in seen or seen.add(pair))  # type: ignore[func-returns-value]
        raise InputError(f"user {user} has item {item} twice in {where}; keep one of the two")
