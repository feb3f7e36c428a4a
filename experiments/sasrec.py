r"""Trains and tests a Transformer next-item recommender (SASRec: Kang and McAuley 2018) on one file of events.

    python experiments/sasrec.py                                    # the MovieLens demo, under 3 minutes
    python experiments/sasrec.py --dataset ml-1m --data-path ml-1m.txt.gz --d-model 128 --dropout 0.25 \
        --batch-size 64 --max-epochs 25 --no-whole-histories        # the setting for real use, under half an hour

docs/results.md has the figures to expect, and the command for SASRec at its published sizes.
"""

from dataclasses import dataclass, field

from seqrec.encoders.transformer import TransformerConfig, transformer
from seqrec.run import Flat, Model, Task, TrainingConfig, build_model, make_main, run_script


@dataclass(frozen=True)
class Config:
    """Trains a Transformer on the events of a file and tests it on each user's last item."""

    training: Flat[TrainingConfig] = field(default_factory=TrainingConfig)
    model: Flat[TransformerConfig] = field(default_factory=TransformerConfig)


def build(config: Config, task: Task) -> Model:
    """The model that the config describes, for the task's catalogue."""
    encoder = transformer(config.model, n_items=task.n_items, max_length=task.max_length, times=task.times)
    return build_model(encoder, config.training, task)


main = make_main(build, name="SASRec")

if __name__ == "__main__":
    run_script(main, Config)
