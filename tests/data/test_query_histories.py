"""Histories in rows of their own, and what continues them, against slow loops."""

import numpy as np
from examples import examples
from histories import a_store, histories_strategy
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data.batches import Share, make_queries
from seqrec.data.splits import leave_last_n_out
from seqrec.data.store import store_from_sequences

quick = examples(60)


@quick
@given(histories_strategy, st.integers(1, 8), st.integers(1, 6), st.booleans(), st.sampled_from([1, 2, 3]))
def test_each_history_has_a_row_of_its_own_in_the_queries_order(
    histories, max_length, batch_size, mask_seen, process_count
):
    store, split = a_store(histories)

    def queries(index):
        return make_queries(
            store,
            split.test,
            max_length=4,
            batch_size=batch_size,
            mask_seen=mask_seen,
            share=Share(1, index, process_count),
        )

    shares = [list(queries(index).histories(max_length)) for index in range(process_count)]
    rows = []
    for parts in zip(*shares, strict=True):
        items, lengths, excluded = (
            np.concatenate(fields)[: queries(0).n_queries] for fields in zip(*parts, strict=True)
        )
        rows += [
            (row[:length].tolist(), row[length:].any(), [item for item in barred.tolist() if item])
            for row, length, barred in zip(items, lengths, excluded, strict=True)
        ]
    query_histories = [history[:-1] for history in histories if len(history) >= 3]
    expected = [(history[-max_length:], False, history if mask_seen else []) for history in query_histories]
    assert rows[: len(query_histories)] == expected
    # What fills the last batch is one item of padding.
    assert all(row == ([0], False, []) for row in rows[len(query_histories) :])


@quick
@given(st.lists(st.lists(st.integers(1, 9), min_size=5, max_size=12), min_size=1, max_size=6), st.integers(1, 4))
def test_a_continuation_is_what_the_user_went_on_with_each_item_once(histories, n):
    store = store_from_sequences(histories)
    split = leave_last_n_out(store, 2, target="first")
    for positions, first in ((split.test, -2), (split.valid, -4)):
        queries = make_queries(store, positions, max_length=4, batch_size=2, mask_seen=False)
        continuations = queries.continuations(n)
        assert continuations.shape == (len(histories), n)
        for row, history in zip(continuations.tolist(), histories, strict=True):
            true = history[first:][:n]
            assert [item for item in row if item] == list(dict.fromkeys(true))


def test_the_last_n_of_validation_are_not_those_of_the_test():
    store = store_from_sequences([[1, 2, 3, 4, 5, 6, 7]])
    split = leave_last_n_out(store, 3, target="first")
    parts = [
        make_queries(store, positions, max_length=4, batch_size=1, mask_seen=True).continuations(3).tolist()
        for positions in (split.valid, split.test)
    ]
    assert parts == [[[2, 3, 4]], [[5, 6, 7]]]
    assert split.train_stop.tolist() == [1]
