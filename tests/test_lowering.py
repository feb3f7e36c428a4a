"""Training and evaluation steps lower for TPUs and GPUs, where neither is at hand."""

import functools

import jax
import numpy as np
import pytest

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import make_eval_step, make_top_step
from seqrec.losses.config import LossConfig, make_loss
from seqrec.objectives import next_item
from seqrec.repeats import with_repeats
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Batch, QueryBatch

PLATFORMS = ("tpu", "cuda")
N_ITEMS, ROWS, LENGTH, QUERIES = 200, 4, 16, 8


def shapes(*shape, n):
    return [jax.ShapeDtypeStruct(shape, np.int32)] * n


MODELS = {
    "published": TransformerConfig(
        d_model=16, n_heads=1, norm="layer", positions="learned", feed_forward="relu", attention_dropout=0.1
    ),
    "recommended": TransformerConfig(d_model=16),
    "in half precision": TransformerConfig(d_model=16, compute_dtype="bfloat16", rematerialise=True, scan_blocks=True),
}


@pytest.mark.parametrize(
    ("model", "loss", "wrap"),
    [
        *((model, "softmax", lambda encoder: encoder) for model in MODELS),
        ("recommended", "sampled-softmax", lambda encoder: encoder),
        ("recommended", "softmax", with_repeats),
        ("in half precision", "softmax", with_repeats),
    ],
)
def test_the_steps_of_an_experiment_lower_for_every_platform(model, loss, wrap):
    encoder = wrap(transformer(MODELS[model], n_items=N_ITEMS, max_length=LENGTH))
    optimizer = make_optimizer(OptimizerConfig(second_moments="rows", clip_norm=1.0), encoder.specs, n_steps=10)
    loss_function = make_loss(LossConfig(loss=loss), counts=np.ones(N_ITEMS + 1, int))
    train_step = make_train_step(encoder, next_item, loss_function, optimizer, seed=0, average_decay=0.9)
    state = init_state(encoder, optimizer, seed=0)
    batch = Batch(*shapes(ROWS, LENGTH, n=4))
    trained = jax.export.export(train_step, platforms=PLATFORMS)(state, batch)
    # What comes out is the state that went in, a step later, and three figures.
    assert [(each.shape, each.dtype) for each in trained.out_avals[:-3]] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)
    ]
    queries = QueryBatch(batch, *shapes(QUERIES, n=2), *shapes(QUERIES, 5, n=1), *shapes(QUERIES, n=1))
    for step, n_columns in ((make_eval_step(encoder), ()), (make_top_step(encoder, k=7), (7,))):
        asked = jax.export.export(step, platforms=PLATFORMS)(state.params, queries)
        assert asked.platforms == PLATFORMS
        assert asked.out_avals[0].shape == (QUERIES, *n_columns)


def test_a_step_that_weighs_targets_and_pushes_skips_down_lowers_too():
    encoder = with_repeats(transformer(MODELS["recommended"], n_items=N_ITEMS, max_length=LENGTH))
    optimizer = make_optimizer(OptimizerConfig(), encoder.specs, n_steps=10)
    loss = make_loss(LossConfig(repeat_mixture=True, skip_weight=0.5), counts=np.ones(N_ITEMS + 1, int))
    objective = functools.partial(next_item, unwanted_skips=True)
    train_step = make_train_step(encoder, objective, loss, optimizer, seed=0, average_decay=0.9)
    weights, skips = (jax.ShapeDtypeStruct((ROWS, LENGTH), dtype) for dtype in (np.float32, bool))
    batch = Batch(*shapes(ROWS, LENGTH, n=4), next_weights=weights, next_skips=skips)
    trained = jax.export.export(train_step, platforms=PLATFORMS)(init_state(encoder, optimizer, seed=0), batch)
    assert trained.platforms == PLATFORMS
