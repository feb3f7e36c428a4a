"""Rank tables out of files: a run's own, and those that other systems' lists make."""

import gzip
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.report.rank_tables import RankTableFile, align, read_rank_table, read_top_k
from seqrec.types import InputError


def table(users, items, ranks=None, **columns) -> RankTableFile:
    kind = object if isinstance(users[0], str) else np.int64
    item_kind = object if isinstance(items[0], str) else np.int64
    return RankTableFile(
        np.array(users, kind),
        np.array(items, item_kind),
        np.array([1.0] * len(users) if ranks is None else ranks),
        {name: np.array(values) for name, values in columns.items()},
    )


LIKE = table([1, 2, 3], [10, 20, 30], history_length=[5, 6, 7])


def csv_file(tmp_path, text, name="lists.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


# A run's own


@pytest.mark.parametrize("users", [[3, 1], ["b", "a"]])
def test_a_run_directory_and_its_file_read_alike(tmp_path, users):
    columns = {"user": users, "item": [7, 8], "rank": [1.5, 1], "history_length": [4, 9], "n_candidates": [50, 51]}
    pq.write_table(pa.table(columns), tmp_path / "ranks.parquet")
    for path in (tmp_path, tmp_path / "ranks.parquet"):
        ranks = read_rank_table(path)
        assert ranks.user.tolist() == users
        assert ranks.item.tolist() == [7, 8]
        assert ranks.rank.tolist() == [1.5, 1.0]
        assert ranks.columns["history_length"].tolist() == [4, 9]
        assert ranks.list_length is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1], "item": [2]}, "no column 'rank'; it has 'user', 'item'"),
        ({"user": [1, 2, 1], "item": [2, 2, 2], "rank": [1.0, 1.0, 1.0]}, "row 3: user 1 occurs twice"),
        ({"user": [1], "item": [2], "rank": [0.0]}, "row 1: rank 0 is below 1; add 1"),
        ({"user": [1], "item": [2], "rank": [-1.0]}, "row 1: rank -1 is below 1"),
        ({"user": [1, 2], "item": [2, 2], "rank": [2.0, -math.inf]}, "row 2: rank -inf is below 1"),
        ({"user": [1, 2], "item": [2, 2], "rank": [2.0, math.inf]}, "ranks.parquet, row 2: rank inf is not finite"),
        ({"user": [1, 2], "item": [2, 2], "rank": [2.0, math.nan]}, "row 2: rank nan is not finite; leave out targets"),
        ({"user": [1, 2], "item": [2, 2], "rank": [2, None]}, "row 2: rank nan is not finite"),
        ({"user": [1], "item": [2], "rank": pa.array([None], pa.null())}, "row 1: rank nan is not finite"),
        ({"user": [1], "item": [2], "rank": ["first"]}, "rank is a string, but must be an integer or a float"),
        ({"user": [1], "item": [2], "rank": ["1.0"]}, "rank is a string, but must be"),
        ({"user": [1], "item": [2], "rank": [True]}, "rank is a bool, but must be"),
        ({"user": [1], "item": [2], "rank": pa.array([1], pa.timestamp("s"))}, r"rank is a timestamp"),
        ({"user": [1, None], "item": [2, 2], "rank": [1.0, 1.0]}, "user is missing in 1 rows"),
        ({"user": [1.5], "item": [2], "rank": [1.0]}, "user is a double, a key is an integer or text"),
        ({"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64()), "rank": []}, "holds no rows"),
    ],
)
def test_what_is_no_rank_table_is_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "ranks.parquet")
    with pytest.raises(InputError, match=message) as refusal:
        read_rank_table(tmp_path)
    assert "\n" not in str(refusal.value)


def test_what_is_no_parquet_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no ranks\.parquet; name the directory of a run"):
        read_rank_table(tmp_path)
    with pytest.raises(InputError, match="no file"):
        read_rank_table(tmp_path / "nothing")
    for content, message in (
        (b"", "is empty"),
        (b"user,item", "not a Parquet file"),
        (b"PAR1 cut short", "cannot be read"),
    ):
        (tmp_path / "ranks.parquet").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_rank_table(tmp_path)


# Lists


def test_ranks_are_taken_as_given_and_what_is_not_listed_is_not_ranked(tmp_path):
    text = "user,item,rank\n1,99,1\n1,10,2\n2,99,1\n3,30,1\n3,31,2\n3,32,3\n"
    ranks = read_top_k(csv_file(tmp_path, text), LIKE)
    np.testing.assert_array_equal(ranks.rank, [2.0, np.nan, 1.0])
    assert ranks.list_length == 3
    assert ranks.user is LIKE.user
    assert ranks.columns["history_length"].tolist() == [5, 6, 7]


def test_scores_rank_from_high_to_low_in_any_order_of_rows(tmp_path):
    text = "user,item,score\n1,5,-1\n2,20,0.5\n1,10,2e-1\n2,7,0.25\n3,1,inf\n1,6,.9\n"
    ranks = read_top_k(csv_file(tmp_path, text), LIKE)
    np.testing.assert_array_equal(ranks.rank, [2.0, 1.0, np.nan])
    assert ranks.list_length == 3


def test_tied_scores_cost_their_mean(tmp_path):
    # Of user 1's four items one is above the held-out one and two are tied with it: places 2, 3 and 4.
    text = "user,item,score\n1,5,3\n1,10,1\n1,6,1\n1,7,1\n1,8,0\n2,20,1\n2,21,1\n"
    assert read_top_k(csv_file(tmp_path, text), LIKE).rank.tolist()[:2] == [3.0, 1.5]


@pytest.mark.parametrize("nothing", ["", "nan", "NaN"])
def test_an_item_without_a_score_ranks_last(tmp_path, nothing):
    text = f"user,item,score\n1,5,-3\n1,10,{nothing}\n1,6,{nothing}\n2,20,-1\n2,21,{nothing}\n"
    assert read_top_k(csv_file(tmp_path, text), LIKE).rank.tolist()[:2] == [3.0, 1.0]


def test_ranks_agree_with_sorting_each_list(tmp_path):
    random = np.random.default_rng(0)
    n_users = 50
    like = table(list(range(n_users)), random.integers(0, 12, n_users).tolist())
    rows, expected = [], []
    for user in range(n_users):
        items = random.permutation(12)[: random.integers(1, 9)]
        scores = random.integers(0, 5, len(items)) / 4
        rows += [f"{user},{item},{score}" for item, score in zip(items, scores, strict=True)]
        target = np.flatnonzero(items == like.item[user])
        own = scores[target[0]] if len(target) else np.nan
        # The mean of the places that the held-out item has over all orders of the tied.
        places = 1 + np.flatnonzero(np.sort(-scores) == -own)
        expected.append(places.mean() if len(places) else np.nan)
    rows = random.permutation(rows).tolist()
    ranks = read_top_k(csv_file(tmp_path, "user,item,score\n" + "\n".join(rows)), like)
    np.testing.assert_array_equal(ranks.rank, expected)


def as_gzip(path, rows):
    path.write_bytes(
        gzip.compress(("user_id,item_id,score\n" + "".join(f"{u},{i},{s}\n" for u, i, s in rows)).encode())
    )


def as_tabs(path, rows):
    path.write_text("Item\tnote\tScore\tUser\n" + "".join(f"{i}\tx\t{s}\t{u}\n" for u, i, s in rows))


def as_parquet(path, rows):
    users, items, scores = zip(*rows, strict=True)
    pq.write_table(pa.table({"user": users, "item": items, "score": scores}), path)


def as_floats(path, rows):
    users, items, scores = zip(*rows, strict=True)
    floats = [pa.array(column, pa.float64()) for column in (users, items, scores)]
    pq.write_table(pa.table(dict(zip(("user", "item", "score"), floats, strict=True))), path)


@pytest.mark.parametrize("write", [as_gzip, as_tabs, as_parquet, as_floats])
def test_every_kind_of_file_gives_the_same_ranks(tmp_path, write):
    write(tmp_path / "lists", [(1, 5, 0.9), (1, 10, 0.8), (3, 30, 0.1)])
    np.testing.assert_array_equal(read_top_k(tmp_path / "lists", LIKE).rank, [2.0, np.nan, 1.0])


def test_columns_may_have_names_of_their_own(tmp_path):
    file = csv_file(tmp_path, "uid,iid,rank,pred\n1,5,1,0.1\n1,10,2,0.9\n")
    names = {"user": "uid", "item": "iid"}
    assert read_top_k(file, LIKE, **names).rank[0] == 2.0  # the rank counts where both are there
    assert read_top_k(file, LIKE, **names, score="pred").rank[0] == 1.0


@pytest.mark.parametrize(
    ("like", "text"),
    [
        (LIKE, "user,item,rank\n1,x10,1\n2,20,1\n"),  # one item is no integer, so the file's are text
        (table(["1", "2", "3"], ["10", "20", "30"]), "user,item,rank\n2,20,1\n1,11,1\n"),
        (table(["1", "2", "3"], [10, 20, 30]), "user,item,rank\n2,20,1\nu9,10,1\n"),
    ],
)
def test_integers_and_text_compare_as_text(tmp_path, like, text):
    np.testing.assert_array_equal(read_top_k(csv_file(tmp_path, text), like).rank, [np.nan, 1.0, np.nan])


def test_users_without_a_list_and_lists_without_a_user_are_counted(tmp_path):
    ranks = read_top_k(csv_file(tmp_path, "user,item,rank\n1,10,1\n8,10,1\n9,10,1\n9,11,7\n"), LIKE)
    assert (ranks.n_without_list, ranks.n_unknown) == (2, 2)
    np.testing.assert_array_equal(ranks.rank, [1.0, np.nan, np.nan])
    assert ranks.list_length == 1  # of the users asked about


def test_a_list_cut_out_of_a_longer_one_counts_to_its_last_rank(tmp_path):
    assert read_top_k(csv_file(tmp_path, "user,item,rank\n1,10,7\n2,20,3\n"), LIKE).list_length == 7


def test_lists_that_hold_no_held_out_item_are_warned_of(tmp_path, caplog):
    assert np.isnan(read_top_k(csv_file(tmp_path, "user,item,rank\n1,5,1\n"), LIKE).rank).all()
    assert "no list holds its user's held-out item; its items are such as 5" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists.csv is empty"),
        ("user,item,rank\n", "holds no rows"),
        ("user,movie,rank\n1,2,1\n", "no column 'item' or 'item_id'; it has 'user', 'movie', 'rank'"),
        ("user,item,scores\n1,2,1\n", "no column 'score' or 'rank'; did you mean 'scores'"),
        ("1,10,0.5\n", "no column 'user'.*name the columns in the file's first line"),
        ("user,item,item,rank\n1,2,3,1\n", "2 columns 'item'"),
        ("user,item,rank\n1,10,1\n1,11,2\n1,10,3\n", "lists.csv:4: user 1 has item 10 twice"),
        ("user,item,rank\n1,10,0\n1,11,1\n", "lists.csv:2: the rank is 0, the best rank is 1; add 1"),
        ("user,item,rank\n1,10,\n", "lists.csv:2: the rank is missing"),
        ("user,item,rank\n1,10,True\n", "lists.csv:2: rank 'True' is not a number"),
        ("user,item,rank\n1,10,-1\n", "lists.csv:2: the rank is -1"),
        ("user,item,rank\n1,10,nan\n", "lists.csv:2: the rank is missing"),
        ("user,item,rank\n1,10,1\n1,11,1\n", "lists.csv:2: user 1 has more than one item at rank 1"),
        ("user,item,score\n1,10,high\n", "lists.csv:2: score 'high' is not a number"),
        ("user,item,score\n1,10,1\n,11,2\n", "lists.csv:3: the user is missing"),
        ("user,item,score\n1,10\n", "lists.csv:2: '1,10' has 2 fields, 3 are due"),
        ("user,item,rank\nu1,10,1\n", "none of its users, such as 'u1', is in the test set.* such as 1"),
    ],
)
def test_what_are_no_lists_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as refusal:
        read_top_k(csv_file(tmp_path, text), LIKE)
    assert "\n" not in str(refusal.value)


def test_ranks_that_are_means_of_ties_are_taken(tmp_path):
    text = "user,item,rank\n1,10,1.5\n1,11,1.5\n1,12,3\n"
    assert read_top_k(csv_file(tmp_path, text), LIKE).rank[0] == 1.5


# Alignment


def test_rows_of_one_user_meet_in_any_order():
    a = table([3, 1, 2], [30, 10, 20], [3.0, 1.0, 2.0], history_length=[33, 11, 22])
    b = table([2, 3, 1], [20, 30, 10], [2.5, 3.5, 1.5])
    aligned = align({"a": a, "b": b})
    assert aligned.tables["a"].user.tolist() == aligned.tables["b"].user.tolist() == [1, 2, 3]
    assert aligned.tables["a"].rank.tolist() == [1.0, 2.0, 3.0]
    assert aligned.tables["b"].rank.tolist() == [1.5, 2.5, 3.5]
    assert aligned.tables["a"].columns["history_length"].tolist() == [11, 22, 33]
    assert aligned.n_dropped == {"a": 0, "b": 0}


def test_users_that_a_run_lacks_are_dropped_and_counted():
    a, b = table([1, 2, 3], [10, 20, 30]), table([2, 3, 4, 5], [20, 30, 40, 50])
    aligned = align({"a": a, "b": b})
    assert aligned.tables["b"].user.tolist() == [2, 3]
    assert aligned.n_dropped == {"a": 1, "b": 2}


def test_integer_and_text_keys_meet_as_text():
    aligned = align({"a": table([2, 10], [7, 8]), "b": table(["10", "2"], ["8", "7"], [5.0, 6.0])})
    assert aligned.tables["a"].user.tolist() == aligned.tables["b"].user.tolist() == ["10", "2"]
    assert aligned.tables["b"].rank.tolist() == [5.0, 6.0]


def test_other_held_out_items_are_another_split():
    a, b = table([1, 2, 3], [10, 20, 30]), table([1, 2, 3], [10, 21, 31])
    with pytest.raises(InputError, match=r"items for 2 of 3 users \(user 2: 20 and 21\), so their splits differ"):
        align({"a": a, "b": b})


def test_runs_without_a_common_user_are_refused():
    with pytest.raises(InputError, match=r"no user is in all of a, b \(such as 1 in a, 2 in b\)"):
        align({"a": table([1], [10]), "b": table([2], [10])})


def test_one_run_stays_as_it_is_but_sorted():
    assert align({"a": table([2, 1], [20, 10])}).tables["a"].item.tolist() == [10, 20]
