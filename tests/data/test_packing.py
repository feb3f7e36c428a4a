"""Packing against a loop over the segments, and the windows that are packed."""

import itertools
from collections import Counter

import numpy as np
import pytest
from examples import examples
from histories import a_store, histories_strategy, latest_pairs, training_part
from hypothesis import given
from hypothesis import strategies as st

from seqrec.data.events import sequences
from seqrec.data.packing import pack, pack_training
from seqrec.data.sources import read_source
from seqrec.data.splits import leave_last_out
from seqrec.types import InputError

quick = examples(60)


def packed_in_a_loop(lengths, length) -> list[list[int]]:
    """Best-fit decreasing, one segment after another; of rows with equal room the one that was last put into."""
    rows, rooms, put_into = [], [], []
    for time, segment in enumerate(sorted(range(len(lengths)), key=lambda segment: -lengths[segment])):
        fitting = [row for row in range(len(rows)) if rooms[row] >= lengths[segment]]
        if fitting:
            row = min(fitting, key=lambda row: (rooms[row], -put_into[row]))
        else:
            row = len(rows)
            rows.append([])
            rooms.append(length)
            put_into.append(0)
        rows[row].append(segment)
        rooms[row] -= lengths[segment]
        put_into[row] = time
    return rows


@quick
@given(st.lists(st.integers(1, 24), max_size=80), st.integers(24, 30))
def test_segments_lie_where_a_loop_over_them_puts_them(lengths, length):
    packed = pack(np.arange(len(lengths)), np.array(lengths, np.int64), length)
    assert [packed.order[a:b].tolist() for a, b in itertools.pairwise(packed.row_offsets)] == packed_in_a_loop(
        lengths, length
    )


@pytest.mark.parametrize("lengths", [[3, 0], [3, 11], [-1]])
def test_a_segment_that_no_row_holds_is_refused(lengths):
    with pytest.raises(InputError, match="rows of 10 take 1 to 10"):
        pack(np.arange(len(lengths)), np.array(lengths), 10)


@pytest.mark.parametrize(
    ("form", "file", "max_length"),
    [("ml-1m", "ml-1m/ml-1m.txt.gz", 200), ("s3rec", "amazon-beauty-s3/Beauty.txt.gz", 50)],
)
def test_less_than_three_percent_of_real_rows_is_padding(shared_data, form, file, max_length):
    store = sequences(read_source(form, shared_data / file))
    n_pairs = np.diff(store.offsets) - 3  # all users have five events or more
    for whole_histories, n_learned in ((True, n_pairs), (False, np.minimum(n_pairs, max_length))):
        packed = pack_training(store, leave_last_out(store), max_length=max_length, whole_histories=whole_histories)
        assert packed.lengths.sum() == n_learned.sum()
        assert packed.fill_share == n_learned.sum() / (packed.n_rows * max_length) > 0.97


@quick
@given(st.lists(st.integers(1, 10), max_size=40))
def test_every_segment_is_packed_once_and_no_row_is_over_full(lengths):
    starts = 100 * np.arange(len(lengths))
    packed = pack(starts, np.array(lengths, np.int64), 10)
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))
    np.testing.assert_array_equal(packed.starts, starts[packed.order])
    np.testing.assert_array_equal(packed.lengths, np.array(lengths, np.int64)[packed.order])
    rows = [packed.lengths[a:b] for a, b in itertools.pairwise(packed.row_offsets)]
    assert len(rows) == packed.n_rows
    assert all(1 <= row.sum() <= 10 for row in rows)
    # Best fit opens a row only where nothing else has room: no two rows would fit into one.
    fills = sorted(row.sum() for row in rows)
    assert len(fills) < 2 or fills[0] + fills[1] > 10


def test_best_fit_fills_the_rows_of_a_case_on_paper():
    # 7 and 6 open rows; 4 fits only the 6; 3 fits only the 7; both rows are full.
    packed = pack(np.arange(4), np.array([3, 6, 4, 7]), 10)
    rows = [sorted(packed.lengths[a:b].tolist()) for a, b in itertools.pairwise(packed.row_offsets)]
    assert sorted(rows) == [[3, 7], [4, 6]]


def test_rows_are_at_most_two_ninths_more_than_the_fewest():
    # Full rows cut at random places: the fewest rows that hold the parts are known.
    generator, n_full = np.random.default_rng(0), 100
    cuts = [np.sort(generator.choice(np.arange(1, 20), 3, replace=False)) for _ in range(n_full)]
    lengths = np.concatenate([np.diff(cut, prepend=0, append=20) for cut in cuts])
    packed = pack(np.arange(len(lengths)), lengths, 20)
    # Johnson et al. 1974, for first-fit and best-fit decreasing alike.
    assert n_full <= packed.n_rows <= 11 / 9 * n_full + 4


@quick
@given(histories_strategy, st.integers(1, 8))
def test_packed_are_the_latest_pairs_of_each_user(histories, max_length):
    store, split = a_store(histories)
    packed = pack_training(store, split, max_length=max_length)
    pairs = [
        (tuple(store.items[a : a + n].tolist()), tuple(store.items[a + 1 : a + 1 + n].tolist()))
        for a, n in zip(packed.starts, packed.lengths, strict=True)
    ]
    assert Counter(pairs) == Counter(latest_pairs(histories, max_length))


@quick
@given(histories_strategy, st.integers(1, 8))
def test_windows_of_whole_histories_hold_every_pair_once(histories, max_length):
    store, split = a_store(histories)
    packed = pack_training(store, split, max_length=max_length, whole_histories=True)
    places = [place for a, n in zip(packed.starts, packed.lengths, strict=True) for place in range(a, a + n)]
    expected = [
        start + i
        for start, history in zip(store.offsets, histories, strict=False)
        for i in range(len(training_part(history)) - 1)
    ]
    assert sorted(places) == expected
    assert packed.lengths.max(initial=0) <= max_length
    latest = pack_training(store, split, max_length=max_length)
    assert set(latest.starts.tolist()) <= set(packed.starts.tolist())
