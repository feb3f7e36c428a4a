"""Codes of items are checked once, where they are made."""

import numpy as np
import pytest

from seqrec.semantic_ids.codes import semantic_ids
from seqrec.types import InputError

GOOD = np.array([[0, 0], [0, 1], [1, 0], [1, 2]])
KEYS = np.array([10, 20, 30])


def test_codes_become_int32_with_an_empty_row_of_padding():
    ids = semantic_ids(np.where(np.arange(4)[:, None] == 0, 7, GOOD), [2, 3], item_keys=KEYS)
    np.testing.assert_array_equal(ids.codes, GOOD)
    assert ids.codes.dtype == np.int32
    assert (ids.n_codes, ids.n_items, ids.n_levels) == ((2, 3), 3, 2)


@pytest.mark.parametrize(
    ("codes", "n_codes", "item_keys", "words"),
    [
        (GOOD, (2, 3), np.arange(4), "4 rows, n_items [+] 1 = 5"),
        (GOOD, (2,), KEYS, "2 levels and there are 1 codebooks"),
        (GOOD, (2, 2), KEYS, "item 30 has the code 2 at level 1, whose codebook has 2"),
        (GOOD - 1, (2, 3), KEYS, "2 of 3 items lack a code, the first item 10"),
        (np.ones((4, 2), int), (2, 3), KEYS, "all 3 items have the codes .1, 1."),
        (GOOD / 2, (2, 3), None, "float64"),
        (GOOD, (2, 0), KEYS, "outside 1"),
        (GOOD, (2, 2**21), KEYS, "outside 1..1,048,576; number the codes of each level from 0"),
        (GOOD[:1], (2, 3), None, "at least 2"),
    ],
)
def test_what_no_model_can_read_is_refused_in_one_line(codes, n_codes, item_keys, words, unchecked):
    with pytest.raises(InputError, match=words) as caught:
        semantic_ids(codes, n_codes, item_keys=item_keys)
    assert "\n" not in str(caught.value)
