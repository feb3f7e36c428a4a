"""Codes by each method, and what is refused before any is made."""

import numpy as np
import pytest

from seqrec.semantic_ids.kmeans import KMeansConfig
from seqrec.semantic_ids.making import CodesConfig, make_codes
from seqrec.semantic_ids.residual import ResidualConfig
from seqrec.semantic_ids.rqvae import RQVAEConfig
from seqrec.types import InputError

RNG = np.random.default_rng(0)
DISTINCT = RNG.normal(size=(40, 6)).astype(np.float32)
VECTORS = np.concatenate([DISTINCT, DISTINCT[:10]])  # the last ten are like the first ten
COUNTS = np.concatenate([[0], RNG.permutation(50)])
SMALL = {
    "n_codes": 8,
    "n_levels": 2,
    "kmeans": KMeansConfig(3),
    "rqvae": RQVAEConfig(hidden=(8,), code_width=4, n_steps=3, batch_size=16),
}


@pytest.mark.parametrize("method", ["residual-kmeans", "product", pytest.param("rq-vae", marks=pytest.mark.slow)])
def test_a_last_level_tells_all_items_apart(method):
    made = make_codes(VECTORS, CodesConfig(method, **SMALL), counts=COUNTS)
    codes, n_codes = made.ids
    assert n_codes[:2] == (8, 8)
    assert n_codes[2] == codes[:, 2].max() + 1 > 1
    np.testing.assert_array_equal(codes[1:, :2], made.quantised.codes)
    np.testing.assert_array_equal(codes[1:11, :2], codes[41:, :2])  # equal vectors
    assert len(np.unique(codes[1:], axis=0)) == 50
    frequent = np.where(COUNTS[1:11] > COUNTS[41:], codes[1:11, 2] < codes[41:, 2], codes[1:11, 2] > codes[41:, 2])
    assert frequent.all()


def test_items_with_equal_codes_are_balanced_or_left_alone():
    balanced, left = (
        make_codes(VECTORS, CodesConfig(equal_codes=way, **SMALL), counts=COUNTS).ids for way in ("balanced", "none")
    )
    assert balanced.n_codes == left.n_codes == (8, 8)
    assert len(np.unique(balanced.codes[1:], axis=0)) == 50
    np.testing.assert_array_equal(left.codes[1:11], left.codes[41:])


def test_a_beam_is_used_where_it_is_wider():
    config = CodesConfig(residual=ResidualConfig(beam=8), equal_codes="none", **SMALL)
    assert make_codes(VECTORS, config, counts=COUNTS).ids.codes.shape == (51, 2)


def test_fewer_items_than_codes_and_a_contrastive_term_without_rq_vae_are_refused():
    with pytest.raises(InputError, match=r"50 items are fewer than n_codes=256 codes of a level; try --n-codes"):
        make_codes(VECTORS, CodesConfig(), counts=COUNTS)
    with pytest.raises(InputError, match=r"contrastive=0.5 goes with method=rq-vae, not product"):
        CodesConfig("product", rqvae=RQVAEConfig(contrastive=0.5))
