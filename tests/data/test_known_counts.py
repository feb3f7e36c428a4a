"""Real data sets, read and prepared, have the counts that are known of them."""

import gzip

import numpy as np
import pytest
from source_rows import rows_of

from seqrec.data.preparation import StepsConfig, prepare_store
from seqrec.data.sources import read_source
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import read_preparation


@pytest.mark.parametrize(
    ("dataset", "path", "n_events", "n_users", "n_items"),
    [
        ("ml-1m", "ml-1m/ml-1m.txt.gz", 999_611, 6_040, 3_416),
        ("s3rec", "amazon-beauty-s3/Beauty.txt.gz", 198_502, 22_363, 12_101),
        ("s3rec", "lastfm-s3/LastFM.txt.gz", 52_551, 1_090, 3_646),
        ("sessions", "nowplaying", 1_057_684, 128_077 + 14_479, 60_416),
        ("yoochoose", "yoochoose-100k", 83_846, None, None),
        ("movielens", "movielens-small", 100_836, 610, 9_724),
    ],
)
def test_prepared_data_has_its_known_counts(shared_data, tmp_path, dataset, path, n_events, n_users, n_items):
    source = read_source(dataset, shared_data / path)
    # Yoochoose has a click twice, which counts as two.
    prepared = prepare_store(source, tmp_path / "store", StepsConfig(drop_duplicates=False), SplitConfig())
    store = prepared.store
    assert store.n_events == n_events
    assert n_users is None or (store.n_users, store.n_items) == (n_users, n_items)
    assert [count.n_removed for count in prepared.counts] == [0] * len(prepared.counts)


@pytest.mark.parametrize(
    ("path", "n_items", "n_attributes"),
    [("amazon-beauty-s3/Beauty.txt.gz", 12_101, 637), ("lastfm-s3/LastFM.txt.gz", 3_646, 388)],
)
def test_every_item_of_the_s3rec_sets_has_attributes(shared_data, path, n_items, n_attributes):
    attributes = read_source("s3rec", shared_data / path).attributes
    assert attributes.num_rows == n_items
    assert len({name for names in attributes["attributes"].to_pylist() for name in names}) == n_attributes


def test_the_sessions_that_the_publisher_tests_on_stay_recognisable(shared_data, tmp_path):
    source = read_source("sessions", shared_data / "nowplaying")
    store = prepare_store(source, tmp_path / "store", StepsConfig(), SplitConfig()).store
    assert read_preparation(tmp_path / "store")["categories"] == {"part": ["train", "test"]}
    is_test = store.columns["part"][store.offsets[:-1]] == 1
    assert (int(is_test.sum()), int((~is_test).sum())) == (14_479, 128_077)
    # The first of them is the first line of their file.
    lines = gzip.decompress((shared_data / "nowplaying" / "test_sessions.txt.gz").read_bytes()).split(b"\n")
    first = int(np.flatnonzero(is_test)[0])
    items = store.item_keys[store.items[store.offsets[first] : store.offsets[first + 1]] - 1]
    assert items.tolist() == [int(item) for item in lines[0].split()]


def test_movies_have_titles_and_genres(shared_data):
    source = read_source("movielens", shared_data / "movielens-small", extra=["rating"])
    assert len(rows_of(source, "rating")) == 100_836
    titles = dict(zip(*(column.to_pylist() for column in source.titles), strict=True))
    genres = dict(zip(*(column.to_pylist() for column in source.attributes), strict=True))
    assert titles[1] == "Toy Story (1995)"
    assert {"Animation", "Children", "Comedy"} <= set(genres[1])
    assert "(no genres listed)" not in {name for names in genres.values() for name in names}
