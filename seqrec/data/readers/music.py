"""Listening logs: Last.fm-1K and Yambda."""

import dataclasses
from pathlib import Path

from seqrec.data.event_tables import Columns, Items, Request, Source, load_events, typed_source
from seqrec.data.paths import check_file, data_files, first_file
from seqrec.data.tables.rows import RawRows, quoted
from seqrec.data.tables.user_table import open_table, text_table
from seqrec.types import InputError

LASTFM_COLUMNS = ("user_id", "timestamp", "artist_id", "artist", "track_id", "track")
LASTFM_FILE = "userid-timestamp-artid-artname-traid-traname.tsv"


def read_lastfm_1k(path: Path, request: Request) -> Source:
    """Plays of Last.fm-1K (Celma, 2010), tab-separated without a header; quotes are data.

    An item is a track: its id or, as many have none, its artist's and its own name, "artist - track". Titles are
    these names too, and the artist is an attribute. `extra` and `categories` go by the file's documented columns:
    user_id, timestamp, artist_id, artist, track_id, track.
    """
    if path.is_dir():
        plays = first_file(path, (LASTFM_FILE,))
        if plays is None:
            raise InputError(f"{path} does not hold {LASTFM_FILE}; name the directory that does")
        path = plays
    columns, names = Columns("user_id", "track_id", "timestamp"), {"artist": "artist", "track": "track"}
    table = text_table([path], LASTFM_COLUMNS, delimiter="\t", quote="", header=False)
    rows = load_events(table, request, columns, further=names)
    title = "coalesce(artist, '') || ' - ' || coalesce(track, '')"
    rows.connection.execute(
        f"""
        UPDATE {rows.table} SET item_id = CASE WHEN coalesce(track, '') != '' THEN {title} END
        WHERE coalesce(item_id, '') = ''
        """
    )
    # The names under which an item is first played.
    titles = rows.connection.execute(
        f"""
        SELECT item_id, arg_min({title}, event_index), arg_min(coalesce(artist, ''), event_index)
        FROM {rows.view} WHERE item_id IS NOT NULL GROUP BY item_id ORDER BY item_id
        """
    ).fetchall()
    items = Items({key: title for key, title, _ in titles}, {key: [artist] for key, _, artist in titles})
    return typed_source("lastfm-1k", rows, request, time_unit="s", items=items)


def read_yambda(path: Path, request: Request) -> Source:
    """Events of Yambda (Ploshkin et al., 2025), Parquet: an event a row, or one user a row with lists.

    Its times are seconds, in steps of 5, since a moment that is not published.
    """
    files = data_files(path)
    for file in files:
        if not check_file(file).startswith(b"PAR1"):
            raise InputError(f"{file} is no Parquet file; name one such as listens.parquet")
    table = open_table(path)
    names = table.columns
    plural = {name: f"{name}s" for name in ("item_id", "timestamp") if name not in names and f"{name}s" in names}
    columns = Columns("uid", plural.get("item_id", "item_id"), plural.get("timestamp", "timestamp"))
    return typed_source("yambda", _unnest(load_events(table, request, columns)), request, time_unit="s")


def _unnest(rows: RawRows) -> RawRows:
    """An event a row, where each row has been a user with lists."""
    connection, view = rows.connection, rows.view
    column_types = connection.execute(f"DESCRIBE {view}").fetchall()
    lists = [name for name, kind, *_ in column_types if kind.endswith("[]")]
    if "item_id" not in lists:
        return rows
    lengths = " AND ".join(f"len({name}) IS NOT DISTINCT FROM len(item_id)" for name in lists)
    [(bad,)] = connection.execute(f"SELECT min(event_index) FROM {view} WHERE NOT ({lengths})").fetchall()
    if bad is not None:
        raise InputError(f"{rows.place(bad)}: its lists {', '.join(lists)} are of different lengths; correct the row")
    expressions = ", ".join(f"unnest({name}) AS {name}" if name in lists else name for name, *_ in column_types[1:])
    connection.execute(f"CREATE TABLE {view}_table AS SELECT event_index AS user_row, {expressions} FROM {view}")
    connection.execute(f"DROP VIEW {view}")
    names = ", ".join(quoted(name) for name, *_ in column_types[1:])
    connection.execute(f"CREATE TEMP VIEW {view} AS SELECT rowid AS event_index, {names} FROM {view}_table")

    def place(row: int) -> str:
        # Rows are gone once typed; a complaint comes before.
        [(user_row,)] = connection.execute(
            f"SELECT user_row FROM {view}_table WHERE rowid = $row", {"row": row}
        ).fetchall()
        return rows.place(user_row)

    return dataclasses.replace(rows, place=place, table=f"{view}_table")
