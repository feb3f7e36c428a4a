"""What the files of a run hold, in the forms that trackers take: names with values, and files to look at."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqrec.config import leaves
from seqrec.files import JsonObject

_SHOWN = (".html", ".png", ".svg")
_RECORDS = ("config.json", "metrics.json", "metrics.jsonl")


def numbers_of(content: JsonObject) -> dict[str, float]:
    """The numbers of an object of JSON by their dotted names; the ends of an interval are `.low` and `.high`.

    >>> numbers_of({"test": {"ndcg@10": 0.2, "intervals": {"ndcg@10": [0.1, 0.3]}}, "stopped": "early"})
    {'test.ndcg@10': 0.2, 'test.intervals.ndcg@10.low': 0.1, 'test.intervals.ndcg@10.high': 0.3}
    """
    return dict(_numbers(content))


def _numbers(content: JsonObject) -> Iterator[tuple[str, float]]:
    for name, value in leaves(content):
        if _is_number(value):
            yield name, float(value)
        elif isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
            yield f"{name}.low", float(value[0])
            yield f"{name}.high", float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def texts_of(content: JsonObject) -> dict[str, str]:
    """The texts, and true and false, of an object of JSON by their dotted names.

    >>> texts_of({"protocol": {"ties": "mean", "mask_seen": True}, "best_epoch": 3})
    {'protocol.ties': 'mean', 'protocol.mask_seen': 'true'}
    """
    return {name: _text(value) for name, value in leaves(content) if isinstance(value, str | bool)}


def settings_of(record: JsonObject) -> dict[str, str]:
    """All of a run's config.json by dotted names, as text; the command is one line.

    >>> settings_of({"config": {"d_model": 8, "track": []}, "command": ["python", "train.py"]})
    {'config.d_model': '8', 'config.track': '[]', 'command': 'python train.py'}
    """
    command = {"command": shlex.join(record["command"])} if "command" in record else {}
    return {name: _text(value) for name, value in leaves({**record, **command})}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def files_to_show(run: Path) -> list[Path]:
    """The run's records, pictures and pages; not its ranks, which name users."""
    return sorted(file for file in run.iterdir() if file.is_file() and (file.suffix in _SHOWN or file.name in _RECORDS))
