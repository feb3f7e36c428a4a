"""Recommendations for any history, by a model whose best items are known."""

import chex
import jax
import jax.numpy as jnp
import pytest

from seqrec.data.history import History
from seqrec.heads.softmax import softmax_model
from seqrec.recommendation import make_recommend
from seqrec.types import BatchFormat, Encoder, InputError


def successor(params, batch, *, key=None):
    """The state after an item is its row of a table of scores, in which each item prefers the next."""
    return params["queries"][batch.items]


def successor_model(n_items=9, max_length=4, encode=successor, times="none"):
    rows = 64
    distance = (jnp.arange(rows)[None, :] - jnp.arange(rows)[:, None] - 1) % n_items
    params = {"item_table": jnp.eye(rows), "queries": -distance.astype(jnp.float32)}
    encoder = Encoder({}, encode, n_items=n_items, d_model=rows, reads=BatchFormat(max_length, times))
    return softmax_model(encoder), params


def test_recommendations_follow_the_newest_item():
    model, params = successor_model()
    recommend = make_recommend(model)
    assert recommend(params, [7, 3], 3, mask_seen=False) == [4, 5, 6]
    assert recommend(params, [3, 7], 3, mask_seen=False) == [8, 9, 1]


def test_seen_items_are_not_recommended_even_those_beyond_what_the_model_reads():
    model, params = successor_model(max_length=2)
    recommend = make_recommend(model)
    # 4 and 5 come before the two items that are read.
    assert recommend(params, [4, 5, 9, 9, 8, 3], 3) == [6, 7, 1]
    assert recommend(params, [4, 5, 9, 9, 8, 3], 3, mask_seen=False) == [4, 5, 6]


def test_histories_may_have_any_length():
    model, params = successor_model(max_length=4)
    recommend = make_recommend(model)
    for length in range(1, 12):
        history = [1 + i % 5 for i in range(length)]
        assert recommend(params, history, 1, mask_seen=False) == [history[-1] + 1]


def test_the_list_is_shorter_where_too_few_items_are_left():
    model, params = successor_model()
    recommend = make_recommend(model)
    assert recommend(params, [1, 2, 3, 4, 5, 6, 7], 5) == [8, 9]
    assert recommend(params, list(range(1, 10)), 5) == []


def test_histories_of_many_lengths_share_few_compiled_functions():
    chex.clear_trace_counter()
    model, params = successor_model(n_items=60, max_length=8, encode=chex.assert_max_traces(successor, n=7))
    recommend = make_recommend(model)
    for length in range(1, 60, 2):  # lists of seen items of 1, 2, 4, … 64: seven sizes
        recommend(params, list(range(1, length + 1)), 1)


@pytest.mark.parametrize("times", ["history", "query"])
def test_a_model_that_reads_times_is_given_those_of_its_items_and_of_the_query(times):
    read = []

    def encode(params, batch, *, key=None):
        given = [batch.times] if times == "history" else [batch.times, batch.next_times]
        jax.debug.callback(lambda *fields: read.extend(fields), *given)
        return successor(params, batch)

    model, params = successor_model(max_length=3, encode=encode, times=times)
    recommend = make_recommend(model)
    recommend(params, History([4, 5, 6, 7], times=[10, 20, 25, 26, 90]), 1)
    jax.effects_barrier()
    assert [each.tolist() for each in read] == [[[0, 5, 6]], [[5, 6, 70]]][: len(read)]
    assert len(read) == (1 if times == "history" else 2)
    with pytest.raises(
        InputError, match="the model reads times; give the seconds of each item and, last, of the query"
    ):
        recommend(params, History([4, 5], times=[10, 20]), 1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "give at least one integer"),
        ([True, False], "is not a list of item ids"),
        ([3, 0], r"item 0, which is not in 1\.\.9"),
        ([3, 10], r"item 10, which is not in 1\.\.9"),
        ([-1], r"item -1, which is not in 1\.\.9"),
    ],
)
def test_bad_ids_are_refused_in_history_and_allowed_items(ids, message):
    model, params = successor_model()
    with pytest.raises(InputError, match=f"history.*{message}"):
        make_recommend(model)(params, ids, 3)
    with pytest.raises(InputError, match=f"allow.*{message}"):
        make_recommend(model)(params, [3], 3, allow=ids)


def test_only_allowed_items_are_recommended_and_of_these_none_that_was_seen():
    model, params = successor_model()
    recommend = make_recommend(model)
    assert recommend(params, [7, 3], 3, allow=[2, 5, 7, 9]) == [5, 9, 2]
    assert recommend(params, [7, 3], 3, allow=[2, 5, 7, 9], mask_seen=False) == [5, 7, 9]
    assert recommend(params, [7, 3], 3, allow=[3, 7]) == []
