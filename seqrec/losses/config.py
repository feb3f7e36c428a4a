"""Which loss a run minimises, and over which negatives, by config."""

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int

from seqrec import negatives
from seqrec.config import TRACED, Range, check_above, check_at_least, check_between, check_fields, check_share
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
from seqrec.losses.softmax import CatalogueLoss, SoftmaxSettings, softmax_loss
from seqrec.negatives import Sampler


@dataclass(frozen=True)
class LossConfig:
    """The loss that training minimises, and its negatives."""

    loss: Literal["softmax", "sampled-softmax", "bce", "gbce", "bpr", "bpr-max", "sce"] = "softmax"
    """softmax: cross-entropy over all items. sampled-softmax: over the target and sampled negatives. bce, gbce: binary
    cross-entropy of the target against sampled negatives, plain or corrected for overconfidence. bpr, bpr-max:
    pairwise, the target above sampled negatives. sce: cross-entropy inside buckets of similar positions and items."""
    n_negatives: int = 256
    """Number of negatives that a sampled loss draws for a batch, or for each of its rows with --negatives-per-row."""
    negatives: Literal["uniform", "popular", "in-batch"] = "uniform"
    """How negatives are sampled: uniformly, by item frequency in training, or from the other targets of the batch."""
    negatives_per_row: bool = False
    """Sample separate negatives for each row of a batch; otherwise all rows of the batch share one sample."""
    uniform_share: float = 0.1
    """Share of the popular or in-batch negatives that is sampled uniformly instead, 0 to 1."""
    popularity_power: float = 1.0
    """Popular negatives are sampled with probability proportional to item frequency to this power; 0 is uniform."""
    calibration: float = 0.75
    """Strength of gbce's correction for overconfidence, 0 to 1; 0 is the same as bce."""
    from_base_rate: bool = True
    """For bce and gbce: add the log-odds of a random guess to every score, so that training does not start by pushing
    all scores down."""
    n_buckets: int = 64
    """Number of buckets of the sce loss."""
    bucket_positions: int = 128
    """Positions in each bucket of the sce loss."""
    bucket_items: int = 256
    """Items in each bucket of the sce loss."""
    temperature: Annotated[float, TRACED, Range(0.5, 2.0, log=True)] = 1.0
    """Scores are divided by this before the loss; above 1 makes the predicted distribution flatter."""
    label_smoothing: Annotated[float, TRACED, Range(0.0, 0.2)] = 0.0
    """Share of each target's probability that is spread evenly over all items, 0 to below 1; softmax only."""
    later_share: float = 0.0
    """Share of each target's probability that goes to the items after it, 0 to below 1; softmax, sampled-softmax and
    semantic ids only."""
    n_later: int = 4
    """Number of items after each target that share --later-share evenly."""
    z_loss: float = 0.0
    """Weight of a penalty on the squared log of the softmax denominator, which keeps scores from drifting; softmax
    only."""
    seen_weight: float = 1.0
    """Weight of already-seen items in the softmax denominator, 0.001 to 1; 1 treats them as all other items, 0.01
    nearly leaves them out, as evaluation does with --mask-seen; softmax only."""
    repeat_mixture: bool = False
    """Mix the softmax over all items with a distribution over the items of the user's history, with a learned weight,
    for data in which users return to items. Needs --no-mask-seen and the loss softmax or sampled-softmax."""
    skip_weight: float = 0.0
    """Weight of a loss term that lowers the probability of items the user skipped, as named by --skips; softmax only.
    """

    @property
    def is_sampled(self) -> bool:
        """Whether targets are scored against sampled negatives."""
        return self.loss not in ("softmax", "sce")

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 1, "n_later", "n_negatives", "n_buckets", "bucket_positions", "bucket_items")
        check_at_least(self, 0, "z_loss", "skip_weight")
        check_above(self, 0, "temperature")
        check_between(self, 1e-3, 1, "seen_weight")
        check_share(self, "uniform_share", "calibration")
        check_share(self, "label_smoothing", "later_share", one=False)
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
        if self.later_share and (
            self.loss not in ("softmax", "sampled-softmax")
            or self.repeat_mixture
            or self.temperature != 1
            or self.later_share + self.label_smoothing >= 1
        ):
            raise ValueError(
                f"later_share={self.later_share:g} divides the label of a plain softmax; use loss=softmax or "
                "sampled-softmax without repeat_mixture, leave temperature at 1, and label_smoothing + later_share "
                "below 1"
            )
        if self.skip_weight and (self.loss != "softmax" or self.label_smoothing):
            raise ValueError("skip_weight needs probabilities; use loss=softmax, and leave label_smoothing at 0")


def make_loss(config: LossConfig, *, counts: Int[np.ndarray, " n_items_plus_1"]) -> CatalogueLoss:
    """The loss that the config asks for.

    `counts` says how often each id 0..n_items occurs in training, as `training_counts` returns it.
    """
    if config.loss == "softmax":
        settings = SoftmaxSettings(
            config.temperature, config.label_smoothing, config.z_loss, config.seen_weight, config.skip_weight
        )
        return functools.partial(softmax_loss, settings=settings)
    if config.loss == "sce":
        return scalable_cross_entropy_loss(
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
    sampler, tables = _sampler(config, counts)
    if config.negatives_per_row:
        sampler = negatives.per_row(sampler)
    return sampled_loss(score_losses[config.loss], sampler, temperature=config.temperature, tables=tables)


def _sampler(config: LossConfig, counts: Int[np.ndarray, " n_items_plus_1"]) -> tuple[Sampler, Any]:
    """The sampler, and the tables that it reads."""
    n_items = len(counts) - 1
    if config.negatives == "uniform":
        return lambda key, targets: negatives.uniform(key, n_negatives=config.n_negatives, n_items=n_items), None
    if config.negatives == "popular":
        return (
            lambda key, targets, of: negatives.popular(key, of, n_negatives=config.n_negatives),
            negatives.popularity_distribution(
                counts, power=config.popularity_power, uniform_share=config.uniform_share
            ),
        )
    n_uniform = round(config.uniform_share * config.n_negatives)
    n_negatives = config.n_negatives - n_uniform
    return (
        lambda key, targets, of: negatives.in_batch(
            key, targets, of, n_items=n_items, n_negatives=n_negatives, n_uniform=n_uniform
        ),
        negatives.popularity_distribution(counts),
    )
