"""Requests by the data's own keys: what counts as one item, and what is refused in one line."""

import numpy as np
import pytest

from bundle.small_bundles import loaded
from seqrec.bundle.requests import Ids, ids_of
from seqrec.types import InputError

HISTORIES = [["track-1", "track-2"], ["track-3"]]


def test_keys_of_numbers_are_known_by_their_texts_too():
    numbers, texts = Ids(np.array([10, -2])), Ids(np.array(["10", "010"], object))
    assert [numbers[key] for key in (10, "10", np.int64(-2), "-2", 10.0)] == [1, 1, 2, 2, 1]
    assert [numbers[key] for key in ("010", "10.0", " 10", "\u0661\u0660", 11, 1e9)] == [0] * 6
    assert [texts[key] for key in ("10", 10, np.str_("010"), 11, np.float32(10))] == [1, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "value",
    [True, np.True_, None, 1.5, float("nan"), float("-inf"), 2.0**53, ["10"], {"a": 1}, b"10", np.array(["10"])],
)
def test_what_is_neither_text_nor_whole_number_is_no_key(value):
    for ids in (Ids(np.array([1, 10])), Ids(np.array(["1", "True", "None"], object))):
        with pytest.raises(InputError, match=r"histories holds .+, which is no item key; give texts or whole numbers"):
            ids_of([[10, value]], ids, name="histories")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 31}, r"k=31 is not in 1\.\.30, the number of items of"),
        ({"k": 0}, r"k=0 is not in 1\.\.30"),
        ({"k": True}, r"k=True is not in 1\.\.30"),
        ({"k": 2.0}, r"k=2.0 is not in 1\.\.30"),
        ({"allow": []}, "allow leaves history 0 no item that .* may list; name some, or leave allow out"),
        ({"allow": ["nothing we have"]}, "allow leaves history 0 no item"),
        ({"allow": [["track-1"], []]}, "allow leaves history 1 no item"),
        ({"allow": [["track-1"]]}, "allow has 1 lists for 2 histories; give one for each, or one for all"),
        ({"exclude": [["track-1"]] * 3}, "exclude has 3 lists for 2 histories"),
        ({"exclude": "track-1"}, "exclude is 'track-1'; give a list of item keys, or one for each history"),
        ({"times": [[1, 2], [3]]}, "reads no times; leave times out"),
    ],
)
def test_what_no_list_can_be_made_of_is_refused(options, message, unchecked):
    with pytest.raises(InputError, match=message):
        loaded().recommend(HISTORIES, **options)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("track-1", "histories is 'track-1'; give a list that holds a list of item keys for each user"),
        (["track-1"], r"histories\[0\] is 'track-1'; give a list of item keys"),
        ([[["track-1"]]], "histories holds \\['track-1'\\], which is no item key"),
        ([["track-1"], 7], r"histories\[1\] is 7; give a list of item keys"),
    ],
)
def test_what_is_no_list_of_histories_is_refused(histories, message, unchecked):
    with pytest.raises(InputError, match=message):
        loaded().recommend(histories)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (None, "reads times; give, for each history, the seconds since 1970 of each item and, last, of the query"),
        ([[1, 2, 3]], "reads times; give, for each history"),
        ([[1, 2], [3, 4]], r"times\[0\] holds 2 numbers for 2 items; give those of each item and, last, of the query"),
        ([[1, 2, 3], [3, float("nan")]], r"times\[1\] holds nan; give seconds since 1970, from 0 on"),
        ([[-1, 2, 3], [3, 4]], r"times\[0\] holds -1; give seconds"),
        ([[1, 2, float("inf")], [3, 4]], r"times\[0\] holds inf; give seconds"),
        ([[1, 2, 3], [4, 3]], r"times\[1\] falls; give histories whose oldest item comes first"),
        ([[1, 2, 3], ["now", 4]], r"times\[1\] is \['now', 4\]; give a list of numbers"),
    ],
)
def test_times_that_cannot_be_are_refused(times, message, unchecked):
    with pytest.raises(InputError, match=message):
        loaded("query").recommend(HISTORIES, times=times)
