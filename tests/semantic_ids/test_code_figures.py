"""Figures of codes, against counting by hand."""

import numpy as np

from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.semantic_ids.codes import semantic_ids
from seqrec.semantic_ids.figures import codebook_figures, examples, report_figures, session_figures
from seqrec.semantic_ids.neighbours import neighbour_pairs

RNG = np.random.default_rng(0)
IDS = semantic_ids(np.array([[0, 0], [1, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0, 2]]), (4, 3))
STORE = store_from_sequences(RNG.integers(1, 7, (40, 6)).tolist(), n_items=6)
SPLIT = leave_last_out(STORE)
PAIRS = neighbour_pairs(STORE, SPLIT)


def test_perplexity_counts_equally_used_codes():
    first, second = codebook_figures(IDS)
    assert (first["n_codes"], first["used"], first["largest_share"]) == (4, 2, 0.5)
    np.testing.assert_allclose(first["perplexity"], 2.0)
    np.testing.assert_allclose(second["perplexity"], 3.0 ** (1 / 3) * 2.0 ** (1 / 2) * 6.0 ** (1 / 6))


def test_chance_is_that_of_two_different_items_drawn_apart():
    drawn = [(a, b) for block in PAIRS.blocks() for a, b in zip(*block, strict=True)]
    codes = [tuple(row) for row in IDS.codes.tolist()]
    for level, figures in enumerate(session_figures(IDS, PAIRS)):
        prefix = [row[: level + 1] for row in codes]
        independent = [(a, b) for a, _ in drawn for _, b in drawn if a != b]
        share, chance = (np.mean([prefix[a] == prefix[b] for a, b in each]) for each in (drawn, independent))
        np.testing.assert_allclose(
            [figures["share"], figures["chance"], figures["lift"]], [share, chance, share / chance]
        )


def test_examples_are_the_most_frequent_items_of_prefixes_of_three_or_more():
    ids = semantic_ids(np.array([[0, 0], [1, 0], [1, 0], [1, 0], [2, 0], [2, 0], [0, 0]]), (3, 1))
    [example] = examples(ids, np.array(list("abcdef")), np.array([0, 5, 7, 6, 90, 90, 1]))
    assert example == {"prefix": [1, 0], "n_items": 3, "items": ["b", "c", "a"]}


def test_the_report_says_how_many_share_all_codes():
    counts = np.bincount(STORE.items, minlength=7)
    report = report_figures(IDS, STORE, SPLIT, counts=counts)
    assert report["equal_codes"] == {"as_quantised": None, "final": {"items": 4, "groups": 2, "largest": 2}}
    assert report["errors"] is None
    before, targets = STORE.items[SPLIT.valid - 1], STORE.items[SPLIT.valid]
    differ = before != targets
    equal = (IDS.codes[before] == IDS.codes[targets]).all(axis=1)
    np.testing.assert_allclose(report["validation"][1]["share"], equal[differ].mean())


def test_without_pairs_there_is_no_share():
    none = PAIRS._replace(first=PAIRS.first[:0])
    assert session_figures(IDS, none) == [{"share": None, "chance": None, "lift": None}] * 2
