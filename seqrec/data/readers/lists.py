"""Layouts of research code without times: pairs, one user a line, one session a line."""

import csv
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqrec.data.event_tables import (
    NO_ITEMS,
    Columns,
    Items,
    Request,
    Source,
    arrow_source,
    load_events,
    refuse_further,
    typed_source,
)
from seqrec.data.paths import as_input_error, check_file, first_file, open_bytes
from seqrec.data.tables.columns import positive_id, positive_integer
from seqrec.data.tables.delimited import TextFile, shown_names
from seqrec.data.tables.user_table import text_table
from seqrec.types import InputError

NO_TIMES = Columns("user", "item", "none")
PARTS = ("train", "test")
PLAIN_IDS = re.compile("[1-9][0-9]{0,17}( [1-9][0-9]{0,17})*")
logger = logging.getLogger(__name__)


def read_pairs(path: Path, request: Request, *, name: str = "sasrec") -> Source:
    """One event a line, `user item`, in the order of the lines; titles and genres from an items.csv beside it.

    The form in which the authors of SASRec (Kang and McAuley, 2018) give their data.
    """
    refuse_further(name, request)
    check_file(path)
    table = text_table([path], ("user", "item"), delimiter=" ", quote="", header=False)
    rows = load_events(table, request, NO_TIMES)
    return typed_source(name, rows, request, time_unit=None, ids=positive_id, items=_items_beside(path))


def _items_beside(path: Path) -> Items:
    path = path.parent / "items.csv"
    if not path.is_file():
        return NO_ITEMS
    check_file(path)
    text = TextFile(path, ",", '"', header=True)
    try:
        _, header = next(text.rows(), (1, []))
    except csv.Error:
        header = []
    key = next((name for name in ("sas_item", "item_id", "item") if name in header), None)
    if key is None or "title" not in header:
        header_names = shown_names(header)
        logger.warning(
            "%s is not used: it has columns %s, titles need sas_item or item_id and title", path, header_names
        )
        return NO_ITEMS
    titles, genres = {}, {}
    for place, (item, title, names) in text.records((key, "title", "genres" if "genres" in header else "title")):
        number = positive_integer(item, "item", place)
        titles[number] = title
        genres[number] = [name for name in names.split("|") if name]
    return Items(titles, genres if "genres" in header else None)


def read_lists(path: Path, request: Request) -> Source:
    """One user a line, `user item item ...`, items in their order; attributes from item2attributes.json beside it.

    The form in which the authors of S3-Rec (Zhou et al., 2020) give their data.
    """
    refuse_further("s3rec", request)
    users, lengths, items = [], [], []
    for line, ids in _lines_of_ids(path):
        if len(ids) == 1:
            raise InputError(
                f"{path}:{line}: {str(ids[0])!r} is one field, a line is a user and at least one item; "
                "add the items or remove the line"
            )
        users.append(ids[0])
        lengths.append(len(ids) - 1)
        items += ids[1:]
    if not items:
        raise InputError(f"{path} holds no events; give a file with lines `user item item ...`")
    return arrow_source("s3rec", _events(users, lengths, items), request, _attributes_beside(path))


def _attributes_beside(path: Path) -> Items:
    # Each data set of theirs has its own file: LastFM.txt beside LastFM_item2attributes.json.
    name = path.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".txt")
    path_of_json = first_file(path.parent, (f"{name}_item2attributes.json", "item2attributes.json"))
    if path_of_json is None:
        return NO_ITEMS
    check_file(path_of_json)
    with open_bytes(path_of_json) as stream:
        content = stream.read()
    complaint = f"{path_of_json} is no JSON object of items and lists of attributes; correct or remove it"
    with as_input_error(complaint, ValueError, TypeError, AttributeError, RecursionError):
        attributes = {
            positive_integer(item, "item", str(path_of_json)): [str(value) for value in dict.fromkeys(values)]
            for item, values in json.loads(content).items()
        }
    return Items(attributes=attributes)


def read_sessions(path: Path, request: Request) -> Source:
    """One session a line, `item item ...`, in order; the sessions are the users, numbered from 1.

    In a directory train_sessions.txt comes before test_sessions.txt, and the column `part` tells them apart.
    """
    refuse_further("sessions", request)
    files = [path]
    if path.is_dir():
        names = [f"{part}_sessions.txt" for part in PARTS]
        candidates = [first_file(path, (name,)) for name in names]
        files = [file for file in candidates if file is not None]
        if len(files) != len(names):
            raise InputError(f"{path} does not hold {' and '.join(names)}; name a file of sessions")
    lengths, items, parts = [], [], []
    for part, file in enumerate(files):
        for _, ids in _lines_of_ids(file):
            lengths.append(len(ids))
            items += ids
            parts.append(part)
    if not items:
        raise InputError(f"{path} holds no events; give a file with lines `item item ...`")
    events = _events(range(1, len(lengths) + 1), lengths, items)
    if len(files) == 1:
        return arrow_source("sessions", events, request)
    events = events.append_column("part", pa.array(np.repeat(np.array(parts, np.int32), lengths)))
    return arrow_source("sessions", events, request)._replace(categories={"part": PARTS})


def _events(users: Sequence[int], lengths: Sequence[int], items: Sequence[int]) -> pa.Table:
    """The events of users that have so many items each, in order."""
    user_id, item_id = np.repeat(np.array(users, np.int64), lengths), np.array(items, np.int64)
    return pa.table({"user_id": user_id, "item_id": item_id, "event_index": np.arange(len(item_id))})


def _lines_of_ids(path: Path) -> Iterator[tuple[int, list[int]]]:
    """(line number, integers from 1) of each line that is not empty."""
    check_file(path)
    for line, fields in TextFile(path, " ", "", header=False).rows():
        numbers = " ".join(fields).split()
        # All at once, for there are millions; one by one only to find which is none.
        if PLAIN_IDS.fullmatch(" ".join(numbers)):
            yield line, [int(number) for number in numbers]
        elif numbers:
            yield line, [positive_integer(number, "id", f"{path}:{line}") for number in numbers]
