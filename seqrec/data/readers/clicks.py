"""Click sessions: Yoochoose, as published for the RecSys Challenge 2015 and as prepared for GRU4Rec."""

import re
from pathlib import Path

from seqrec.data.event_tables import Columns, Request, Source, load_events, typed_source
from seqrec.data.paths import data_files, first_file
from seqrec.data.tables.delimited import fields_of, first_line_of
from seqrec.data.tables.user_table import text_table
from seqrec.types import InputError

CLICK_COLUMNS = ("SessionId", "Time", "ItemId", "Category")
PREPARED = Columns("SessionId", "ItemId", "Time")


def read_yoochoose(path: Path, request: Request) -> Source:
    """Clicks with the session as the user: yoochoose-clicks.dat, or tab-separated files with SessionId, ItemId, Time.

    A directory that holds yoochoose-clicks.dat stands for it; of another one all files are read, in the order of
    their names.
    """
    published = first_file(path, ("yoochoose-clicks.dat",)) if path.is_dir() else None
    files = data_files(published or path)
    line = first_line_of(files[0])
    names = fields_of(line, "\t", files[0])
    if {*PREPARED} <= set(names):
        rows = load_events(text_table(files, names, delimiter="\t"), request, PREPARED)
    elif re.fullmatch(r"[0-9]+,[0-9]{4}-[0-9-]+T[0-9:.]+Z?,[0-9]+,[^,]*", line):
        rows = load_events(text_table(files, CLICK_COLUMNS, delimiter=",", header=False), request, PREPARED)
    else:
        raise InputError(
            f"{files[0]}:1: {line[:60]!r} begins neither yoochoose-clicks.dat (session,time,item,category) nor a file "
            "with tabs and the columns SessionId, ItemId, Time; name such a file"
        )
    return typed_source("yoochoose", rows, request, time_unit="s")
