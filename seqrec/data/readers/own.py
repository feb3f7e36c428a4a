"""The user's own events: files of text, JSON lines or Parquet, a DuckDB table or query, a data frame."""

from typing import Any

from seqrec.data.event_tables import Request, Source, has_times, load_events, typed_source
from seqrec.data.tables.user_table import open_table


def read_events(source: Any, request: Request, *, table: str | None = None, query: str | None = None) -> Source:
    """Events of a path or frame that `open_table` opens, by the names of their columns.

    Their order is that of the files and of the rows in them. Ids of text are int64 where every one is written as int64
    writes it, else text ("007" stays "007"). Times are numbers since 1970 in `time_unit`, or dates and times, in ISO
    form where they are text (UTC where they name no zone).
    """
    opened = open_table(source, likely=request.columns, table=table, query=query, limits=request.limits)
    rows = load_events(opened, request, request.columns)
    return typed_source("events", rows, request, time_unit=request.time_unit if has_times(request.columns) else None)
