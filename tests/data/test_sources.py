import csv
import gzip

import numpy as np
import pytest
from found_events import refusal

from seqrec.data.events import sequences
from seqrec.data.sources import DATASETS, Columns, read_source


def test_what_is_not_there_is_refused(tmp_path):
    assert "choose from movielens-demo, ml-1m, sasrec, s3rec" in refusal("ml-20m", None)
    assert "choose from auto, s, ms, us, ns" in refusal("events", tmp_path, time_unit="minutes")
    assert "reads no file" in refusal("movielens-demo", tmp_path)
    for dataset in set(DATASETS) - {"movielens-demo"}:
        assert "give its data path" in refusal(dataset, None)
        assert "does not exist" in refusal(dataset, tmp_path / "missing")
    for dataset in ("ml-1m", "s3rec"):
        assert "is a directory" in refusal(dataset, tmp_path)
    assert "holds no files" in refusal("events", tmp_path)


# Real data


def test_ml_1m_has_its_known_size_order_and_titles(shared_data):
    path = shared_data / "ml-1m" / "ml-1m.txt.gz"
    store = sequences(read_source("ml-1m", path))
    assert (store.n_events, store.n_users, store.n_items) == (999_611, 6_040, 3_416)
    lengths = np.diff(store.offsets)
    assert (lengths.min(), lengths.max()) == (18, 2_277)
    # Users and items of this file are numbered from 1 already and users lie one after another.
    found = np.array(gzip.decompress(path.read_bytes()).split(), dtype=np.int64).reshape(-1, 2)
    np.testing.assert_array_equal(store.items, found[:, 1])
    np.testing.assert_array_equal(np.repeat(store.user_keys, lengths), found[:, 0])
    with (path.parent / "items.csv").open(encoding="utf-8", newline="") as stream:
        titles = {int(row["sas_item"]): row["title"] for row in csv.DictReader(stream)}
    assert store.titles.tolist() == [titles[key] for key in store.item_keys.tolist()]


@pytest.mark.parametrize(
    ("folder", "name", "counts"),
    [
        ("amazon-beauty-s3", "Beauty.txt.gz", (198_502, 22_363, 12_101)),
        ("lastfm-s3", "LastFM.txt.gz", (52_551, 1_090, 3_646)),
    ],
)
def test_s3rec_files_have_their_known_sizes(shared_data, folder, name, counts):
    store = sequences(read_source("s3rec", shared_data / folder / name))
    assert (store.n_events, store.n_users, store.n_items) == counts


def test_movielens_small_has_its_known_size(shared_data):
    store = sequences(read_source("movielens", shared_data / "movielens-small"))
    assert (store.n_events, store.n_users, store.n_items) == (100_836, 610, 9_724)
    assert all(store.titles)


def test_sessions_with_fractional_seconds_are_read_as_events(shared_data):
    path = shared_data / "yoochoose-100k" / "clicks_test.txt.gz"
    store = sequences(read_source("events", path, columns=Columns("SessionId", "ItemId", "Time")))
    assert store.n_events == len(gzip.decompress(path.read_bytes()).splitlines()) - 1
