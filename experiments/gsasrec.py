"""Trains and tests a Transformer on generalised binary cross-entropy (gSASRec: Petrov and Macdonald 2023).

    python experiments/gsasrec.py    # the MovieLens demo; docs/results.md has commands for other data, and figures

Each row of a batch has 256 uniform negatives of its own, and the calibration t is .75.
"""

from dataclasses import dataclass, field

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.losses.config import LossConfig
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script

LOSS = LossConfig(loss="gbce", n_negatives=256, calibration=0.75, negatives_per_row=True)


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on a calibrated binary loss and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=lambda: TrainingConfig(loss=LOSS))
    model: Flat[TransformerConfig] = field(default_factory=TransformerConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.n_items, max_length=task.max_length, times=task.times)
    return build_model(encoder, config.training, task)


main = make_main(build, name="gSASRec")

if __name__ == "__main__":
    run_script(main, Config)
