"""Which updates of the item table a config gets, and which schedule its state."""

from dataclasses import replace

import pytest

from seqrec.encoders.gru import GRUConfig, gru
from seqrec.heads.softmax import softmax_model
from seqrec.loop import FitConfig
from seqrec.losses.config import LossConfig
from seqrec.run.config import TrainingConfig
from seqrec.run.training import SPARSE_FROM, make_training, updates_rows
from seqrec.training import OptimizerConfig

SAMPLED, WHOLE = LossConfig("sampled-softmax"), LossConfig("softmax")


@pytest.mark.parametrize(
    ("n_items", "loss", "optimizer", "expected"),
    [
        (SPARSE_FROM, SAMPLED, OptimizerConfig(), True),
        (SPARSE_FROM - 1, SAMPLED, OptimizerConfig(), False),
        (SPARSE_FROM, WHOLE, OptimizerConfig(), False),
        (SPARSE_FROM, LossConfig("sce"), OptimizerConfig(), False),
        (SPARSE_FROM, SAMPLED, OptimizerConfig(accumulation_steps=2), False),
        (SPARSE_FROM, SAMPLED, OptimizerConfig(item_updates="dense"), False),
        (10, SAMPLED, OptimizerConfig(item_updates="sparse"), True),
    ],
)
def test_auto_updates_the_rows_that_a_sampled_loss_reads_of_a_large_table(n_items, loss, optimizer, expected):
    model = softmax_model(gru(GRUConfig(d_model=4), n_items=n_items, max_length=4))
    assert updates_rows(model, TrainingConfig(loss=loss, optimizer=optimizer)) == expected
    made_of_features = replace(model, compose=lambda params, constants, *, key=None: params)
    if optimizer.item_updates == "auto":
        assert not updates_rows(made_of_features, TrainingConfig(loss=loss, optimizer=optimizer))


@pytest.mark.parametrize(
    ("schedule", "item_updates", "expected"),
    [("plateau", "dense", [80, 20]), ("plateau", "sparse", [80, 20]), ("cosine", "dense", None)],
)
def test_only_the_schedule_plateau_has_a_cooldown_which_ends_with_the_run(schedule, item_updates, expected):
    model = softmax_model(gru(GRUConfig(d_model=4), n_items=10, max_length=4))
    optimizer = OptimizerConfig(schedule=schedule, item_updates=item_updates)
    config = TrainingConfig(loss=SAMPLED, optimizer=optimizer, fit=FitConfig(decay_share=0.25))
    cooldown = make_training(model, config, n_steps=100).init().cooldown
    assert (None if cooldown is None else cooldown.tolist()) == expected
