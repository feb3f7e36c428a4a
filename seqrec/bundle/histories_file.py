"""Histories, and lists of allowed and excluded items, from a user's files: streamed user by user."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from tyro.conf import OmitArgPrefixes

from seqrec.bundle.histories import Ragged, consecutive_rows
from seqrec.config import check_fields
from seqrec.data.event_tables import Columns, ReadOptions, Source, Ties
from seqrec.data.sources import Dataset, TimeUnit, read_source
from seqrec.data.steps import MICROSECONDS_PER_SECOND, column_names, time_order
from seqrec.data.store_files import key_column
from seqrec.data.tables.columns import required_id
from seqrec.data.tables.rows import BadRows, Destination, Limits, quoted
from seqrec.data.tables.user_table import open_table
from seqrec.report.rank_tables import ITEM_NAMES, USER_NAMES
from seqrec.types import InputError

EVENT, EXCLUDED, ALLOWED = 0, 1, 2


@dataclass(frozen=True)
class HistoriesConfig:
    """Where histories are read from, and which items are candidates."""

    histories: Path | None = None
    """File, directory or quoted glob pattern of events: what prepare_data.py takes as --data-path."""
    dataset: Dataset = "events"
    """Format of the histories: a named public data set, or events for your own table."""
    columns: tuple[str, str, str] = Columns()
    """Names of the user, item and time columns of an events file; write none for the time if there is none, and the
    order of the file is used."""
    time_unit: TimeUnit = "auto"
    """Unit of a numeric time column; auto chooses the unit that gives dates from 1980 to 2100."""
    ties: Ties = "auto"
    """Order of one user's events at equal times, as in training."""
    bad_rows: BadRows = "refuse"
    """What to do with rows that cannot be read: refuse stops with an error, drop skips them."""
    allow: Path | None = None
    """File of the items that may be listed: a column item, or user and item where each user has a list of their own;
    then a user without one gets no list."""
    exclude: Path | None = None
    """File of items that are not listed: a column item, or user and item."""
    limits: OmitArgPrefixes[Limits] = field(default_factory=lambda: Limits(memory_limit="1GB"))

    def __post_init__(self) -> None:
        check_fields(self)


class UserPart(NamedTuple):
    """Some users, one after another in the order of their keys."""

    users: pa.Array
    """Their keys."""
    items: Ragged
    """Ids of their events' items in time order, 0 where the bundle does not know it."""
    seconds: Ragged | None
    """Of each of these events, if times are known."""
    exclude: Ragged | None
    """Known ids that are no candidates; None if no file names any."""
    allow: Ragged | None


@dataclass(frozen=True)
class HistoriesFile:
    """A database that holds events and lists; made by `read_histories`."""

    connection: duckdb.DuckDBPyConnection
    n_users: int
    n_events: int
    fingerprint: str
    """Differs between other events or lists."""
    has_times: bool
    last_seconds: int
    """Time of the newest event; 0 without times."""
    order: tuple[str, ...]
    shared: dict[int, np.ndarray]
    """Ids that a file allows, or excludes, for all users."""
    per_user: tuple[int, ...]
    """Which lists are each user's own."""

    def parts(self, *, users_per_part: int, first_part: int = 0) -> Iterator[UserPart]:
        """All users from a part on; memory does not grow with their number, beyond what the database may use."""
        start = first_part * users_per_part
        keys = self.connection.cursor()  # of its own: a query ends the stream of the one before it
        pending: list[pa.Table] = []

        def part() -> UserPart:
            rows = pa.concat_tables(pending)
            keys_of_part = keys.execute(
                "SELECT user_id FROM numbered_users WHERE number > ? AND number <= ? ORDER BY number",
                [start, start + users_per_part],
            ).fetchnumpy()
            return self._part(rows, key_column(keys_of_part["user_id"]), start)

        for batch in self._rows(start):
            rows, numbers = pa.Table.from_batches([batch]), batch["number"].to_numpy()
            while len(numbers) and numbers[-1] > start + users_per_part:
                n = int(np.searchsorted(numbers, start + users_per_part, side="right"))
                pending.append(rows.slice(0, n))
                yield part()
                pending, start = [], start + users_per_part
                rows, numbers = rows.slice(n), numbers[n:]
            pending.append(rows)
        if pending:
            yield part()

    def _rows(self, start: int) -> Iterator[pa.RecordBatch]:
        order = ", ".join(["number", "kind", *(quoted(name) for name in self.order)])
        relation = self.connection.sql(
            f"SELECT number, kind, id, seconds FROM user_rows WHERE number > {start} ORDER BY {order}"
        )
        read = getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader
        yield from read(1 << 17)

    def _part(self, rows: pa.Table, users: pa.Array, start: int) -> UserPart:
        number, kind, ids = (rows[name].to_numpy() for name in ("number", "kind", "id"))

        def of_kind(wanted: int, values: np.ndarray) -> Ragged:
            chosen = kind == wanted
            return consecutive_rows(values[chosen], np.bincount(number[chosen] - start - 1, minlength=len(users)))

        lists: dict[int, Ragged | None] = {}
        for each in (EXCLUDED, ALLOWED):
            lists[each] = of_kind(each, ids) if each in self.per_user else None
            if each in self.shared:
                shared = self.shared[each]
                lists[each] = Ragged(shared, np.zeros(len(users), np.int64), np.full(len(users), len(shared)))
        seconds = of_kind(EVENT, rows["seconds"].to_numpy()) if self.has_times else None
        return UserPart(users, of_kind(EVENT, ids), seconds, lists[EXCLUDED], lists[ALLOWED])


def open_histories(config: HistoriesConfig, item_keys: np.ndarray) -> HistoriesFile:
    """The histories and lists that a config names; see `read_histories`."""
    if config.dataset == "events" and config.histories is None:
        raise InputError("no histories are given; name their file, as in --histories plays.parquet")
    source = read_source(
        config.dataset,
        config.histories,
        columns=Columns(*config.columns),
        time_unit=config.time_unit,
        ties=config.ties,
        options=ReadOptions(bad_rows=config.bad_rows, limits=config.limits),
    )
    return read_histories(source, item_keys, allow=config.allow, exclude=config.exclude)


def read_histories(
    source: Source, item_keys: np.ndarray, *, allow: Path | None = None, exclude: Path | None = None
) -> HistoriesFile:
    """The events of a source whose items have these keys, in the order of their ids.

    `allow` and `exclude` are files of items, for all users, or of users and items. Whom a file of users and allowed
    items does not name is allowed nothing.

    Raises:
      InputError: the source is empty, or a file of lists cannot be read or allows nothing.
    """
    assert source.connection is not None
    connection, names = source.connection, column_names(source.events)
    events = source.events.drop_nulls([name for name in ("user_id", "item_id", "timestamp_us") if name in names])
    schema = events.collect_schema()
    both_integer = schema["item_id"].is_integer() and item_keys.dtype.kind in "iu"
    keys = item_keys if both_integer else np.array([str(key) for key in item_keys.tolist()], object)
    events.to_native().create_view("complete_events", replace=True)
    given = pa.table({"key": key_column(keys), "id": pa.array(np.arange(1, len(keys) + 1), pa.int32())})
    connection.register("given_items", given)
    connection.execute("CREATE TABLE known_items AS SELECT * FROM given_items")
    connection.unregister("given_items")
    connection.execute(
        "CREATE TABLE numbered_users AS SELECT user_id, row_number() OVER (ORDER BY user_id) AS number "
        "FROM (SELECT DISTINCT user_id FROM complete_events)"
    )
    has_times, order = "timestamp_us" in names, time_order(events)

    def item(expression: str) -> str:
        return f"known_items.key = {expression if both_integer else f'CAST({expression} AS VARCHAR)'}"

    seconds = f"timestamp_us // {MICROSECONDS_PER_SECOND}" if has_times else "NULL::BIGINT"
    columns = ", ".join(f"complete_events.{quoted(name)}" for name in order)
    selects = [
        f"SELECT number, {EVENT}::TINYINT AS kind, coalesce(id, 0) AS id, {seconds} AS seconds, {columns} "
        f"FROM complete_events JOIN numbered_users USING (user_id) LEFT JOIN known_items ON {item('item_id')}"
    ]
    shared, per_user = {}, []
    for kind, path in ((EXCLUDED, exclude), (ALLOWED, allow)):
        if path is None:
            continue
        view = f"lists_{kind}"
        if _read_lists(connection, path, view):
            per_user.append(kind)
            none = ", ".join(f"NULL AS {quoted(name)}" for name in order)
            selects.append(
                f"SELECT number, {kind}::TINYINT AS kind, id, NULL AS seconds, {none} FROM {view} JOIN numbered_users "
                f"ON CAST({view}.user AS VARCHAR) = CAST(user_id AS VARCHAR) "
                f"JOIN known_items ON CAST({view}.item AS VARCHAR) = CAST(known_items.key AS VARCHAR)"
            )
        else:
            ids = f"SELECT DISTINCT id FROM {view} JOIN known_items ON CAST(item AS VARCHAR) = CAST(key AS VARCHAR)"
            shared[kind] = connection.execute(f"{ids} ORDER BY id").fetchnumpy()["id"].astype(np.int32)
            if kind == ALLOWED and not len(shared[kind]):
                raise InputError(f"{path} allows no item that the bundle knows; write keys of its items.parquet")
    connection.execute(f"CREATE TEMP VIEW user_rows AS {' UNION ALL '.join(selects)}")
    [(n_users,)] = connection.execute("SELECT count(*) FROM numbered_users").fetchall()
    ordering = ", ".join(map(quoted, order))
    # A sum, so that the order of rows in a file does not count.
    [(n_events, digest, last)] = connection.execute(
        f"SELECT count(*) FILTER (kind = {EVENT}), sum(hash(number, kind, id, {ordering})::HUGEINT), max(seconds) "
        "FROM user_rows"
    ).fetchall()
    [(users_digest,)] = connection.execute("SELECT sum(hash(user_id, number)::HUGEINT) FROM numbered_users").fetchall()
    if not n_users:
        raise InputError(f"{source.name}: no event has a user, an item and a time; check the columns")
    fingerprint = (
        f"{duckdb.__version__} {digest} {users_digest} {[(kind, ids.tolist()) for kind, ids in shared.items()]}"
    )
    return HistoriesFile(
        connection, n_users, n_events, fingerprint, has_times, last or 0, tuple(order), shared, tuple(per_user)
    )


def _read_lists(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> bool:
    """Makes the table `name` of a file of items, or of users and items, and says whether it has users."""
    table = open_table(path)
    columns = {"item": table.required(*ITEM_NAMES, any_case=True, remedy="name the column of items item")}
    if user := table.find(USER_NAMES):
        columns["user"] = user
    rows = table.load(columns, Destination(connection, view=f"{name}_rows"))
    chosen = ", ".join(f"{required_id(rows, each)} AS {quoted(each)}" for each in columns)
    connection.execute(f"CREATE TABLE {name} AS SELECT {chosen} FROM {rows.view}")
    rows.drop()
    return "user" in columns
