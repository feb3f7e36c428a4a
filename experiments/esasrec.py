"""Trains and tests a gated Transformer with sampled softmax over mixed negatives (eSASRec) on one file of events.

    python experiments/esasrec.py    # the MovieLens demo; docs/results.md has commands for other data, and figures

The gates are LiGR's (Borisyuk et al. 2025); half of the negatives are sampled by popularity and half uniformly.
"""

from dataclasses import dataclass, field

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.losses.config import LossConfig
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script

LOSS = LossConfig(loss="sampled-softmax", negatives="popular", uniform_share=0.5)


@dataclass(frozen=True)
class Config:
    """Trains a gated Transformer and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=lambda: TrainingConfig(loss=LOSS))
    model: Flat[TransformerConfig] = field(default_factory=lambda: TransformerConfig(gated=True))


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.n_items, max_length=task.max_length, times=task.times)
    return build_model(encoder, config.training, task)


main = make_main(build, name="eSASRec")

if __name__ == "__main__":
    run_script(main, Config)
