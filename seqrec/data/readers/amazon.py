"""Amazon reviews as McAuley and others published them in 2014, 2018 and 2023: ratings only, or JSON lines."""

import itertools
import json
import logging
import re
from pathlib import Path

from seqrec.data.event_tables import NO_ITEMS, Columns, Items, Request, Source, load_events, typed_source
from seqrec.data.paths import as_input_error, check_file, data_files, first_file
from seqrec.data.tables.delimited import TextFile, fields_of, first_line_of, shown_names
from seqrec.data.tables.json_lines import json_keys, json_lines
from seqrec.data.tables.user_table import json_table, text_table
from seqrec.files import JsonObject
from seqrec.types import InputError

ASIN = re.compile("B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
N_LINES_FOR_ORDER = 1000
"""Lines in which it is looked for whether the item or the user stands first."""
LAYOUTS = (Columns("reviewerID", "asin", "unixReviewTime"), Columns("user_id", "parent_asin", "timestamp"))
"""Of the reviews of 2014 and 2018, and of 2023."""

logger = logging.getLogger(__name__)


def read_amazon(path: Path, request: Request) -> Source:
    """Reviews or ratings: JSON lines, a csv with a header (2023), or one without (2014, 2018).

    Without a header the columns are user, item, rating, timestamp; in 2018 the item came first, which its ids of ten
    characters tell. In 2023 an item is a `parent_asin`, which stands for all variants of a product. Titles and
    categories come from the meta file beside the reviews.
    """
    files = data_files(path)
    if path.is_dir():
        # Its meta files are of the items.
        files = [file for file in files if not file.name.startswith("meta")] or files
    head = check_file(files[0])
    if head.lstrip().startswith(b"{"):
        columns = _layout(files[0], json_keys(files[0]))
        rows = load_events(json_table(files), request, columns)
    else:
        line = first_line_of(files[0])
        names = fields_of(line, ",", files[0])
        if {"rating", "timestamp"} <= set(names):
            columns = _layout(files[0], names)
            rows = load_events(text_table(files, names, delimiter=","), request, columns)
        elif len(names) == 4:
            columns = Columns("user", "item", "timestamp")
            order = ("user", "item") if _users_stand_first(files[0]) else ("item", "user")
            logger.info("%s is read as %s, %s, rating, timestamp", files[0], *order)
            table = text_table(files, (*order, "rating", "timestamp"), delimiter=",", header=False)
            rows = load_events(table, request, columns)
        else:
            raise InputError(
                f"{files[0]}:1: {line[:60]!r} begins neither JSON lines nor a csv of user, item, rating, timestamp; "
                "name such a file"
            )
    # Seconds until 2018, milliseconds in 2023.
    return typed_source("amazon", rows, request, time_unit="auto", items=_products(files[0], columns.item))


def _layout(path: Path, names: list[str]) -> Columns:
    layout = next((columns for columns in LAYOUTS if {*columns} <= set(names)), None)
    if layout is None:
        raise InputError(
            f"{path} has {shown_names(names)}; reviews have {' or '.join(', '.join(c) for c in LAYOUTS)}; "
            "name such a file, or read yours as events"
        )
    return layout


def _users_stand_first(path: Path) -> bool:
    rows = itertools.islice(TextFile(path, ",", '"', header=False).rows(), N_LINES_FOR_ORDER)
    pairs = [fields[:2] for _, fields in rows if len(fields) == 4]
    n_first, n_second = (sum(bool(ASIN.fullmatch(pair[place])) for pair in pairs) for place in (0, 1))
    return n_second >= n_first


def _products(path: Path, key: str) -> Items:
    """Titles and categories from the meta file, JSON lines, beside the reviews: meta_Books.jsonl of Books.jsonl."""
    stem = re.sub(r"(_5|_10)?\.(csv|jsonl?)(\.gz|\.zst)?$", "", path.name).removeprefix("reviews_")
    path_of_meta = first_file(path.parent, (f"meta_{stem}.jsonl", f"meta_{stem}.json"))
    if path_of_meta is None:
        return NO_ITEMS
    check_file(path_of_meta)
    key = "parent_asin" if key == "parent_asin" else "asin"
    titles: dict[str, str] = {}
    categories: dict[str, list[str]] = {}
    for number, line in json_lines(path_of_meta):
        # The first ones, of 2014, are Python's own notation, which only running it as code would read.
        complaint = f"{path_of_meta}:{number}: the line is no JSON object with {key}; correct the file or move it away"
        with as_input_error(complaint, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            product: JsonObject = json.loads(line)
            item = str(product[key])
            titles[item] = str(product.get("title") or "")
            categories[item] = [str(name) for name in product.get("categories") or product.get("category") or []]
    return Items(titles, categories)
