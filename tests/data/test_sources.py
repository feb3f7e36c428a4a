import csv
import dataclasses
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from source_rows import refusal, rows_of

from seqrec.data.events import sequences
from seqrec.data.sources import DATASETS, SourceConfig, open_source, read_source


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
    assert "is read from files, got a Table; take the data set events" in refusal("movielens", pa.table({"user": [1]}))


def test_a_config_is_read_of_its_path_or_of_a_frame(tmp_path):
    frame = pa.table({"who": ["a", "a"], "what": [7, 9], "rating": [2.5, None]})
    pq.write_table(frame, tmp_path / "log.parquet")
    config = SourceConfig(columns=("who", "what", "none"), extra=("rating",), data_path=tmp_path / "log.parquet")
    of_path, of_frame = open_source(config), open_source(dataclasses.replace(config, data_path=None), frame=frame)
    assert rows_of(of_path, "rating") == rows_of(of_frame, "rating") == [("a", 7, 2.5), ("a", 9, None)]


# Real data


def test_ml_1m_has_its_known_size_order_and_titles(shared_data):
    path = shared_data / "ml-1m" / "ml-1m.txt.gz"
    store = sequences(read_source("ml-1m", path))
    assert (store.n_events, store.n_users, store.n_items) == (999_611, 6_040, 3_416)
    lengths = np.diff(store.offsets)
    assert (lengths.min(), lengths.max()) == (18, 2_277)
    # Users and items of this file are numbered from 1 already and users lie one after another.
    events = np.array(gzip.decompress(path.read_bytes()).split(), dtype=np.int64).reshape(-1, 2)
    np.testing.assert_array_equal(store.items, events[:, 1])
    np.testing.assert_array_equal(np.repeat(store.user_keys, lengths), events[:, 0])
    with (path.parent / "items.csv").open(encoding="utf-8", newline="") as stream:
        titles = {int(row["sas_item"]): row["title"] for row in csv.DictReader(stream)}
    assert store.titles.tolist() == [titles[key] for key in store.item_keys.tolist()]
