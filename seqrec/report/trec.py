"""Held-out items and recommendations in the file formats of TREC, so that other evaluators can check the metrics."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrec.files import write_text
from seqrec.types import InputError


def write_qrels(file: Path, users: Iterable[Any], items: Iterable[Any]) -> None:
    """Writes one line `user 0 item 1` for each relevant item; a user may have several, each once.

    Keys are written as text. A key that is empty or contains white space is refused, because white space separates the
    fields.
    """
    pairs = list(zip(users, items, strict=True))
    lines = [f"{_key(user)} 0 {_key(item)} 1\n" for user, item in pairs]
    _refuse_repeats(pairs, "qrels")
    write_text(file, "".join(lines))


def write_trec_run(
    file: Path, users: Iterable[Any], lists: Iterable[Iterable[Any]], scores: Iterable[Iterable[float]], tag: str
) -> None:
    """Writes one line `user Q0 item rank score tag` for each recommended item, each user's best first.

    Evaluators order a list by its scores, some in single precision, and break ties by the item's name. So the scores
    are written as 32-bit floats, each lowered to the next smaller float if it is not below the one before it: then
    every tool sees the order of `lists`. A tied item's rank is its place in the list for these tools, and the mean of
    the tied places in seqrec.

    Scores must be finite and must not rise within a list; keys and `tag` are text without white space.
    """
    lines = []
    largest = float(np.finfo(np.float32).max)
    for user, items, item_scores in zip(users, lists, scores, strict=True):
        ranked = list(zip(items, item_scores, strict=True))
        _refuse_repeats([(user, item) for item, _ in ranked], "the list")
        before = np.inf
        previous = np.float32(np.inf)
        for place, (item, score) in enumerate(ranked, start=1):
            if not abs(score) < largest:
                raise InputError(f"user {user}, place {place}: score {score} is not a finite 32-bit float; rescale it")
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
        raise InputError(
            f"key {text[:40]!r} is empty or contains white space, which separates the fields of TREC files; rename it"
        )
    return text


def _refuse_repeats(pairs: Sequence[tuple[Any, Any]], where: str) -> None:
    if len(set(pairs)) < len(pairs):
        seen: set[tuple[Any, Any]] = set()
        user, item = next(pair for pair in pairs if pair in seen or seen.add(pair))  # type: ignore[func-returns-value]
        raise InputError(f"user {user} has item {item} twice in {where}; keep one of the two")
