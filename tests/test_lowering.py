"""Training and evaluation steps lower for TPUs and GPUs on a machine without either."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.evaluation import make_eval_step, make_top_step
from seqrec.heads.softmax import softmax_model
from seqrec.losses.config import LossConfig, make_loss
from seqrec.losses.sampled import sampled_loss, sampled_softmax
from seqrec.negatives import popular, popularity_distribution
from seqrec.questions import next_item
from seqrec.repeats import with_repeats
from seqrec.training import OptimizerConfig, init_state, make_optimizer, make_train_step
from seqrec.types import Batch, QueryBatch

PLATFORMS = ("tpu", "cuda")
N_ITEMS, ROWS, LENGTH, QUERIES = 200, 4, 16, 8


def shapes(*shape, n):
    return [jax.ShapeDtypeStruct(shape, np.int32)] * n


ENCODERS = {
    "published": TransformerConfig(
        d_model=16, n_heads=1, norm="layer", positions="learned", feed_forward="relu", attention_dropout=0.1
    ),
    "recommended": TransformerConfig(d_model=16),
    "in half precision": TransformerConfig(d_model=16, compute_dtype="bfloat16", rematerialise=True, scan_blocks=True),
}


@pytest.mark.parametrize(
    ("encoder", "loss", "wrap"),
    [
        *((encoder, "softmax", lambda model: model) for encoder in ENCODERS),
        ("recommended", "sampled-softmax", lambda model: model),
        ("recommended", "softmax", with_repeats),
        ("in half precision", "softmax", with_repeats),
    ],
)
def test_the_steps_of_an_experiment_lower_for_every_platform(encoder, loss, wrap):
    encoder = transformer(ENCODERS[encoder], n_items=N_ITEMS, max_length=LENGTH)
    loss_function = make_loss(LossConfig(loss=loss), counts=np.ones(N_ITEMS + 1, int))
    model = wrap(softmax_model(encoder, loss_function))
    optimizer = make_optimizer(OptimizerConfig(second_moments="rows", clip_norm=1.0), model.specs, n_steps=10)
    train_step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    state = init_state(model, optimizer, seed=0)
    batch = Batch(*shapes(ROWS, LENGTH, n=4))
    trained = jax.export.export(train_step, platforms=PLATFORMS)(state, batch)
    # What comes out is the state that went in, a step later, and three figures.
    assert [(each.shape, each.dtype) for each in trained.out_avals[:-3]] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)
    ]
    queries = QueryBatch(batch, *shapes(QUERIES, n=2), *shapes(QUERIES, 5, n=1), *shapes(QUERIES, n=1))
    for step, n_columns in ((make_eval_step(model), ()), (make_top_step(model, k=7), (7,))):
        evaluated = jax.export.export(step, platforms=PLATFORMS)(state.params, queries)
        assert evaluated.platforms == PLATFORMS
        assert evaluated.out_avals[0].shape == (QUERIES, *n_columns)


def test_a_step_with_weights_and_unwanted_skips_lowers_too():
    encoder = transformer(ENCODERS["recommended"], n_items=N_ITEMS, max_length=LENGTH)
    loss = make_loss(LossConfig(repeat_mixture=True, skip_weight=0.5), counts=np.ones(N_ITEMS + 1, int))
    model = with_repeats(softmax_model(encoder, loss, ask=functools.partial(next_item, unwanted_skips=True)))
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10)
    train_step = make_train_step(model, optimizer, seed=0, average_decay=0.9)
    weights, skips = (jax.ShapeDtypeStruct((ROWS, LENGTH), dtype) for dtype in (np.float32, bool))
    batch = Batch(*shapes(ROWS, LENGTH, n=4), next_weights=weights, next_skips=skips)
    trained = jax.export.export(train_step, platforms=PLATFORMS)(init_state(model, optimizer, seed=0), batch)
    assert trained.platforms == PLATFORMS


def largest_constant(model) -> int:
    """Elements of the largest array that is written out in the text of a training step."""
    optimizer = make_optimizer(OptimizerConfig(), model.specs, n_steps=10)
    state, batch = init_state(model, optimizer, seed=0), Batch(*shapes(ROWS, LENGTH, n=4))
    text = make_train_step(model, optimizer, seed=0).lower(state, batch).as_text()
    # One value for all elements, as of zeros, has neither brackets nor quotes.
    written = re.findall(r"dense<[\[\"].*?> : tensor<([\dx]*)x\w+>", text)
    return max((int(np.prod([int(size) for size in each.split("x")])) for each in written), default=0)


COUNTS = np.arange(N_ITEMS + 1)


@pytest.mark.parametrize("negatives", ["popular", "in-batch"])
def test_a_samplers_tables_are_no_constants_of_the_step(negatives):
    config = LossConfig(loss="sampled-softmax", negatives=negatives, n_negatives=8)
    model = softmax_model(
        gru(GRUConfig(d_model=4), n_items=N_ITEMS, max_length=LENGTH), make_loss(config, counts=COUNTS)
    )
    tables = popularity_distribution(COUNTS)
    assert [leaf.shape for leaf in jax.tree.leaves(model.step_constants)] == [leaf.shape for leaf in tables]
    assert largest_constant(model) < N_ITEMS


def test_tables_that_a_sampler_closes_over_are_constants_of_the_step():
    tables = jax.tree.map(jnp.asarray, popularity_distribution(COUNTS))
    loss = sampled_loss(sampled_softmax, lambda key, targets: popular(key, tables, n_negatives=8))
    model = softmax_model(gru(GRUConfig(d_model=4), n_items=N_ITEMS, max_length=LENGTH), loss)
    assert largest_constant(model) >= N_ITEMS
