"""Item vectors that codes are made of: features of items, each projected and normalised, and joined."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Bool, Float

from seqrec.config import check_above, check_at_least, check_fields
from seqrec.data.feature_values import Feature
from seqrec.data.features import read_item_features
from seqrec.data.store import SequenceStore
from seqrec.types import InputError

TITLE = "title"
N_WORD_BUCKETS = 1 << 16


@dataclass(frozen=True)
class VectorConfig:
    """What item vectors are made of."""

    item_features: tuple[str, ...] = ()
    """Features of items: attributes or title of the store, or columns of feature files (audio, genre:categories)."""
    feature_files: tuple[Path, ...] = ()
    """Tables of features of items (.parquet, .csv, .jsonl, or .npy with a row for each item); docs/item_features.md."""
    feature_weights: tuple[float, ...] = ()
    """Weight of each of the item features in the joined vector; 1 each by default."""
    table: Path | None = None
    """Run or bundle whose trained item vectors are joined to the features, so that codes reflect use beside content."""
    table_weight: float = 1.0
    """Weight of the item vectors of the table in the joined vector."""
    projection_width: int = 64
    """Width that categories and the words of titles are projected to, by truncated SVD."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "projection_width")
        check_above(self, 0, "table_weight")
        if self.feature_weights and len(self.feature_weights) != len(self.item_features):
            raise InputError(
                f"feature_weights={self.feature_weights} are {len(self.feature_weights)} for {len(self.item_features)} "
                "item features; give one each"
            )
        if any(weight <= 0 for weight in self.feature_weights):
            raise InputError(f"feature_weights={self.feature_weights} holds one that is not above 0; leave it out")


def feature_vectors(
    config: VectorConfig, store: SequenceStore, trained: Bool[np.ndarray, " n_items_plus_1"]
) -> list[tuple[Float[np.ndarray, "n_items width"], float]]:
    """The vectors of each feature, with its weight; 0 where an item has none.

    Numbers are standardised as for `--item-features` of a training. Categories, and the words of titles, are weighted
    by their inverse document frequency and projected by a truncated SVD (latent semantic analysis, Deerwester et al.
    1990).
    """
    weights = config.feature_weights or (1.0,) * len(config.item_features)
    others = [name for name in config.item_features if name != TITLE]
    read = dict(zip(others, read_item_features(others, store, config.feature_files, trained=trained), strict=True))
    parts = []
    for name, weight in zip(config.item_features, weights, strict=True):
        values = title_words(store) if name == TITLE else _values(read[name])
        if scipy.sparse.issparse(values):
            values = truncated_svd(inverse_frequency(values), config.projection_width)
        parts.append((values, weight))
    return parts


def joined(parts: Sequence[tuple[Float[np.ndarray, "n_items _"], float]]) -> Float[np.ndarray, "n_items width"]:
    """The vectors side by side, each item's of length 1 in every part, times the square root of the part's weight.

    The squared distance of two items is then the weighted mean of the parts'. An item that a part knows nothing of has
    zeros there. A part of one number, whose sign alone would be left, is scaled to a mean square of 1 instead.

    >>> both = joined([(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), 1.0), (np.array([[2.0], [-2.0]]), 3.0)])
    >>> np.square(both).sum(axis=1).round(3).tolist()
    [1.0, 0.75]
    """
    total = sum(weight for _, weight in parts)
    scaled = [unit_rows(values) * np.float32(np.sqrt(weight / total)) for values, weight in parts]
    return np.concatenate(scaled, axis=1, dtype=np.float32)


def unit_rows(values: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    """The rows scaled to length 1, or all to a mean square of 1 where they have one number; rows of zeros stay."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if values.shape[1] == 1:
        lengths = np.full_like(lengths, np.sqrt(np.mean(np.square(values))))
    return np.divide(values, lengths, out=np.zeros(values.shape, np.float32), where=lengths > 0, casting="same_kind")


def _values(feature: Feature) -> np.ndarray | scipy.sparse.csr_matrix:
    """A matrix of numbers, or the categories of each item."""
    codes = feature.values[1:]
    if not feature.categories:
        return np.asarray(codes, np.float32)
    rows, places = np.nonzero(codes)
    columns = codes[rows, places] - 1
    ones = np.ones(len(rows), np.float32)
    return scipy.sparse.csr_matrix((ones, (rows, columns)), shape=(len(codes), len(feature.categories)))


def title_words(store: SequenceStore) -> scipy.sparse.csr_matrix:
    """The words of each title, hashed to buckets."""
    if store.titles is None:
        raise InputError("item_features names title, and the data has no titles; name another feature")
    words = [re.findall(r"\w+", title.lower()) for title in store.titles.tolist()]
    columns = [zlib.crc32(word.encode()) % N_WORD_BUCKETS for each in words for word in each]
    rows = np.repeat(np.arange(len(words)), [len(each) for each in words])
    counts = np.ones(len(columns), np.float32)
    return scipy.sparse.csr_matrix((counts, (rows, columns)), shape=(len(words), N_WORD_BUCKETS))


def inverse_frequency(counts: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Presence times log(items / items that have it), rows of length 1; columns of one item or of all are left out."""
    present = counts.sign()
    n_each = np.asarray(present.sum(axis=0)).ravel()
    useful = np.flatnonzero((n_each > 1) & (n_each < present.shape[0]))
    weighted = present[:, useful] @ scipy.sparse.diags_array(np.log(present.shape[0] / n_each[useful]))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return scipy.sparse.csr_matrix(scipy.sparse.diags_array(1.0 / np.maximum(lengths, 1e-12)) @ weighted)


def truncated_svd(matrix: scipy.sparse.csr_matrix, width: int) -> Float[np.ndarray, "n width"]:
    """The rows in the directions of the `width` largest singular values, or of all but the smallest of fewer rows.

    The matrix itself where it is no wider, or has one row.
    """
    shorter = min(matrix.shape)
    if matrix.shape[1] <= width or shorter == 1:
        return np.asarray(matrix.toarray(), np.float32)
    start = np.random.default_rng(0).standard_normal(shorter)
    left, values, _ = scipy.sparse.linalg.svds(matrix.astype(np.float64), k=min(width, shorter - 1), v0=start)
    order = np.argsort(-values)
    left = left[:, order] * values[order]
    # The sign of a direction means nothing; fixed, so that machines agree.
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    return (left * np.where(largest < 0, -1.0, 1.0)).astype(np.float32)
