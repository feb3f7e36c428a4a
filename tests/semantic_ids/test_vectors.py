"""Item vectors of features: weighted words and categories, projected, normalised and joined."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

from seqrec.data.key_tables import KeyTable
from seqrec.data.store import store_from_sequences
from seqrec.semantic_ids.vectors import (
    VectorConfig,
    feature_vectors,
    inverse_frequency,
    joined,
    title_words,
    truncated_svd,
)
from seqrec.types import InputError

RNG = np.random.default_rng(0)


def test_squared_distances_are_the_weighted_mean_of_the_parts():
    a, b = RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=(4, 5)).astype(np.float32)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    both = joined([(a, 1.0), (b, 3.0)])
    expected = [np.square(each[0] - each[1]).sum() for each in unit]
    np.testing.assert_allclose(np.square(both[0] - both[1]).sum(), 0.25 * expected[0] + 0.75 * expected[1], rtol=1e-5)


def test_the_projection_keeps_the_largest_singular_values():
    dense = RNG.normal(size=(12, 9)) * (RNG.random((12, 9)) < 0.5)
    projected = truncated_svd(scipy.sparse.csr_matrix(dense), 4)
    left, values, right = np.linalg.svd(dense)
    best = (left[:, :4] * values[:4]) @ right[:4]
    np.testing.assert_allclose(projected @ projected.T, best @ best.T, atol=1e-4)


def test_of_few_rows_all_directions_but_the_smallest_are_kept():
    dense = RNG.normal(size=(5, 9))
    projected = truncated_svd(scipy.sparse.csr_matrix(dense), 6)
    left, values, _ = np.linalg.svd(dense, full_matrices=False)
    np.testing.assert_allclose(projected @ projected.T, (left[:, :4] * values[:4] ** 2) @ left[:, :4].T, atol=1e-4)
    np.testing.assert_allclose(truncated_svd(scipy.sparse.csr_matrix(dense[:1]), 6), dense[:1], rtol=1e-6)


def test_rare_words_weigh_more_and_what_all_have_nothing():
    counts = scipy.sparse.csr_matrix(np.array([[2, 1, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0]], float))
    weights = inverse_frequency(counts).toarray()  # the first word is everyone's, the last is one item's alone
    np.testing.assert_allclose(weights, [[np.sqrt(0.5), np.sqrt(0.5)], [1, 0], [0, 1], [0, 0]], atol=1e-7)


def test_features_are_read_with_their_weights():
    columns = {
        "key": np.arange(1, 5),
        "title": np.array(["A cold day", "Cold days", "", "Day"], object),
        "attributes": pa.array([["x"], ["x", "y"], [], ["y"]], pa.large_list(pa.large_string())),
    }
    store = store_from_sequences([[1, 2, 3, 4]])._replace(item_table=KeyTable(columns))
    assert title_words(store).sum(axis=1).ravel().tolist() == [[3.0, 2.0, 0.0, 1.0]]
    config = VectorConfig(("title", "attributes"), feature_weights=(2.0, 1.0))
    (title, two), (attributes, one) = feature_vectors(config, store, np.arange(5) > 0)
    assert (two, one) == (2.0, 1.0)
    assert title.shape[0] == 4
    np.testing.assert_allclose(attributes[[0, 3]], np.eye(2))
    assert not attributes[2].any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"item_features": ("a",), "feature_weights": (1.0, 2.0)}, "are 2 for 1 item features"),
        ({"item_features": ("a",), "feature_weights": (0.0,)}, "not above 0"),
        ({"table_weight": 0.0}, "table_weight=0.0 is not above 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        VectorConfig(**fields)


def test_titles_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="the data has no titles"):
        title_words(store_from_sequences([[1, 2]]))
