"""Several models as one: scores are the weighted sums of theirs."""

import jax
import numpy as np
import pytest

from seqrec.data.batches import make_queries
from seqrec.data.splits import leave_last_out
from seqrec.data.store import store_from_sequences
from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.hawk import HawkConfig, hawk
from seqrec.ensemble import ensemble, ensemble_params
from seqrec.evaluation import make_top_step, run_queries
from seqrec.heads.softmax import softmax_model
from seqrec.params import init_params
from seqrec.repeats import with_repeats
from seqrec.types import InputError

N_ITEMS, LENGTH = 12, 5
STORE = store_from_sequences([[1, 2, 3, 4], [5, 6, 7], [12, 11, 10, 9, 8]], n_items=N_ITEMS)
QUERIES = make_queries(STORE, leave_last_out(STORE).test, max_length=LENGTH, batch_size=4, mask_seen=False)


def models():
    return [
        softmax_model(gru(GRUConfig(d_model=8), n_items=N_ITEMS, max_length=LENGTH)),
        softmax_model(hawk(HawkConfig(d_model=4, n_blocks=1), n_items=N_ITEMS, max_length=LENGTH)),
    ]


def scores_of(model, params):
    """Of all items, in the order of ids."""
    items, scores, _ = run_queries(make_top_step(model, k=N_ITEMS, with_vectors=True), params, QUERIES)
    return np.take_along_axis(scores, np.argsort(items, axis=1), axis=1)


def test_the_scores_are_the_weighted_sum_of_those_of_the_models():
    each = models()
    params = [init_params(model.specs, jax.random.key(seed)) for seed, model in enumerate(each)]
    weights = np.array([0.5, 2.0], np.float32)
    joined = {**ensemble_params(each, params), "model_weights": weights}
    expected = sum(w * scores_of(model, own) for w, model, own in zip(weights, each, params, strict=True))
    np.testing.assert_allclose(scores_of(ensemble(each), joined), expected, rtol=1e-5, atol=1e-6)


def test_the_specs_are_those_of_the_parameters():
    each = models()
    params = ensemble_params(each, [init_params(model.specs, jax.random.key(0)) for model in each])
    assert jax.tree.map(lambda leaf: leaf.shape, params) == jax.tree.map(lambda spec: spec.shape, ensemble(each).specs)


def test_models_whose_scores_are_no_products_or_that_read_otherwise_are_refused():
    with pytest.raises(InputError, match="RepeatHead"):
        ensemble([models()[0], with_repeats(models()[0])])
    longer = softmax_model(gru(GRUConfig(d_model=8), n_items=N_ITEMS, max_length=LENGTH + 1))
    with pytest.raises(InputError, match="read the same"):
        ensemble([models()[0], longer])
