"""A model is built of an encoder and a config, or refused."""

import functools

import numpy as np
import pytest

from seqrec.data.engagement import EngagementConfig
from seqrec.data.split_config import SplitConfig
from seqrec.data.store import sequence_store
from seqrec.encoders.seq2seq import Seq2SeqConfig, seq2seq
from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.heads.softmax import SoftmaxHead
from seqrec.losses.config import LossConfig
from seqrec.questions import continuation, masked_item, next_item
from seqrec.repeats import RepeatHead
from seqrec.run.building import build_model
from seqrec.run.config import TrainingConfig
from seqrec.run.data import DataConfig, make_task

N_ITEMS = 6
SKIPS = EngagementConfig(skips=("skipped=true",))


def a_model(loss=None, *, make=transformer, model=None, ask=next_item, engagement=None, **data):
    """The encoder and the model of it, on two histories of six events."""
    columns = {"skipped": np.arange(12) % 4 == 1, "timestamp_us": 1_000_000 * np.arange(12)}
    store = sequence_store(1 + np.arange(12) % 6, np.array([0, 6, 12]), np.arange(6), np.arange(2), columns=columns)
    config = TrainingConfig(
        data=DataConfig("store", **{"max_length": 4, "batch_size": 2, **data}),
        loss=loss or LossConfig(),
        engagement=engagement or EngagementConfig(),
    )
    task = make_task(config.data, store, seed=0, engagement=config.engagement)
    encoder = make(model or TransformerConfig(d_model=8), n_items=N_ITEMS, max_length=config.data.max_length)
    return encoder, build_model(encoder, config, task, ask=ask)


def test_a_model_is_the_script_s_own_unless_the_config_asks_for_more():
    encoder, model = a_model()
    assert (model.encoder, model.ask, model.specs) == (encoder, next_item, encoder.specs)
    assert type(model.head) is SoftmaxHead
    assert (model.auxiliary_loss, model.decoder, model.constants) == (None, None, None)


def test_a_config_that_asks_for_repeats_and_side_tasks_gets_them():
    engagement = EngagementConfig(skips=("skipped=true",), skip_head=0.1)
    encoder, model = a_model(LossConfig(repeat_mixture=True), engagement=engagement, mask_seen="no")
    assert type(model.head) is RepeatHead
    assert model.auxiliary_loss is not None
    assert model.specs.keys() - encoder.specs.keys() == {"repeats", "side_tasks"}


def test_a_loss_that_weighs_skips_asks_for_them():
    _, model = a_model(LossConfig(skip_weight=0.5), engagement=SKIPS)
    assert isinstance(model.ask, functools.partial)
    assert (model.ask.func, model.ask.keywords) == (next_item, {"unwanted_skips": True})


BOTH_WAYS = TransformerConfig(d_model=8, causal=False)
DECODER = {"make": seq2seq, "model": Seq2SeqConfig(BOTH_WAYS), "ask": continuation}


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ({"repeat_mixture": True}, {"mask_seen": "yes"}, "which are not ranked; add --no-mask-seen"),
        (
            {"repeat_mixture": True},
            {"mask_seen": "no", "split": SplitConfig(n_out=2, window_target="first")},
            "--repeat-mixture generates no continuations",
        ),
        (
            {"skip_weight": 0.5},
            {"engagement": SKIPS, "model": BOTH_WAYS, "ask": masked_item},
            "--skip-weight needs a model that predicts the next item of every position",
        ),
        ({}, {"ask": masked_item}, "a causal encoder cannot see both sides of a hidden item; leave --causal out"),
        ({}, {"model": BOTH_WAYS}, "a bidirectional encoder reads the next items that it is to predict; add --causal"),
        ({}, {"times": "history"}, "this encoder reads no times, so times=history has no use; leave --times out"),
        ({}, DECODER, "this split leaves no items to generate; use --split leave-last-out"),
        (
            {},
            {**DECODER, "max_length": 1, "split": SplitConfig(n_out=2, window_target="first")},
            "n_out=2 is above max_length=1, which history and continuation share; try --max-length 8",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(loss, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        a_model(LossConfig(**loss), **options)
    assert "\n" not in str(refusal.value)
