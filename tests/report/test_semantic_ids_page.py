"""The page of semantic ids."""

import numpy as np

from seqrec.data.key_tables import KeyTable
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.report.semantic_ids_page import as_text, page
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.semantic_ids.figures import report_figures

TITLES = np.array(["<b>Alpha</b>", "Beta", "", "Delta", "Epsilon"], object)
STORE = store_from_sequences([[1, 2, 3, 4, 5], [2, 1, 5, 4, 3]])._replace(
    item_table=KeyTable({"key": np.arange(1, 6), "title": TITLES})
)
CODES = np.array([[0, 0], [1, 0], [1, 0], [1, 0], [0, 0], [0, 1]])
FACTS = {"method": "file", "seed": 0, "data_hash": "abc", "command": "python experiments/semantic_ids.py store"}


def report(codes):
    ids = semantic_ids(codes, (2, 3))
    counts = np.bincount(STORE.items, minlength=6)
    return {**report_figures(ids, STORE, leave_last_out(STORE), counts=counts), "facts": FACTS}


def test_titles_are_escaped_and_items_without_one_have_their_key():
    shown = page(report(CODES))
    assert "&lt;b&gt;Alpha&lt;/b&gt;; Beta; 3" in shown
    assert "<b>Alpha" not in shown


def test_items_with_equal_codes_are_counted_in_words():
    # Items 1, 2 and 3 have equal codes; of the others no two.
    assert "3 items share all their codes with another, in 1 group of up to 3" in as_text(report(CODES))
    distinct = CODES.copy()
    distinct[1:, 1] = [0, 1, 2, 0, 1]
    assert "no two items share all their codes" in as_text(report(distinct))
