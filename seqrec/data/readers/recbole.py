"""RecBole's atomic files: tab-separated, with a type behind each column's name."""

from pathlib import Path

from seqrec.data.event_tables import NO_ITEMS, Columns, Items, Request, Source, load_events, typed_source, unit_of
from seqrec.data.paths import check_file, data_files, first_file
from seqrec.data.tables.delimited import TextFile, fields_of, first_line_of, shown_names
from seqrec.data.tables.user_table import text_table
from seqrec.types import InputError

TYPES = ("token", "token_seq", "float", "float_seq")
PARTS = ("train", "valid", "test")
TITLE_NAMES = ("title", "name")
"""What the name of an item's column of titles has in it."""


def read_recbole(path: Path, request: Request) -> Source:
    """Interactions from an .inter file, or its directory: the columns user_id, item_id and, where it is, timestamp.

    A directory may hold NAME.train.inter, NAME.valid.inter and NAME.test.inter instead, which are read in this order.
    `columns` names others. Titles come from the column of the .item file beside it that has title or name in its
    name, attributes from its other columns of sequences: their words, or what stands between commas
    where there are any.
    """
    files = _files_in(path) if path.is_dir() else [path]
    for file in files:
        check_file(file)
    path = files[0]
    columns = request.columns
    names = _names(path)
    if f"{columns.item}_list" in names:
        raise InputError(
            f"{path} has a history in each row ({columns.item}_list), not an interaction; name the .inter file that "
            "the histories were made from"
        )
    if columns == Columns() and "timestamp" not in names:
        columns = columns._replace(time="none")
    rows = load_events(text_table(files, names, delimiter="\t", quote=""), request, columns)
    return typed_source(
        "recbole", rows, request, time_unit=unit_of(request, columns), items=_items_beside(path, columns.item)
    )


def _files_in(directory: Path) -> list[Path]:
    """The .inter file, or the three of a split that was published with the data."""
    files = [file for file in data_files(directory) if ".inter" in file.suffixes]
    parts = {part: [file for file in files if f".{part}" in file.suffixes] for part in PARTS}
    if len(files) == len(PARTS) and all(len(of_part) == 1 for of_part in parts.values()):
        return [file for of_part in parts.values() for file in of_part]
    if len(files) != 1:
        raise InputError(
            f"{directory} holds {len(files)} .inter files; name one, or keep one, or {', '.join(PARTS)} of one data set"
        )
    return files


def _names(path: Path) -> list[str]:
    """The names of the columns, without their types."""
    fields = fields_of(first_line_of(path), "\t", path, quote="")
    untyped = [field for field in fields if field.rpartition(":")[2] not in TYPES]
    if untyped:
        raise InputError(
            f"{path}:1: the column {untyped[0][:40]!r} has no type of {', '.join(TYPES)}; write it as name:token"
        )
    return [field.rpartition(":")[0] for field in fields]


def _items_beside(path: Path, item: str) -> Items:
    stem = path.name[: path.name.index(".inter")] if ".inter" in path.name else path.stem
    stem = stem.removesuffix(".train")
    path_of_items = first_file(path.parent, (f"{stem}.item",))
    if path_of_items is None:
        return NO_ITEMS
    check_file(path_of_items)
    names, header = _names(path_of_items), first_line_of(path_of_items).split("\t")
    if item not in names:
        raise InputError(f"{path_of_items} has no column {item!r}; it has {shown_names(names)}; rename it")
    key = names.index(item)
    title = next((i for i, name in enumerate(names) if i != key and any(t in name for t in TITLE_NAMES)), None)
    sequences = [i for i, field in enumerate(header) if field.endswith(":token_seq") and i not in (key, title)]
    titles, attributes = {}, {}
    for _, fields in TextFile(path_of_items, "\t", "", header=True).records(header):
        if title is not None:
            titles[fields[key]] = fields[title]
        words = (word for i in sequences for word in fields[i].split("," if "," in fields[i] else " "))
        attributes[fields[key]] = [word.strip() for word in words if word.strip()]
    return Items(titles if title is not None else None, attributes if sequences else None)
