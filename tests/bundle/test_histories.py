"""Histories as arrays: what the model would be given of each history alone."""

import numpy as np
import pytest

from seqrec.bundle.histories import make_histories, ragged
from seqrec.bundle.programs import batch_of
from seqrec.data.history import History, history_batch
from seqrec.types import BatchFormat

ITEMS = [[3], [1, 2], [5, 6, 7, 8, 9, 1, 2]]
SECONDS = [[7, 9], [100, 100, 105], [1, 2, 4, 8, 16, 32, 64, 128]]
"""Of each item and, last, of the query."""


@pytest.mark.parametrize("times", ["none", "history", "query"])
def test_each_row_is_the_batch_of_its_history_alone(times):
    reads = BatchFormat(5, times)
    seconds = ragged([row if times == "query" else row[:-1] for row in SECONDS], np.int64)
    made = make_histories(ragged(ITEMS, np.int32), max_length=5, times=times, seconds=seconds)
    batch, last = batch_of(made)
    for row, (items, moments) in enumerate(zip(ITEMS, SECONDS, strict=True)):
        alone = history_batch(History(items, moments), reads)
        for name in alone._fields:
            expected, actual = getattr(alone, name), getattr(batch, name)
            assert (expected is None) == (actual is None), name
            if expected is not None:
                np.testing.assert_array_equal(np.asarray(actual)[row], expected[0], err_msg=name)
        assert int(last[row]) == 5 * row + min(len(items), 5) - 1


def test_rows_that_share_values_keep_theirs():
    shared = ragged([[4, 0, 6]], np.int32).take(np.array([0, 0]))
    assert shared.keep(shared.values > 0).padded(3).tolist() == [[4, 6, 0], [4, 6, 0]]
