"""Rank tables from files: a run's own, or one made from the top-k lists of another system."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from seqrec.baselines.numpy_ranks import ranks_of_counts
from seqrec.data.paths import check_file
from seqrec.data.tables.columns import number, required_id
from seqrec.data.tables.rows import Destination, RawRows, connect
from seqrec.data.tables.user_table import open_table
from seqrec.types import InputError

USER_NAMES = ("user", "user_id")
ITEM_NAMES = ("item", "item_id")
"""Names under which a column of keys is looked for, the first choice first."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RankTableFile:
    """A rank table by the data's own keys: one row a user."""

    user: np.ndarray
    """Keys, int64 or text."""
    item: np.ndarray
    """Key of the held-out item."""
    rank: Float[np.ndarray, " n_users"]
    """1-based, perhaps fractional; NaN where another system's list lacks the item, which scores 0 in every metric."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Further columns of the file, one value a user, such as history_length."""
    list_length: int | None = None
    """Length of the longest list; metrics with a larger cut-off are unknown. None: the whole catalogue was ranked."""
    n_without_list: int = 0
    """Users whose rank is NaN because the file has no list for them."""
    n_unknown: int = 0
    """Users with a list who are not in the test set; their lists are ignored."""

    @property
    def n_users(self) -> int:
        return len(self.user)

    def take(self, rows: Int[np.ndarray, " n_taken"]) -> "RankTableFile":
        """The table of these rows, in this order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return dataclasses.replace(
            self, user=self.user[rows], item=self.item[rows], rank=self.rank[rows], columns=columns
        )


def read_rank_table(path: Path) -> RankTableFile:
    """The rank table of a run: `path` is its directory, or the ranks.parquet in it.

    Raises:
      InputError: a column is missing or of another type, a user occurs twice, or a rank is missing, NaN, infinite or
        below 1. A target that is not ranked has no row in the file: a run leaves it out and counts it.
    """
    path = Path(path)
    file = path / "ranks.parquet" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise InputError(f"{path} holds no ranks.parquet; name the directory of a run that has finished")
    if not check_file(file).startswith(b"PAR1"):
        raise InputError(f"{file} is not a Parquet file; name a run's directory or its ranks.parquet")
    try:
        table = pq.read_table(file)
    except pa.ArrowException as error:
        raise InputError(f"{file} cannot be read ({str(error).splitlines()[0]}); write it again") from error
    missing = [name for name in ("user", "item", "rank") if name not in table.column_names]
    if missing:
        raise InputError(
            f"{file} has no column {' nor '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, table.column_names))}; a rank table has user, item and rank"
        )
    if table.num_rows == 0:
        raise InputError(f"{file} holds no rows; a rank table has one row a user")
    user, item = (_keys(table[name], f"{file}: {name}") for name in ("user", "item"))
    _, first = np.unique(user, return_index=True)
    if len(first) < len(user):
        row = np.setdiff1d(np.arange(len(user)), first)[0]
        raise InputError(f"{file}, row {row + 1}: user {user[row]} occurs twice; give one row a user")
    others = [name for name in table.column_names if name not in ("user", "item", "rank")]
    columns = {name: table[name].to_numpy() for name in others}
    return RankTableFile(user, item, _ranks(table["rank"], file), columns)


def read_top_k(
    path: Path,
    like: RankTableFile,
    *,
    user: str | None = None,
    item: str | None = None,
    rank: str | None = None,
    score: str | None = None,
) -> RankTableFile:
    """The rank table of another system's lists, for the users and held-out items of `like`.

    The file is CSV (may be compressed with gzip), TSV or Parquet, and has one row per recommended item: a user, an
    item, and a rank or a score. `user`, `item`, `rank` and `score` name the columns if they have other names (user_id
    and item_id are known). If there are both a rank and a score, the rank counts.

    - A rank is 1-based and is used as given; it must not be better than its place in the list allows.
    - Higher scores are better, and a tie costs half a place. NaN and missing scores rank last; a held-out item without
      a score ranks behind all others.
    - A held-out item that is not in its user's list has the rank NaN, which scores 0. So has that of a user without a
      list. Users that are not in `like` are ignored. Both kinds of users are counted.
    - `list_length` is the length of the longest list. A shorter list counts as complete.
    - Keys are compared as integers if both sides have integers, else as text.
    """
    table = open_table(Path(path))
    by_rank = rank is not None or (score is None and table.find(("rank",)) is not None)
    kind = "rank" if by_rank else "score"
    columns = {"user": (user,) if user else USER_NAMES, "item": (item,) if item else ITEM_NAMES}
    columns["value"] = (rank or "rank",) if by_rank else (score,) if score else ("score", "rank")
    remedy = "name the columns in the file's first line"
    take = {key: table.required(*names, any_case=True, remedy=remedy) for key, names in columns.items()}
    rows = table.load(take, Destination(connect()))
    connection = rows.connection
    keys = {name: comparable_keys(rows, required_id(rows, name), getattr(like, name)) for name in ("user", "item")}
    value = number(rows, "value", kind, booleans=False)
    connection.execute(
        f"CREATE TABLE lists AS SELECT event_index, {keys['user'].file_keys} AS user, "
        f"{keys['item'].file_keys} AS item, CAST({value} AS DOUBLE) AS value FROM {rows.view}"
    )
    rows.drop()
    _check_lists(connection, rows.place, by_rank=by_rank)
    queries = {"place": np.arange(like.n_users), "user": keys["user"].table_keys, "item": keys["item"].table_keys}
    connection.register("queries", pa.table(queries))
    [(n_known, n_unknown, list_length)] = connection.execute(
        "SELECT count(*) FILTER (is_known), count(*) FILTER (NOT is_known), max(length) FILTER (is_known) FROM ("
        f"SELECT user IN (SELECT user FROM queries) AS is_known, greatest(count(*), {_LAST_RANK if by_rank else '0'}) "
        "AS length FROM lists GROUP BY user)"
    ).fetchall()
    [(their_user, their_item)] = connection.execute(
        "SELECT arg_min(user, event_index), arg_min(item, event_index) FROM lists"
    ).fetchall()
    if n_known == 0:
        raise no_common_key(path, "user", their_user, like.user)
    ranks = np.full(like.n_users, np.nan)
    listed = connection.execute(_RANKS_AS_GIVEN if by_rank else _COUNTS_BY_SCORE).fetchnumpy()
    if not len(listed["place"]):
        logger.warning(
            "%s: no list holds its user's held-out item; its items are such as %r, the held-out ones such as %r",
            *(path, their_item, like.item.tolist()[0]),
        )
    ranks[listed["place"]] = listed["rank"] if by_rank else ranks_of_counts(listed["n_above"], listed["n_tied"])
    return dataclasses.replace(
        like, rank=ranks, list_length=int(list_length), n_without_list=like.n_users - n_known, n_unknown=n_unknown
    )


_LAST_RANK = "max(floor(value))"
# A row of `queries` joins at most one row of `lists`, which have no duplicates.
_RANKS_AS_GIVEN = "SELECT place, value AS rank FROM queries JOIN lists USING (user, item)"
_COUNTS_BY_SCORE = """
    SELECT place,
        CASE WHEN any_value(target.value) IS NULL THEN count(*) - 1
            ELSE count(*) FILTER (other.value > target.value) END AS n_above,
        CASE WHEN any_value(target.value) IS NULL THEN 0
            ELSE count(*) FILTER (other.value = target.value) - 1 END AS n_tied
    FROM queries JOIN lists AS target USING (user, item) JOIN lists AS other USING (user) GROUP BY place
"""


def _check_lists(connection, place, *, by_rank: bool) -> None:
    repeated = connection.execute(
        "SELECT user, item, max(event_index) AS row FROM lists GROUP BY user, item HAVING count(*) > 1 "
        "ORDER BY row LIMIT 1"
    ).fetchall()
    if repeated:
        user, item, row = repeated[0]
        raise InputError(f"{place(row)}: user {user} has item {item} twice; remove one of the two rows")
    if not by_rank:
        return
    bad = connection.execute(
        "SELECT event_index, value FROM lists WHERE value IS NULL OR value < 1 ORDER BY event_index LIMIT 1"
    ).fetchall()
    if bad:
        row, value = bad[0]
        raise InputError(
            f"{place(row)}: the rank is {'missing' if value is None else f'{value:g}'}, the best rank is 1; "
            + ("fill it in" if value is None else "add 1 to ranks that count from 0")
        )
    better = connection.execute(
        "SELECT event_index, user, value FROM (SELECT *, rank() OVER (PARTITION BY user ORDER BY value) "
        "+ 0.5 * (count(*) OVER (PARTITION BY user, value) - 1) AS due FROM lists) "
        "WHERE value < due ORDER BY event_index LIMIT 1"
    ).fetchall()
    if better:
        row, user, value = better[0]
        raise InputError(
            f"{place(row)}: user {user} has more than one item at rank {value:g}; give each a rank of its own, "
            "or give scores"
        )


@dataclass(frozen=True, eq=False)
class AlignedTables:
    """Rank tables over the same users, in the same order."""

    tables: dict[str, RankTableFile]
    n_dropped: dict[str, int]
    """Per table, users who are not in all the others."""


def align(tables: Mapping[str, RankTableFile]) -> AlignedTables:
    """The rows of the users that all tables have, sorted by user.

    Raises:
      InputError: a user's held-out item differs between tables, or no user is in all of them.
    """
    keys = {name: {"user": table.user, "item": table.item} for name, table in tables.items()}
    for column in ("user", "item"):
        if len({is_text(each[column]) for each in keys.values()}) > 1:
            for each in keys.values():
                each[column] = as_text(each[column])
    first, *others = tables
    common = keys[first]["user"]
    for name in others:
        common = np.intersect1d(common, keys[name]["user"])
    if not len(common):
        users = ", ".join(f"{table.user.tolist()[0]!r} in {name}" for name, table in tables.items())
        raise InputError(f"no user is in all of {', '.join(tables)} (such as {users}); compare runs on the same data")
    common = np.sort(common)
    order = {name: np.argsort(each["user"], kind="stable") for name, each in keys.items()}
    rows = {name: order[name][np.searchsorted(each["user"], common, sorter=order[name])] for name, each in keys.items()}
    targets = {name: keys[name]["item"][rows[name]] for name in tables}
    for name in others:
        differing = np.flatnonzero(targets[name] != targets[first])
        if len(differing):
            user, ours, theirs = (a.tolist()[differing[0]] for a in (common, targets[first], targets[name]))
            raise InputError(
                f"{first} and {name} hold out different items for {len(differing):,} of {len(common):,} users (user "
                f"{user}: {ours} and {theirs}), so their splits differ; compare runs on one split"
            )
    aligned = {
        name: dataclasses.replace(table.take(rows[name]), user=keys[name]["user"][rows[name]], item=targets[name])
        for name, table in tables.items()
    }
    return AlignedTables(aligned, {name: table.n_users - len(common) for name, table in tables.items()})


def is_text(keys: np.ndarray) -> bool:
    """Whether keys are text; those that are not are int64."""
    return keys.dtype.kind not in "iu"


def as_text(keys: np.ndarray) -> np.ndarray:
    """Keys as an object array of str.

    >>> as_text(np.array([7, 10])).tolist()
    ['7', '10']
    """
    return np.array([str(key) for key in keys.tolist()], dtype=object)


class ComparableKeys(NamedTuple):
    """Keys of a file and of a rank table, both as int64 or both as text."""

    file_keys: str
    """The SQL expression of the file's."""
    table_keys: pa.Array


def comparable_keys(rows: RawRows, expression: str, keys: np.ndarray) -> ComparableKeys:
    """The keys of a file's rows and those of a rank table; integers if both are."""
    if rows.one(f"any_value(typeof({expression}))")[0] == "BIGINT" and not is_text(keys):
        return ComparableKeys(expression, pa.array(keys.tolist(), pa.int64()))
    return ComparableKeys(f"CAST({expression} AS VARCHAR)", pa.array(as_text(keys).tolist(), pa.string()))


def no_common_key(path: Path, kind: str, example: object, keys: np.ndarray) -> InputError:
    """What to tell somebody whose file has none of a rank table's keys."""
    return InputError(
        f"{path}: none of its {kind}s, such as {example!r}, is in the test set, which has {kind}s such as "
        f"{keys.tolist()[0]!r}; write the keys of the data's own file"
    )


def _keys(column: pa.ChunkedArray, what: str) -> np.ndarray:
    if column.null_count:
        raise InputError(f"{what} is missing in {column.null_count:,} rows; a rank table has one user and item a row")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    raise InputError(f"{what} is a {column.type}, a key is an integer or text; cast the column")


def _ranks(column: pa.ChunkedArray, file: Path) -> Float[np.ndarray, " n_users"]:
    kind = column.type
    # Arrow casts booleans and text to floats: True would be the first place.
    if not any(
        test(kind) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    ):
        raise InputError(f"{file}: rank is a {kind}, but must be an integer or a float; cast the column")
    ranks = column.cast(pa.float64()).to_numpy()
    bad = np.flatnonzero(~(np.isfinite(ranks) & (ranks >= 1.0)))
    if len(bad):
        rank = ranks[bad[0]]
        is_below, remedy = rank < 1.0, "leave out targets that were not ranked, or rank them behind all candidates"
        raise InputError(
            f"{file}, row {bad[0] + 1}: rank {rank:g} is {'below 1' if is_below else 'not finite'}; "
            + ("add 1 to ranks that count from 0" if is_below else remedy)
        )
    return ranks
