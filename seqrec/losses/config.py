"""Which loss a run minimises, and over which negatives, by config."""

import functools
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int

from seqrec import negatives
from seqrec.losses.sampled import (
    ScoreLoss,
    bayesian_personalised_ranking,
    binary_cross_entropy,
    bpr_max,
    generalised_binary_cross_entropy,
    sampled_loss,
    sampled_softmax,
    scalable_cross_entropy_loss,
)
from seqrec.losses.softmax import CatalogueLoss, softmax_loss
from seqrec.negatives import Sampler
from seqrec.search_space import TRACED, Range


@dataclass(frozen=True)
class LossConfig:
    """What a training step minimises."""

    loss: Literal["softmax", "sampled-softmax", "bce", "gbce", "bpr", "bpr-max", "sce"] = "softmax"
    """Cross-entropy over the whole catalogue or over the target and drawn items; binary ones; by pairs; by buckets."""
    n_negatives: int = 256
    """Items that a sampled loss draws a step, or for each row."""
    negatives: Literal["uniform", "popular", "in-batch"] = "uniform"
    """Whence they are drawn: evenly, by training popularity, or from the batch's own targets."""
    negatives_per_row: bool = False
    """Draw for each row of a batch, not once for all of it."""
    uniform_share: float = 0.1
    """Of popular and in-batch draws: the share that is drawn evenly instead."""
    popularity_power: float = 1.0
    """Of popular draws: the power of an item's count that its chance is in proportion to."""
    calibration: float = 0.75
    """The t of gbce: 0 is bce, 1 takes all overconfidence out."""
    from_base_rate: bool = True
    """Of bce and gbce: count scores from the log-odds of a model that knows nothing, where training then starts."""
    n_buckets: int = 64
    """Of sce."""
    bucket_positions: int = 128
    """Positions in each bucket of sce."""
    bucket_items: int = 256
    """Items in each bucket of sce."""
    temperature: Annotated[float, TRACED, Range(0.5, 2.0, log=True)] = 1.0
    """What scores are divided by; above 1 softens a softmax."""
    label_smoothing: Annotated[float, TRACED, Range(0.0, 0.2)] = 0.0
    """Share of each target's weight that all items divide evenly; softmax only."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser, which keeps scores from drifting; softmax only."""
    seen_weight: float = 1.0
    """Weight in the normaliser of items that the history holds already, where evaluation leaves these out; .01 is
    about none, and 1 counts them as all others; softmax only."""
    repeat_mixture: bool = False
    """Give a share of the next item's probability, which the model learns, to the items of the history itself; needs
    --no-mask-seen; a softmax or a sampled one only."""
    skip_weight: float = 0.0
    """Weight of making an item less likely where --skips names it as skipped; softmax only."""

    def __post_init__(self):
        for name in ("n_negatives", "n_buckets", "bucket_positions", "bucket_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; try {name}=256")
        for name in ("uniform_share", "calibration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not in [0, 1]; try {name}=0.5")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} is not above 0; try temperature=1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} is not in [0, 1); try label_smoothing=0.1")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss={self.z_loss} is below 0; try z_loss=1e-4")
        if not 1e-3 <= self.seen_weight <= 1:
            raise ValueError(f"seen_weight={self.seen_weight} is not in [0.001, 1]; try seen_weight=0.01")
        if self.loss != "softmax" and (self.label_smoothing or self.z_loss or self.seen_weight < 1):
            raise ValueError(
                f"loss={self.loss} has no label_smoothing, z_loss and seen_weight, which are about the whole "
                "catalogue; leave them at 0, 0 and 1, or use loss=softmax"
            )
        plain = self.seen_weight == 1 and not self.label_smoothing and self.temperature == 1
        if self.repeat_mixture and not (plain and self.loss in ("softmax", "sampled-softmax")):
            raise ValueError(
                "repeat_mixture mixes with a plain softmax; use loss=softmax or sampled-softmax; leave temperature, "
                "label_smoothing and seen_weight at 1, 0 and 1"
            )
        if not self.skip_weight >= 0:
            raise ValueError(f"skip_weight={self.skip_weight} is below 0; use 0 to switch it off")
        if self.skip_weight and (self.loss != "softmax" or self.label_smoothing):
            raise ValueError("skip_weight needs probabilities; use loss=softmax, and leave label_smoothing at 0")


def make_loss(config: LossConfig, *, counts: Int[np.ndarray, " n_items_plus_1"]) -> CatalogueLoss:
    """The loss that the config asks for.

    `counts` says how often each id 0..n_items occurs in training, as `training_counts` returns it.
    """
    if config.loss == "softmax":
        return functools.partial(
            softmax_loss,
            temperature=config.temperature,
            label_smoothing=config.label_smoothing,
            z_loss=config.z_loss,
            seen_weight=config.seen_weight,
            unwanted_weight=config.skip_weight,
        )
    if config.loss == "sce":
        return functools.partial(
            scalable_cross_entropy_loss,
            n_buckets=config.n_buckets,
            bucket_positions=config.bucket_positions,
            bucket_items=config.bucket_items,
            temperature=config.temperature,
        )
    n_items = len(counts) - 1
    score_losses: dict[str, ScoreLoss] = {
        "sampled-softmax": sampled_softmax,
        "bce": functools.partial(binary_cross_entropy, from_base_rate=config.from_base_rate),
        "gbce": functools.partial(
            generalised_binary_cross_entropy,
            n_items=n_items,
            t=config.calibration,
            from_base_rate=config.from_base_rate,
        ),
        "bpr": bayesian_personalised_ranking,
        "bpr-max": bpr_max,
    }
    sampler = _sampler(config, counts)
    if config.negatives_per_row:
        sampler = negatives.per_row(sampler)
    return sampled_loss(score_losses[config.loss], sampler, temperature=config.temperature)


def _sampler(config: LossConfig, counts: Int[np.ndarray, " n_items_plus_1"]) -> Sampler:
    if config.negatives == "uniform":
        return lambda key, targets: negatives.uniform(key, n_negatives=config.n_negatives, n_items=len(counts) - 1)
    if config.negatives == "popular":
        of = negatives.popularity(counts, power=config.popularity_power, uniform_share=config.uniform_share)
        return lambda key, targets: negatives.popular(key, of, n_negatives=config.n_negatives)
    of = negatives.popularity(counts)
    n_uniform = round(config.uniform_share * config.n_negatives)
    return lambda key, targets: negatives.in_batch(
        key, targets, of, n_negatives=config.n_negatives - n_uniform, n_uniform=n_uniform
    )
