"""Our batches as grain reads them."""

import numpy as np
import pytest
from histories import a_store, held, random_histories

from seqrec.data.batches import ALL_ROWS, Share, training_batches
from seqrec.data.grain_source import BatchSource


def a_source(seed=0, n_steps=7, share=ALL_ROWS):
    store, split = a_store(random_histories())
    return BatchSource(training_batches(store, split, max_length=6, batch_size=8, seed=seed, share=share), n_steps)


def assert_equal(actual, expected):
    for batch, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(held(batch), held(other))


def test_a_source_has_the_batches_of_its_steps_and_no_more():
    source = a_source()
    assert len(source) == 7
    assert_equal([source[step] for step in range(7)], map(source.batches.batch, range(7)))
    for step in (-1, 7):
        with pytest.raises(IndexError, match=r"0\.\.6"):
            source[step]


def test_sources_of_other_batches_have_other_names():
    names = {
        repr(source)
        for source in (a_source(), a_source(1), a_source(n_steps=8), a_source(share=Share(process_count=2)))
    }
    assert len(names) == 4
    assert repr(a_source()) in names


def test_grain_gives_our_batches_and_goes_on_where_it_was():
    grain = pytest.importorskip("grain", reason='grain is an extra: pip install -e ".[grain]"')
    source = a_source()
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    dataset = grain.MapDataset.source(source).to_iter_dataset(grain.ReadOptions(num_threads=2))
    expected = list(map(source.batches.batch, range(7)))
    assert_equal(dataset, expected)
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    later = iter(dataset)
    later.set_state(iterator.get_state())
    assert_equal(later, expected[3:])
