"""From a config and a run's data to the model that they describe."""

import functools

from seqrec.data.engagement import log_base_rates
from seqrec.data.features import read_item_features, shuffled_feature
from seqrec.event_features import with_event_features
from seqrec.heads.softmax import softmax_model
from seqrec.items import with_items
from seqrec.later_targets import with_later_targets
from seqrec.losses.config import make_loss
from seqrec.model import Model
from seqrec.questions import next_item
from seqrec.repeats import with_repeats
from seqrec.run.config import TrainingConfig
from seqrec.run.data import Task
from seqrec.side_tasks import with_side_tasks
from seqrec.types import Ask, Encoder, InputError


def build_model(encoder: Encoder, config: TrainingConfig, task: Task, *, ask: Ask = next_item) -> Model:
    """The model of this encoder that learns by the config's loss, with all features that the config asks for.

    Raises:
      InputError: the encoder cannot be combined with one of them; the message says which to leave out.
    """
    _check(encoder, task, ask)
    counts = task.counts
    if config.loss.skip_weight:
        if ask is not next_item:
            raise InputError("--skip-weight needs a model that predicts the next item of every position; leave it out")
        ask = functools.partial(next_item, unwanted_skips=True)
    model = softmax_model(encoder, make_loss(config.loss, counts=counts), ask=ask)
    model = with_event_features(model, task.train.fields.features)
    features = [
        shuffled_feature(feature, trained=counts > 0, seed=config.run.seed)
        if feature.name in config.items.shuffled_features
        else feature
        for feature in read_item_features(
            config.items.item_features, task.store, config.items.feature_files, trained=counts > 0
        )
    ]
    model = with_items(model, config.items, features, counts=counts)
    if config.loss.repeat_mixture:
        if task.mask_seen:
            raise InputError("--repeat-mixture predicts items of the history, which are not ranked; add --no-mask-seen")
        if task.n_generated is not None:
            raise InputError("--repeat-mixture generates no continuations; use --window-target last, or leave it out")
        model = with_repeats(model)
    if config.engagement.heads:
        assert task.train.fields.engagement is not None
        rates = log_base_rates(task.train.fields.engagement, task.store, task.split)
        model = with_side_tasks(model, config.engagement.heads, rates)
    if config.loss.later_share:
        model = with_later_targets(model, share=config.loss.later_share, n_later=config.loss.n_later)
    return model


def _check(encoder: Encoder, task: Task, ask: Ask) -> None:
    """Refuses an encoder that does not fit what is asked of it, or what its batches hold."""
    if encoder.reads.times != task.times:
        raise InputError(f"this encoder reads no times, so times={task.times} has no use; leave --times out")
    if encoder.causal and ask is not next_item:
        raise InputError("a causal encoder cannot see both sides of a hidden item; leave --causal out")
    if not encoder.causal and ask is next_item:
        raise InputError("a bidirectional encoder reads the next items that it is to predict; add --causal")
    if encoder.decoder is None:
        return
    if task.n_generated is None:
        raise InputError(
            f"{task.split.description}: this split leaves no items to generate; use --split leave-last-out, "
            "--window-target first and --n-out 5"
        )
    if task.n_generated > task.max_length:
        raise InputError(
            f"n_out={task.n_generated} is above max_length={task.max_length}, which history and continuation share; "
            f"try --max-length {4 * task.n_generated}"
        )
