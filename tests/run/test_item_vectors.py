"""Item vectors from the item table of a trained run, beside features."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqrec.data.key_tables import KeyTable
from seqrec.data.store import store_from_sequences
from seqrec.run import item_vectors as module
from seqrec.run.item_vectors import item_vectors, table_vectors, vectors_hash
from seqrec.run.trained import Trained
from seqrec.semantic_ids.vectors import VectorConfig
from seqrec.types import InputError

ATTRIBUTES = pa.array([["x"], ["y"], ["x"], ["y"]], pa.large_list(pa.large_string()))
STORE = store_from_sequences([[1, 2, 3, 4]])._replace(
    item_table=KeyTable({"key": np.arange(1, 5), "attributes": ATTRIBUTES})
)
TRAINED = np.array([False, True, True, True, False])
TABLE = np.array([[9, 9], [1, 0], [0, 3], [5, 3], [8, 8], [0, 0]], np.float32)


@pytest.fixture
def run(monkeypatch):
    """Gives `read_trained` a run with this table, of these items."""

    def give(weights, keys):
        trained = Trained("run", Path("run"), False, weights, np.asarray(keys), {}, {})
        monkeypatch.setattr(module, "read_trained", lambda source: trained)

    return give


def test_rows_are_found_by_key_and_centred_over_trained_items(run):
    run({"item_table": TABLE}, [3, 2, 1, 4])
    vectors = table_vectors(Path("run"), STORE, TRAINED)
    own = np.array([[5, 3], [0, 3], [1, 0]])
    np.testing.assert_allclose(vectors, [*(own - own.mean(axis=0)), [0, 0]], atol=1e-6)  # item 4 was never trained on


def test_features_and_table_are_joined_with_their_weights(run):
    run({"item_table": TABLE}, [1, 2, 3, 4])
    vectors = item_vectors(VectorConfig(("attributes",), table=Path("run"), table_weight=3.0), STORE, TRAINED)
    np.testing.assert_allclose(np.square(vectors[:, :2]).sum(axis=1), [0.25] * 4, rtol=1e-5)
    np.testing.assert_allclose(np.square(vectors[:, 2:]).sum(axis=1), [0.75, 0.75, 0.75, 0.0], rtol=1e-5)
    assert vectors_hash(vectors) != vectors_hash(vectors * 2)


@pytest.mark.parametrize(
    ("weights", "keys", "words"),
    [
        ({"items.ids.table": TABLE}, [1, 2, 3, 4], "composes its item table of features"),
        ({"item_table": TABLE}, ["a", "b", "c", "d"], "has items of large_string, the store of int64"),
        ({"item_table": TABLE}, [5, 6, 7, 8], "has none of the store's items"),
    ],
)
def test_tables_of_other_models_and_data_are_refused(run, weights, keys, words):
    run(weights, keys)
    with pytest.raises(InputError, match=words):
        table_vectors(Path("run"), STORE, TRAINED)


def test_without_any_source_there_are_no_vectors():
    with pytest.raises(InputError, match="no item vectors are named"):
        item_vectors(VectorConfig(), STORE, TRAINED)
