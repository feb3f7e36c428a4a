"""Slices of users, by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqrec.report.rank_tables import RankTableFile
from seqrec.report.slices import (
    Slicing,
    joined_slicings,
    quantile_slices,
    select_slicings,
    slice_figures,
    standard_slicings,
    value_slices,
)
from seqrec.types import InputError


def table(n_users=8, **columns) -> RankTableFile:
    users = np.arange(1, n_users + 1)
    return RankTableFile(users, users * 10, np.ones(n_users), {name: np.array(each) for name, each in columns.items()})


def labels(values, **options) -> tuple[str, ...]:
    slices = quantile_slices(np.array(values, float), name="x", column="x", **options)
    return tuple(label.replace("\N{EN DASH}", " to ") for label in slices.labels)


def members(slicing: Slicing) -> dict[str, list[int]]:
    return {
        label: np.flatnonzero(slicing.slice_of_user == place).tolist() for place, label in enumerate(slicing.labels)
    }


def test_quartiles_hold_a_quarter_each():
    slicing = quantile_slices(np.random.default_rng(0).permutation(100.0 + np.arange(80)), name="x", column="x")
    assert np.bincount(slicing.slice_of_user).tolist() == [20] * 4
    assert labels(np.arange(8.0)) == ("0 to 1", "2 to 3", "4 to 5", "6 to 7")


def test_equal_numbers_are_never_parted():
    assert labels([1, 1, 1, 1, 1, 1, 1, 9]) == ("1", "9")
    assert labels([3, 3, 3, 3]) == ("3",)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.123, 0.124, 0.5, 0.75], ("0.12", "0.5 to 0.75")),
        ([0.12341, 0.12342, 0.12343, 0.12344], ("0.12341 to 0.12342", "0.12343 to 0.12344")),
        ([1990, 1995, 2001, 2010], ("1990 to 1995", "2001 to 2010")),
        ([1, 9999, 10000, 2e6], ("1 to 9999", "10,000 to 2,000,000")),
        ([-5, -2, 0, float("inf")], ("-5 to -2", "0 to inf")),
    ],
)
def test_labels_are_the_ends_found_in_as_few_digits_as_tell_them_apart(values, expected):
    assert labels(values, n_bins=2) == expected


def test_an_unknown_number_is_a_slice_of_its_own():
    slicing = quantile_slices(np.array([1.0, np.nan, 5.0]), name="x", column="x", n_bins=2)
    assert members(slicing) == {"1": [0], "5": [2], "unknown": [1]}
    assert labels([np.nan, np.nan]) == ("unknown",)


def test_texts_go_by_frequency_and_then_by_alphabet():
    slicing = value_slices(["c", "b", "c", "a", "d", "", None], name="x", column="x", n_most=2)
    assert members(slicing) == {"c": [0, 2], "a": [3], "other": [1, 4], "unknown": [5, 6]}


def test_a_last_text_alone_is_named_and_not_other():
    assert value_slices(["a", "b", "c"], name="x", column="x", n_most=2).labels == ("a", "b", "c")


def test_slices_of_a_rank_table():
    slicings = standard_slicings(
        table(history_length=np.arange(8), target_events=[0, 0, 1, 2, 3, 4, 5, 6], user_events=[7] * 8), n_bins=2
    )
    # All users are equally active, so that is no slicing.
    assert [slicing.name for slicing in slicings] == ["history length", "target popularity", "cold targets"]
    assert members(slicings[2]) == {"cold: not in training": [0, 1], "warm": [2, 3, 4, 5, 6, 7]}
    assert standard_slicings(table()) == []
    assert [s.name for s in standard_slicings(table(2, target_events=[3, 4]))] == ["target popularity"]


# Columns of other files


def joined(tmp_path, text, of=None, **options):
    (tmp_path / "file.csv").write_text(text)
    return joined_slicings(of or table(), tmp_path / "file.csv", **options)


def test_columns_join_by_user(tmp_path):
    ages, countries = joined(tmp_path, "country,user,age\nde,1,20\nfr,2,30\nde,3,40\nfr,99,40\n,4,50\n", n_bins=2)
    assert (ages.name, countries.name) == ("country", "age")
    assert members(ages) == {"de": [0, 2], "fr": [1], "unknown": [3, 4, 5, 6, 7]}
    assert members(countries) == {"20\N{EN DASH}30": [0, 1], "40\N{EN DASH}50": [2, 3], "unknown": [4, 5, 6, 7]}


def test_columns_join_by_the_held_out_item(tmp_path):
    [genres] = joined(tmp_path, "item_id,genre\n10,a\n20,b\n30,a\n")
    assert members(genres) == {"a": [0, 2], "b": [1], "unknown": [3, 4, 5, 6, 7]}


def test_keys_come_first_where_their_column_has_another_name(tmp_path):
    [genres] = joined(tmp_path, "movieId,genre\n10,a\n20,b\n", keys_of="item")
    assert members(genres)["b"] == [1]


def test_text_keys_meet_integers_as_text(tmp_path):
    [slicing] = joined(tmp_path, "user,x\n1,a\nu2,b\n")
    assert members(slicing)["a"] == [0]
    texts = RankTableFile(np.array(["1", "2"], object), np.array(["a", "b"], object), np.ones(2))
    [slicing] = joined(tmp_path, "user,x\n1,a\n2,b\n", of=texts)
    assert members(slicing) == {"a": [0], "b": [1]}


def test_parquet_joins_too_and_a_constant_is_no_slicing(tmp_path):
    pq.write_table(pa.table({"user": range(1, 9), "flag": [True, False] * 4, "same": [1] * 8}), tmp_path / "file")
    [flags] = joined_slicings(table(), tmp_path / "file")
    assert members(flags) == {"false": [1, 3, 5, 7], "true": [0, 2, 4, 6]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("who,age\n1,2\n", "neither a user nor an item column among 'who', 'age'; say whose keys it holds: user="),
        ("user,item,age\n1,2,3\n", "both a user and an item column"),
        ("user\n1\n", "no column but 'user'"),
        ("user,age\n1,2\n2,3\n1,4\n", "file.csv:4: the user occurs a second time"),
        ("user,age\n77,2\n", "none of its users, such as 77, is in the test set, which has users such as 1"),
        ("user,age\n,2\n", "file.csv:2: the user is missing"),
    ],
)
def test_what_does_not_join_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        joined(tmp_path, text)


def test_slicings_are_chosen_by_column():
    a, b = (value_slices(["x", "y"], name=name, column=name) for name in ("aa", "bb"))
    titles = value_slices([str(n) for n in range(200)], name="title", column="title")
    # Nearly all of the titles are "other", which is shown on request only.
    assert select_slicings([a, b, titles], []) == [a, b]
    assert select_slicings([a, b, titles], ["title"]) == [titles]
    with pytest.raises(InputError, match=r"cannot slice by 'ab'; did you mean .* there are aa, bb"):
        select_slicings([a, b], ["ab"])


# Figures


@pytest.fixture
def figures():
    slicing = value_slices(["x", "y", "x"], name="a $name$", column="c")
    values = {
        "a": {"m": np.array([0.0, 1.0, 1.0]), "n": np.zeros(3)},
        "_b": {"m": np.array([1.0, 0.5, 1.0]), "n": np.ones(3)},
    }
    return slice_figures(slicing, values)


def test_means_and_paired_differences_in_each_slice(figures):
    x, y = figures["slices"]
    assert (x["label"], x["n_users"], y["label"], y["n_users"]) == ("x", 2, "y", 1)
    assert x["runs"]["a"]["m"][0] == 0.5
    # Users 1 and 3 gain 1 and 0; means of two draws of these are 0, 1/2 or 1.
    assert x["differences"] == {"_b": {"m": [0.5, 0.0, 1.0], "n": [1.0, 1.0, 1.0]}}
    assert y["differences"]["_b"]["m"] == [-0.5, -0.5, -0.5]
